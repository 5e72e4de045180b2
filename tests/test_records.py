"""Collecting: how the folders of runs become committed tables."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import files, manifest
from tables import grid, pretend, write_run

from experiments.common import collect as collecting
from experiments.common import settings as of_runs
from experiments.common import timings
from experiments.common.collect import collect
from experiments.common.config import expand
from experiments.common.execution import execute
from experiments.common.files import Damaged
from experiments.common.messages import ConfigError
from experiments.common.records import Results, load
from experiments.common.settings import Settings
from scripts import collect as command


@pytest.fixture
def figure(tmp_path: Path) -> Callable[..., list[str]]:
    """Overrides of a small Figure 2 that writes to the test's own folder."""

    def overrides(*more: str, output: str = "outputs") -> list[str]:
        return ["figure=fig02", "scale=smoke", "threads=1", f"output={tmp_path / output}", *more]

    return overrides


def run_all(overrides: list[str]) -> list[Settings]:
    every = expand(overrides)
    assert {execute(settings) for settings in every} == {"finished"}
    return every


def test_an_incomplete_grid_is_refused_and_nothing_written(figure, tmp_path: Path):
    every = expand(figure())
    execute(every[0])
    target = tmp_path / "results" / "smoke"
    with pytest.raises(ConfigError, match=rf"{len(every) - 1} of {len(every)} runs are not fin"):
        collect(figure(), target)
    assert not target.parent.exists()


def test_a_sweep_that_is_no_figure_gets_tables_and_pictures_of_its_own(tmp_path: Path):
    overrides = ["task=rosenbrock", "scale=smoke", "seed=0,1", f"output={tmp_path}", "threads=1"]
    every = run_all(overrides)
    (every[1].folder / "montage.jpg").write_bytes(b"picture")
    results = collect(overrides)
    assert results.folder == tmp_path / "tables" / "rosenbrock" / "smoke" / "seed=0,1"
    assert results.runs.seed.tolist() == [0, 1]
    assert (results.folder / f"{every[1].key}-montage.jpg").read_bytes() == b"picture"
    assert results.manifest["figure"] is None


def test_a_batch_becomes_tidy_rows(figure, tmp_path: Path):
    every = run_all(figure())
    results = collect(figure(), tmp_path / "results" / "smoke")
    table = results.runs
    # The noise varies at the paper's scale alone.
    assert set(table) == {"optimizer", "nu", "sigma", "noise", "seed", "steps_to_converge"}
    assert table.noise.nunique() == 1
    assert len(table) == sum(len(list(s.members())) for s in every) == 2 * 2 * 3 * 2
    assert not table.duplicated(["optimizer", "nu", "sigma", "seed"]).any()
    for s in every:  # each number stands in the row of the settings that it came from
        numbers = json.loads((s.folder / "summary.json").read_text())["steps_to_converge"]
        axes = list(s.axes())
        for member, number in zip(s.members(), numbers, strict=True):
            at = dict(zip(axes, member, strict=True))
            row = table[
                (table.optimizer == s.optimizer.name)
                & np.isclose(table.nu, at["optimizer.nu"])
                & np.isclose(table.sigma, at["task.sigma"])
                & (table.seed == at["seed"])
            ]
            assert len(row) == 1
            got = row.steps_to_converge.item()
            assert got == number or (np.isnan(got) and number is None)
    manifest = results.manifest
    assert manifest["axes"]["nu"] == "optimizer.nu"
    assert manifest["settings"]["optimizer.mu"] == 0.9
    assert "optimizer.nu" not in manifest["settings"]
    assert (manifest["seeds"], manifest["task"], manifest["summary"]) == (
        2, "rosenbrock", ["steps_to_converge"],
    )  # fmt: skip
    assert [run["key"] for run in manifest["runs"]] == [s.key for s in every]
    assert all(run["environments"] == [0] for run in manifest["runs"])
    assert [e["program"] for e in manifest["environments"]] == manifest["programs"]
    assert results.label == "scale: smoke, 2 seeds"


def test_a_swept_grid_gives_the_same_table_as_a_batched_one(figure, tmp_path: Path):
    batched, swept = figure("task.sigma=0.04"), figure("task.sigma=0.04", output="swept")
    swept += ["optimizer.nu=0,0.5,0.95", "seed=0,1"]
    run_all(batched)
    run_all(swept)
    one = collect(batched, tmp_path / "one" / "smoke").runs
    other = collect(swept, tmp_path / "other" / "smoke").runs
    keys = ["optimizer", "nu", "seed"]
    pd.testing.assert_frame_equal(
        one.sort_values(keys, ignore_index=True),
        other[list(one)].sort_values(keys, ignore_index=True),
    )


def test_the_target_is_replaced_whole_or_not_at_all(figure, tmp_path: Path, monkeypatch):
    run_all(figure())
    target = tmp_path / "results" / "smoke"
    collect(figure(), target)
    (target / "stale.csv").touch()
    before = {name: (target / name).read_bytes() for name in files(target)}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            collect(figure(), target)
    assert {name: (target / name).read_bytes() for name in files(target)} == before
    collect(figure(), target)
    assert files(tmp_path / "results") == {f"smoke/{n}" for n in before if n != "stale.csv"}


def test_notes_beside_the_tables_stay(figure, tmp_path: Path):
    run_all(figure())
    target = tmp_path / "results" / "smoke"
    collect(figure(), target)
    (target / "NOTES.md").write_text("mine")
    collect(figure(), target)
    assert (target / "NOTES.md").read_text() == "mine"


def test_what_a_killed_collect_left_is_put_back(figure, tmp_path: Path):
    """It was killed between its two renames, so the tables have the name of the old ones."""
    run_all(figure())
    target = tmp_path / "results" / "smoke"
    collect(figure(), target)
    before = files(target)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, new = (target.with_name(f".smoke.{ended.pid}.{end}") for end in ("old", "new"))
    target.rename(old)
    new.mkdir()
    for settings in expand(figure())[1:]:  # these runs are gone, so only the old tables have them
        shutil.rmtree(settings.folder)
    collect(figure(), target)
    assert files(tmp_path / "results") == {f"smoke/{name}" for name in before}


def test_extra_tables_stand_below_each_other_without_repeats(tmp_path: Path):
    overrides = [
        "figure=rosenbrock_bias", "scale=smoke", "optimizer=adam,laprop", "threads=1",
        f"output={tmp_path / 'outputs'}", "seed=[0]",
    ]  # fmt: skip
    run_all(overrides)
    results = collect(overrides, tmp_path / "results" / "smoke")
    points = results.table("fixed_points")
    assert len(points) == 2  # both optimizers wrote the same two rows
    assert set(points.point) == {"mean gradient", "mean sign"}


def test_a_run_that_was_made_again_replaces_its_rows_in_extra_tables(tmp_path: Path):
    """Another machine gives another last digit, and has one of the two runs alone."""
    overrides = ["task=rosenbrock", "scale=smoke", "seed=0,1", f"output={tmp_path}"]
    one, other = expand(overrides)
    for settings in one, other:
        write_run(settings, [{"step": 1}], {"x": 1.0})
        (settings.folder / "points.csv").write_text(f"seed,y\n{settings.seed},1.23456\n")
    collect(overrides)
    shutil.rmtree(other.folder)
    (one.folder / "points.csv").write_text("seed,y\n0,1.23457\n")
    results = collect(overrides)
    rows = [(0, 1.23457), (1, 1.23456)]
    assert [*results.table("points").itertuples(index=False, name=None)] == rows
    keys = pd.read_csv(results.folder / "points.csv", dtype=str).run_key
    assert keys.tolist() == [one.key, other.key]
    text = "seed,y\n1,1.23456\n"  # as earlier versions wrote it
    (results.folder / "points.csv").write_text(text)
    assert [*collect(overrides).table("points").itertuples(index=False, name=None)] == rows


def test_a_sweep_over_two_tasks_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="task=convex_regret,rosenbrock: must be one task, "):
        collect(["task=rosenbrock,convex_regret", "scale=smoke", f"output={tmp_path}"])


def test_rows_of_long_seeds_and_their_pictures_stay_with_their_runs(
    tmp_path: Path, results_folder: Path
):
    """Also where some runs are found here and some are only committed, in any order."""
    seeds = (20240101, 20240102, 20240103)
    overrides = [*grid(tmp_path), f"seed={','.join(map(str, seeds))}"]
    every = expand(overrides)
    target = tmp_path / "tables"
    for settings in every[:4]:
        pretend(settings, loss=float(settings.seed % 10))
    collect(overrides, target, partial=True)
    for settings in every[:2]:
        shutil.rmtree(settings.folder)
    for settings in every[4:]:
        pretend(settings, loss=float(settings.seed % 10))
    results = collect(overrides, target)
    runs = pd.read_csv(target / "runs.csv")
    assert len(runs) == len(every)
    assert (runs.final_loss == runs.seed % 10).all()
    assert [run["key"] for run in results.manifest["runs"]] == [s.key for s in every]


def test_curves_and_divergence(figure, tmp_path: Path):
    overrides = figure("seed=0,1", "task.sigma=0.04", "optimizer=adam", "optimizer.nu=0.5")
    first, second = expand(overrides)
    log = [{"step": 1, "loss": 2.0, "count": 3}, {"step": 5, "loss": None}]
    write_run(first, log, {"x": 1}, "diverged", diverged_at=5)
    write_run(second, [{"step": 1, "loss": 0.5, "late": 7.0}], {"x": None})
    results = collect(overrides, tmp_path / "results" / "smoke")
    runs = results.runs.set_index("seed")
    assert runs.diverged_at[0] == 5
    assert np.isnan(runs.diverged_at[1])
    assert runs.x[0] == 1
    assert np.isnan(runs.x[1])
    curves = results.curves
    assert curves.step.dtype == np.int64
    expected = pd.DataFrame(
        {
            "optimizer": ["adam"] * 3,
            "seed": [0, 0, 1],
            "step": [1, 5, 1],
            "loss": [2.0, np.nan, 0.5],
            "count": [3.0, np.nan, np.nan],
            "late": [np.nan, np.nan, 7.0],
        }
    )
    pd.testing.assert_frame_equal(curves[list(expected)], expected, check_dtype=False)


def test_a_number_with_the_name_of_an_axis_has_a_column_of_its_own(figure, tmp_path: Path):
    overrides = figure("seed=0", "task.sigma=0.04", "optimizer=adam", "optimizer.nu=0.5,0.6")
    one, other = expand(overrides)
    write_run(one, [{"step": 1, "nu": 0.25}], {"nu": 2.0})
    write_run(other, [{"step": 1, "nu": 0.5}], {"nu": 3.0})
    results = collect(overrides, tmp_path / "results" / "smoke")
    for frame, measured in ((results.runs, [2.0, 3.0]), (results.curves, [0.25, 0.5])):
        assert frame.nu.tolist() == [0.5, 0.6]
        assert frame.measured_nu.tolist() == measured


def test_curves_of_a_batch_are_unfolded(figure, tmp_path: Path):
    overrides = figure("seed=[0,1]", "task.sigma=0.04", "optimizer=adam", "optimizer.nu=[0.1,0.2]")
    (settings,) = expand(overrides)
    log = [{"step": s, "loss": [s + 0.1, s + 0.2, None, s + 0.4], "rate": 0.5} for s in (10, 20)]
    write_run(settings, log, {"x": [1.0, 2.0, 3.0, None]})
    curves = collect(overrides, tmp_path / "results" / "smoke").curves
    at = dict(
        zip(zip(curves.step, curves["nu"], curves.seed, strict=True), curves.loss, strict=True)
    )
    members = [dict(zip(settings.axes(), m, strict=True)) for m in settings.members()]
    for record in log:
        for member, value in zip(members, record["loss"], strict=True):
            got = at[record["step"], member["optimizer.nu"], member["seed"]]
            assert np.isnan(got) if value is None else got == pytest.approx(value)
    assert (curves["rate"] == 0.5).all()


def test_a_hundred_thousand_members(figure, tmp_path: Path):
    overrides = figure(
        "optimizer=adam", "optimizer.nu=${linspace:0,0.9,50}", "seed=${range:0,1000}"
    )
    (settings,) = expand(overrides)
    count = len(list(settings.members()))
    assert count == 100_000
    log = [{"step": s, "loss": np.linspace(0, s, count).tolist()} for s in (1, 2, 3)]
    write_run(settings, log, {"x": list(range(count))})
    results = collect(overrides, tmp_path / "results" / "smoke")
    assert len(results.runs) == count
    assert (results.runs.x == range(count)).all()
    assert len(results.curves) == 3 * count


def test_a_long_log_of_one_run(figure, tmp_path: Path):
    overrides = figure("optimizer=adam", "optimizer.nu=0.5", "task.sigma=0.04", "seed=0")
    (settings,) = expand(overrides)
    write_run(settings, [{"step": s, "loss": s / 2} for s in range(100_000)], {"x": 1.0})
    curves = collect(overrides, tmp_path / "results" / "smoke").curves
    assert (curves.loss == np.arange(100_000, dtype=np.float32) / 2).all()


def test_a_figures_time_counts_every_run_on_two_threads(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(timings, "RESULTS", tmp_path)
    environments = [{"hardware": {"threads": n}} for n in (1, 4)]
    runs = [
        {"wall_time_s": 7200, "environments": [1, 0]},
        {"wall_time_s": 3600, "environments": [1]},
    ]
    manifest = {"runs": runs, "environments": environments, "unfinished_seeds": [3]}
    (tmp_path / "fig12" / "small").mkdir(parents=True)
    (tmp_path / "fig12" / "small" / "manifest.json").write_text(json.dumps(manifest))
    assert timings.times("fig12") == {
        "paper": "not run", "short": "not run", "small": "3.0 h so far"
    }  # fmt: skip


def test_smoke_runs_are_never_results(figure, tmp_path: Path, results_folder: Path):
    run_all(figure())
    results = collect(figure())
    assert results.folder == tmp_path / "outputs" / "tables" / "rosenbrock" / "smoke" / "fig02"
    assert not results_folder.exists()


def test_numbers_in_tables_have_seven_digits(tmp_path: Path, results_folder: Path):
    overrides = grid(tmp_path)
    for settings in expand(overrides):
        pretend(settings, loss=1 / 3)
        (settings.folder / "layers.csv").write_text("size\n0.1234567890\n")
    folder = collect(overrides).folder
    for line in (folder / "runs.csv").read_text().splitlines()[1:]:
        assert line.endswith(",0.3333333")
    rows = [f"0.1234568,{settings.key}\n" for settings in expand(overrides)]
    assert (folder / "layers.csv").read_text() == "".join(["size,run_key\n", *rows])
    assert (pd.read_parquet(folder / "curves.parquet").train_loss == np.float32(1 / 3)).all()


def test_the_largest_scale_with_a_whole_seed_is_shown(tmp_path: Path, results_folder: Path):
    for scale, seeds in ("small", 3), ("paper", 0), ("short", 2), ("smoke", 9):
        (results_folder / "fig05" / scale).mkdir(parents=True)
        text = json.dumps({"figure": "fig05", "scale": scale, "seeds": seeds})
        (results_folder / "fig05" / scale / "manifest.json").write_text(text)
    for scale in "short", "small":
        assert load("fig05").scale == scale
        shutil.rmtree(results_folder / "fig05" / scale)
    assert load("fig05") is None
    (results_folder / "fig05" / "paper" / "manifest.json").write_text("{}")
    with pytest.raises(Damaged, match=r"paper/manifest\.json: cannot be used"):
        load("fig05")


def test_a_part_of_a_grid_and_another_task_never_reach_the_results(
    tmp_path: Path, results_folder: Path
):
    for override in ("seed=0", "optimizer=adam", "optimizer.nu=0.5", "task.updates=400"):
        for settings in expand(grid(tmp_path, override)):
            pretend(settings)
        folder = collect(grid(tmp_path, override)).folder
        name = f"fig05_{override}"
        assert folder == tmp_path / "outputs" / "tables" / "translation" / "short" / name
    other = ["figure=fig01", "task=rosenbrock", f"output={tmp_path / 'outputs'}"]
    for settings in expand(other):
        write_run(settings, [{"step": 1}], {})
    assert tmp_path / "outputs" in collect(other).folder.parents
    assert not results_folder.exists()


def test_tables_say_which_runs_were_in_them_before(
    tmp_path: Path, results_folder: Path, monkeypatch, capsys
):
    every = expand(grid(tmp_path))
    for settings in every[:3]:
        pretend(settings)

    def collects(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["collect", *grid(tmp_path), *more])
        assert command.main() == 0
        return capsys.readouterr().out

    folder = results_folder / "fig05" / "short"
    line = f"{folder}: 3 rows (2 of complete seeds, which alone decide claims), scale: short ("
    assert collects("--partial").startswith(line)
    shutil.rmtree(every[0].folder)
    pretend(every[3])
    assert collects("--partial").endswith("; 1 of its 4 runs were in it before and are kept\n")
    before = files(folder)
    shutil.rmtree(tmp_path / "outputs")
    monkeypatch.setattr(sys, "argv", ["collect", *grid(tmp_path), "--partial"])
    with pytest.raises(ConfigError, match="outputs: holds none of the 6 runs; the tables in "):
        command.main()
    assert files(folder) == before


def test_two_sweeps_of_a_task_have_two_tables(tmp_path: Path):
    common = ["task=rosenbrock", "scale=smoke", f"output={tmp_path}"]
    for override in ("seed=0,1", "optimizer.lr=0.1,0.2", f"seed={','.join(map(str, range(90)))}"):
        for settings in expand([*common, override]):
            write_run(settings, [{"step": 1}], {"x": 1.0})
        collect([*common, override])
    tables = list((tmp_path / "tables" / "rosenbrock" / "smoke").iterdir())
    assert len(tables) == 3
    assert all(len(table.name) <= 100 for table in tables)


def test_a_part_is_collected_while_the_rest_runs(tmp_path: Path, results_folder: Path):
    """Seeds of which a run is missing are kept, but not shown; without --partial it is refused."""
    every = expand(grid(tmp_path))
    first = [s for s in every if s.seed == 0]
    for settings in [*first, next(s for s in every if s.seed == 1)]:
        pretend(settings)
    with pytest.raises(ConfigError, match=r"of 6 runs are not finished.*figure=fig05 scale=short"):
        collect(grid(tmp_path))
    assert not results_folder.exists()
    results = collect(grid(tmp_path), partial=True)
    assert results.folder == results_folder / "fig05" / "short"
    assert set(results.runs.seed) == set(results.curves.seed) == {0}
    assert results.seeds == "1 of 3 seeds"
    assert len(pd.read_csv(results.folder / "runs.csv")) == len(first) + 1
    assert load("fig05").folder == results.folder


def test_nothing_is_shown_before_a_seed_is_whole(tmp_path: Path, results_folder: Path):
    every = expand(grid(tmp_path))
    with pytest.raises(ConfigError, match="6 of 6 runs"):
        collect(grid(tmp_path), partial=True)
    pretend(every[0])
    collect(grid(tmp_path), partial=True)
    assert load("fig05") is None


def test_committed_rows_stay_where_their_runs_are_gone(tmp_path: Path, results_folder: Path):
    """A second machine neither loses nor repeats what the first one has finished."""
    every = expand(grid(tmp_path))
    for settings in every[:4]:
        pretend(settings, loss=1.5)
    collect(grid(tmp_path), partial=True)
    before = Results(results_folder / "fig05" / "short").manifest["runs"]
    shutil.rmtree(tmp_path / "outputs")
    assert [collecting.finished(settings) for settings in every] == [True] * 4 + [False] * 2
    for settings in every[4:]:
        pretend(settings, loss=2.5)
    results = collect(grid(tmp_path))
    assert sorted(results.runs.final_loss) == [1.5] * 4 + [2.5] * 2
    assert sorted(results.curves.train_loss) == [1.5] * 4 + [2.5] * 2
    assert not results.runs.duplicated(["optimizer", "seed"]).any()
    runs = {run["key"]: run for run in results.manifest["runs"]}
    assert runs.keys() == {settings.key for settings in every}
    assert [runs[run["key"]] for run in before] == before


def test_a_part_never_replaces_more_seeds_of_an_earlier_version(
    tmp_path: Path, results_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    for settings in expand(grid(tmp_path)):
        pretend(settings)
    before = collect(grid(tmp_path)).manifest
    shutil.rmtree(tmp_path / "outputs")
    monkeypatch.setattr(of_runs, "versions", lambda task: {"task": 99, "laprop": 1})
    every = expand(grid(tmp_path))
    for settings in every[:2]:
        pretend(settings)
    with pytest.raises(
        ConfigError, match="holds 3 seeds of an earlier version, but only 1 of the present"
    ):
        collect(grid(tmp_path), partial=True)
    assert Results(results_folder / "fig05" / "short").manifest == before
    for settings in every[2:]:
        pretend(settings)
    assert collect(grid(tmp_path)).manifest["seeds"] == 3


def test_rows_with_other_columns_are_not_mixed(tmp_path: Path, results_folder: Path):
    every = expand(grid(tmp_path))
    for settings in every[:5]:
        pretend(settings)
    collect(grid(tmp_path), partial=True)
    shutil.rmtree(tmp_path / "outputs")
    path = results_folder / "fig05" / "short" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"axes": manifest["axes"] | {"lr": "optimizer.lr"}}))
    for settings in every[5:]:
        pretend(settings)
    with pytest.raises(ConfigError, match="holds runs that are not in the output folder"):
        collect(grid(tmp_path))


def test_a_run_stays_collectable_when_a_task_without_a_version_is_edited(
    figure, monkeypatch: pytest.MonkeyPatch
):
    """The table's manifest names the programs of its runs."""
    overrides = figure("seed=0,1", "task.sigma=0.04", "optimizer=adam", "optimizer.nu=0.5")
    monkeypatch.setattr(of_runs, "versions", lambda task: {"task": "before", "laprop": 1})
    first, _ = expand(overrides)
    write_run(first, [{"step": 1}], {"x": 1.0})
    manifest = json.loads((first.folder / "manifest.json").read_text())
    manifest |= {"versions": {"task": "before", "laprop": 1}}
    manifest["environments"] = [{"program": "before"}]
    (first.folder / "manifest.json").write_text(json.dumps(manifest))
    for module in (of_runs, collecting):
        monkeypatch.setattr(module, "versions", lambda task: {"task": "after", "laprop": 1})
    again, second = expand(overrides)
    assert again.key != first.key
    write_run(second, [{"step": 1}], {"x": 2.0})
    results = collect(overrides)
    assert results.runs.x.tolist() == [1.0, 2.0]
    assert results.manifest["programs"] == ["before", "one"]
    monkeypatch.setattr(collecting, "versions", lambda task: {"task": 2, "laprop": 1})
    with pytest.raises(ConfigError, match="1 of 2 runs are not finished"):
        collect(overrides)  # a new version says that the numbers changed


def test_of_the_runs_before_an_edit_the_newest_finished_one_counts(
    figure, monkeypatch: pytest.MonkeyPatch
):
    """None counts whose settings or whose optimizer's rules are others, nor one that is damaged."""
    for module in (of_runs, collecting):
        monkeypatch.setattr(module, "versions", lambda task: {"task": "now", "laprop": 5})
    overrides = figure("seed=0", "task.sigma=0.04", "optimizer=adam", "optimizer.nu=0.5")
    (settings,) = expand(overrides)
    write_run(settings, [{"step": 1}], {"x": 1.0})
    written = manifest(settings) | {"versions": {"task": "old", "laprop": 5}}

    def put(name: str, **changes: object) -> Path:
        folder = settings.folder.with_name(name)
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(written | changes))
        return folder

    put("a", started="2021-01-02")
    newest = put("b", started="2021-01-03")
    put("c", started="2021-01-01", status="diverged")
    put("d", started="2021-01-04", status="failed")
    put("e", started="2021-01-05", versions={"task": "old", "laprop": 4})
    put("f", started="2021-01-06", settings=written["settings"] | {"seed": 1})
    (put("g") / "manifest.json").write_text('{"status": "finished", "started": "2021-01-07"}')
    (put("h") / "manifest.json").write_text("{")
    assert collecting.found(settings) == settings.folder  # its own is not the newest
    put(settings.key, status="running")
    assert collecting.found(settings) == newest
    put("b", started="2021-01-03", status="interrupted")
    assert collecting.found(settings) == settings.folder.with_name("a")


def test_the_command_takes_the_words_of_the_runs_and_tells_several_programs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    every = expand(grid(tmp_path))
    for settings in every:
        pretend(settings)
    words = ["-m", *grid(tmp_path, "seed=0,1")]
    monkeypatch.setattr(sys, "argv", ["collect", *words])
    assert command.main() == 0
    assert "made by" not in capsys.readouterr().out
    written = manifest(every[0]) | {"environments": [{"program": "other"}]}
    (every[0].folder / "manifest.json").write_text(json.dumps(written))
    assert command.main() == 0
    assert capsys.readouterr().out.endswith(", made by 2 programs\n")
