"""The kernel against the loop over tensors while everything is changed between steps.

What is changed is drawn at random: storage, strides, sizes, dtype and negation of parameters,
gradients and state; which gradients there are; groups and options; and what is taken away. The same
changes are made to a twin that makes its steps with the loop. Both must end in the same numbers, or
raise the same error. CONTRIBUTING says how to run it for longer, and under AddressSanitizer:

    python tests/test_fuzz.py STEPS [SEED] ["by capsules"]
"""

from __future__ import annotations

import collections
import random
import sys
import time

import fused
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from laprop import LaProp
from laprop.kernels.rows import AVERAGES, DTYPES

SHAPES = ((3, 4), (5,), (), (0,), (2, 3, 2), (1, 6), (17,))


def transposed(x: Tensor) -> Tensor:
    return x.permute(tuple(reversed(range(x.dim()))))


def in_a_larger_piece(x: Tensor) -> Tensor:
    """The same numbers, with gaps between them in memory."""
    if x.dim() == 0:
        return torch.stack([x, x])[1]
    return x.repeat_interleave(2, -1)[..., ::2]


def unaligned(x: Tensor) -> Tensor:
    return torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape) if x.numel() else x


def negated(x: Tensor) -> Tensor:
    """The same numbers, stored with the other sign and marked to be negated when they are read."""
    return torch._neg_view(-x)


LAYOUTS = (
    torch.clone,
    transposed,
    lambda x: transposed(transposed(x).contiguous()),
    in_a_larger_piece,
    unaligned,
    negated,
    lambda x: x.to(torch.float64),
    lambda x: x.to(torch.float32),
    lambda x: x.flatten() if x.dim() else x.view(1),
    lambda x: x[:1] if x.dim() else x,
    lambda x: x.expand(2, *x.shape)[0],
)


class Trainer:
    """An optimizer that is changed at random; two with the same seed get the same changes."""

    def __init__(self, seed: int, **kind: bool) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.kind = kind
        self.counts: collections.Counter[str] = collections.Counter()
        self.optimizer = LaProp([{"params": [self.new(), self.new()]}], lr=0.01, eps=1e-3, **kind)
        self.errors: list[str] = []

    def new(self) -> Parameter:
        dtype = self.random.choice((*DTYPES, torch.float32, torch.float32))
        shape = self.random.choice(SHAPES)
        return Parameter(torch.randn(shape, generator=self.generator).to(dtype))

    @property
    def params(self) -> list[Parameter]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def change_data(self) -> None:
        param = self.random.choice(self.params)
        param.data = self.random.choice(LAYOUTS)(param.data)

    def change_gradient(self) -> None:
        param = self.random.choice(self.params)
        layout = self.random.choice(LAYOUTS)
        if param.grad is not None:
            param.grad.data = layout(param.grad.data)

    def change_state(self) -> None:
        state = self.optimizer.state.get(self.random.choice(self.params), {})
        layout, key = self.random.choice(LAYOUTS), self.random.random()
        if state:
            entry = state[sorted(state)[int(key * len(state))]]
            entry.data = layout(entry.data)

    def replace_state(self) -> None:
        state = self.optimizer.state.get(self.random.choice(self.params), {})
        key = self.random.choice(AVERAGES)
        if key in state:
            state[key] = state[key].clone()

    def drop_state(self) -> None:
        self.optimizer.state.pop(self.random.choice(self.params), None)

    def drop_entry(self) -> None:
        state = self.optimizer.state.get(self.random.choice(self.params), {})
        state.pop(self.random.choice((*AVERAGES, "step", "exp_avg_weight")), None)

    def share_gradient(self) -> None:
        one, other = self.random.choice(self.params), self.random.choice(self.params)
        if one.shape == other.shape and one.dtype == other.dtype:
            one.grad = other.grad

    def gradient_is_the_weight(self) -> None:
        param = self.random.choice(self.params)
        param.grad = param.data

    def resize(self) -> None:
        """Resize a parameter in place by torch's resize_, which may give it other storage."""
        param, size = self.random.choice(self.params), self.random.randint(1, 40)
        fill = torch.randn(size, generator=self.generator).to(param.dtype)
        param.data.resize_(size).copy_(fill)
        param.grad = None
        if self.random.random() < 0.7:
            self.optimizer.state.pop(param, None)

    def set_options(self) -> None:
        group = self.random.choice(self.optimizer.param_groups)
        for key in ("amsgrad", "centered", "maximize", "cautious", "eps_in_sqrt"):
            if self.random.random() < 0.3:
                group[key] = not group[key]
        group["agc"] = self.random.choice([None, None, 0.1])
        group["low_precision"] = self.random.choice(["master", "nearest"])
        group["lr"] = self.random.choice([0.0, 0.01, 0.1])
        group["weight_decay"] = self.random.choice([0.0, 0.001])

    def add_group(self) -> None:
        params = [self.new() for _ in range(self.random.randint(1, 4))]
        if len(self.optimizer.param_groups) < 4:
            self.optimizer.add_param_group({"params": params})

    def drop_group(self) -> None:
        index = self.random.randrange(len(self.optimizer.param_groups))
        if len(self.optimizer.param_groups) > 1:
            del self.optimizer.param_groups[index]

    def replace_parameter(self) -> None:
        params = self.random.choice(self.optimizer.param_groups)["params"]
        params[self.random.randrange(len(params))] = self.new()

    def load(self) -> None:
        for param in self.optimizer.state.keys() - set(self.params):  # torch cannot save these
            del self.optimizer.state[param]
        self.optimizer.load_state_dict(self.optimizer.state_dict())

    CHANGES = (
        *(change_data, change_gradient, change_state, replace_state, drop_state, drop_entry),
        *(share_gradient, gradient_is_the_weight, resize, set_options, add_group, drop_group),
        *(replace_parameter, load),
    )

    def step(self) -> None:
        for param in self.params:
            if self.random.random() < 0.2:
                param.grad = None
            else:
                grad = torch.randn(param.shape, generator=self.generator).to(param.dtype)
                param.grad = torch.empty_like(param).copy_(grad)
        for change in self.random.choices(self.CHANGES, k=self.random.randint(0, 3)):
            self.counts[change.__name__] += 1
            try:
                change(self)
            except (
                RuntimeError,
                ValueError,
            ) as error:  # torch refuses some changes, for both twins alike
                self.errors.append(f"{change.__name__}: {error}")
        try:
            self.optimizer.step()
        except (RuntimeError, ValueError, TypeError) as error:
            self.errors.append(f"step: {type(error).__name__}: {error}")
            self.counts["steps that raised"] += 1
            self.optimizer = LaProp([{"params": [self.new(), self.new()]}], lr=0.01, **self.kind)
        self.counts["steps"] += 1


def compare(one: Trainer, other: Trainer) -> None:
    assert one.errors == other.errors, (one.errors[-1:], other.errors[-1:])
    assert len(one.params) == len(other.params)
    for a, b in zip(one.params, other.params, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        states = [dict(t.optimizer.state.get(p, {})) for t, p in ((one, a), (other, b))]
        assert states[0].keys() == states[1].keys()
        pairs = [(a.detach(), b.detach()), *((states[0][k], states[1][k]) for k in states[0])]
        for x, y in pairs:
            error = 2000 * torch.finfo(x.dtype).eps if x.dtype in DTYPES[:2] else 0.05
            torch.testing.assert_close(x, y, rtol=error, atol=error, equal_nan=True)
            # From equal numbers again, so that the next comparison is of one step alone.
            y.copy_(x)


@torch.no_grad()
def run(steps: int, seed: int) -> collections.Counter[str]:
    """Make steps with the kernel and with the loop, compare, and count the changes by name."""
    counts: collections.Counter[str] = collections.Counter()
    done = 0
    while done < steps:
        seed += 1
        one, other = Trainer(seed, fused=True), Trainer(seed, foreach=False, fused=False)
        for _ in range(min(40, steps - done)):
            with fused.counted() as taken:
                one.step()
            counts["parameters that the kernel took"] += sum(map(len, taken))
            other.step()
            compare(one, other)
            done += 1
        counts += one.counts
    return counts


@pytest.mark.parametrize("seed", range(2))
@fused.each_way_to_ask
def test_whatever_is_changed_between_steps(how: str, seed: int) -> None:
    with fused.asked(how):
        counts = run(200, 1000 * seed)
    assert counts["steps"] == 200
    assert len(counts) > 12  # nearly all changes were made
    assert counts["parameters that the kernel took"] > 200


if __name__ == "__main__":
    begin = time.monotonic()
    torch.set_num_threads(1)
    with fused.asked(sys.argv[3] if len(sys.argv) > 3 else "directly"):
        made = run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{made.pop('steps')} steps in {time.monotonic() - begin:.0f} s, no difference")
    print(f"{made.pop('parameters that the kernel took')} parameters were the kernel's")
    print(f"{made.pop('steps that raised')} of them raised, the same with kernel and loop")
    print(f"{made.total()} changes: {dict(made)}")
