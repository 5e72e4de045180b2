"""Runs below a folder become one table, whatever their state."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import Maker
from tables import NU, SEEDS, toy_loss, write_run

from experiments.common.config import expand
from experiments.common.execution import execute
from experiments.common.messages import ConfigError
from experiments.common.tables import described, varying
from experiments.common.terminal import guarded
from scripts import sweep as command
from scripts.sweep_tables import read


def test_every_run_is_a_row_with_its_settings(toy_sweep: Path) -> None:
    sweep = read(toy_sweep, {})
    assert sweep.axes == {
        "optimizer": "optimizer.name", "mu": "optimizer.mu", "nu": "optimizer.nu", "seed": "seed"
    }  # fmt: skip
    assert (sweep.name, sweep.scale, sweep.versions) == ("toy", "paper", 1)
    assert sweep.statuses == {"finished": 36}
    assert len(sweep.runs) == 36
    for row in sweep.runs.itertuples():
        assert row.final_loss == toy_loss(row.optimizer, row.mu, row.nu, row.seed)
    for row in sweep.curves.itertuples():
        assert row.train_loss == toy_loss(row.optimizer, row.mu, row.nu, row.seed) / row.step


def test_a_real_sweep_and_the_same_as_one_batch_give_the_same_rows(make: Maker, tmp_path: Path):
    common = ["task=rosenbrock", "scale=smoke", "threads=1"]
    swept = [*common, "optimizer.nu=0,0.9", "seed=0,1", f"output={tmp_path / 'swept'}"]
    batch = [*common, "optimizer.nu=[0,0.9]", "seed=[0,1]", f"output={tmp_path / 'batch'}"]
    for settings in expand(swept) + expand(batch):
        assert execute(settings) == "finished"
    tables = [read(tmp_path / name / "rosenbrock", {}).runs for name in ("swept", "batch")]
    one, other = (table.sort_values(["nu", "seed"], ignore_index=True) for table in tables)
    pd.testing.assert_frame_equal(one, other[list(one)])
    (path,) = (tmp_path / "batch").glob("*/*/manifest.json")
    part = read(path.parents[1], {"nu": [0.9], "seed": [1]})
    assert part.runs[["nu", "seed"]].to_numpy().tolist() == [[0.9, 1]]


def test_a_member_that_diverged_has_no_last_value(make: Maker) -> None:
    """Its last finite one is from before it diverged; a metric may be logged more rarely."""
    settings = make("task=rosenbrock", "scale=smoke", "seed=[0,1]")
    log = [{"step": 1, "loss": [2.0, 3.0], "rate": 0.5}, {"step": 2, "loss": [1.0, None]}]
    write_run(settings, log, {"x": [7.0, 8.0]})
    runs = read(settings.folder.parent, {}).runs
    expected = pd.DataFrame({"x": [7.0, 8.0], "loss": [1.0, None], "rate": [0.5, 0.5]})
    pd.testing.assert_frame_equal(runs[list(expected)], expected)


def test_only_runs_with_certain_settings(toy_sweep: Path) -> None:
    for wanted in {"optimizer.nu": [0.5, 0.99]}, {"nu": [0.5, 0.99]}:
        assert set(read(toy_sweep, wanted).runs["nu"]) == {0.5, 0.99}
    sweep = read(toy_sweep, {"optimizer": ["laprop"], "mu": [0.9], "steps": [12]})
    assert set(sweep.runs.optimizer) == {"laprop"}
    assert "mu" not in sweep.axes
    assert len(sweep.runs) == len(NU) * len(SEEDS)


def test_runs_of_two_scales_are_not_mixed(toy_sweep: Path, toy: Maker) -> None:
    write_run(toy(_scale="smoke", steps=3), [], {"final_loss": 9.0})
    with pytest.raises(ConfigError, match="several scales; add one of scale=paper, scale=smoke"):
        read(toy_sweep, {})
    assert len(read(toy_sweep, {"scale": ["paper"]}).runs) == 36
    assert len(read(toy_sweep, {"scale": ["smoke"]}).runs) == 1


def test_of_the_same_settings_the_newest_counts(toy: Maker, toy_runs, toy_sweep: Path) -> None:
    """As of a task without a version, whose key changes with every edit."""
    settings = toy_runs["laprop", 0.9, 0.5, 1]
    for name, started, value in ("before", "2019-01-01", 8.0), ("after", "2021-01-01", 9.0):
        copy = shutil.copytree(settings.folder, toy_sweep / name)
        manifest = json.loads((copy / "manifest.json").read_text()) | {"started": started}
        manifest["versions"] = {"task": name, "laprop": 1}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        (copy / "summary.json").write_text(json.dumps({"final_loss": value}))
    sweep = read(toy_sweep, {})
    at = (sweep.runs.optimizer == "laprop") & (sweep.runs.mu == 0.9) & (sweep.runs["nu"] == 0.5)
    assert sorted(sweep.runs[at].final_loss) == sorted([1.95 - 0.01, 9.0, 1.95 + 0.01])
    assert sweep.versions == 2


@pytest.mark.parametrize("name", ["0", "zz"])  # before and after the other in the folder's order
def test_a_newer_run_counts_if_it_is_finished_or_none_is(toy: Maker, name: str) -> None:
    path = write_run(toy(), [], {"final_loss": 1.0})
    newer = shutil.copytree(path, path.with_name(name))
    written = json.loads((path / "manifest.json").read_text())

    def put(folder: Path, **changes: str) -> None:
        (folder / "manifest.json").write_text(json.dumps(written | changes))

    put(newer, started="2021-01-01", status="running")
    assert read(path.parent, {}).statuses == {"finished": 1}
    put(path, status="failed")
    assert read(path.parent, {}).statuses == {"stopped": 1}  # without a process
    put(newer, started="2019-01-01", status="finished")
    assert read(path.parent, {}).statuses == {"finished": 1}
    put(newer, started="2021-01-01", scale="smoke")
    with pytest.raises(ConfigError, match="several scales"):
        read(path.parent, {})


DAMAGE = [
    ("config.yaml", ""),
    ("config.yaml", "optimizer: ["),
    ("config.yaml", "optimizer: {name: adam}"),
    ("config.yaml", "- optimizer"),
    ("manifest.json", ""),
    ("manifest.json", '{"status": "finished"}'),
    ("summary.json", None),
    ("summary.json", '{"final_loss": 1'),
    ("metrics.jsonl", None),
    ("metrics.jsonl", '{"step": 1}\n{"step": 2, "tra'),
    ("metrics.jsonl", "[1]\n"),
]


def test_damaged_runs_are_named_and_the_others_shown(
    toy_runs, toy_sweep: Path, tmp_path: Path, capsys
) -> None:
    broken = []
    for settings, (name, content) in zip(toy_runs.values(), DAMAGE, strict=False):
        broken.append(settings.folder / name)
        if content is None:
            broken[-1].unlink()
        else:
            broken[-1].write_text(content)
    sweep = read(toy_sweep, {})
    kept = list(toy_runs)[len(DAMAGE) :]
    for frame in sweep.runs, sweep.curves:
        at = frame[["optimizer", "mu", "nu", "seed"]].drop_duplicates()
        assert sorted(at.itertuples(index=False, name=None)) == sorted(kept)
    assert sweep.statuses == {"finished": len(kept)}

    arguments = [str(toy_sweep), "--to", str(tmp_path / "to"), "--metric", "final_loss"]
    assert command.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"toy paper: 25 finished; {len(DAMAGE)} damaged and left out\n")
    said = sorted(err.splitlines())
    assert len(said) == len(DAMAGE)
    for line, path in zip(said, sorted(broken), strict=True):
        assert line.startswith(f"damaged: {path}: cannot be used (")
        remedies = ("); run it again", "); delete the folder of this run, and run it again")
        assert line.endswith(remedies)

    for settings in toy_runs.values():
        (settings.folder / "manifest.json").write_text("{")
    assert guarded(lambda: command.main(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: .*/manifest\.json: cannot be used \(", line)


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
