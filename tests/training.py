"""What the tests of the optimizer share: parameters, gradients, options, training, comparing."""

import torch
from torch.nn import Parameter

from laprop import LaProp, arithmetic

NARROW = (torch.float16, torch.bfloat16)
KINDS = (*NARROW, torch.float32, torch.float64, torch.complex64)
OPTIONS = [
    {},
    {"amsgrad": True, "weight_decay": 0.01},
    {"centered": True, "centered_warmup": 3},
    {"centered": True, "centered_warmup": 3, "amsgrad": True, "eps_in_sqrt": True},
    {"lr_weighted_correction": False, "eps_in_sqrt": True, "weight_decay": 0.01},
    {"weight_decay": 0.1, "decay_by_lr": True, "maximize": True},
    {"eps": 0.0, "betas": (0.0, 0.0)},
]


def make(dtype=torch.float32, shapes=((4, 3), (5,), (), (2, 1, 3)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [
        Parameter(torch.randn(shape, generator=generator, dtype=wide).to(dtype)) for shape in shapes
    ]


def give_gradients(params, t):
    for i, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * t + i)
        wide = torch.complex128 if param.is_complex() else torch.float64
        grad = torch.randn(param.shape, generator=generator, dtype=wide)
        param.grad = grad.to(param.dtype)


def train(params, optimizer, steps=12, start=0, lr=lambda t: 0.01 * (1 + 0.3 * (t % 5))):
    for t in range(start, start + steps):
        give_gradients(params, t)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr(t))
            else:
                group["lr"] = lr(t)
        optimizer.step()
    return params


def allow_capturable(monkeypatch):
    """Let the CPU stand for a device that captures graphs, where no scalar is read."""
    monkeypatch.setattr(arithmetic, "_get_capturable_supported_devices", lambda: ["cpu"])
    monkeypatch.setattr(LaProp, "_check_capture", lambda self: None)


def assert_same(a, b):
    """Equal to the last bit, values and dtypes, through lists and dicts."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b


def states(params, optimizer):
    return [dict(optimizer.state[param]) for param in params]


def assert_close(a, b, ulp):
    for x, y in zip(a, b, strict=True):
        unit = torch.finfo(x.dtype).eps * (1 + x.abs())
        assert ((x - y).abs() <= ulp * unit).all()
