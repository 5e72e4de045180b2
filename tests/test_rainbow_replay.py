"""Rainbow's memory: its transitions, what is overwritten, priorities, saving."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from experiments.rainbow.replay import Replay, SumTree


def memory(capacity: int = 50, **changes: Any) -> Replay:
    options: dict[str, Any] = {
        "stack": 2, "n_step": 3, "discount": 0.5, "alpha": 0.5, "leak": 0.99,
        "random_overwrite": True, "stratified": False, "normalise": False,
        "reversed_returns": False, "generator": torch.Generator().manual_seed(0),
    }  # fmt: skip
    return Replay(capacity, (1, 2, 2), **options | changes)


def frame(number: int) -> np.ndarray:
    return np.full((1, 2, 2), number, np.uint8)


def transitions(replay: Replay) -> list[tuple[list[int], int, float, list[int], float]]:
    """State, action, return, next state, discount; a state is the list of its frames' numbers."""
    values = replay.frames[replay.ids[: len(replay)]][..., 0, 0, 0]
    return [
        (values[i, 0].tolist(), int(replay.actions[i]), float(replay.returns[i]),
         values[i, 1].tolist(), float(replay.discounts[i]))
        for i in range(len(replay))
    ]  # fmt: skip


def live(replay: Replay, rewards: list[float], terminal: bool, first: int = 0) -> None:
    """Add an episode in which action i - 1 leads to frame i and earns rewards[i - 1]."""
    replay.begin(frame(first))
    for i, reward in enumerate(rewards):
        last = i == len(rewards) - 1
        replay.append(first + i, reward, frame(first + i + 1), terminal and last)


def test_returns_of_n_steps_and_of_fewer_where_an_episode_ends() -> None:
    replay = memory()
    live(replay, [1, 0, 4, 2], terminal=True)
    assert transitions(replay) == [
        ([0, 0], 0, 2.0, [2, 3], 0.125),  # 1 + 0/2 + 4/4
        ([0, 1], 1, 2.5, [3, 4], 0.0),  # 0 + 4/2 + 2/4
        ([1, 2], 2, 5.0, [3, 4], 0.0),
        ([2, 3], 3, 2.0, [3, 4], 0.0),
    ]
    live(replay, [8], terminal=True, first=10)  # its state has no frame of the life before
    assert transitions(replay)[4:] == [([10, 10], 10, 8.0, [10, 11], 0.0)]


def test_an_episode_that_is_left_goes_on_in_the_value_of_its_last_state() -> None:
    replay = memory()
    live(replay, [1, 0, 4, 2], terminal=False)
    assert len(replay) == 2  # two windows have all three steps
    replay.cut()
    assert transitions(replay)[2:] == [
        ([1, 2], 2, 5.0, [3, 4], 0.25),
        ([2, 3], 3, 2.0, [3, 4], 0.5),
    ]


def test_the_authors_discount_backwards_and_drop_what_an_end_cuts() -> None:
    ours, theirs = memory(), memory(reversed_returns=True)
    for replay in (ours, theirs):
        live(replay, [1, 0, 0], terminal=False)
    assert transitions(ours)[0][2] == 1
    assert transitions(theirs)[0][2] == 0.25
    theirs = memory(reversed_returns=True)
    live(theirs, [1, 0, 4, 2], terminal=True)
    assert [t[1:3] + t[4:] for t in transitions(theirs)] == [(0, 4.25, 0.125), (1, 4.0, 0.0)]
    # an episode shorter than n leaves one transition instead of two
    live(theirs, [1, 4], terminal=True, first=10)
    assert [t[1:3] + t[4:] for t in transitions(theirs)[2:]] == [(10, 4.5, 0.0)]
    live(theirs, [1, 2], terminal=False, first=20)
    theirs.cut()
    assert len(theirs) == 3
    one = memory(reversed_returns=True, n_step=1), memory(n_step=1)
    for replay in one:
        live(replay, [1, 0, 4, 2], terminal=True)
    # with one step, as in their Breakout run, nothing differs
    assert transitions(one[0]) == transitions(one[1])


def test_every_transition_keeps_its_frames_while_others_are_overwritten() -> None:
    """After many random lives in a small memory, each transition has the frames it was made of."""
    replay, rng = memory(capacity=40, stack=3), np.random.default_rng(0)
    seen: dict[tuple[int, ...], None] = {}
    number = 0
    for _ in range(400):
        length = int(rng.integers(1, 12))
        replay.begin(frame(number % 251))
        state = [number % 251] * 3
        for i in range(length):
            number += 1
            state = [*state[1:], number % 251]
            seen[tuple(state)] = None
            replay.append(0, 0.0, frame(number % 251), terminal=i == length - 1)
            assert replay.present().flatten(2)[0, :, 0].tolist() == state
        number += 1
    assert len(replay) == 40
    for before, _, _, after, _ in transitions(replay):
        assert tuple(after) in seen
        assert before[0] == before[1] or tuple(before) in seen
        for state in (before, after):
            assert all((b - a) % 251 <= 1 for a, b in pairwise(state))
        assert 1 <= (after[-1] - before[-1]) % 251 <= 3
    # No frame is lost: each one is held by a transition or free to be used again.
    holders = np.bincount(
        np.concatenate([replay.ids.ravel(), replay.state]), minlength=len(replay.held)
    )
    assert (holders == replay.held).all()
    assert (replay.held > 0).sum() + replay.free == replay.touched <= len(replay.frames)


@pytest.mark.parametrize("random", [True, False])
def test_which_transition_is_overwritten(random: bool) -> None:
    """A random one, so that ages are geometric; or the oldest, so that all ages are below N."""
    n, total = 100, 3000
    replay = memory(capacity=n, random_overwrite=random, n_step=1)
    replay.begin(frame(0))
    for i in range(total):
        replay.append(i, 0.0, frame(i % 256), terminal=False)
    ages = total - 1 - replay.actions
    if random:
        # a geometric age has mean N, and its mean over N a standard error of sqrt(N)
        assert abs(ages.mean() - n) < 30
        assert ages.max() > 2 * n
    else:
        assert sorted(ages) == list(range(n))


def test_sum_tree_finds_what_a_running_sum_finds() -> None:
    rng = np.random.default_rng(0)
    tree, values = SumTree(37), np.zeros(37)
    for _ in range(30):
        index = rng.integers(0, 37, 5)
        values[index] = tree[index] = rng.uniform(0, 2, 37)[index]
        one = int(rng.integers(37))
        values[one] = tree[one] = rng.uniform()
    assert tree.total == pytest.approx(values.sum())
    mass = rng.uniform(0, values.sum(), 1000)
    assert (tree.find(mass) == np.searchsorted(values.cumsum(), mass, side="right")).all()


def test_priorities_decide_how_often_and_weights_make_up_for_it() -> None:
    replay = memory(capacity=8, n_step=1)
    live(replay, [0.0] * 8, terminal=False)
    priorities = np.arange(1.0, 9.0) ** 2
    replay.update(np.arange(8), priorities)
    batches = [replay.sample(500, beta) for beta in (0.0, 0.5, 1.0) for _ in range(20)]
    counts = np.bincount(np.concatenate([b.places for b in batches]), minlength=8)
    p = np.arange(1, 9) / 36  # proportional to priority^0.5
    np.testing.assert_allclose(counts / counts.sum(), p, atol=0.01)
    for batch, beta in ((batches[0], 0.0), (batches[20], 0.5), (batches[40], 1.0)):
        np.testing.assert_allclose(batch.weights, (8 * p[batch.places]) ** -beta, rtol=1e-5)
        assert (batch.actions.numpy() == batch.places).all()
    # At beta 1 the weights turn a mean of prioritised samples into the plain mean.
    values = np.concatenate([priorities[b.places] * b.weights.numpy() for b in batches[40:]])
    assert values.mean() == pytest.approx(priorities.mean(), rel=0.03)


def test_rainbows_own_sampling_is_an_option() -> None:
    replay = memory(capacity=8, n_step=1, stratified=True, normalise=True, leak=1.0)
    live(replay, [0.0] * 8, terminal=False)
    replay.update(np.arange(8), np.ones(8))
    batch = replay.sample(8, 0.5)
    assert batch.places.tolist() == list(range(8))  # one from each eighth
    replay.update(np.array([0]), np.array([1e-4]))
    for _ in range(20):
        batch = replay.sample(64, 0.5)
        assert float(batch.weights.max()) == 1
    replay.update(np.array([3, 4]), np.array([5.0, 0.1]))
    assert replay.largest == 5


def test_a_new_transition_has_the_leaky_maximum() -> None:
    replay = memory(n_step=1)
    live(replay, [0.0] * 3, terminal=False)
    assert replay.tree[2] == 1
    rng, expected = np.random.default_rng(0), 1.0
    for _ in range(5):
        priorities = rng.uniform(0, 2, 3)
        replay.update(np.arange(3), priorities)
        for priority in priorities:  # one after the other, as in the authors' loop
            expected = max(0.99 * expected, priority)
        assert replay.largest == pytest.approx(expected)
    replay.append(3, 0.0, frame(9), terminal=False)
    assert replay.tree[3] == pytest.approx(expected**0.5)


def test_a_memory_of_frames_is_saved_as_far_as_it_is_filled() -> None:
    replay = memory(capacity=10_000)
    live(replay, [0.0] * 30, terminal=False)
    state = replay.state_dict()
    assert len(state["frames"]) == 31
    assert state["frames"].untyped_storage().nbytes() == 31 * 4
    other = memory(capacity=10_000)
    other.load_state_dict(state)
    assert transitions(other) == transitions(replay)
    for memory_ in (replay, other):
        memory_.generator.manual_seed(5)
        live(memory_, [1.0] * 30, terminal=True, first=40)
    assert transitions(other) == transitions(replay)
    assert other.sample(5, 0.5).places.tolist() == replay.sample(5, 0.5).places.tolist()
