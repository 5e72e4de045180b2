"""``make reproduce``: what counts as reproduced, and what the last screen says."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, wait_for
from tables import written

from experiments.common.records import Results
from scripts import check_claims, reproduce
from scripts.reproduce import Compared, compared, told

AXES = {"optimizer": "optimizer.name", "nu": "optimizer.nu", "seed": "seed"}


def tables(folder: Path, runs: pd.DataFrame, **settings: Any) -> Results:
    return written(
        folder,
        runs,
        figure="own",
        scale="paper",
        axes={name: key for name, key in AXES.items() if name in runs},
        summary=["steps"],
        settings=settings,
        seeds=runs.seed.nunique(),
        runs=[{"wall_time_s": 600.0}],
    )


@pytest.fixture
def runs() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    cells = [(o, nu, seed) for o in ("adam", "laprop") for nu in (0.5, 0.9) for seed in range(20)]
    frame = pd.DataFrame(cells, columns=["optimizer", "nu", "seed"])
    frame["steps"] = rng.uniform(100, 200, len(frame)).round()
    frame.loc[frame.nu == 0.9, "steps"] = math.nan  # never
    return frame


@pytest.fixture(autouse=True)
def _claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """One claim, that every run of LaProp at nu 0.5 takes fewer than 1,000 steps."""

    def rows(figure: str, results: Results) -> list[dict[str, str]]:
        assert figure == "own"
        chosen = results.runs[(results.runs.optimizer == "laprop") & (results.runs.nu == 0.5)]
        return [{"verdict": "reproduced" if (chosen.steps < 1000).all() else "not reproduced"}]

    monkeypatch.setattr(check_claims, "rows", rows)


def test_the_same_runs_are_reproduced(runs: pd.DataFrame, tmp_path: Path) -> None:
    committed = tables(tmp_path / "committed", runs)
    found = compared(
        tables(tmp_path / "ours", runs.sample(frac=1, random_state=1)), committed, True
    )
    assert found == Compared(
        "same verdicts: 1 of 1; 4 of 4 medians inside the committed ones' intervals", True, 1.0
    )


def test_chaos_that_leaves_the_medians_is_reproduced(runs: pd.DataFrame, tmp_path: Path) -> None:
    """Half of the seeds exchange their numbers: every one of these differs, no median does."""
    other = runs.copy()
    other["steps"] = runs.groupby(["optimizer", "nu"]).steps.transform(lambda s: s.to_numpy()[::-1])
    found = compared(tables(tmp_path / "o", other), tables(tmp_path / "c", runs), True)
    assert found.same
    assert 0.5 <= found.equal < 0.6  # those that never arrive still never do


@pytest.mark.parametrize("steps", [250.0, math.nan, 90.0])
def test_a_median_outside_is_not(runs: pd.DataFrame, tmp_path: Path, steps: float) -> None:
    other = runs.copy()
    other.loc[(other.optimizer == "adam") & (other.nu == 0.5), "steps"] = steps
    found = compared(tables(tmp_path / "o", other), tables(tmp_path / "c", runs), True)
    assert not found.same
    assert "same verdicts: 1 of 1; 3 of 4 medians" in found.text


def test_another_verdict_is_not(runs: pd.DataFrame, tmp_path: Path) -> None:
    other = runs.copy()
    other.loc[other.index[(other.optimizer == "laprop") & (other.nu == 0.5)][0], "steps"] = 5000
    found = compared(tables(tmp_path / "o", other), tables(tmp_path / "c", runs), True)
    assert not found.same
    assert found.text.startswith("same verdicts: 0 of 1; 4 of 4 medians")


def test_a_part_is_compared_with_the_range_of_the_seeds(runs: pd.DataFrame, tmp_path: Path) -> None:
    committed = tables(tmp_path / "c", runs)
    part = runs[(runs.nu == 0.5) & (runs.seed < 2)].drop(columns="nu")
    found = compared(tables(tmp_path / "o", part, **{"optimizer.nu": 0.5}), committed, False)
    assert found.same
    assert found.equal == 1
    assert found.text.endswith("2 seeds, too few for a verdict")
    part = part.assign(steps=part.steps + 1000)
    found = compared(tables(tmp_path / "far", part, **{"optimizer.nu": 0.5}), committed, False)
    assert not found.same


def test_nothing_in_common(runs: pd.DataFrame, tmp_path: Path) -> None:
    other = tables(tmp_path / "o", runs.assign(seed=runs.seed + 100))
    assert not compared(other, tables(tmp_path / "c", runs), True).same


def test_the_last_screen(capsys: pytest.CaptureFixture[str]) -> None:
    fine, chaotic = Compared("same verdicts: 2 of 2", True, 1), Compared("as well", True, 0.965)
    assert told({"fig02": fine, "fig08": chaotic}, 5.2) == 0
    said = capsys.readouterr().out
    assert "✓ fig02  same verdicts: 2 of 2" in said
    assert "96.5% of fig08's are equal" in said
    assert "Reproduced: all of it." in said
    assert told({"fig02": fine, "fig01": fine}, 5.2) == 0
    assert "Reproduced: all of it (of fig01 the part that was run)." in capsys.readouterr().out
    assert told({"fig02": fine, "table1": Compared("no", False, math.nan)}, 1) == 1
    said = capsys.readouterr().out
    assert "✗ table1  no" in said
    assert "Not reproduced: table1." in said


def test_every_quick_figure_is_committed_and_its_time_is_told() -> None:
    for figure, changes in reproduce.QUICK.items():
        committed = reproduce.load(figure)
        assert committed is not None
        assert committed.scale == "paper"
        assert reproduce.minutes(committed, changes).endswith(("min", "minutes"))


def test_help_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce.sys, "argv", ["reproduce", "--help"])
    with pytest.raises(SystemExit, match="0"):
        reproduce.main()
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m scripts.reproduce ")
    assert "MNIST" in said


SLOW = """
import signal, sys, time
def end(number, frame):
    print("asked", flush=True)
    time.sleep(1)
    print("ended", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, end)
print("begun", flush=True)
time.sleep(100)
"""
CALL = """
from pathlib import Path
from scripts import reproduce
from experiments.common.terminal import as_command
reproduce.TABLES = Path.cwd()
as_command(lambda: reproduce.run("log.txt", "slow"))
"""


def test_ctrl_c_lets_the_runs_end_after_their_step(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    log = tmp_path / "log.txt"
    process = subprocess.Popen(
        [sys.executable, "-c", CALL],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: log.exists() and log.read_text() == "begun\n", 60)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    first, last = said.splitlines()
    assert first == "ending after the present step of each run, within a minute"
    assert last == "ended; call it again, and it goes on from here"
    assert log.read_text() == "begun\nasked\nended\n"
