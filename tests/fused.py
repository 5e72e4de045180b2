"""Checks that both kernels behind fused=True share: the CPU's (test_kernels.py) and CUDA's."""

import contextlib
import copy

import pytest
import torch
from torch.nn import Parameter

from laprop import LaProp
from laprop.kernels import kernel_for, tensors


@contextlib.contextmanager
def counted(device="cpu"):
    """Count the kernel's steps: the list gets, for each of them, the parameters that it moved."""
    kernel, taken = type(kernel_for(device)), []
    step = kernel.step

    def counting(self, batch, *rest):
        made = step(self, batch, *rest)
        if made:
            taken.append([*batch.params])
        return made

    kernel.step = counting
    try:
        yield taken
    finally:
        kernel.step = step


@contextlib.contextmanager
def asked(how):
    """Ask torch for its tensors as since 2.10 ("directly"), or as before ("by capsules")."""
    exchange = tensors._exchange()
    before = exchange.describe
    if how == "by capsules":
        exchange.describe = None
    elif before is None:
        pytest.skip("this version of torch has capsules alone")
    try:
        yield
    finally:
        exchange.describe = before


def give_gradients(params, t, scale=1.0):
    """Gradients that the step ``t`` decides, the same for every layout and dtype."""
    for i, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * t + i)
        grad = torch.randn(param.shape, generator=generator) * scale
        param.grad = torch.empty_like(param).copy_(grad)


each_way_to_ask = pytest.mark.parametrize("how", ["directly", "by capsules"])


def taken_by_the_kernel(optimizer, device="cpu"):
    """Make one step; return how many parameters the kernel moved."""
    with counted(device) as taken:
        optimizer.step()
    return sum(map(len, taken))


def state_dicts_go_both_ways(one, other, train, device="cpu"):
    """Train with fused, for-loop and foreach in turn on one state, also through load_state_dict.

    ``one`` is trained by the for-loop alone, ``other``, equal at first, by all three. Returns their
    optimizers.
    """
    kinds = [{"fused": True}, {"foreach": False}, {"foreach": True}]
    options = {"amsgrad": True, "centered": True, "centered_warmup": 2, "weight_decay": 0.01}
    reference = LaProp(one, foreach=False, **options)
    train(one, reference, range(9))
    optimizer = LaProp(other, **options)
    for i in range(9):
        kind = {"fused": False, "foreach": False} | kinds[i % 3]
        if i % 2:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = LaProp(other, **options)
            optimizer.load_state_dict(saved)
        optimizer.param_groups[0].update(kind)
        with counted(device) as taken:
            train(other, optimizer, [i])
        assert sum(map(len, taken)) == ("fused" in kinds[i % 3]) * len(other)
    return reference, optimizer


def autograd_notices_the_step(device):
    """Autograd must see that a step changed the weights in place."""
    param = Parameter(torch.ones(3, device=device))
    loss = (param**2).sum()
    param.grad = torch.ones_like(param)
    LaProp([param], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
