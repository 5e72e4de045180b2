"""LaProp on tensors unlike those of a CPU: without float64, without data, with another default."""

import inspect
from unittest.mock import Mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laprop import LaProp, arithmetic, state

KINDS = [{"foreach": False}, {"foreach": True}, {"fused": True}]
each_kind = pytest.mark.parametrize("kind", KINDS)


class WithoutFloat64(TorchDispatchMode):
    """Refuse float64 tensors on the device meta, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.device.type == "meta":
                assert x.dtype != torch.float64, f"{func} makes a float64 tensor on the device"
        return result


@each_kind
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"agc": 0.3, "cautious": True}, {"amsgrad": True, "centered": True, "weight_decay": 1e-4}]
    + [{"lr": 0.1, "betas": (0.9, 0.99)}, {"state_dtype": torch.bfloat16}],
)
def test_a_device_without_float64(options, moved, kind, monkeypatch):
    """Also if ``step`` is there, to where torch.compile moves it."""
    monkeypatch.setattr(state, "_NARROW_DEVICES", ("meta",))
    if "lr" in options:
        options = {"lr": torch.tensor(0.1), "betas": (torch.tensor(0.9), torch.tensor(0.99))}
    param = Parameter(torch.ones(3, device="meta"))
    optimizer = LaProp([param], **options, **kind)
    param.grad = torch.ones(3, device="meta")
    with WithoutFloat64():
        optimizer.step()
        if moved:
            optimizer.state[param]["step"] = optimizer.state[param]["step"].to("meta")
        optimizer.step()
    scalars = {
        key: (entry.device.type, entry.dtype)
        for key, entry in optimizer.state[param].items()
        if key == "step" or key.endswith("weight")
    }
    place = ("meta", torch.float32) if moved else ("cpu", torch.float64)
    assert scalars == {
        "step": (place[0], torch.float32), "exp_avg_weight": place, "exp_avg_sq_weight": place,
    }  # fmt: skip


def test_a_device_takes_lists_of_tensors_by_itself_also_with_a_tensor_lr(monkeypatch):
    """The CPU stands for the device, with all kernels away."""
    monkeypatch.setattr(optimizers, "_get_foreach_kernels_supported_devices", lambda: ["cpu"])
    monkeypatch.setattr(state, "kernel_for", lambda *arguments, **options: None)
    for wrap in (float, torch.tensor):
        param = Parameter(torch.ones(3))
        optimizer = LaProp([param], lr=wrap(0.5), betas=(wrap(0.5), wrap(0.75)))
        step = Mock(wraps=arithmetic._foreach_step)
        with monkeypatch.context() as patch:
            patch.setattr(arithmetic, "_foreach_step", step)
            param.grad = torch.ones(3)
            optimizer.step()
        step.assert_called_once()
        assert torch.equal(param.detach(), torch.full((3,), 0.5))


@pytest.mark.filterwarnings("ignore:LaProp.fused=True. makes some steps without a kernel")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options",
    [*KINDS, {}, {"fused": False}, {"betas": (0.9, 0.99)}, {"agc": 0.3, "cautious": True}]
    + [{"amsgrad": True, "centered": True, "foreach": True}]
    + [{"differentiable": True, "low_precision": "nearest"}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_without_data(dtype, options):
    """A step in torch's FakeTensorMode, which serves to estimate the memory of a training."""
    made = {}
    for cls in (torch.optim.Adam, LaProp):
        known = {k: v for k, v in options.items() if k in inspect.signature(cls).parameters}
        with FakeTensorMode():
            if "betas" in options:
                known = {"lr": torch.tensor(0.1), "foreach": False}
                known["betas"] = (torch.tensor(0.9), torch.tensor(0.99))
            module = torch.nn.Linear(4, 3, dtype=dtype)
            params = [param.clone() if "differentiable" in known else param
                      for param in module.parameters()]  # fmt: skip
            optimizer = cls([p.detach().requires_grad_(p.is_leaf) for p in params], **known)
            for _ in range(3):
                for param in optimizer.param_groups[0]["params"]:
                    param.grad = torch.ones_like(param)
                optimizer.step()
        entries = optimizer.state[optimizer.param_groups[0]["params"][0]]
        made[cls] = {key: entry.shape for key, entry in entries.items()}
    assert made[torch.optim.Adam].items() <= made[LaProp].items()


@each_kind
def test_the_default_device_makes_no_difference(kind):
    """Scalars and seeds are on the CPU, as those of torch's Adam, whatever the default is."""
    cases = [{}, {"agc": 0.1, "cautious": True}, {"amsgrad": True, "centered": True}]
    cases += [{"state_dtype": torch.bfloat16}, {"low_precision": "stochastic"}]
    cases += [{"lr": torch.tensor(1e-3)}, {"differentiable": True}]
    for options in cases:
        if options.get("differentiable") and (kind.get("foreach") or kind.get("fused")):
            continue
        results = []
        for default in ("cpu", "meta"):
            torch.manual_seed(0)
            dtype = torch.bfloat16 if "low_precision" in options else torch.float32
            param = torch.ones(4, dtype=dtype)
            grad = torch.linspace(-1, 1, 4).to(dtype)
            adam = torch.optim.Adam([param])
            if dtype == torch.float32:
                param.grad = grad
                adam.step()  # before the default is changed, which older versions' Adam cannot take
            saved = adam.state_dict()
            for entries in saved["state"].values():
                entries["step"] = entries["step"].item()
            torch.set_default_device(default)
            try:
                optimizer = LaProp([param], **options, **kind)
                for _ in range(3):
                    param.grad = grad
                    optimizer.step()
                    optimizer.load_state_dict(optimizer.state_dict())
                optimizer.load_state_dict(saved)
                optimizer.step()
            finally:
                torch.set_default_device(None)
            results.append([param, *optimizer.state[param].values()])
        assert all(map(torch.equal, *results))
