"""Rainbow: games, memory, network, loss, the authors' deviations, resuming, claims and figures."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SERVER, Maker, wait_for
from forked import child
from torch import Tensor

from experiments import rainbow
from experiments.common.config import ConfigError, Settings
from experiments.common.run import execute, status
from experiments.rainbow import DEVIATIONS, Tally, play, shared, too_long
from experiments.rainbow.environments import MINATAR, NOOPS, Atari, MinAtar
from experiments.rainbow.network import CONVOLUTIONS, Network, best_actions, losses, projected
from experiments.rainbow.replay import Batch, Replay, SumTree

# The memory ---------------------------------------------------------------------------------------


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
    """State, action, return, next state, discount; a state by the numbers on its frames."""
    values = replay.frames[replay.ids[: len(replay)]][..., 0, 0, 0]
    return [
        (values[i, 0].tolist(), int(replay.actions[i]), float(replay.returns[i]),
         values[i, 1].tolist(), float(replay.discounts[i]))
        for i in range(len(replay))
    ]  # fmt: skip


def live(replay: Replay, rewards: list[float], terminal: bool, first: int = 0) -> None:
    """An episode: frame i follows action i - 1, which earned rewards[i - 1]."""
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
    live(replay, [8], terminal=True, first=10)  # nothing of the life before it
    assert transitions(replay)[4:] == [([10, 10], 10, 8.0, [10, 11], 0.0)]


def test_an_episode_that_is_left_goes_on_in_the_value_of_its_last_state() -> None:
    replay = memory()
    live(replay, [1, 0, 4, 2], terminal=False)
    assert len(replay) == 2  # the windows that have all their steps
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
    live(theirs, [1, 4], terminal=True, first=10)  # shorter than n: one transition of the two
    assert [t[1:3] + t[4:] for t in transitions(theirs)[2:]] == [(10, 4.5, 0.0)]
    live(theirs, [1, 2], terminal=False, first=20)
    theirs.cut()
    assert len(theirs) == 3
    one = memory(reversed_returns=True, n_step=1), memory(n_step=1)
    for replay in one:
        live(replay, [1, 0, 4, 2], terminal=True)
    assert transitions(one[0]) == transitions(one[1])  # their Breakout run: nothing differs


def test_every_transition_keeps_its_frames_while_others_are_overwritten() -> None:
    """Random lives in a small memory; the frames of what is left are those it was made of."""
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
    # No frame leaks: each is held, or free to be used again.
    holders = np.bincount(
        np.concatenate([replay.ids.ravel(), replay.state]), minlength=len(replay.held)
    )
    assert (holders == replay.held).all()
    assert (replay.held > 0).sum() + replay.free == replay.touched <= len(replay.frames)


@pytest.mark.parametrize("random", [True, False])
def test_who_is_overwritten(random: bool) -> None:
    """Every place is as likely, or the oldest goes; ages are geometric, or all below N."""
    n, total = 100, 3000
    replay = memory(capacity=n, random_overwrite=random, n_step=1)
    replay.begin(frame(0))
    for i in range(total):
        replay.append(i, 0.0, frame(i % 256), terminal=False)
    ages = total - 1 - replay.actions
    if random:
        assert abs(ages.mean() - n) < 30  # geometric: mean N, standard error N / sqrt(N)
        assert ages.max() > 2 * n
        places = torch.Generator().manual_seed(0)
        assert int(torch.randint(n, (), generator=places)) in range(n)
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
    counts = np.bincount(np.concatenate([b.index for b in batches]), minlength=8)
    p = np.arange(1, 9) / 36  # proportional to priority^0.5
    np.testing.assert_allclose(counts / counts.sum(), p, atol=0.01)
    for batch, beta in ((batches[0], 0.0), (batches[20], 0.5), (batches[40], 1.0)):
        np.testing.assert_allclose(batch.weights, (8 * p[batch.index]) ** -beta, rtol=1e-5)
        assert (batch.actions.numpy() == batch.index).all()
    # With weights of beta 1 a prioritised mean is the plain one.
    values = np.concatenate([priorities[b.index] * b.weights.numpy() for b in batches[40:]])
    assert values.mean() == pytest.approx(priorities.mean(), rel=0.03)


def test_rainbows_own_sampling_is_an_option() -> None:
    replay = memory(capacity=8, n_step=1, stratified=True, normalise=True, leak=1.0)
    live(replay, [0.0] * 8, terminal=False)
    replay.update(np.arange(8), np.ones(8))
    batch = replay.sample(8, 0.5)
    assert batch.index.tolist() == list(range(8))  # one from each eighth
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
        for priority in priorities:  # as the authors' loop has it
            expected = max(0.99 * expected, priority)
        assert replay.largest == pytest.approx(expected)
    replay.append(3, 0.0, frame(9), terminal=False)
    assert replay.tree[3] == pytest.approx(expected**0.5)


# The network --------------------------------------------------------------------------------------


def network(dueling: bool = True, seed: int = 0, **changes: Any) -> Network:
    torch.manual_seed(seed)
    options = {"convolutions": "minatar", "hidden": 16, "sigma": 0.5, "unit": 1}
    return Network((4, 10, 10), 3, 11, dueling=dueling, **options | changes)


def batch(size: int = 6, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def states() -> Tensor:
        return torch.randint(2, (size, 4, 10, 10), generator=g, dtype=torch.uint8)

    return Batch(
        states(), torch.randint(3, (size,), generator=g), torch.randn(size, generator=g), states(),
        torch.full((size,), 0.9), torch.ones(size), np.arange(size),
    )  # fmt: skip


SUPPORT = torch.linspace(-2, 2, 11)


def test_projection_against_brute_force() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.rand(20, 11, generator=g).softmax(-1)
    returns = 2 * torch.randn(20, generator=g)
    returns[:3] = torch.tensor([0.0, 0.4, -5.0])  # on the support, on its next atom, below it
    discounts = torch.tensor([1.0, 1.0, 0.9] + [0.0, 0.5, 0.97, 1.0] * 4 + [0.99])
    expected = np.zeros((20, 11))
    for b in range(20):
        for i in range(11):
            z = min(max(float(returns[b] + discounts[b] * SUPPORT[i]), -2.0), 2.0)
            for j in range(11):
                near = max(0.0, 1 - abs(z - float(SUPPORT[j])) / 0.4)
                expected[b, j] += near * float(p[b, i])
    result = projected(p, returns, discounts, SUPPORT)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(result.sum(1), 1, rtol=1e-5)
    torch.testing.assert_close(result[0], p[0])
    assert float(result[2, 0]) == pytest.approx(1)


def test_forming_the_noisy_weights_changes_nothing() -> None:
    for dueling in (True, False):
        net = network(dueling)
        noise = net.draw(torch.Generator().manual_seed(1))
        states = batch().states
        together = net(states, net.formed(noise))
        for i in range(len(states)):
            alone = net(states[i : i + 1], net.factored(noise))
            torch.testing.assert_close(alone[0], together[i])


def test_noise_is_factorised_and_of_the_right_size() -> None:
    """The matrix of a stream has rank 1; f(z)^2 is |z|, of mean sqrt(2/pi)."""
    net = network(hidden=400)
    g = torch.Generator().manual_seed(0)
    noise = net.draw(g)
    layer = net.noisy["hidden"]
    weight, bias = layer.formed(noise["hidden"])
    spread = (weight.view_as(layer.weight) - layer.weight) / layer.weight_sigma
    assert torch.linalg.matrix_rank(spread[0].double(), atol=1e-3) == 1
    assert not torch.allclose(spread[0], spread[1])
    e_in, e_out = noise["hidden"]
    torch.testing.assert_close(
        (bias - layer.bias.flatten()) / layer.bias_sigma.flatten(), e_out.flatten()
    )
    assert float(e_in.square().mean()) == pytest.approx((2 / np.pi) ** 0.5, rel=0.05)
    assert abs(float(e_in.mean())) < 0.05
    assert not torch.equal(net.draw(g)["hidden"][0], e_in)


def test_initial_weights_and_sizes() -> None:
    """6.76 M parameters with dueling and 4 actions, 3.50 M without, as in the authors' program."""
    sizes = {}
    for dueling in (True, False):
        net = Network((4, 84, 84), 4, 51, convolutions="nature", hidden=512, dueling=dueling,
                      sigma=0.5, unit=255)  # fmt: skip
        sizes[dueling] = sum(p.numel() for p in net.parameters())
    assert sizes == {True: pytest.approx(6.76e6, rel=2e-3), False: pytest.approx(3.5e6, rel=2e-3)}
    layer = net.noisy["hidden"]
    bound = 3136**-0.5
    assert bound * 0.99 < float(layer.weight.abs().max()) <= bound
    assert float(layer.weight_sigma.unique()) == pytest.approx(0.5 * bound)
    assert float(layer.bias_sigma.unique()) == pytest.approx(0.5 * 512**-0.5)


def gradients(deviates: bool = False, dueling: bool = True) -> dict[str, float]:
    online, target = network(dueling), network(dueling, seed=1)
    noise = online.draw(torch.Generator().manual_seed(2))
    result = losses(online, target, batch(), (noise, noise), SUPPORT, double=True,
                    advantage_alone=deviates)  # fmt: skip
    result.mean().backward()
    assert all(p.grad is None for p in target.parameters())
    return {
        name: 0.0 if p.grad is None else float(p.grad.abs().max())
        for name, p in online.named_parameters()
    }


def test_gradient_reaches_every_stream_and_every_noisy_parameter() -> None:
    for dueling in (True, False):
        found = gradients(dueling=dueling)
        assert len(found) == 2 + 4 * (3 if dueling else 2)
        assert min(found.values()) > 0, found


def test_the_authors_value_stream_does_not_learn() -> None:
    found = gradients(deviates=True)
    value = {name for name in found if name.startswith("noisy.value")}
    assert len(value) == 4
    assert {name for name, size in found.items() if size == 0} == value
    net = network()
    layers = net.formed(net.draw(torch.Generator()))
    states = batch().states
    theirs = net(states, layers, advantage_alone=True)
    hidden = layers("hidden", net.convolutions(states.float())).relu()
    torch.testing.assert_close(theirs.flatten(1), layers("advantage", hidden[:, :16]))


def test_loss_against_one_transition_at_a_time() -> None:
    """Double Q-learning, the projection and the divergence, written out."""
    online, target, data = network(), network(seed=1), batch()
    g = torch.Generator().manual_seed(3)
    mine, its = online.draw(g), target.draw(g)
    for double in (True, False):
        found = losses(online, target, data, (mine, its), SUPPORT, double=double,
                       advantage_alone=False)  # fmt: skip
        for i in range(6):
            with torch.no_grad():
                now = online(data.states[i : i + 1], online.formed(mine))[0]
                then = target(data.following[i : i + 1], target.formed(its))[0]
                judge = (
                    online(data.following[i : i + 1], online.formed(mine))[0] if double else then
                )
            action = int(torch.stack([(a.softmax(0) * SUPPORT).sum() for a in judge]).argmax())
            goal = projected(then[action].softmax(0)[None], data.returns[i : i + 1],
                             data.discounts[i : i + 1], SUPPORT)[0]  # fmt: skip
            p = now[int(data.actions[i])].softmax(0)
            expected = sum(
                float(q) * np.log(float(q / r)) for q, r in zip(goal, p, strict=True) if q > 0
            )
            assert float(found[i].detach()) == pytest.approx(expected, rel=1e-3, abs=1e-6)
