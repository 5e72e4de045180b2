"""What holds of every kernel behind fused=True: of the CPU's (test_kernels.py) and CUDA's."""

import contextlib
import copy

import pytest
import torch
from torch.nn import Parameter

from laprop import LaProp
from laprop.kernels import kernel_for


@contextlib.contextmanager
def counted(device="cpu"):
    """A list that gets, for each call of the kernel that made a step, the parameters it took."""
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


def taken_by_the_kernel(optimizer, device="cpu"):
    """How many parameters the kernel takes in one step."""
    with counted(device) as taken:
        optimizer.step()
    return sum(map(len, taken))


def state_dicts_go_both_ways(one, other, train, device="cpu"):
    """fused, for-loop and foreach, turn by turn, on one state; through load_state_dict as well.

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
    """A step counts as a change in place of the weights."""
    param = Parameter(torch.ones(3, device=device))
    loss = (param**2).sum()
    param.grad = torch.ones_like(param)
    LaProp([param], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
