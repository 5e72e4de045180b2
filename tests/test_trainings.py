"""Claims and pictures of Figures 5 and 10, on results whose outcome is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from tables import written

from experiments.common.records import Results
from scripts.figures import fig05, fig10, style
from scripts.figures import iwslt_map as map_

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection

UNIGRAM = 9.8


def results(
    tmp_path: Path, task: str, scale: str, rows: list[dict[str, Any]], updates: int = 100
) -> Results:
    """Write tables as collect does; a row's training loss falls to its final loss and stays there.

    A final loss of NaN means that the run diverged after 50 updates.
    """
    curves = []
    for row in rows:
        end = row["final_loss"]
        steps = np.arange(1, (updates if np.isfinite(end) else 50) + 1)
        loss = 13 + (np.nan_to_num(end, nan=13) - 13) * np.minimum(steps / (updates - 99), 1)
        curves.append(pd.DataFrame(row | {"step": steps, "train_loss": loss}))
    manifest: dict[str, Any] = {"task": task, "scale": scale, "reduced": "much", "seeds": 3}
    manifest["settings"] = {"task.average_over": 20}
    return written(tmp_path / task / scale, rows, curves, **manifest)


def iwslt(
    tmp_path: Path,
    scale: str,
    ends: tuple[float, float],
    warm: float = 3.2,
    updates: int = 1000,
    scatter: float = 0.01,
) -> Results:
    """Figure 5's grid; ``ends``: final losses of Adam and LaProp, ``warm``: both with warmup."""
    rng = np.random.default_rng(0)
    rows = []
    for (optimizer, loss), warmup, seed in itertools.product(
        zip(("adam", "laprop"), ends, strict=True), (0, 2000), range(3)
    ):
        end = (loss if warmup == 0 else warm) + scatter * rng.normal()
        row = {"optimizer": optimizer, "warmup": warmup, "seed": seed, "bleu": 2.0 * seed}
        rows.append(row | {"final_loss": end, "unigram_loss": UNIGRAM})
    return results(tmp_path, "translation", scale, rows, updates)


def iwslt_map(tmp_path: Path, cells: dict[tuple[float, int], tuple[float, float]]) -> Results:
    """``cells``: for each learning rate and depth the final losses of Adam and LaProp."""
    rng = np.random.default_rng(0)
    rows = []
    for (lr, layers), losses in cells.items():
        for (optimizer, loss), seed in itertools.product(
            zip(("adam", "laprop"), losses, strict=True), range(3)
        ):
            row = {"optimizer": optimizer, "lr": lr, "layers": layers, "seed": seed, "bleu": None}
            end = loss + 0.01 * rng.normal()
            rows.append(row | {"final_loss": end, "unigram_loss": UNIGRAM})
    return results(tmp_path, "translation", "short", rows)


@pytest.mark.parametrize(
    ("ends", "adam_stuck", "laprop_not"),
    [
        ((9.43, 4.48), True, True),  # the authors' logs
        ((5.0, 4.48), False, True),
        ((9.6, 9.7), True, False),
        ((4.5, 9.7), False, False),
        ((9.3, 4.5), None, True),  # seeds lie on both sides of the line, 9.3
    ],
)
def test_stuck_is_told_of_each_optimizer_by_itself(
    tmp_path: Path, ends: tuple[float, float], adam_stuck: bool | None, laprop_not: bool
) -> None:
    found = iwslt(tmp_path, "short", ends)
    adam = fig05.iwslt_stuck(found, "adam", stuck=True)
    laprop = fig05.iwslt_stuck(found, "laprop", stuck=False)
    assert (adam.held, laprop.held) == (adam_stuck, laprop_not), adam.text + laprop.text
    assert "updates up to 1,000, bits: Adam" in adam.text
    assert "\n" not in adam.text


def test_a_run_that_diverged_counts_as_stuck(tmp_path: Path) -> None:
    """Its loss counts as that of the word frequencies; three equal losses give no interval."""
    found = iwslt(tmp_path, "short", (np.nan, 4.5))
    measured = fig05.iwslt_stuck(found, "adam", stuck=True)
    assert "Adam 9.80 [no interval]" in measured.text
    assert measured.held is None
    assert fig05.iwslt_stuck(found, "laprop", stuck=False).held is True


def test_runs_in_which_warmup_does_not_help_either_are_too_short_to_tell(tmp_path: Path) -> None:
    found = iwslt(tmp_path, "short", (9.6, 9.7), warm=9.6)
    for optimizer in ("adam", "laprop"):
        measured = fig05.iwslt_stuck(found, optimizer, stuck=True)
        assert measured.held is None
        assert "also above this line, so 1,000 updates are too few" in measured.text


@pytest.mark.parametrize(("scale", "told"), [("short", False), ("small", True)])
def test_runs_are_too_short_where_the_authors_laprop_is_still_stuck(
    tmp_path: Path, scale: str, told: bool
) -> None:
    """At update 500 theirs is at 9.47 bits, above the line. A small model has no such measure."""
    found = iwslt(tmp_path, scale, (9.6, 9.7), updates=500)
    measured = fig05.iwslt_stuck(found, "laprop", stuck=False)
    assert measured.held is (False if told else None)
    assert ("The authors' LaProp is also above this line" in measured.text) is not told


def test_losses_are_compared_at_the_updates_that_were_fixed_before(tmp_path: Path) -> None:
    """Runs of 1,100 updates decide at updates 500 and 1,000, and say nothing at 2,000."""
    found = iwslt(tmp_path, "short", (9.0, 8.0), updates=1100)
    measured = fig05.iwslt_lower(found, 1000)
    assert measured is not None
    assert measured.held is True
    assert "Adam minus LaProp, bits: +0.9" in measured.text
    assert "in the authors' runs +0.61" in measured.apart
    assert "in the authors' runs +0.39" in fig05.iwslt_lower(found, 500).apart
    assert fig05.iwslt_lower(found, 2000) is None


def test_the_authors_runs_end_where_their_logs_end() -> None:
    measured = fig05.iwslt_logs_end()
    assert measured.held is True
    assert "Adam 9.43, LaProp 4.48; from update 550 on" in measured.text


@pytest.mark.parametrize(
    ("cells", "adam_alone", "no_laprop_alone"),
    [
        ({(1e-4, 2): (5, 5), (1e-4, 6): (9.6, 5), (1e-2, 6): (9.7, 9.7)}, True, True),
        ({(1e-4, 2): (5, 5), (1e-3, 2): (9.6, 5), (1e-2, 6): (5, 9.7)}, True, False),
        ({(1e-4, 2): (5, 5), (1e-2, 2): (9.7, 9.7)}, False, True),
        ({(1e-4, 2): (5, 5), (1e-4, 6): (9.3, 5)}, None, True),
    ],
)
def test_one_cell_where_one_optimizer_alone_is_stuck_suffices(
    tmp_path: Path, cells: Any, adam_alone: bool | None, no_laprop_alone: bool
) -> None:
    found = iwslt_map(tmp_path, cells)
    adam = map_.alone_stuck(found, "adam", nowhere=False)
    laprop = map_.alone_stuck(found, "laprop", nowhere=True)
    assert (adam.held, laprop.held) == (adam_alone, no_laprop_alone), adam.text
    assert adam.text.count("layers: Adam") == len(cells)


@pytest.mark.parametrize(
    ("adam", "free", "alike"),
    [(5.0, True, True), (5.3, True, True), (7.0, True, False), (9.6, False, False)],
)
def test_what_the_appendix_says_of_two_learning_rates(
    tmp_path: Path, adam: float, free: bool, alike: bool
) -> None:
    """Only the deepest net counts; a learning rate that was not run has no answer."""
    found = iwslt_map(tmp_path, {(1e-4, 2): (9.7, 5), (1e-4, 6): (adam, 5)})
    stuck = map_.not_stuck_at(found, "adam", 1e-4)
    gap = map_.alike_at(found, 1e-4)
    assert stuck is not None
    assert gap is not None
    assert (stuck.held, gap.held) == (free, alike), stuck.text + gap.text
    assert map_.not_stuck_at(found, "adam", 1e-3) is None
    assert map_.alike_at(found, 1e-3) is None


def roberta(tmp_path: Path, scale: str, gain: float, exception: float | None = None) -> Results:
    """LaProp is ahead by ``gain``, but at nu 0.9 with warmup by ``exception``."""
    rng = np.random.default_rng(0)
    rows = []
    for nu, warmup, seed in itertools.product((0.9, 0.98, 0.999), (0, 10000), range(3)):
        start, jitter = rng.normal(4, 0.5), rng.normal(0, 0.001)
        for optimizer in ("adam", "laprop"):
            ahead = exception if exception is not None and (nu, warmup) == (0.9, 10000) else gain
            loss = start - (ahead + jitter) * (optimizer == "laprop")
            row = {"optimizer": optimizer, "nu": nu, "warmup": warmup, "seed": seed}
            rows.append(row | {"final_loss": loss, "mean_loss": loss + 2})
    return results(tmp_path, "roberta", scale, rows)


@pytest.mark.parametrize(
    ("gain", "exception", "held"), [(0.05, None, True), (0.05, -0.05, False), (0.05, 0.0, None)]
)
def test_ahead_in_all_cases_means_in_all(
    tmp_path: Path, gain: float, exception: float | None, held: bool | None
) -> None:
    found = roberta(tmp_path, "small", gain, exception)
    for column in ("mean_loss", "final_loss"):
        measured = fig10.roberta_lower(found, column)
        assert measured.held is held, measured.text
        assert measured.text.count("ν 0.") == 6  # paired by seed, whose starts differ widely
    assert fig10.roberta_faster(found).count("ν 0.9,") == 0
    assert fig10.roberta_faster(found).count("ν 0.9") == 4  # that is 0.98 and 0.999
    assert "0.05" in fig10.roberta_nu(found)


def test_the_authors_runs_of_roberta_say_what_they_say() -> None:
    lower, order = fig10.roberta_logs_lower(), fig10.roberta_logs_nu()
    assert lower.held is True
    assert order.held is None  # the paper's smoothing shows one exception
    assert lower.text.count("at 100% of the updates") == 3
    assert "0.9 from update 313, 0.98 from update 3,430, 0.999 from update 5,738" in order.text
    assert "0.98 from update 3,396, 0.9 from update 3,421, 0.98 from update 3,445" in order.text


@pytest.mark.parametrize("scale", ["small", "short", "paper", None])
def test_pictures_show_the_authors_runs_and_ours(
    tmp_path: Path, scale: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    style.use()
    translation = iwslt(tmp_path, scale, (9.43, 4.48)) if scale else None
    masked = roberta(tmp_path, scale, 0.05) if scale else None
    monkeypatch.setattr(fig05, "load", lambda name: masked)
    rows = 2 if scale in ("small", "short") else 1
    for figure, columns in ((fig05.draw(translation), 2), (fig10.draw(masked), 3)):
        assert len(figure.axes) == rows * columns
        lines = [len(axis.lines) for axis in figure.axes]
        theirs = [4, 4] if columns == 2 else [1, 2, 4]
        added = 4 if scale == "paper" else 0
        assert lines[:columns] == [n + added for n in theirs]
        assert lines[columns:] == [4] * (columns if rows == 2 else 0)
        beside = [sum(isinstance(c, LineCollection) for c in axis.collections)
                  for axis in figure.axes[columns:]]  # fmt: skip
        # the authors' means of their first updates, of Adam and of LaProp
        expected = [2, 0] if scale == "short" and columns == 2 else [0] * len(beside)
        assert beside == expected
        assert ("not run" in figure.get_supxlabel()) == (scale is None)
        plt.close(figure)
    if translation is not None:
        assert "LaProp" in fig05.iwslt_loss(translation)


def test_the_map_has_a_panel_for_each_depth(tmp_path: Path) -> None:
    style.use()
    cells = dict.fromkeys(itertools.product((0.0001, 0.001), (2, 6, 12)), (9.6, 5.0))
    figure = map_.draw(iwslt_map(tmp_path, cells))
    assert [axis.get_title() for axis in figure.axes] == [f"{n} + {n} layers" for n in (2, 6, 12)]
    for axis in figure.axes:
        drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
        assert np.allclose(drawn["Adam"], 9.6, atol=0.02)
        assert np.allclose(drawn["LaProp"], 5.0, atol=0.02)
    plt.close(figure)


def test_no_two_seeds_of_fairseq_are_an_update_or_an_epoch_apart() -> None:
    """It seeds each update with the sum of seed and number."""
    from experiments.common.fairseq import seed

    found = sorted(seed(ours) for ours in range(2000))
    assert seed(0) == 1
    assert min(b - a for a, b in itertools.pairwise(found)) > 60_000
    assert found[-1] < 2**31
