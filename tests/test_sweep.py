"""``python -m scripts.sweep`` on collected tables without curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from conftest import Maker
from tables import written

from experiments.common.execution import execute
from experiments.common.tables import described, read, varying
from experiments.common.terminal import guarded
from scripts import sweep as command

AXES = {"optimizer": "optimizer.name", "mu": "optimizer.mu", "nu": "optimizer.nu", "seed": "seed"}


def tables(folder: Path) -> Path:
    """Tables of two optimizers, in which no run at mu 0.9 and nu 0.9 converges."""
    grid = [(o, mu, nu, s) for o in ("adam", "laprop") for mu in (0, 0.9) for nu in (0.5, 0.9)
            for s in (0, 1)]  # fmt: skip
    runs = pd.DataFrame(grid, columns=list(AXES))
    runs["steps_to_converge"] = (100.0 + runs.seed).mask((runs.mu == 0.9) & (runs.nu == 0.9))
    made = [{"status": "finished"}] * len(runs)
    return written(folder / "tables", runs, figure=None, scale="paper", axes=AXES, runs=made).folder


def test_several_settings_choose_among_tables_without_curves(tmp_path: Path) -> None:
    folder = str(tables(tmp_path))
    sweep = command.find(folder, {"nu": [0.5], "optimizer": ["laprop"], "optimizer.mu": [0, 0.9]})
    assert sweep.runs[["mu", "seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [0.9, 0], [0.9, 1]]
    assert set(sweep.runs.optimizer) == {"laprop"}
    assert sweep.curves.empty


def test_settings_that_no_run_of_a_table_has_are_one_line(tmp_path: Path, capsys: Any) -> None:
    folder = str(tables(tmp_path))
    for wanted in ["mu=0.7"], ["optimizer=laprop", "mu=0.7", "nu=0.5,0.9"]:
        assert guarded(lambda wanted=wanted: command.main([folder, *wanted])) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"error: {' '.join(wanted)}: none of the 16 runs in {folder}\n"


def test_a_cell_that_most_seeds_never_reach_is_never_in_a_map_too(tmp_path: Path) -> None:
    folder = tables(tmp_path)
    target = folder.parent / "drawn"
    assert command.main([str(folder), "optimizer=adam", "--to", str(target)]) == 0
    assert "| 0.9 | 0.9 | 2 | ∞ (0 of 2) |" in (target / "table.md").read_text()
    page = (target / "index.html").read_text()
    assert '"label":["never"]' in page
    assert '"label":["none"]' not in page


def test_a_member_that_two_batches_share_counts_once(make: Maker, tmp_path: Path, capsys: Any):
    """The sweep is one setting over several seeds, of which there is no map."""
    for seeds in "[0,1,2]", "[0,1,2,3]":
        assert execute(make("task=rosenbrock", "scale=smoke", f"seed={seeds}")) == "finished"
    folder = tmp_path / "outputs" / "rosenbrock"
    sweep = read(folder, {})
    assert sorted(sweep.runs.seed) == [0, 1, 2, 3]
    assert sweep.repeated == 3
    assert not sweep.curves.duplicated(["seed", "step"]).any()
    assert command.varied(sweep) == []
    assert command.main([str(folder), "--to", str(tmp_path / "drawn")]) == 0
    assert "; 3 repeated and left out" in capsys.readouterr().out
    assert (tmp_path / "drawn" / "table.md").exists()
    assert not list((tmp_path / "drawn").glob("map-*"))


def test_two_programs_of_an_optimizer_are_two_optimizers(toy: Maker) -> None:
    made = [
        toy(_optimizer={"name": "adamw", "definition": {"_target_": "mine.Mine", "program": p}})
        for p in "ab"
    ]
    for settings in made:
        assert execute(settings) == "finished"
    sweep = read(made[0].folder.parent, {})
    assert sweep.axes["definition"] == "optimizer.definition"
    assert command.varied(sweep) == ["definition"]
    assert len(command.summary(sweep, ["definition"]).definition.unique()) == 2
    one_each = [described(toy(_optimizer={"name": "adam"})), described(made[0])]
    assert "definition" not in varying(one_each)
