"""What holds of every kernel behind fused=True: of the CPU's (test_kernels.py) and CUDA's."""

import copy

import pytest
import torch
from torch.nn import Parameter

from laprop import LaProp


def state_dicts_go_both_ways(one, other, train, used):
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
        train(other, optimizer, [i])
        assert used(optimizer) == ("fused" in kinds[i % 3])
    return reference, optimizer


def autograd_notices_the_step(device):
    """A step counts as a change in place of the weights."""
    param = Parameter(torch.ones(3, device=device))
    loss = (param**2).sum()
    param.grad = torch.ones_like(param)
    LaProp([param], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
