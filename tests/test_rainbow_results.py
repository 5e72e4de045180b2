"""Claims and pictures of Figures 6 and 11, on tables whose outcome is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from tables import written

from experiments.common.records import Results
from scripts import make_authors
from scripts.figures import fig06, fig11, rainbow_atari, rainbow_authors, rainbow_eps, style
from scripts.figures.fig11 import LARGE, SMALL

mpl.use("Agg")
import matplotlib.pyplot as plt

ARMS = list(itertools.product(("adam", "laprop"), (SMALL, LARGE)))
GAMES = {"breakout": (0.5, 8.0), "freeway": (0.0, 40.0), "pong": (-21.0, 30.0)}  # start, gain


def table(
    tmp_path: Path,
    scale: str,
    height: dict[tuple[str, float], float],
    games: dict[str, tuple[float, float]] = GAMES,
    noise: float = 0.02,
) -> Results:
    """Write tables whose curves rise to a height for each arm, as a share of the game's gain.

    The seeds' noise is small beside the differences that are to be found.
    """
    rng = np.random.default_rng(1)
    steps = np.arange(1, 21) * 1000
    runs, curves = [], []
    for ((optimizer, epsilon), level), (game, (start, gain)), seed in itertools.product(
        height.items(), games.items(), range(5)
    ):
        reached = level + noise * rng.normal()
        score = start + gain * reached * np.linspace(0, 1, 20)
        row = {"optimizer": optimizer, "epsilon": epsilon, "seed": seed}
        if len(games) > 1:
            row["game"] = game
        curve = pd.DataFrame(row | {"step": steps, "life_score": score, "lives": 9})
        curve.loc[3, "life_score"] = np.nan  # no life had ended, so the score before counts
        games_ = 0.1 * rng.normal(size=20)
        curve["evaluation"] = np.where(steps % 5000 == 0, 2 * score + games_, np.nan)
        curves.append(curve)
        area = curve.life_score.ffill().mean()
        runs.append(row | {"area": area, "best_evaluation": curve.evaluation.max()})
    manifest = {"task": "rainbow", "scale": scale, "reduced": "much", "seeds": 5}
    return written(tmp_path / "-".join(games) / scale, runs, curves, **manifest)


def heights(**named: float) -> dict[tuple[str, float], float]:
    """``heights(adam_large=0.5)``; the others are 1."""
    sizes = {SMALL: "small", LARGE: "large"}
    return {(o, e): named.get(f"{o}_{sizes[e]}", 1.0) for o, e in ARMS}


def test_an_area_is_a_share_of_what_the_game_has_to_give(tmp_path: Path) -> None:
    """0 is where curves begin and 1 their highest point, so a straight line has the area 0.5."""
    results = table(tmp_path, "small", heights(adam_large=0.5), noise=0)
    scale = fig11.ends(results)
    assert scale.loc["pong"].tolist() == [-21, 9]
    found = fig11.areas(results)
    assert {arm: x.shape for arm, x in found.items()} == dict.fromkeys(ARMS, (5, 3))
    np.testing.assert_allclose(found["laprop", SMALL], 0.5, atol=0.01)
    np.testing.assert_allclose(found["adam", LARGE], 0.25, atol=0.01)
    flat = table(tmp_path, "paper", heights(), {"breakout": (0.5, 0.0), "pong": (1.0, 2.0)}, 0)
    assert (fig11.areas(flat)["adam", LARGE][:, 0] == 0).all()  # no arm learns this game


@pytest.mark.parametrize(
    ("height", "earlier", "equal"),
    [
        (heights(adam_large=0.7, adam_small=0.7), True, True),
        (heights(laprop_large=0.7, laprop_small=0.7), False, False),
        # the difference comes from epsilon
        (
            heights(adam_large=0.7, laprop_large=0.7),
            True,
            None,
        ),
        (heights(), None, None),
        (heights(adam_large=0.7), True, None),
        (heights(laprop_large=0.7, adam_small=0.7, adam_large=0.9), True, False),
    ],
)
def test_earlier_is_decided_by_the_area_and_epsilon_is_told_from_the_optimizer(
    tmp_path: Path, height: dict[tuple[str, float], float], earlier: bool, equal: bool
) -> None:
    results = table(tmp_path, "small", height)
    for epsilon, held in (("own", earlier), ("equal", equal)):
        measured = fig11.rainbow_earlier(results, epsilon)
        assert measured.held is held, measured.text
        assert "\n" not in measured.text
    text = fig11.rainbow_earlier(results, "own").text
    assert "LaProp, 1e-15) against" in text
    assert f"LaProp's mean area is the larger one in {3 if earlier else 0} of 3 games (" in text
    words = {True: "larger too", False: "not larger", None: "undecided"}[equal]
    assert text.endswith(f"at equal epsilon, which is not part of the claim: {words}")
    assert fig11.finding(results).endswith(f"each with its own ε; {words} at equal ε")
    text = fig11.rainbow_eps(results)
    assert text.count("probability of improvement") == 5
    assert "|" not in text


@pytest.mark.parametrize(
    ("height", "held"),
    [
        (heights(adam_large=0.7), True),
        (heights(laprop_small=0.7), False),
        # the arms with the other epsilon do not count
        (
            heights(adam_small=0.5, laprop_large=2.0),
            None,
        ),
    ],
)
def test_the_best_score_is_compared_at_the_papers_epsilons(
    tmp_path: Path, height: dict[tuple[str, float], float], held: bool
) -> None:
    results = table(tmp_path, "small", height, {"breakout": (0.5, 8.0)})
    for claim in (fig06.rainbow_breakout, fig06.breakout_earlier):
        measured = claim(results)
        assert measured.held is held, measured.text
        assert measured.text.count("difference") == 3


def test_breakout_is_judged_without_the_arm_that_was_not_run(tmp_path: Path) -> None:
    arms = heights(adam_large=0.7)
    del arms["laprop", LARGE]
    results = table(tmp_path, "short", arms, {"breakout": (0.5, 8.0)})
    measured = fig06.breakout_earlier(results)
    assert measured.held is True
    assert measured.text.count("difference") == 2
    assert "LaProp, 1.5e-4" not in measured.text
    plt.close(fig06.draw(results))


def test_the_authors_logs_say_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = fig06.rainbow_breakout_logs()
    assert measured.held is None
    for number in ("607.4 ± 47.6", "523.0 ± 40.6", "z = 1.35", "595.2 ± 40.7 at 16 M", "z = 0.19"):
        assert number in measured.text
    earlier = fig06.breakout_logs_earlier()
    assert earlier.held is True
    assert "the first 4 of 30 bins, centred at 0.3 to 1.5 M steps" in earlier.text
    real = make_authors.load

    def higher(name: str) -> pd.DataFrame:
        log = real(name)
        if name == "rainbow":
            log.loc[log.optimizer == "laprop", "mean"] += 400
        return log

    monkeypatch.setattr(make_authors, "load", higher)
    assert fig06.rainbow_breakout_logs().held is True
    assert fig06.breakout_logs_earlier().held is True


@pytest.mark.parametrize("scale", ["small", "paper", None])
def test_pictures_show_all_arms_and_the_authors_logs_whole(
    tmp_path: Path, scale: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    style.use()
    every = table(tmp_path, scale, heights(adam_large=0.7)) if scale else None
    breakout = table(tmp_path, scale, heights(), {"breakout": (0.5, 8.0)}) if scale else None
    monkeypatch.setattr(fig06, "load", lambda name: every)
    figure = fig06.draw(breakout)
    panels = figure.axes
    assert len(panels) == (3 if scale == "small" else 2)
    logs = [line.get_xdata() for line in panels[1].lines if len(line.get_xdata()) > 20][:2]
    assert sorted(round(max(x) / 1e6) for x in logs) == [12, 29]
    assert len(panels[0].lines) == (4 if scale else 0)
    if scale == "small":
        assert len(panels[2].lines) == 4
        top = max(line.get_ydata().max() for line in panels[0].lines)
        assert top == pytest.approx(1, abs=0.1)
    assert ("not run" in figure.get_supxlabel()) == (scale is None)
    plt.close(figure)
    if every is None:
        return
    for module in (fig11, rainbow_atari):
        figure = module.draw(every)
        assert [axis.get_title() for axis in figure.axes] == sorted(GAMES)
        assert [len(axis.lines) for axis in figure.axes] == [4, 4, 4]
        plt.close(figure)
    figure = rainbow_eps.draw(every)
    points = [line.get_xdata()[0] for line in figure.axes[1].lines if len(line.get_xdata()) == 1]
    assert len(points) == 5
    assert points[0] == pytest.approx(points[1], abs=0.03)  # Adam at 1.5e-4 is the slow one here
    assert points[3] == pytest.approx(points[0], abs=0.03)
    assert abs(points[2]) < 0.03 < 0.1 < points[0]
    plt.close(figure)


def authors(tmp_path: Path, changes: dict[str, dict[str, float]]) -> Results:
    """Runs whose area each deviation multiplies by a factor that depends on the game."""
    rows = [
        {"optimizer": optimizer, "authors": deviation, "game": game, "seed": seed}
        | {"area": (2 + 0.1 * seed) * changes[deviation].get(game, 1.0)}
        for deviation, optimizer, game, seed in itertools.product(
            changes, ("adam", "laprop"), ("asterix", "breakout"), range(5)
        )
    ]
    manifest = {"task": "rainbow", "scale": "small", "reduced": "much", "seeds": 5}
    return written(tmp_path / "authors", rows, **manifest)


def test_a_deviation_is_averaged_over_the_games_that_it_changes(tmp_path: Path) -> None:
    halved = {"asterix": 0.5}
    found = authors(
        tmp_path, {"false": {}, "[dueling]": halved, "[cutoff]": {}, "true": {"breakout": 1.2}}
    )
    table = rainbow_authors.changes(found)
    assert rainbow_authors.found(table, "laprop", "[dueling]").centre == pytest.approx(-0.5)
    text = rainbow_authors.rainbow_authors(found, "[dueling]")
    assert text.startswith("area under the training curve: LaProp -50.0 % [")
    assert text.endswith(" in asterix; breakout has no value stream, so nothing changes there")
    assert rainbow_authors.rainbow_authors(found, "[cutoff]") == "changes no run"
    assert "lowers the area under LaProp's training curve by 50 % [" in (
        rainbow_authors.finding(found)
    )
    drawn = rainbow_authors.draw(found)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    plt.close(drawn)
    assert texts == ["changes no run"]
