"""LaProp under DDP, FSDP2 (DTensor) and distributed checkpoints: two processes on one CPU."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from conftest import documented
from torch import multiprocessing, nn
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from laprop import LaProp

pytestmark = pytest.mark.slow

WORLD = 2


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def batch(step):
    return torch.randn(WORLD, 4, 6, generator=torch.Generator().manual_seed(step))


def train(model, optimizer, data, steps=range(6)):
    dtype = next(model.parameters()).dtype
    for step in steps:
        optimizer.zero_grad()
        model(data(step).to(dtype)).float().square().mean().backward()
        optimizer.step()


def full(parameter):
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach()


def weights(model):
    return [full(parameter) for parameter in model.parameters()]


def assert_close(model, reference, atol=1e-6):
    for a, b in zip(weights(model), weights(reference), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


OPTIONS = (
    {"lr": 0.01, "weight_decay": 0.01, "amsgrad": True, "centered": True, "centered_warmup": 2},
    {"lr": torch.tensor(0.01), "weight_decay": 0.01, "foreach": False},
)
# For FSDP2 alone: a dtype, options, and by how much the weights may differ from those that one
# process gives. In 16 bits gradients are averaged in another order, and some numbers are rounded
# at random.
SHARDED = (
    (torch.float32, {"agc": 0.01}, 1e-6),
    (torch.float32, {"agc": 0.01, "cautious": True, "foreach": True}, 1e-6),
    (torch.bfloat16, {"foreach": True}, 0.01),
    (torch.bfloat16, {"low_precision": "stochastic"}, 0.02),
    (torch.float32, {"state_dtype": torch.bfloat16}, 0.002),
)


def worker(rank, file):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the README's line takes a GPU where there is one
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD)
    try:
        for options in OPTIONS:
            trains_alike(rank, options)
        for dtype, options, atol in SHARDED:
            trains_alike_in_shards(rank, dtype, options, atol)
    finally:
        dist.destroy_process_group()


def trains_alike(rank, options):
    """Every way to train on two processes gives what one process gives."""
    reference = build()
    optimizer = LaProp(reference.parameters(), **options)
    train(reference, optimizer, lambda step: batch(step).flatten(0, 1))

    replicated = DistributedDataParallel(build())
    optimizer = LaProp(replicated.parameters(), **options)
    train(replicated, optimizer, lambda step: batch(step)[rank])
    assert_close(replicated, reference)

    def shard():
        model = build()
        fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
        return model, LaProp(model.parameters(), **options)

    sharded, optimizer = shard()
    train(sharded, optimizer, lambda step: batch(step)[rank])
    assert_close(sharded, reference)
    state = optimizer.state[next(sharded.parameters())]
    assert isinstance(state["exp_avg_sq"], DTensor)

    # A checkpoint after step 3, loaded into a new model, goes on as the run that never stopped.
    first, optimizer = shard()
    train(first, optimizer, lambda step: batch(step)[rank], range(3))
    saved = copy.deepcopy(checkpoint.get_state_dict(first, optimizer))
    second, optimizer = shard()
    checkpoint.set_state_dict(
        second, optimizer, model_state_dict=saved[0], optim_state_dict=saved[1]
    )
    train(second, optimizer, lambda step: batch(step)[rank], range(3, 6))
    for a, b in zip(weights(second), weights(sharded), strict=True):
        assert torch.equal(a, b)

    names = {"model": build()}
    exec(documented("fully_shard"), names)
    train(names["model"], names["optimizer"], lambda step: batch(step)[rank], range(1))
    states = names["optimizer"].state.values()
    assert len(states) == 4
    assert all(isinstance(state["exp_avg_sq"], DTensor) for state in states)


def trains_alike_in_shards(rank, dtype, options, atol):
    torch.manual_seed(rank)  # for numbers that are rounded at random
    reference, sharded = build().to(dtype), build().to(dtype)
    optimizer = LaProp(reference.parameters(), lr=0.05, **options)
    train(reference, optimizer, lambda step: batch(step).flatten(0, 1))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (WORLD,)))
    optimizer = LaProp(sharded.parameters(), lr=0.05, **options)
    train(sharded, optimizer, lambda step: batch(step)[rank])
    assert_close(sharded, reference, atol)
    for param, first in zip(sharded.parameters(), build().to(dtype).parameters(), strict=True):
        assert (full(param) - first).abs().max() > 0.05
        averages = options.get("state_dtype", torch.float32)
        assert {optimizer.state[param][key].dtype for key in ("exp_avg", "exp_avg_sq")} == {
            averages
        }


def test_ddp_fsdp_and_checkpoints(tmp_path):
    multiprocessing.spawn(worker, (str(tmp_path / "store"),), nprocs=WORLD)
