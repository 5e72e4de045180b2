"""The tables made from the authors' logs: how they are made, and that the committed ones are so."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.common import data
from scripts import make_authors

CURVES = {"iwslt": 4, "roberta": 7, "rainbow": 2}


@pytest.mark.parametrize("name", CURVES)
def test_a_committed_curve_has_few_points_and_not_the_whole_log(name: str) -> None:
    table = make_authors.load(name)
    position = "agent_steps" if name == "rainbow" else "update"
    axes = [c for c in ("optimizer", "nu", "warmup") if c in table]
    groups = table.groupby(axes)[position]
    assert len(groups) == CURVES[name]
    assert groups.size().max() <= 40
    assert groups.apply(lambda x: x.is_monotonic_increasing).all()
    assert not table.isna().any(axis=None)


def test_smoothing_keeps_a_straight_line_and_takes_noise_away() -> None:
    line = np.linspace(9, 3, 4000)
    updates, values = make_authors.smoothed(line, 70)
    assert (updates[0], updates[-1], len(updates)) == (3, 4000, 40)
    inner = (updates > 300) & (updates < 3700)
    np.testing.assert_allclose(values[inner], line[updates[inner] - 1], rtol=1e-6)
    noise = np.random.default_rng(0).normal(size=4000)
    assert (
        make_authors.smoothed(noise, 70)[1].std()
        < 0.15
        < make_authors.smoothed(noise, 0.5)[1].std()
    )


@pytest.mark.parametrize(
    ("file", "optimizer", "nu", "warmup"),
    [
        ("adam_0.98.txt.xz", "adam", 0.98, 0),
        ("laprop_0.98_warmup.txt.xz", "laprop", 0.98, 2000),
        ("ROBERTA_laprop_beta2_0.9.txt.xz", "laprop", 0.9, 10000),
        ("ROBERTA_adam_no_warmup_beta2_0.999.txt.xz", "adam", 0.999, 0),
    ],
)
def test_the_name_of_a_log_says_what_ran(file: str, optimizer: str, nu: float, warmup: int) -> None:
    assert make_authors.of_file(file) == {"optimizer": optimizer, "nu": nu, "warmup": warmup}


def test_bins_hold_every_evaluation_once_and_the_games_error(tmp_path) -> None:
    (tmp_path / "rainbow").mkdir()
    for optimizer, count in (("adam", 150), ("laprop", 60)):
        steps = 200_000 * np.arange(1, count + 1)
        log = pd.DataFrame({"steps": steps, "mean": np.sqrt(steps), "error": 2.0})
        path = tmp_path / "rainbow" / f"{optimizer}.txt"
        log.to_csv(path, sep="\t", header=False, index=False)
    bins, best = make_authors.rainbow(tmp_path)
    for optimizer, rows in bins.groupby("optimizer"):
        n = 150 if optimizer == "adam" else 60
        assert rows.evaluations.sum() == n
        steps = 200_000 * np.arange(1, n + 1)
        assert (rows["mean"] * rows.evaluations).sum() == pytest.approx(np.sqrt(steps).sum())
        np.testing.assert_allclose(rows.standard_error, 2 / np.sqrt(rows.evaluations))
    assert set(best.agent_steps) == {12_000_000, 30_000_000}


def written(folder: Path, logs: dict[str, np.ndarray]) -> Path:
    """Logs of a loss as the authors publish them."""
    for name, loss in logs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(path, "wt") as log:
            np.savetxt(log, loss)
    return folder


def test_apart_counts_from_the_first_update_and_smooths(tmp_path: Path) -> None:
    """LaProp's loss crosses Adam's constant one at update 1,500, which is found under noise."""
    updates = np.arange(1, 4001)
    noise = np.random.default_rng(0).normal(size=4000)
    logs = {
        "iwslt/adam_0.98.txt.xz": np.full(4000, 5.0),
        "iwslt/laprop_0.98.txt.xz": 5 - (updates - 1500) / 1000 + noise,
        "iwslt/laprop_0.98_warmup.txt.xz": np.zeros(4000),  # without its Adam
    }
    (row,) = make_authors.apart(written(tmp_path, logs), "iwslt").itertuples()
    assert (row.nu, row.warmup) == (0.98, 0)
    assert row.below_best_from == pytest.approx(1500, abs=150)
    assert row.share_below == pytest.approx(2500 / 4000, abs=0.04)


def test_starts_are_means_of_a_hundred_updates(tmp_path: Path) -> None:
    logs = {
        "iwslt/adam_0.98.txt.xz": np.arange(1, 4001.0),
        "iwslt/laprop_0.98.txt.xz": np.ones(4000),
    }
    table = make_authors.starts(written(tmp_path, logs))
    adam = table[table.optimizer == "adam"].set_index("update").loss
    assert adam.index.tolist() == list(range(100, 2001, 100))
    assert adam[100] == 50.5
    assert adam[2000] == 1950.5
    assert set(table[table.optimizer == "laprop"].loss) == {1.0}


def test_lead_names_each_change_once(tmp_path: Path) -> None:
    updates = np.arange(1, 6001)
    logs = {
        f"roberta/ROBERTA_laprop_beta2_{nu}.txt.xz": 10 - slope * updates - start
        for nu, slope, start in ((0.9, 1e-3, 2.0), (0.98, 2e-3, 0.0), (0.999, 3e-3, -4.0))
    }
    found = make_authors.lead(written(tmp_path, logs))
    assert found.sigma.tolist() == [6, 6, 6, 70, 70, 70]
    assert found.nu.tolist() == 2 * [0.9, 0.98, 0.999]
    assert found["update"].tolist() == pytest.approx(2 * [1, 2001, 4001], abs=1)


@pytest.mark.skipif(data.locate("authors_logs") is None, reason="the authors' logs are not here")
def test_the_committed_tables_are_those_of_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_authors", "--check"])
    assert make_authors.main() == 0
