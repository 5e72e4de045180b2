"""Claims and pictures of Figures 5 and 10, on results whose outcome is known."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from experiments.common.records import Results
from scripts import discrepancies
from scripts.claims import fig05, fig10
from scripts.figures import fig05 as picture05
from scripts.figures import fig10 as picture10
from scripts.figures import iwslt_map as iwslt_map_picture
from scripts.figures import style

mpl.use("Agg")
import matplotlib.pyplot as plt

UNIGRAM = 9.8


def results(tmp_path: Path, task: str, scale: str, rows: list[dict[str, Any]]) -> Results:
    """Tables as collect writes them; each row's training loss falls straight to its final one."""
    folder = tmp_path / task / scale
    folder.mkdir(parents=True)
    runs = pd.DataFrame(rows)
    runs.to_csv(folder / "runs.csv", index=False)
    steps = np.arange(1, 101)
    curves = [
        pd.DataFrame(row | {"step": steps, "train_loss": np.linspace(13, row["final_loss"], 100)})
        for row in rows
        if np.isfinite(row["final_loss"])
    ]
    pd.concat(curves).to_parquet(folder / "curves.parquet")
    manifest = {"task": task, "scale": scale, "reduced": "much", "seeds": 3}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Results(folder)


def iwslt(tmp_path: Path, scale: str, ends: tuple[float, float], warm: float = 3.2) -> Results:
    """Figure 5's grid; ``ends``: final losses of Adam and LaProp, ``warm``: with warmup, both."""
    rows = []
    for (optimizer, loss), warmup, seed in itertools.product(
        zip(("adam", "laprop"), ends, strict=True), (0, 2000), range(3)
    ):
        end = loss if warmup == 0 else warm
        bleu = 2.0 * seed + (optimizer == "laprop")
        row = {"optimizer": optimizer, "warmup": warmup, "seed": seed, "bleu": bleu}
        rows.append(row | {"final_loss": end + 0.01 * seed, "unigram_loss": UNIGRAM})
    return results(tmp_path, "translation", scale, rows)


def iwslt_map(tmp_path: Path, cells: dict[tuple[float, int], tuple[float, float]]) -> Results:
    """``cells``: for each learning rate and depth the final losses of Adam and LaProp."""
    rows = []
    for (lr, layers), losses in cells.items():
        for (optimizer, loss), seed in itertools.product(
            zip(("adam", "laprop"), losses, strict=True), range(3)
        ):
            row = {"optimizer": optimizer, "lr": lr, "layers": layers, "seed": seed, "bleu": None}
            rows.append(row | {"final_loss": loss + 0.01 * seed, "unigram_loss": UNIGRAM})
    return results(tmp_path, "translation", "small", rows)


@pytest.mark.parametrize(
    ("ends", "held"),
    [
        ((9.43, 4.48), True),  # the authors' logs
        ((5.0, 4.48), False),
        ((9.6, 9.7), False),
        ((4.5, 9.7), False),
        ((np.nan, 4.5), True),
        ((9.29, 4.5), None),  # seeds on either side of the line, 9.3
    ],
)
def test_stuck_means_alone_stuck(
    tmp_path: Path, ends: tuple[float, float], held: bool | None
) -> None:
    measured = fig05.iwslt_no_warmup(iwslt(tmp_path, "small", ends))
    assert measured.held is held, measured.text
    assert "\n" not in measured.text
    if ends == (9.43, 4.48):
        assert re.search(r"adam 9\.44 \[[^]]*\] \(BLEU 2\.0\)", measured.text)
        assert "(BLEU 3.0), difference" in measured.text
        assert "laprop 4.49" in measured.text
        assert "difference -4.95" in measured.text


@pytest.mark.parametrize(
    ("ends", "held"),
    [((9.6, 9.7), None), ((9.43, 4.48), True), ((5.0, 4.48), False), ((4.5, 9.7), False)],
)
def test_runs_in_which_warmup_does_not_help_either_are_too_short_to_refute(
    tmp_path: Path, ends: tuple[float, float], held: bool | None
) -> None:
    measured = fig05.iwslt_no_warmup(iwslt(tmp_path, "small", ends, warm=9.6))
    assert measured.held is held, measured.text
    assert "with warmup: adam 9.61" in measured.text


@pytest.mark.parametrize(
    ("cells", "held"),
    [
        ({(1e-4, 2): (5, 5), (1e-4, 6): (9.6, 5), (1e-2, 6): (9.7, 9.7)}, True),
        ({(1e-4, 2): (5, 5), (1e-3, 2): (9.6, 5), (1e-2, 6): (5, 9.7)}, None),
        ({(1e-4, 2): (5, 5), (1e-2, 2): (9.7, 9.7)}, False),
        ({(1e-4, 2): (5, 5), (1e-4, 6): (9.29, 5)}, None),
    ],
)
def test_one_cell_where_adam_alone_is_stuck_will_do(
    tmp_path: Path, cells: Any, held: bool | None
) -> None:
    measured = fig05.iwslt_no_warmup(iwslt_map(tmp_path, cells))
    assert measured.held is held, measured.text
    assert measured.text.count("stuck:") == len(cells)
    assert "BLEU" not in measured.text
    assert "lr 0.0001, layers 2, adam" in measured.text


def roberta(tmp_path: Path, scale: str, gain: float, exception: float | None = None) -> Results:
    """LaProp ahead by ``gain``, at nu 0.9 with warmup by ``exception``."""
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
    for claim in (fig10.roberta_faster, fig10.roberta_nu):
        measured = claim(found)
        assert measured.held is held, measured.text
        assert measured.text.count("nu 0.") == 6  # paired by seed, whose starts differ widely
    assert discrepancies.roberta_faster(found).count("nu 0.9,") == 0
    assert discrepancies.roberta_faster(found).count("nu 0.9") == 4  # 0.98 and 0.999
    assert "-0.05" in discrepancies.roberta_nu(found)


@pytest.mark.parametrize("scale", ["small", "paper", None])
def test_pictures_show_the_authors_runs_and_ours(
    tmp_path: Path, scale: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    style.use()
    translation = iwslt(tmp_path, scale, (9.43, 4.48)) if scale else None
    masked = roberta(tmp_path, scale, 0.05) if scale else None
    monkeypatch.setattr(picture05, "load", lambda name: masked)
    rows = 2 if scale == "small" else 1
    for figure, columns in ((picture05.draw(translation), 2), (picture10.draw(masked), 3)):
        assert len(figure.axes) == rows * columns
        lines = [len(axis.lines) for axis in figure.axes]
        theirs = [4, 4] if columns == 2 else [1, 2, 4]
        added = 4 if scale == "paper" else 0
        assert lines[:columns] == [n + added for n in theirs]
        assert lines[columns:] == [4] * (columns if rows == 2 else 0)
        assert ("not run" in figure.get_supxlabel()) == (scale is None)
        plt.close(figure)
    if translation is not None:
        assert "laprop" in discrepancies.iwslt_loss(translation)


def test_the_map_has_a_panel_for_each_depth(tmp_path: Path) -> None:
    style.use()
    cells = dict.fromkeys(itertools.product((0.0001, 0.001), (2, 6, 12)), (9.6, 5.0))
    figure = iwslt_map_picture.draw(iwslt_map(tmp_path, cells))
    assert [axis.get_title() for axis in figure.axes] == [f"{n} + {n} layers" for n in (2, 6, 12)]
    for axis in figure.axes:
        drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
        assert np.allclose(drawn["Adam"], 9.61)
        assert np.allclose(drawn["LaProp"], 5.01)
    plt.close(figure)
