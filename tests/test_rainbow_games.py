"""Rainbow's games: Atari as gymnasium shows it, MinAtar as published, lives, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Maker

from experiments.common.messages import ConfigError
from experiments.rainbow.environments import MINATAR, NOOPS, Atari, MinAtar


def test_screens_are_those_of_gymnasium() -> None:
    """Pixels and rewards are the same through 300 steps of two games."""
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
                assert game.ale.getEpisodeFrameNumber() > frames_before  # the game goes on
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
    """A life begins with one step without action, FIRE and RIGHT; a game has more no-ops first."""
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
    assert not Atari("freeway", 0).fires  # this game has no FIRE


def test_a_game_that_ends_while_a_life_begins_is_followed_by_another() -> None:
    game = Atari("freeway", 0)  # it has no FIRE
    game.begin()
    for _ in range(50):
        game.step(0)
    before = game.ale.getEpisodeFrameNumber()

    class Console:
        ends = iter([True, True])  # asked for within the step without action, and again after it

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
