"""Rainbow: games, memory, network, loss, the authors' deviations, resuming."""

from __future__ import annotations

import json
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
import yaml
from conftest import SERVER, Maker, wait_for
from forked import child
from torch import Tensor

from experiments import rainbow
from experiments.common.config import CONFIGS, ConfigError, Settings, expand
from experiments.common.execution import execute, status
from experiments.common.run import Run
from experiments.rainbow import DEVIATIONS, Tally, play, shared
from experiments.rainbow.environments import MINATAR, NOOPS, Atari, MinAtar
from experiments.rainbow.network import Network, losses, projected
from experiments.rainbow.replay import Batch, Replay, SumTree
from scripts import make_discrepancies

mpl.use("Agg")

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
    net = network(hidden=40)
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
    assert bound * 0.99 < float(layer.weight.detach().abs().max()) <= bound
    assert float(layer.weight_sigma.detach().unique()) == pytest.approx(0.5 * bound)
    assert float(layer.bias_sigma.detach().unique()) == pytest.approx(0.5 * 512**-0.5)


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


# Games --------------------------------------------------------------------------------------------


def test_screens_are_those_of_gymnasium() -> None:
    """Pixel by pixel, with rewards, through 300 steps of two games without a lost life between."""
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing

    gymnasium.register_envs(ale_py)
    for name, rom in (("Breakout", "breakout"), ("Pong", "pong")):
        theirs = AtariPreprocessing(
            gymnasium.make(f"{name}NoFrameskip-v4", frameskip=1), noop_max=0
        )
        theirs.reset(seed=0)
        console, ours = theirs.unwrapped.ale, Atari(rom, 0)
        ours.ale.reset_game()
        assert ours.actions == theirs.action_space.n
        random = np.random.default_rng(0)
        for _ in range(300):
            action = int(random.integers(ours.actions))
            expected, reward, over, _, _ = theirs.step(action)
            seen, our_reward, _ = ours.step(action)
            assert seen.shape == Atari.shape == (1, 84, 84)
            assert seen.dtype == np.uint8
            assert our_reward == reward
            assert ours.over == over
            assert ours.ale.lives() == console.lives()
            if over:
                break
            assert (seen[0] == expected).all()


def test_a_lost_life_is_terminal_and_the_game_goes_on() -> None:
    game = Atari("breakout", 0)
    game.begin()
    lives, score = [game.lives], 0.0
    frames_before = game.ale.getEpisodeFrameNumber()
    while not game.over:
        _, reward, terminal = game.step(0)
        score += reward
        if terminal:
            lives.append(game.lives)
            if not game.over:
                assert game.ale.getEpisodeFrameNumber() > frames_before  # not started anew
                frames_before = game.ale.getEpisodeFrameNumber()
                game.begin()
                assert game.ale.lives() == lives[-1]
    assert lives == [5, 4, 3, 2, 1, 0]
    game.begin()
    assert game.lives == 5
    assert game.ale.getEpisodeFrameNumber() < frames_before


def test_a_life_begins_with_fire_and_a_game_with_up_to_thirty_frames_without_action(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a lost life one step without action, FIRE and action 2; before a game no-ops too."""
    numbers = set()
    for seed in range(25):
        game = Atari("breakout", seed)
        acted: list[str] = []
        real = game.ale.act

        class Console:
            def __getattr__(self, name: str, ale: Any = game.ale) -> Any:
                return getattr(ale, name)

            def act(self, code: Any, real: Any = real, acted: list[str] = acted) -> float:
                acted.append(code.name)
                return float(real(code))

        game.ale = Console()  # type: ignore[assignment]
        game.begin()
        noops = acted.index("FIRE")
        assert acted == ["NOOP"] * noops + ["FIRE"] * 4 + ["RIGHT"] * 4
        numbers.add(noops)
        if seed == 0:
            while not game.step(0)[2]:
                pass
            acted.clear()
            game.begin()
            assert acted == ["NOOP"] * 4 + ["FIRE"] * 4 + ["RIGHT"] * 4
    assert min(numbers) >= 1
    assert max(numbers) <= NOOPS
    assert len(numbers) > 10
    freeway = Atari("freeway", 0)
    assert not freeway.fires  # it has no FIRE


def test_a_game_that_ends_while_a_life_begins_is_followed_by_another() -> None:
    game = Atari("freeway", 0)  # it has no FIRE
    game.begin()
    for _ in range(50):
        game.step(0)
    before = game.ale.getEpisodeFrameNumber()

    class Console:
        ends = iter([True, True])  # within the step without action, and when it is asked after it

        def __getattr__(self, name: str, ale: Any = game.ale) -> Any:
            return getattr(ale, name)

        def game_over(self) -> bool:
            return next(self.ends, False)

    game.ale = Console()  # type: ignore[assignment]
    game.begin()
    assert not game.over
    assert game.ale.getEpisodeFrameNumber() < before


@pytest.mark.parametrize(
    ("suite", "name"), [("atari", "breakout")] + [("minatar", g) for g in MINATAR]
)
def test_a_restored_game_goes_on_as_the_one_that_was_saved(
    suite: str, name: str, tmp_path: Path
) -> None:
    kind = {"atari": Atari, "minatar": MinAtar}[suite]
    saved, other = kind(name, 3), kind(name, 4)
    actions = np.random.default_rng(0)

    def go(game: Any, moves: list[int]) -> list[Any]:
        seen = [game.begin()] if game.over else []
        for move in moves:
            frame, reward, terminal = game.step(move)
            seen.append((frame.tobytes(), reward, terminal, game.over))
            if terminal:
                seen.append(game.begin().tobytes())
        return seen

    go(saved, actions.integers(saved.actions, size=150).tolist())
    go(other, [0] * 20)
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    moves = actions.integers(saved.actions, size=400).tolist()
    expected = go(saved, moves)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert go(other, moves) == expected


def test_minatar_is_played_as_published() -> None:
    game = MinAtar("breakout", 0)
    assert game.game.sticky_action_prob == 0.1
    assert game.actions == 3
    first = game.begin()
    assert first.shape == game.shape == (4, 10, 10)
    assert set(np.unique(first)) == {0, 1}
    assert first[3, 1:4].all()  # the bricks
    assert game.picture().shape == (200, 200, 3)
    while not game.step(0)[2]:
        assert not game.over
    assert game.over


def test_unknown_games_and_networks_are_refused(make: Maker) -> None:
    with pytest.raises(ConfigError, match=r"task.game=brakout.*did you mean breakout"):
        make("task=rainbow", "scale=small", "task.game=brakout")
    with pytest.raises(ConfigError, match=r"task.network=nature.*task.suite=minatar"):
        make("task=rainbow", "scale=small", "task.network=nature")
    with pytest.raises(ConfigError, match=r"task.game=brakout: ale-py has adventure"):
        Atari("brakout", 0)
    with pytest.raises(
        ConfigError, match=r"task.learning_starts=2: must be at least task.n_step=3"
    ):
        make("task=rainbow", "task.game=pong", "task.learning_starts=2")
    with pytest.raises(ConfigError, match=r"task.authors"):
        make("task=rainbow", "task.authors=[noize]")


# The agent ----------------------------------------------------------------------------------------

TINY = (
    "task=rainbow", "scale=small", "task.steps=400", "task.learning_starts=40", "task.hidden=8",
    "task.replay=150", "task.target_every=60", "task.log_every=50", "task.evaluate_every=200",
    "task.evaluate_games=2", "task.film=4", "task.epsilon_decay=50", "task.n_step=3",
    "task.dueling=true",
)  # fmt: skip


def summary(settings: Settings) -> dict[str, Any]:
    assert execute(settings) == "finished"
    return dict(json.loads((settings.folder / "summary.json").read_text()))


def records(settings: Settings) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (settings.folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_epsilon_and_beta_follow_the_authors_schedules_and_rainbows_on_demand(make: Maker) -> None:
    cfg = make("task=rainbow").task
    assert cfg.learning_starts == 80_000
    assert cfg.epsilon_at(0) == 1
    assert cfg.epsilon_at(30000) == pytest.approx(0.005 + 0.995 / np.e)
    assert cfg.epsilon_at(10**7) == pytest.approx(0.005)
    assert [cfg.beta_at(t) for t in (0, 50000, 100000, 10**7)] == pytest.approx([0.4, 0.7, 1, 1])
    rainbows = make(
        *make_discrepancies.ledger()["rainbow_rest"]["option"].split(), "task=rainbow"
    ).task
    assert rainbows.learning_starts == 20_000
    assert [rainbows.beta_at(t) for t in (0, 6 * 10**6, 12 * 10**6)] == pytest.approx([0.4, 0.7, 1])
    assert rainbows.epsilon_at(0) == 0
    assert (rainbows.leak, rainbows.stratified, rainbows.normalise) == (1, True, True)
    assert not rainbows.random_overwrite


def test_the_networks_share_their_noise_and_the_authors_seldom_do(make: Maker) -> None:
    """Theirs at 5.1 % of the steps, those between a copy and the end of its table of noise."""
    ours = make("task=rainbow").task
    theirs = make("task=rainbow", "task.authors=[noise]").task
    steps = range(80_000, 1_000_000)
    assert all(shared(ours, step) for step in steps)
    assert np.mean([shared(theirs, step) for step in steps]) == pytest.approx(0.052, abs=0.002)
    assert [shared(theirs, step) for step in (90_000, 90_110, 90_111, 99_999)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_run_uses_the_noise_it_says(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two copies of the weights both networks see one noise, or two."""
    seen: list[bool] = []
    real = rainbow.losses

    def spy(online: Any, target: Any, data: Any, noises: Any, *args: Any, **options: Any) -> Tensor:
        seen.append(noises[0] is noises[1])
        return real(online, target, data, noises, *args, **options)

    monkeypatch.setattr(rainbow, "losses", spy)
    found = {}
    for authors in ("false", "[noise]"):
        seen.clear()
        changes = ("task.steps=1500", "task.target_every=400", "task.evaluate_every=0")
        summary(make(*TINY, *changes, f"task.authors={authors}"))
        found[authors] = np.mean(seen)
        assert len(seen) == (1500 - 40) // 4  # an update every four steps once learning has begun
    assert found["false"] == 1
    assert 0.4 < found["[noise]"] < 0.9


@pytest.mark.parametrize("scale", ["paper", "short", "small", "smoke"])
def test_breakout_has_no_dueling_and_no_returns_of_n_steps_at_any_scale(
    make: Maker, scale: str
) -> None:
    """C.6 makes it an exception; what is given explicitly wins."""

    def settings(*overrides: str) -> tuple[int, bool, float]:
        cfg = make("task=rainbow", f"scale={scale}", *overrides).task
        return cfg.n_step, cfg.dueling, cfg.epsilon

    assert settings("task.game=breakout") == (1, False, 0.005)
    assert settings("task.game=asterix") == (3, True, 0.01)
    assert settings("task.game=breakout", "task.n_step=5") == (5, False, 0.005)
    assert settings("task.game=asterix", "task.dueling=false") == (3, False, 0.01)


def figures_of_rainbow() -> list[tuple[str, str]]:
    found = []
    for file in sorted(CONFIGS.glob("figure/*.yaml")):
        figure = yaml.safe_load(file.read_text())
        if {"override /task": "rainbow"} in figure["defaults"]:
            found += [(file.stem, scale) for scale in figure["grids"]]
    return found


@pytest.mark.parametrize(("figure", "scale"), figures_of_rainbow())
def test_no_figure_has_breakout_otherwise(figure: str, scale: str) -> None:
    every = expand([f"figure={figure}", f"scale={scale}"])
    assert every
    for settings in every:
        cfg = settings.task
        assert (cfg.n_step == 1) == (cfg.game == "breakout")
        assert cfg.dueling == (cfg.game != "breakout")


def test_the_cutoff_is_of_a_life_and_the_authors_have_numbers_of_their_own(make: Maker) -> None:
    ours, theirs = (make("task=rainbow", f"task.authors={a}").task for a in ("false", "[cutoff]"))
    assert [ours.cutoff_in(evaluation) for evaluation in (False, True)] == [10_000, 10_000]
    assert [theirs.cutoff_in(evaluation) for evaluation in (False, True)] == [9_950, 5_000]


def test_scores_are_of_lives_and_of_games() -> None:
    tally = Tally()
    for lives, length in enumerate((4, 2)):
        for _ in range(length):
            tally.add(1.0)
        assert tally.life_steps == length
        tally.end(game_over=lives == 1)
        assert tally.life_steps == 0
    point = tally.point()
    assert (point["life_score"], point["game_score"], point["lives"]) == (3, 6, 2)
    assert tally.curve == [3]
    assert np.isnan(tally.point()["life_score"])
    assert tally.curve == [3, 3]


class Endless:
    """Two lives, each of which stands still for ever, but for action 1, which loses it."""

    actions, shape, stack, unit = 2, (4, 10, 10), 1, 1
    made: list[Endless] = []  # noqa: RUF012

    def __init__(self, game: str, seed: int) -> None:
        self.over, self.lives, self.steps, self.games = True, 0, 0, 0
        self.made.append(self)

    def begin(self) -> np.ndarray:
        if self.over:
            self.lives, self.games = 2, self.games + 1
        self.over = False
        return np.zeros(self.shape, np.uint8)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        self.steps += 1
        self.lives -= action
        self.over = self.lives == 0
        return np.zeros(self.shape, np.uint8), 1.0, action == 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> type[Endless]:
    """Games that an agent which always chooses action 0 never loses."""
    monkeypatch.setitem(rainbow.SUITES, "minatar", Endless)
    monkeypatch.setattr(rainbow, "best_actions", lambda logits, support: torch.zeros(len(logits)))
    monkeypatch.setattr(Endless, "made", [])
    return Endless


@pytest.mark.parametrize(("authors", "limit"), [("false", 7), ("[cutoff]", 5)])
def test_an_evaluation_counts_what_a_life_earns_before_its_cutoff(
    make: Maker,
    monkeypatch: pytest.MonkeyPatch,
    endless: type[Endless],
    authors: str,
    limit: int,
) -> None:
    monkeypatch.setattr(rainbow, "CUTOFF_IN_EVALUATION", 5)
    cfg = make(*TINY, "task.cutoff=7", f"task.authors={authors}").task

    class Net:
        device = torch.device("cpu")

        def formed(self, noise: Any) -> None: ...

        def __call__(self, states: Tensor, layers: None) -> Tensor:
            return torch.zeros(len(states), 2, 11)

    scores, pictures = play(cfg, Net(), {}, SUPPORT, [0, 1, 2])  # type: ignore[arg-type]
    assert pictures == []
    assert scores == [2 * limit] * 3  # of both lives
    for game in endless.made:
        assert game.games == 1
        assert game.over
        assert game.steps > 2 * limit  # the random actions that lost the lives earned nothing


@pytest.mark.parametrize(("authors", "limit"), [("false", 7), ("[cutoff]", 5)])
def test_a_life_that_is_cut_off_in_training_is_lost_by_random_actions(
    make: Maker,
    monkeypatch: pytest.MonkeyPatch,
    endless: type[Endless],
    authors: str,
    limit: int,
) -> None:
    """The agent's steps are all its own; the memory holds no end, and none of the random ones."""
    monkeypatch.setattr(rainbow, "CUTOFF", 5)
    memories: list[Replay] = []

    class Kept(Replay):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            memories.append(self)

    monkeypatch.setattr(rainbow, "Replay", Kept)
    cut = (f"task.cutoff={7 if limit == 7 else 60}", f"task.authors={authors}")
    quiet = ("task.epsilon=0", "task.epsilon_decay=0", "task.evaluate_every=0", "task.film=0")
    steps = 10 * limit
    settings = make(
        *TINY, *cut, *quiet, f"task.steps={steps}", "task.learning_starts=1000", "seed=1",
        f"task.log_every={steps}",
    )  # fmt: skip
    summary(settings)
    (point,) = records(settings)
    assert (point["lives"], point["games"]) == (10, 5)
    assert (point["life_score"], point["game_score"]) == (limit, 2 * limit)
    (game,) = endless.made
    assert game.steps > steps
    (memory_,) = memories
    assert len(memory_) == steps
    assert not memory_.actions[:steps].any()
    assert (memory_.discounts[:steps] > 0).all()


def test_a_score_of_an_evaluation_has_its_standard_error(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [1.0, 2.0, 6.0]
    monkeypatch.setattr(rainbow, "play", lambda *args: (scores, []))
    settings = make(*TINY, "task.evaluate_games=3", "task.film=0", "seed=1")
    assert summary(settings)["best_evaluation"] == 3
    (record, _) = [r for r in records(settings) if "evaluation" in r]
    assert record["evaluation"] == 3
    assert record["evaluation_error"] == pytest.approx(np.std(scores, ddof=1) / 3**0.5)


def test_every_deviation_of_the_authors_makes_another_run(make: Maker) -> None:
    """Alone and together; what a deviation cannot touch stays as it is."""
    options = (*TINY, "task.film=0", "task.evaluate_every=0", "task.steps=200")
    ours = records_of(make, *options)
    assert records_of(make, *options, "task.authors=[]") == ours
    for deviation in ("dueling", "multi_step"):
        assert records_of(make, *options, f"task.authors=[{deviation}]") != ours
    assert records_of(make, *options, "task.authors=[cutoff]") == ours  # no life is that long
    plain = (*options, "task.dueling=false", "task.n_step=1")
    both = "task.authors=[dueling,multi_step]"
    assert records_of(make, *plain, both) == records_of(make, *plain)  # as in their Breakout run
    every = make(*options, "task.authors=true").task
    assert all(every.as_authors(deviation) for deviation in DEVIATIONS)


@pytest.mark.parametrize("name", ["adam", "laprop"])
def test_the_optimizer_is_one_pass_over_memory(make: Maker, name: str) -> None:
    settings = make("task=rainbow", f"optimizer={name}")
    settings.folder.mkdir(parents=True)
    run, params = Run(settings), [torch.nn.Parameter(torch.ones(3))]
    assert run.optimizer(params, fused=True).param_groups[0]["fused"] is (name == "adam" or None)
    assert run.optimizer(params).param_groups[0]["fused"] is None


def records_of(make: Maker, *overrides: str) -> list[dict[str, Any]]:
    settings = make(*overrides)
    summary(settings)
    return records(settings)


@pytest.mark.usefixtures("forkserver")
@pytest.mark.parametrize("suite", ["minatar", "atari"])
def test_a_killed_run_ends_with_the_same_bytes(make: Maker, tmp_path: Path, suite: str) -> None:
    """Killed twice after a checkpoint, with the memory full and random slots overwritten."""
    overrides = (*TINY, "task.steps=600", "checkpoint_every=0.05")
    if suite == "atari":
        overrides = ("task=rainbow", "scale=smoke", "task.steps=250", "task.replay=100",
                     "task.n_step=3", "task.authors=true", "checkpoint_every=0.05")  # fmt: skip
    alone = make(*overrides, output=tmp_path / "alone")
    assert execute(alone) == "finished"
    settings, kills = make(*overrides), 0
    log, checkpoint = settings.folder / "metrics.jsonl", settings.folder / "checkpoint.old.pt"

    def reached(records: int) -> bool:
        return checkpoint.exists() and log.read_bytes().count(b"\n") >= records

    for records in (1, 2, None):
        process = SERVER.Process(target=child, args=(settings,))
        process.start()
        if records is not None:
            wait_for(partial(reached, records))
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == 2
    assert status(settings) == "finished"
    for name in ("summary.json", "metrics.jsonl"):
        assert (settings.folder / name).read_bytes() == (alone.folder / name).read_bytes()
    films = [list(s.folder.glob("*.jpg")) for s in (settings, alone)]
    assert films[0][0].read_bytes() == films[1][0].read_bytes()


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
    assert other.sample(5, 0.5).index.tolist() == replay.sample(5, 0.5).index.tolist()


def test_it_learns_breakout_of_minatar(make: Maker) -> None:
    settings = make("task=rainbow", "scale=small", "task.steps=7000", "task.hidden=32",
                    "task.evaluate_every=0", "task.film=0", "optimizer.lr=1e-3")  # fmt: skip
    summary(settings)
    curve = [record["life_score"] for record in records(settings)]
    assert curve[0] < 0.7  # random play
    assert max(curve[-3:]) > 1.2
