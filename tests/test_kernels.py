"""The one-pass CPU kernel: LaProp(fused=True) against the loop over tensors."""

import copy
import ctypes
import datetime
import math
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import fused
import pytest
import torch
from fused import give_gradients
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from laprop import LaProp, kernels
from laprop.kernels import cpu, tensors

ROOT = Path(__file__).resolve().parents[1]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

options = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([0.0, 1e-3, 0.1]),
        "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.8, 0.0), (0.0, 0.0)]),
        "eps": st.sampled_from([0.0, 1e-15, 1e-3, 2.0]),
        "weight_decay": st.sampled_from([0.0, 0.01]),
        "centered_warmup": st.integers(0, 4),
        "low_precision": st.sampled_from(["master", "nearest"]),
        **{
            key: st.booleans()
            for key in ("amsgrad", "centered", "decay_by_lr", "eps_in_sqrt")
            + ("lr_weighted_correction", "maximize")
        },
    }
)
shapes = st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=12)


def make(shapes, dtypes, seed=0, transposed=False):
    """Parameters of these shapes, with the dtypes in turn."""
    assert len(dtypes) <= len(shapes), "a dtype would not occur"
    generator = torch.Generator().manual_seed(seed)
    params = []
    for i, shape in enumerate(shapes):
        value = torch.randn(shape, generator=generator).to(dtypes[i % len(dtypes)])
        params.append(Parameter(value.permute(tuple(reversed(range(value.dim()))))
                                if transposed else value))  # fmt: skip
    return params


def step(params, optimizer, steps, scale=1.0):
    for t in steps:
        give_gradients(params, t, scale)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * (1 + 0.2 * (t % 3))
        optimizer.step()


def used(params, optimizer):
    """Whether the kernel moves all parameters that have a gradient (True), or none (False)."""
    count = sum(param.grad is not None for param in params)
    twin = copy.deepcopy((params, optimizer))
    for old, new in zip(params, twin[0], strict=True):
        if old.grad is not None and new.grad is None:
            new.grad = old.grad.clone()
    taken = fused.taken_by_the_kernel(twin[1])
    assert taken in (0, count)
    return taken == count > 0


def assert_close(a, b, optimizers, ulp=64):
    """Second moments and counters are equal to the last bit, the rest to a few ulp.

    The rest contains a square root. The kernel's is correctly rounded; torch.sqrt's, where it is
    MKL's, is not always. With agc this is also true of second moments, as norms depend on weights.
    """
    inexact = {"exp_avg", "master_param"}
    if any(group["agc"] for optimizer in optimizers for group in optimizer.param_groups):
        inexact |= {"exp_avg_sq", "max_exp_avg_sq", "exp_avg_grad"}
    for x, y in zip(a, b, strict=True):
        one, other = (optimizer.state[p] for optimizer, p in zip(optimizers, (x, y), strict=True))
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            assert one[key].stride() == other[key].stride()
            if key not in inexact:
                assert torch.equal(one[key], other[key]), key
        pairs = [(one[key], other[key]) for key in inexact & one.keys()]
        for u, v in (*pairs, (x.detach(), y.detach())):
            error = ulp * torch.finfo(u.dtype).eps
            torch.testing.assert_close(u, v, rtol=error, atol=error)


def test_the_kernel_is_there():
    """The kernel must have been compiled, or the tests below would only test the fall-back."""
    assert kernels.available()


@given(options=options, shapes=shapes, data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_fused_is_the_for_loop(options, shapes, data, seed):
    # At nu = 0 centered has n - mean^2 = 0; the steps are then 1e19 long and cannot be compared.
    assume(options["betas"][1] > 0 or not options["centered"])
    some = st.lists(st.sampled_from(DTYPES), min_size=1, max_size=min(4, len(shapes)))
    dtypes = data.draw(some)
    transposed = data.draw(st.booleans())
    one, other = (make(shapes, dtypes, seed, transposed) for _ in range(2))
    optimizers = [LaProp(one, **options, foreach=False), LaProp(other, **options, fused=True)]
    for params, optimizer in zip((one, other), optimizers, strict=True):
        step(params, optimizer, range(seed, seed + 6))
    assert used(other, optimizers[1])
    assert not used(one, optimizers[0])
    assert_close(one, other, optimizers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "centered": True, "centered_warmup": 1}])
def test_special_gradients(options, dtype):
    """Infinite, NaN, 0, denormal, largest and smallest gradients, in whole vectors and in tails."""
    info = torch.finfo(dtype)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, info.max, -info.max, info.tiny, info.eps]
    special += [info.smallest_normal * info.eps, -info.tiny, 1.0, -3.0]
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        params = [Parameter(torch.ones(len(special) * 3, dtype=dtype)) for _ in range(2)]
        optimizer = LaProp(params, lr=0.01, **options, **kind)
        for t in range(4):
            for i, param in enumerate(params):
                param.grad = torch.tensor(special * 3, dtype=torch.float64).to(dtype).roll(t * i)
            optimizer.step()
        results.append([param.detach() for param in params])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=4 * info.eps, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_all_16_bit_numbers(dtype):
    """All 2**16 weights are widened to float32, decayed and rounded back as torch does it."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        param = Parameter(every.clone())
        optimizer = LaProp([param], lr=0.1, weight_decay=0.3, low_precision="nearest", **kind)
        param.grad = torch.zeros_like(param)  # the decay alone moves the weights
        optimizer.step()
        results.append(param.detach())
    assert torch.equal(*(torch.nan_to_num(x.float(), nan=7.0) for x in results))
    kept = Parameter(every.clone())
    kept.grad = torch.zeros_like(kept)
    LaProp([kept], low_precision="nearest", fused=True).step()
    assert torch.equal(kept.float().nan_to_num(nan=7.0), every.float().nan_to_num(nan=7.0))


def test_threads_give_the_same_bits():
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            params = make([(50_001,), (7,), (3, 30_000), (0,), ()], DTYPES)
            step(params, optimizer := LaProp(params, fused=True), range(3))
            assert used(params, optimizer)
        finally:
            torch.set_num_threads(before)
        results.append([p.detach() for p in params])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_channels_last_and_gradients_laid_out_otherwise():
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        model = torch.nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        params = make([tuple(p.shape) for p in model.parameters()], DTYPES[2:3])
        params[0].data = params[0].data.to(memory_format=torch.channels_last)
        optimizer = LaProp(params, **kind)
        step(params, optimizer, range(3))
        assert used(params, optimizer) == ("fused" in kind)
        give_gradients(params, 3)
        params[0].grad = params[0].grad.contiguous()
        # The kernel still moves the other parameter.
        assert fused.taken_by_the_kernel(optimizer) == ("fused" in kind)
        step(params, optimizer, range(4, 6))
        results.append((params, optimizer))
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


def moved_data(params, optimizer):
    params[0].data = params[0].data.clone()


def shorter(params, optimizer):
    params[0].data = params[0].data[:2]
    optimizer.state[params[0]] = {
        k: v[:2] if v.dim() else v for k, v in optimizer.state[params[0]].items()
    }


def no_gradient(params, optimizer):
    params[1].requires_grad_(False)
    params[1].grad = None


def new_average(params, optimizer):
    optimizer.state[params[0]]["exp_avg"] = torch.ones_like(params[0])


def shared_memory(params, optimizer):
    for state in optimizer.state.values():
        for value in state.values():
            value.share_memory_()


def no_state(params, optimizer):
    del optimizer.state[params[0]]


def moved_state(params, optimizer):
    optimizer.state[params[1]]["exp_avg_sq"].data = torch.ones(4)


def one_more(params, optimizer):
    optimizer.state[params[0]]["more"] = torch.zeros(())


def other_dtype(params, optimizer):
    params[0].data = params[0].data.double()
    optimizer.state.pop(params[0])


def later(params, optimizer):
    params.append(Parameter(torch.ones(2)))
    optimizer.param_groups[0]["params"].append(params[2])


def option(params, optimizer):
    optimizer.param_groups[0].update(amsgrad=True, centered=True, centered_warmup=2)


def loaded(params, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def replaced(params, optimizer):
    optimizer.param_groups[0]["params"][0] = params[0] = Parameter(params[0].detach().clone())


@pytest.mark.parametrize(
    "change",
    [moved_data, shorter, no_gradient, new_average, shared_memory, no_state, option, loaded]
    + [replaced, moved_state, one_more, other_dtype, later],
)
def test_what_changes_between_steps_is_noticed(change):
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        params = make([(5, 3), (4,)], DTYPES[2:3])
        optimizer = LaProp(params, lr=0.01, **kind)
        step(params, optimizer, range(3))
        change(params, optimizer)
        for t in range(3, 6):
            give_gradients([p for p in params if p.requires_grad], t)
            taken = fused.taken_by_the_kernel(optimizer)
            assert taken == ("fused" in kind) * sum(p.grad is not None for p in params)
        results.append((params, optimizer))
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


def test_state_dicts_go_both_ways():
    one, other = (make([(5, 3), (40,), (7,), ()], DTYPES) for _ in range(2))
    assert_close(one, other, fused.state_dicts_go_both_ways(one, other, step))


@pytest.mark.parametrize(
    "options", [{}, {"agc": 0.05}, {"amsgrad": True, "centered": True, "centered_warmup": 2}]
)
@pytest.mark.parametrize("foreach", [False, True])
def test_tensor_options_give_the_same_second_moments(foreach, options):
    one, other = (make([(1000,), (999,)], DTYPES[2:]) for _ in range(2))
    optimizers = []
    for params, kind in ((one, {"foreach": foreach}), (other, {"fused": True})):
        lr, mu, nu = (torch.tensor(x, dtype=torch.float64) for x in (0.01, 0.9, 0.999))
        optimizers.append(LaProp(params, lr=lr, betas=(mu, nu), **options, **kind))
        step(params, optimizers[-1], range(12))
    assert used(other, optimizers[1])
    assert_close(one, other, optimizers)


class Tensor(ctypes.Structure):
    """The beginning of ``DLTensor``."""

    _fields_ = (("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("id", ctypes.c_int32))


def test_the_kernel_is_not_given_tensors_on_another_device(monkeypatch):
    """torch says of the float64 parameter and all that belongs to it that they are on a GPU."""
    if tensors._describe() is None:
        pytest.skip("this version of torch has capsules alone")
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Tensor))
    describe = function(tensors._describe())

    @function
    def elsewhere(tensor, described):
        result = describe(tensor, described)
        if tensor.dtype == torch.float64 and tensor.dim():
            described.contents.type = 2
        return result

    address = ctypes.cast(elsewhere, ctypes.c_void_p).value
    monkeypatch.setattr(tensors._exchange(), "describe", address)
    params = make([(3,), (4,)], (torch.float32, torch.float64))
    optimizer = LaProp(params)
    for t in range(2):
        give_gradients(params, t)
        with fused.counted() as taken:
            optimizer.step()
        assert [id(param) for batch in taken for param in batch] == [id(params[0])]
    assert optimizer.state[params[1]]["step"] == 2


@pytest.mark.parametrize("order", [1, -1])
def test_each_device_of_a_group_has_its_kernel(order):
    """The parameters on the CPU are taken also where the first parameter is on a device without."""
    params = [*make([(3,), (4,)], DTYPES[2:3]), Parameter(torch.ones(3, device="meta"))][::order]
    optimizer = LaProp(params)
    for t in range(2):
        for param in params:
            param.grad = torch.full_like(param, t + 1.0)
        assert fused.taken_by_the_kernel(optimizer) == 2
    assert [int(optimizer.state[param]["step"]) for param in params] == [2, 2, 2]


def test_autograd_notices_the_step():
    fused.autograd_notices_the_step("cpu")


@pytest.mark.parametrize("found", [None, 3, datetime.datetime_CAPI])
def test_a_torch_that_answers_otherwise_is_asked_by_capsules(found, monkeypatch):
    """``found`` stands where the functions should: nothing, or something of another kind."""
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", found, raising=False)
    assert tensors._describe() is None


def test_an_lr_that_rounding_made_negative_counts_as_0():
    fused.an_lr_that_rounding_made_negative_counts_as_0("cpu")


# --- on other processors --------------------------------------------------------------------------

# cpu.cpp as a processor without AVX2 runs it. The standard headers need the macro, so all that
# cpu.cpp includes is included before the #undef.
ELSEWHERE = """
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>
#undef __x86_64__
#include "cpu.cpp"
"""


@pytest.fixture(scope="module", params=["", "-mfma"])
def elsewhere(request, tmp_path_factory):
    """Use a build for processors without AVX2, on one thread as with an old torch."""
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")
    if request.param and "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has no fused multiply-add")
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "elsewhere.cpp").write_text(ELSEWHERE)
    flags = ["-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    flags += ["-shared", "-fPIC", f"-I{ROOT / 'laprop' / 'kernels'}", *request.param.split()]
    built = folder / "elsewhere.so"
    subprocess.run([compiler, *flags, folder / "elsewhere.cpp", "-o", built], check=True)
    step = ctypes.CDLL(str(built)).laprop_step
    step.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_function", lambda: lambda *arguments: step(*arguments, None))
        yield bool(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {"maximize": True, "weight_decay": 0.01},
        {"agc": 0.05, "cautious": True, "low_precision": "nearest"},
        {"amsgrad": True, "centered": True, "centered_warmup": 2, "eps": 1e-3, "agc": 0.05},
        {"amsgrad": True, "centered": True, "centered_warmup": 2, "eps": 1e-3, "cautious": True},
    ],
)
def test_other_processors_make_the_same_steps(options, dtype, elsewhere):
    one, other = (make([(5, 7), (), (0,), (3, 16)], [dtype]) for _ in range(2))
    optimizers = [LaProp(one, **options, foreach=False), LaProp(other, **options, fused=True)]
    for params, optimizer in zip((one, other), optimizers, strict=True):
        step(params, optimizer, range(5))
    assert used(other, optimizers[1])
    for x, y in zip(one, other, strict=True):
        states = [optimizer.state[p] for optimizer, p in zip(optimizers, (x, y), strict=True)]
        for u, v in ((x.detach(), y.detach()), *((states[0][k], states[1][k]) for k in states[0])):
            error = 64 * torch.finfo(u.dtype).eps
            torch.testing.assert_close(u, v, rtol=error, atol=error)


def test_a_processor_without_fused_multiply_add_rounds_twice(elsewhere):
    param = Parameter(torch.zeros(1000))
    optimizer = LaProp([param], betas=(0.9, 0.7), fused=True)
    nu, complement = torch.tensor(0.7), torch.tensor(1 - 0.7)
    once, twice = torch.zeros(1000), torch.zeros(1000)
    for t in range(3):
        give_gradients([param], t)
        g = param.grad
        once = once.mul_(0.7).addcmul_(g, g, value=1 - 0.7)
        twice = complement * g * g + twice * nu
        optimizer.step()
    assert not torch.equal(once, twice)
    assert torch.equal(optimizer.state[param]["exp_avg_sq"], once if elsewhere else twice)


# --- memory ---------------------------------------------------------------------------------------

MEMORY = """
import resource, sys, torch
from laprop import LaProp
torch.set_num_threads(1)
dtype = getattr(torch, sys.argv[1])
param = torch.nn.Parameter(torch.ones(4_000_000, dtype=dtype))
param.grad = torch.ones_like(param)
optimizer = LaProp([param], fused=True, amsgrad=True, centered=True)
optimizer.step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2):
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_temporary_memory(dtype):
    """The peak does not grow; one temporary of the parameter's size would add 8 MB or more."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, dtype], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(result.stdout) < 4_000  # KiB


@pytest.mark.parametrize("fused", [True, False])
def test_a_group_without_gradients_is_left_alone_also_by_a_scaler(fused):
    trained, frozen = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    groups = [{"params": [frozen]}, {"params": [trained]}]
    optimizer = LaProp(groups, lr=0.1, betas=(0.0, 0.0), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(trained.sum()).backward()
    scaler.step(optimizer)
    assert torch.equal(frozen, torch.ones(2))
    torch.testing.assert_close(trained.detach(), torch.full((3,), 0.9))
    assert frozen not in optimizer.state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_empty_neighbour_changes_nothing(dtype):
    """Clipping takes the norm of the master copy, which an empty tensor has at no address."""
    results = []
    for shapes in ([(3,)], [(3,), (0,)], [(0,), (3,)]):
        params = [Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
        optimizer = LaProp(params, lr=0.003, agc=0.1, eps=0.1, fused=True)
        for _ in range(10):
            for param in params:
                param.grad = torch.full_like(param, 3.0)
            optimizer.step()
        state = optimizer.state[max(params, key=torch.numel)]
        results.append((state["master_param"], state["exp_avg_sq"]))
    for found in results[1:]:
        assert all(map(torch.equal, results[0], found))
