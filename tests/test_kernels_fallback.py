"""What no kernel takes, and what fused=True says about it; DTensors."""

import warnings
from types import SimpleNamespace

import fused
import pytest
import torch
from fused import give_gradients
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn import Parameter
from training import make

from laprop import LaProp
from laprop.kernels import why_not

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize(
    "case", ["complex", "stochastic", "strided", "overlapping", "negated", "subclass"]
)
@fused.each_way_to_ask
def test_what_falls_back(how, case):
    class Own(torch.Tensor):
        pass

    options = {"low_precision": "stochastic"} if case == "stochastic" else {}
    params, expected = [], []
    for into in (params, expected):
        value = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        if case == "complex":
            into.append(Parameter(value.to(torch.complex64)))
        elif case == "stochastic":
            into.append(Parameter(value.half()))
        elif case == "strided":
            into.append(Parameter(value[:, ::2]))
        elif case == "overlapping":
            into.extend((Parameter(value), Parameter(value[1:])))
        elif case == "negated":
            into.append(Parameter(value[0, 0]))
        else:
            into.append(Parameter(value.as_subclass(Own)))
    for these, kind in ((params, {"fused": True}), (expected, {"foreach": False})):
        optimizer = LaProp(these, **options, **kind)
        for t in range(2):
            torch.manual_seed(t)
            for param in these:
                param.grad = torch.randn_like(param)
                if case == "negated":
                    param.grad = torch.complex(torch.ones(()), param.grad).conj().imag
            with fused.asked(how):
                assert fused.taken_by_the_kernel(optimizer) == 0
    for a, b in zip(params, expected, strict=True):
        assert torch.equal(a.detach(), b.detach())


class Sub(Parameter):
    """A parameter of a subclass."""


def one_warning(optimizer, reason):
    """Make steps with fused=True, of which only the first gives a warning, with this reason."""
    for t in range(3):
        for param in (params := optimizer.param_groups[0]["params"]):
            param.grad = torch.ones_like(param)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            optimizer.step()
        assert len(seen) == (t == 0)
        if t == 0:
            line = "LaProp(fused=True) makes some steps without a kernel, because "
            assert str(seen[0].message) == line + reason
            assert seen[0].filename == __file__
    assert optimizer.state[params[0]]["step"] == 3


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (torch.ones(3, dtype=torch.complex64), {}, "it takes no parameters of dtype complex64"),
        (torch.ones(3, device="meta"), {}, "there is none for the device type meta"),
        (torch.ones(3).half(), {"low_precision": "stochastic"},
         "it does not combine low_precision='stochastic' with float16 on this device"),
        (torch.ones(3), {"state_dtype": torch.bfloat16, "cautious": True},
         "it does not combine state_dtype with cautious"),
        (torch.ones(4, 4)[:, ::2], {},
         "a parameter, its gradient or its state has gaps in memory or another layout or dtype than"
         " it takes, or shares memory with another parameter, or GradScaler left the scaling to the"
         " step"),
    ],
)  # fmt: skip
def test_a_request_that_no_kernel_serves_is_warned_of_once(values, options, reason):
    params = [Parameter(values.clone(memory_format=torch.preserve_format)) for _ in range(2)]
    if values.stride() == (4, 2):
        params = [Parameter(values), Parameter(values.detach())]
    params.append(Parameter(torch.ones(3)))  # the kernel takes it, unless the options forbid it
    one_warning(LaProp(params, fused=True, **options), reason)
    quiet = LaProp(params, **options)
    for param in params:
        param.grad = torch.ones_like(param)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet.step()


def test_a_subclass_of_parameter_is_warned_of():
    one_warning(LaProp([Sub(torch.ones(3))], fused=True), "it takes no parameters of the class Sub")


def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    param = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32)
    group = LaProp([Parameter(torch.ones(3))], fused=True).param_groups[0]
    capability = (6, 1)
    assert why_not(param, group) == "it needs a GPU of compute capability 7.0 or more"
    capability = (7, 0)
    assert why_not(param, group) != "it needs a GPU of compute capability 7.0 or more"


def test_a_scaler_or_a_capture_that_the_kernel_does_not_support_is_named():
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = LaProp([param], fused=True)
    # GradScaler does so if another parameter of the optimizer is on a GPU.
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    with pytest.warns(UserWarning, match="or GradScaler left the scaling to the step"):
        optimizer.step()
    assert optimizer.state[param]["step"] == 1
    optimizer = LaProp([param], fused=True, capturable=True)
    with pytest.raises(RuntimeError, match="capturable=True"):
        optimizer.step()


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this process alone."""
    distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True, "centered": True, "centered_warmup": 2, "lr_in_momentum": False}],
)
@fused.each_way_to_ask
def test_the_kernel_steps_the_local_tensors_of_dtensors(how, options, mesh):
    shapes, results = [(5, 3), (4,)], []
    for place in (None, [Shard(0)], [Replicate()]):
        params = [param for dtype in DTYPES for param in make(dtype, shapes)]
        if place:
            params = [Parameter(distribute_tensor(param.data, mesh, place)) for param in params]
        optimizer = LaProp(params, fused=True, **options)
        for t in range(4):
            whole = [param for dtype in DTYPES for param in make(dtype, shapes)]
            give_gradients(whole, t)
            for param, plain in zip(params, whole, strict=True):
                param.grad = distribute_tensor(plain.grad, mesh, place) if place else plain.grad
            with fused.asked(how):
                assert fused.taken_by_the_kernel(optimizer) == len(params)
        results.append([x.full_tensor() if place else x for x in params])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}])
def test_what_no_kernel_takes_may_stand_beside_dtensors(options, mesh):
    """torch's functions for lists of tensors do not take both."""
    results = []
    for sharded in (False, True):
        params = [Parameter(torch.ones(4)), Parameter(torch.ones(4, 2)[:, ::2])]
        if sharded:
            params[0] = Parameter(distribute_tensor(params[0].data, mesh, [Replicate()]))
        optimizer = LaProp(params, agc=0.3, **options)
        for param in params:
            param.grad = torch.full_like(param, 2)
        with warnings.catch_warnings(action="ignore"):
            optimizer.step()
        results.append([(x.full_tensor() if isinstance(x, DTensor) else x) for x in params])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", ["agc", "cautious", "placed otherwise", "partial"])
def test_dtensors_that_the_kernel_cannot_step(case, mesh):
    options = {"agc": {"agc": 0.3}, "cautious": {"cautious": True}}.get(case, {})
    place = [Partial()] if case == "partial" else [Shard(0)]
    param = Parameter(DTensor.from_local(torch.ones(4), mesh, place))
    optimizer = LaProp([param], fused=True, **options)
    if case == "placed otherwise":
        param.grad = DTensor.from_local(torch.ones(4), mesh, place)
        optimizer.step()
        average = optimizer.state[param]["exp_avg"]
        optimizer.state[param]["exp_avg"] = average.redistribute(mesh, [Replicate()])
    reason = "it takes a DTensor without agc and cautious, and if all its state is placed alike"
    if case in ("agc", "cautious"):
        try:
            one_warning(optimizer, reason)
        except RuntimeError as error:
            if "Cannot use ReduceOp.AVG with Gloo" not in str(error):
                raise
            pytest.skip(f"this version of torch: {error}")
    else:
        param.grad = DTensor.from_local(torch.ones(4), mesh, place)
        with pytest.warns(UserWarning, match=reason):
            assert fused.taken_by_the_kernel(optimizer) == 0
