"""The CUDA kernel, run by test_cuda.py in a process of its own: on a GPU where there is one, else
by Triton's interpreter on tensors of the CPU (TRITON_INTERPRET=1, read when Triton is imported)."""

import copy
import inspect
import math

import fused
import pytest
import torch
from fused import give_gradients
from torch.nn import Parameter

from laprop import LaProp, kernels
from laprop.kernels import cuda

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Several blocks with and without a rest, none, a scalar; two are not aligned to 16 bytes.
SHAPES = [(5, 3), (2 * cuda._BLOCK,), (cuda._BLOCK + 1,), (0,), (), (7,), (cuda._BLOCK + 3,)]
OPTIONS = [
    {},
    {"amsgrad": True, "weight_decay": 0.01, "maximize": True},
    {"centered": True, "centered_warmup": 2, "eps": 1e-8},
    {"centered": True, "centered_warmup": 2, "amsgrad": True, "eps_in_sqrt": True, "eps": 1e-8},
    {"lr_weighted_correction": False, "eps_in_sqrt": True, "weight_decay": 0.1},
    {"decay_by_lr": True, "weight_decay": 0.1, "low_precision": "nearest", "eps": 0.1},
    {"eps": 0.0, "betas": (0.0, 0.0)},
    {"agc": 0.05, "lr_in_momentum": False},
    {"cautious": True, "amsgrad": True, "maximize": True},
    {"cautious": True, "agc": 0.05, "weight_decay": 0.1},
]
gpu = pytest.mark.skipif(not GPU, reason="not run: no GPU")


@pytest.fixture(autouse=True)
def _kernel_for_cpu(monkeypatch):
    if not GPU:
        monkeypatch.setitem(kernels._MODULES, "cpu", "laprop.kernels.cuda")
    kernels.kernel_for.cache_clear()
    yield
    kernels.kernel_for.cache_clear()


def make(dtype=torch.float32, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = []
    for i, shape in enumerate(shapes):
        value = torch.randn(shape, generator=generator).to(DEVICE, dtype)
        if i >= len(SHAPES) - 2:
            value = torch.cat([value[:1], value])[1:]
        params.append(Parameter(value))
    return params


def train(params, optimizer, steps):
    for t in steps:
        give_gradients(params, t)
        for group in optimizer.param_groups:
            lr = 0.01 * (1 + 0.3 * (t % 5)) * (t != 1)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        optimizer.step()
    return params


def used(params, optimizer):
    """Whether the kernel moves all parameters, tried on a copy."""
    twins, other = copy.deepcopy((params, optimizer))
    give_gradients(twins, 0)
    taken = fused.taken_by_the_kernel(other, DEVICE)
    assert taken in (0, len(params))
    return taken > 0


def assert_close(one, other, optimizers, ulp=64):
    for x, y in zip(one, other, strict=True):
        states = [dict(o.state[p]) for o, p in zip(optimizers, (x, y), strict=True)]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            u, v = states[0][key], states[1][key]
            assert (u.dtype, u.shape, u.stride()) == (v.dtype, v.shape, v.stride())
            error = ulp * torch.finfo(u.dtype).eps
            torch.testing.assert_close(u, v, rtol=error, atol=error, check_device=False)
        # Triton's interpreter truncates to bfloat16; a GPU rounds.
        cuts = x.dtype == torch.bfloat16 and not GPU
        error = (8 if cuts else 2) * torch.finfo(x.dtype).eps
        if x.dtype in (torch.float32, torch.float64):
            error = ulp * torch.finfo(x.dtype).eps
        torch.testing.assert_close(x.detach(), y.detach(), rtol=error, atol=error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_fused_is_the_for_loop(options, dtype):
    one, other = make(dtype), make(dtype)
    optimizers = [LaProp(one, foreach=False, **options), LaProp(other, fused=True, **options)]
    for params, optimizer in zip((one, other), optimizers, strict=True):
        train(params, optimizer, range(5 if GPU else 3))  # the interpreter is slow
    assert used(other, optimizers[1])
    assert not used(one, optimizers[0])
    assert {value.device.type for s in optimizers[1].state.values() for value in s.values()} == {
        DEVICE
    }
    assert_close(one, other, optimizers)


def test_dtypes_and_layouts_together():
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        params = [p for dtype in DTYPES for p in make(dtype, SHAPES[:3])]
        conv = torch.nn.Conv2d(4, 6, 3).to(DEVICE, memory_format=torch.channels_last)
        conv.weight.data.copy_(torch.linspace(-1, 1, conv.weight.numel()).view(6, 4, 3, 3))
        results.append(([*params, conv.weight], LaProp([*params, conv.weight], **kind)))
        train(*results[-1], range(3))
        assert used(*results[-1]) == ("fused" in kind)
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS[:4:3])
def test_special_gradients(options, dtype):
    info = torch.finfo(dtype)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, info.max, -info.max, info.tiny, info.eps]
    special += [1.0, -3.0]
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        param = Parameter(torch.ones(len(special) * 3, dtype=dtype, device=DEVICE))
        optimizer = LaProp([param], lr=0.01, **options, **kind)
        for t in range(4):
            param.grad = torch.tensor(special * 3, dtype=torch.float64).roll(t).to(DEVICE, dtype)
            optimizer.step()
        results.append(param.detach())
    rtol = (16 if dtype == torch.bfloat16 and not GPU else 4) * info.eps
    torch.testing.assert_close(*results, rtol=rtol, atol=0, equal_nan=True)


def test_the_share_that_cautious_divides_by_counts_as_at_least_a_thousandth():
    """Of a whole tensor one update agrees with its gradient, and then none."""
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        params = make(shapes=[(cuda._BLOCK + 3,)])
        optimizer = LaProp(params, lr=1e-4, cautious=True, **kind)
        for size, first in ((1.0, 1.0), (-1e-3, 1.0), (-1e-3, -1e-3)):
            params[0].grad = torch.full_like(params[0], size)
            params[0].grad[0] = first
            optimizer.step()
        results.append((params, optimizer))
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


def test_averages_in_16_bits_are_right_in_the_mean():
    """The mean over many copies of a coordinate is the loop's path with averages in float32."""
    torch.manual_seed(0)
    options = {"lr": 0.01, "amsgrad": True}
    dtypes = (torch.float32, torch.float32, torch.float16, torch.bfloat16)
    results = []
    for kind in ({"foreach": False}, {"fused": True, "state_dtype": torch.bfloat16}):
        params = [
            Parameter(torch.ones(cuda._BLOCK, device=DEVICE, dtype=dtype)) for dtype in dtypes
        ]
        optimizer = LaProp(params, **options, **kind)
        for t in range(5):
            for param in params:
                param.grad = torch.full_like(param, math.sin(t) + 0.5)
            taken = fused.taken_by_the_kernel(optimizer, DEVICE)
            assert taken == ("fused" in kind) * len(params)
        results.append([optimizer.state[param] for param in params])
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        for wide, narrow in zip(*results, strict=True):
            assert narrow[key].dtype == torch.bfloat16
            assert narrow[key].unique().numel() > 2  # each copy was rounded on its own
            error = narrow[key].double().mean() / wide[key].double().mean() - 1
            assert abs(float(error)) < 5e-4, (key, error)
        assert not torch.equal(results[1][0][key], results[1][1][key])


def test_a_master_copy_follows_a_weight_changed_from_outside():
    params = make(torch.float16, SHAPES[:2])
    optimizer = LaProp(params, lr=1e-4, fused=True)
    train(params, optimizer, range(2))
    kept = optimizer.state[params[0]]["master_param"]
    assert not torch.equal(kept, kept.half().float())  # the master copy is finer than the weight
    with torch.no_grad():
        params[0][0] = 7.0
    optimizer.param_groups[0]["lr"] = 0.0
    give_gradients(params, 2)
    optimizer.step()
    assert (kept[0] == 7.0).all()
    assert not torch.equal(kept[1:], kept[1:].half().float())


@pytest.mark.parametrize("capturable", [False, True])
def test_hyper_parameters_on_the_device(capturable):
    """lr as a float32 tensor and betas as float64 tensors are read on the device."""
    params, expected = make(), make()
    lr, mu, nu = (torch.tensor(x, device=DEVICE) for x in (0.01, 0.8, 0.95))
    optimizer = LaProp(
        params, lr=lr, betas=(mu.double(), nu.double()), fused=True, capturable=capturable
    )
    train(params, optimizer, range(4))
    assert used(params, optimizer)
    reference = LaProp(expected, lr=lr.clone(), betas=(float(mu), float(nu)), foreach=False)
    train(expected, reference, range(4))
    assert_close(expected, params, [reference, optimizer])


def test_numbers_reach_the_kernels_in_float64():
    """Every float argument is declared so; Triton would hand it over in float32."""
    kernels_of_a_step = [(cuda, name) for name in ("advance", "reduce", "update")]
    seen = set()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in kernels_of_a_step:
            kernel = getattr(module, name)

            class Launch:
                def __init__(self, kernel=kernel, name=name):
                    self.kernel, self.name = kernel, name

                def __getitem__(self, grid):
                    def launch(*arguments, **constants):
                        names = [*inspect.signature(self.kernel.fn).parameters]
                        for key, value in zip(names, arguments, strict=False):
                            if isinstance(value, float):
                                seen.add(key)
                                declared = self.kernel.fn.__annotations__.get(key)
                                assert declared == "tl.float64", (self.name, key)
                        return self.kernel[grid](*arguments, **constants)

                    return launch

            patch.setattr(module, name, Launch())
        params = make(shapes=[(5, 3)])
        train(params, LaProp(params, agc=0.1, cautious=True, fused=True), range(1))
    assert {"agc", "eps", "weight_decay"} <= seen


@pytest.mark.parametrize("agc", [0.3, 0.1])
def test_clipping_is_exact_in_float64(agc):
    param = Parameter(torch.ones(1, dtype=torch.float64, device=DEVICE))
    optimizer = LaProp([param], agc=agc, betas=(0.9, 0.5), fused=True)
    param.grad = torch.full_like(param, 7.0)
    optimizer.step()
    n = optimizer.state[param]["exp_avg_sq"].item()
    assert n == pytest.approx(agc**2 / 2, rel=1e-14)


def test_the_default_device_makes_no_difference():
    results = []
    for default in (None, "meta"):
        torch.manual_seed(0)
        params = make(shapes=SHAPES[:3])
        optimizer = LaProp(params, state_dtype=torch.bfloat16, fused=True)
        give_gradients(params, 0)
        torch.set_default_device(default)
        cuda._tables.cache_clear()
        cuda._uploaded.cache_clear()
        try:
            optimizer.step()
        finally:
            torch.set_default_device(None)
        results.append(params)
    assert all(map(torch.equal, *results))


def test_grad_scaler():
    """With scaled, unscaled and infinite gradients it does what the loop over tensors does."""
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        params = make()
        optimizer = LaProp(params, lr=0.01, **kind)
        assert optimizer._step_supports_amp_scaling == ("fused" in kind)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, growth_interval=2)
        scales = []
        for t in range(6):
            give_gradients(params, t)
            for param in params:
                param.grad = scaler.scale(param.grad)
            if t == 3:
                params[1].grad[5] = math.inf
            before = copy.deepcopy([params, [*optimizer.state.values()]])
            if t == 4:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            if t == 3:
                after = [params, [*optimizer.state.values()]]
                torch.testing.assert_close(after, before, rtol=0, atol=0)
            else:  # unscaled, as after GradScaler.unscale_
                wanted = torch.randn((5, 3), generator=torch.Generator().manual_seed(1000 * t))
                torch.testing.assert_close(params[0].grad.cpu(), wanted, rtol=1e-6, atol=0)
        results.append((params, optimizer, scales))
    assert used(*results[1][:2])
    assert results[0][2] == results[1][2]
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler_with_a_compiled_step(unscale):
    """GradScaler leaves unscaling and skipping to the step, which a graph could not decide."""
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        params = make(shapes=SHAPES[:1])
        optimizer = LaProp(params, lr=0.01, fused=True)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        scaler = torch.amp.GradScaler(DEVICE, init_scale=4.0)
        for t in range(4):
            give_gradients(params, t)
            if t == 1:  # without a scaler
                optimizer.step()
                continue
            params[0].grad = scaler.scale(params[0].grad)
            if t == 2:
                params[0].grad[0, 0] = math.inf
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[params[0]]["step"] == 3
        results.append((params, optimizer))
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


def test_grad_scaler_where_the_kernel_cannot():
    results = []
    for kind in ({"foreach": False}, {"fused": True}):
        params = [Parameter(torch.ones(4, 6, device=DEVICE)[:, ::2])]
        optimizer = LaProp(params, lr=0.01, **kind)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
        for t in range(4):
            give_gradients(params, t)
            params[0].grad = scaler.scale(params[0].grad)
            if t == 1:
                params[0].grad[0, 0] = math.nan
            with fused.counted(DEVICE) as taken:
                scaler.step(optimizer)
            assert not taken
            scaler.update()
        results.append((params, optimizer))
    assert results[1][1].state[results[1][0][0]]["step"] == 3
    assert_close(results[0][0], results[1][0], [r[1] for r in results])


def test_state_dicts_go_both_ways():
    one, other = make(shapes=SHAPES[:3]), make(shapes=SHAPES[:3])
    assert_close(one, other, fused.state_dicts_go_both_ways(one, other, train, DEVICE))


def test_autograd_notices_the_step():
    fused.autograd_notices_the_step(DEVICE)


@gpu
def test_it_has_to_be_asked_for():
    """The kernel is used with fused=True alone, as in torch's optimizers."""
    params = make()
    optimizer = LaProp(params)
    train(params, optimizer, range(2))
    assert not used(params, optimizer)


def test_what_a_graph_copies_is_not_used_outside(monkeypatch):
    """Tables made while a graph is captured are filled only when the graph is replayed."""
    params = make()
    optimizer = LaProp(params, fused=True)
    train(params, optimizer, range(2))
    made, kept = cuda._tables.cache_info(), len(cuda._captured)
    with monkeypatch.context() as capture:
        capture.setattr(cuda, "_captures", lambda device: True)
        train(params, optimizer, range(2, 3))
    assert cuda._tables.cache_info() == made
    assert len(cuda._captured) > kept


def test_an_lr_that_rounding_made_negative_counts_as_0():
    fused.an_lr_that_rounding_made_negative_counts_as_0(DEVICE)


@gpu
def test_nothing_waits_for_the_device():
    params = make()
    optimizer = LaProp(params, fused=True, amsgrad=True, centered=True)
    train(params, optimizer, range(2))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t in range(3):
            for param in params:
                param.grad = torch.full_like(param, 0.1)
            optimizer.param_groups[0]["lr"] = 0.01 * t
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert used(params, optimizer)


@gpu
@pytest.mark.parametrize("options", OPTIONS)
def test_captured_in_a_graph(options):
    """Backward and step are captured together; lr, on the device, changes between replays."""
    model = torch.nn.Sequential(
        torch.nn.Linear(40, 3000), torch.nn.Tanh(), torch.nn.Linear(3000, 1)
    )
    x = torch.randn(16, 40, device=DEVICE)
    results = []
    for captured in (False, True):
        net = copy.deepcopy(model).to(DEVICE)
        lr = torch.tensor(0.01, device=DEVICE)
        optimizer = LaProp(net.parameters(), lr=lr, fused=True, capturable=True, **options)

        def step(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        if captured:
            graph = torch.cuda.CUDAGraph()
            optimizer.zero_grad()
            with torch.cuda.graph(graph):
                step()
        # Before the first replay the copies to the device that the graph makes have not happened.
        for param in net.parameters():
            param.grad.fill_(0.1)
        optimizer.step()
        if captured:
            cuda._tables.cache_clear()  # the graph needs nothing that Python holds
            cuda._uploaded.cache_clear()
            torch.cuda.empty_cache()
        for t in range(6):
            lr.fill_(0.01 / (1 + t))
            graph.replay() if captured else step()
        results.append(([*net.parameters()], optimizer))
    assert_close(results[0][0], results[1][0], [r[1] for r in results])
