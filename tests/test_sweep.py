"""``python -m scripts.sweep``: tables, maps and curves of whatever runs a folder holds."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Maker
from PIL import Image
from tables import NU, SEEDS, toy_loss, write_run, written

from experiments.common import stats
from experiments.common.execution import execute
from experiments.common.progress import Progress
from experiments.common.tables import same
from experiments.common.terminal import guarded
from scripts import cells, charts
from scripts import sweep as command
from scripts.sweep_tables import read


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["nowhere"],
            "nowhere: no .* there is no nowhere and no outputs/nowhere and no .*results/nowhere",
        ),
        (["outputs"], "outputs: no folder of runs, .*; it holds those of toy: give one of these"),
        (["toy", "nu=0.7"], "optimizer.nu=0.7: no run in outputs/toy has it; they have 0.5, 0.9"),
        (["toy", "seed=0,7"], "seed=7: no run in outputs/toy has it; they have 0, 1, 2"),
        (["toy", "nuu=0.9"], r"nuu=0.9: unknown \(did you mean nu\?\); allowed are decay_by_lr, "),
        (["toy", "scale=smoke"], "scale=smoke: the runs are paper"),
        (["toy", "nu"], "nu: not KEY=VALUE or KEY=VALUE,VALUE"),
        (["toy", "nu=0.5,"], "nu=0.5,: not KEY=VALUE or KEY=VALUE,VALUE"),
        (["/no/toy"], "/no/toy: no folder of runs, .*, nor of tables; there is no /no/toy"),
        (["toy", "nu=[0.9"], r"nu=\[0.9: \[0.9 is no value"),
        (["toy", "--metric", "los"], "--metric=los: unknown.*; allowed are final_loss, train_loss"),
        (["toy", "--x", "lr"], "--x=lr: does not vary here; optimizer, mu, nu do"),
        (["toy", "--by", "seed"], "--by=seed: does not vary here; optimizer, mu, nu do"),
        (["toy", "--x", "nu", "--y", "optimizer.nu"], "--y=optimizer.nu: must be another setting"),
    ],
)
def test_bad_input_is_one_line(
    toy_sweep: Path, monkeypatch, capsys, arguments: list[str], line: str
):
    monkeypatch.chdir(toy_sweep.parents[1])
    assert guarded(lambda: command.main(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: {line}.*\n", err)
    assert not (toy_sweep.parent / "sweeps").exists()


def test_a_part_of_a_sweep_under_way(toy: Maker, toy_runs, toy_sweep: Path) -> None:
    """Finished runs are in the table; the curves of the others are there as far as they are."""
    running = toy(_optimizer={"name": "laprop", "mu": 0.5}, _seed=0)
    path = write_run(running, [{"step": 1, "train_loss": 4.0}], None, status="running")
    with (path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 2, "tra')  # is being written
    Progress(path).update(1, 9)
    # The process of this one died.
    write_run(toy(_optimizer={"mu": 0.8}), [{"step": 1}], None, status="running")
    write_run(toy(_optimizer={"mu": 0.6}), [], None, status="failed")
    begins = toy(_optimizer={"mu": 0.7}).folder
    begins.mkdir()
    (begins / "manifest.json").write_text("")
    sweep = read(toy_sweep, {})
    assert sweep.statuses == {"finished": 36, "running": 1, "stopped": 1, "failed": 1}
    assert len(sweep.runs) == 36
    assert sweep.curves[sweep.curves.mu == 0.5].train_loss.tolist() == [4.0]
    target = toy_sweep.parent / "drawn"
    assert command.main([str(toy_sweep), "mu=0.5", "--to", str(target)]) == 0  # nothing is finished
    assert [path.name for path in target.iterdir()] == ["index.html"]  # one step is no curve
    failed = [str(toy_sweep), "mu=0.6", "--to", str(target)]
    assert guarded(lambda: command.main(failed)) == 2


@pytest.mark.parametrize("below", ["", "below"])
def test_pictures_have_a_place_that_can_be_written(
    toy_sweep: Path, tmp_path: Path, capsys, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    to = str(tmp_path / "file" / below)
    arguments = [str(toy_sweep), "nu=0.5", "--metric", "final_loss", "--to", to]
    assert guarded(lambda: command.main(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: {to}: .*; must be a place that can be written\n", err)
    assert (tmp_path / "file").read_text() == "mine"


def test_cells_have_the_mean_and_interval_of_their_seeds(
    toy: Maker, toy_runs, toy_sweep: Path
) -> None:
    write_run(toy(_optimizer={"mu": 0.0, "nu": 0.5}, _seed=3), [], {"final_loss": None})
    write_run(
        toy(_optimizer={"mu": 0.0, "nu": 0.5}, _seed=4), [], {"final_loss": 1e9}, status="diverged"
    )
    sweep = read(toy_sweep, {})
    by = command.varied(sweep)
    assert by == ["optimizer", "mu", "nu"]
    table = command.summary(sweep, by)
    assert list(dict.fromkeys(table.metric)) == ["final_loss", "train_loss"]
    table = table[table.metric == "final_loss"].set_index(by)
    assert len(table) == 12
    for (optimizer, mu, nu), cell in table.iterrows():
        values = [toy_loss(optimizer, mu, nu, seed) for seed in SEEDS]
        expected = stats.mean(values)
        got = (cell.centre, cell.low, cell.high)
        assert got == pytest.approx((expected.centre, expected.low, expected.high))
        odd = (optimizer, mu, nu) == ("laprop", 0.0, 0.5)
        assert (cell["count"], cell.seeds, cell.diverged) == ((3, 5, 1) if odd else (3, 3, 0))
    text = command.readable(command.summary(sweep, by), by)
    assert text.columns.tolist() == [*by, "seeds", "diverged", "final_loss", "train_loss"]
    (odd,) = text[text.seeds == 5].final_loss
    assert re.fullmatch(r"1\.05 \[1\.025, 1\.075\] \(3 of 5\)", odd)


def test_infinite_numbers_and_metrics_without_any_stand_in_the_table(tmp_path: Path) -> None:
    """As bounds that do not exist, in the tables of a figure."""
    runs = pd.DataFrame({"optimizer": "adam", "nu": [0.5, 0.9], "seed": 0})
    runs = runs.assign(bound=[1.0, math.inf], nothing=math.nan, worst=-math.inf)
    axes = {"optimizer": "optimizer.name", "nu": "optimizer.nu", "seed": "seed"}
    made = [{"status": "finished"}] * len(runs)
    folder = tmp_path / "tables"
    manifest = {"figure": None, "task": "convex_regret", "scale": "paper", "settings": {}}
    written(folder, runs, **manifest, axes=axes, runs=made)
    assert command.main([str(folder), "--to", str(tmp_path / "drawn")]) == 0
    assert "| 0.9 | 1 | ∞ | – (0 of 1) | −∞ |" in (tmp_path / "drawn" / "table.md").read_text()
    pictures = [path.name for path in (tmp_path / "drawn").glob("*.png")]
    assert pictures == ["map-bound.png"]  # of the others there is nothing to be drawn


def test_runs_without_a_number_are_a_page_all_the_same(toy: Maker, tmp_path: Path, capsys) -> None:
    for seed in 0, 1:
        write_run(toy(_seed=seed), [{"step": 1}, {"step": 2}], {"words": "well done"})
    assert command.main([str(toy().folder.parent), "--to", str(tmp_path / "drawn")]) == 0
    assert capsys.readouterr().out.startswith("toy paper: 2 finished\n")
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["index.html"]


def test_an_axis_that_the_optimizer_decides_is_none(toy: Maker) -> None:
    for name, epsilon in ("adam", 1e-8), ("laprop", 1e-15):
        for nu in NU:
            write_run(toy(_optimizer={"name": name, "epsilon": epsilon, "nu": nu}), [], {"x": nu})
    sweep = read(toy().folder.parent, {})
    assert "epsilon" in sweep.axes
    assert command.varied(sweep) == ["optimizer", "nu"]


def test_a_null_setting_tells_runs_apart() -> None:
    runs = pd.DataFrame(
        {"optimizer": "laprop", "agc": [np.nan, np.nan, 0.3, 0.3], "seed": [0, 1] * 2}
    )
    assert cells.free(runs, ["optimizer", "agc", "seed"]) == ["agc"]
    table = cells.cells(runs.assign(loss=[1.0, 2.0, 5.0, 6.0]), ["agc"], ["loss"])
    assert table.centre.tolist() == [1.5, 5.5]
    assert table.seeds.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "cell", "found"),
    [
        ("milestones=[80,120],[81,122]", "[81,122]", True),
        ("milestones=[80,120]", "[81,122]", False),
        ("start=[0,0]", "[0.0,0.0]", True),
        ("start=[1,-2.5]", [1.0, -2.5], True),
        ("start=[1,-2.5]", "[1.0,2.5]", False),
        ("weights=[1e-5,0.1]", "[1e-05,0.1]", True),
        ("flags=[true]", "[1]", False),
        ("flags=[nan]", "[nan]", True),
        ("days=[1]", "[2020-13-45]", False),
        ("centered=true", "true", True),
        ("agc=null", np.nan, True),
        ("agc=null", 0.3, False),
        ("agc=0.3", np.nan, False),
        ("lr=3.1622777e-4", 0.00031622776601683794, True),
        ("authors=[noise]", "[noise]", True),
        ("seed=20240101", 20240101, True),
        ("seed=20240101", 20240102, False),
    ],
)
def test_a_value_is_typed_as_the_table_shows_it(text: str, cell: Any, found: bool) -> None:
    _, values = command.values(text)
    assert any(same(cell, value) for value in values) is found


def test_all_is_written_and_said(toy_sweep: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(toy_sweep.parents[1])
    assert command.main(["toy", "optimizer=adam,laprop", "nu=0.5,0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy paper optimizer=adam,laprop nu=0.5,0.9: 24 finished"
    assert lines[1] == "| optimizer | mu | nu | seeds | final_loss | train_loss |"
    assert "| Adam | 0.9 | 0.5 | 3 | 2.95 [2.925, 2.975] | 0.9833 [0.9751, 0.9916] |" in lines
    target = Path("outputs/sweeps/toy_paper_optimizer=adam,laprop_nu=0.5,0.9")
    assert lines[-1] == f"open {target / 'index.html'}"
    assert {path.name for path in target.iterdir()} == {
        "index.html", "table.md", "table.csv", "map-final_loss.png", "map-train_loss.png",
        "curves-train_loss.png",
    }  # fmt: skip
    assert (target / "table.md").read_text().splitlines() == lines[1:-1]
    table = pd.read_csv(target / "table.csv").set_index(["optimizer", "mu", "nu"])
    assert len(table) == 8
    for key, row in table.iterrows():
        expected = stats.mean([toy_loss(*key, seed) for seed in SEEDS])
        assert row.final_loss == pytest.approx(expected.centre)
        assert row.final_loss_high == pytest.approx(expected.high, rel=1e-6)
        assert (row.final_loss_count, row.seeds) == (3, 3)
    for path in target.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert len(picture.getcolors(2**24)) > 20
    page = (target / "index.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.split("</script>", 1)[1])

    options = ["--metric", "train_loss", "--to", "there", "--by", "mu"]  # before settings, too
    assert command.main(["toy", *options, "nu=0.5,0.9"]) == 0
    assert {path.name for path in Path("there").glob("*.png")} == {
        "map-train_loss.png", "curves-train_loss.png"
    }  # fmt: skip


def test_a_report_stands_beside_the_runs_and_not_where_the_command_was_given(
    toy_sweep: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command.main([str(toy_sweep), "--metric", "final_loss", "nu=0.5"]) == 0
    target = toy_sweep.parent / "sweeps" / "toy_paper_nu=0.5" / "index.html"
    assert capsys.readouterr().out.endswith(f"open {target}\n")
    assert target.exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_collected_tables_are_drawn_too(
    toy_sweep: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """What stands in results, and what ``scripts.collect`` makes of any sweep."""
    sweep, folder = read(toy_sweep, {}), tmp_path / "tables"
    manifest = {"figure": None, "task": "toy", "scale": "paper", "axes": sweep.axes}
    made = [{"status": "finished"}] * 36
    settings = {"optimizer.lr": 0.05, "task.start": [1.5, -2.0]}
    written(folder, sweep.runs, sweep.curves, **manifest, settings=settings, runs=made)
    for place, target in (toy_sweep, "one"), (folder, "other"):
        arguments = [str(place), "nu=0.5", "--to", str(tmp_path / target), "--metric", "final_loss"]
        assert command.main(arguments) == 0
    one, other = (pd.read_csv(tmp_path / name / "table.csv") for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other[list(one)])
    page = (tmp_path / "other" / "index.html").read_text()
    assert "<title>toy tables paper nu=0.5</title>" in page
    assert "in all runs: <code>optimizer.lr=0.05 task.start=[1.5,-2.0]</code>" in page


def test_settings_that_all_runs_share_are_found(toy: Maker) -> None:
    """They are not those that have a column, such as mu, which one optimizer lacks."""
    for name, mu in ("laprop", 0.9), ("laprop", 0.8), ("rmsprop", None):
        settings = toy(_optimizer={"name": name} | ({"mu": mu} if mu else {}))
        write_run(settings, [{"step": 1, "train_loss": 1.0}], {"final_loss": 1.0})
    shared = read(settings.folder.parent, {}).shared
    assert not {"seed", "optimizer.mu"} & shared.keys()
    assert shared["optimizer.lr"] == settings.optimizer.lr
    assert {f"task.{field.name}" for field in fields(settings.task)} <= shared.keys()


def test_tables_of_a_part_and_of_the_whole_have_two_titles(tmp_path: Path) -> None:
    manifest = {"figure": "fig05", "task": "translation", "scale": "short", "settings": {}}
    rows = [{"optimizer": "adam", "seed": 0, "loss": 1.0}]
    axes = {"optimizer": "optimizer.name", "seed": "seed"}
    for name, title in ("fig05/short", "fig05"), ("short/fig05_seed=0", "translation fig05_seed=0"):
        folder = written(tmp_path / name, rows, **manifest, axes=axes, runs=[]).folder
        assert command.find(str(folder), {}).name == title


# Tables without curves ----------------------------------------------------------------------------


AXES = {"optimizer": "optimizer.name", "mu": "optimizer.mu", "nu": "optimizer.nu", "seed": "seed"}


def tables(folder: Path) -> Path:
    """Tables of two optimizers, in which no run at mu 0.9 and nu 0.9 converges."""
    grid = [(o, mu, nu, s) for o in ("adam", "laprop") for mu in (0, 0.9) for nu in (0.5, 0.9)
            for s in (0, 1)]  # fmt: skip
    runs = pd.DataFrame(grid, columns=list(AXES))
    runs["steps_to_converge"] = (100.0 + runs.seed).mask((runs.mu == 0.9) & (runs.nu == 0.9))
    made = [{"status": "finished"}] * len(runs)
    manifest = {"figure": None, "task": "rosenbrock", "scale": "paper", "settings": {}}
    return written(folder / "tables", runs, **manifest, axes=AXES, runs=made).folder


def test_several_settings_choose_among_tables_without_curves(tmp_path: Path) -> None:
    folder = str(tables(tmp_path))
    sweep = command.find(folder, {"nu": [0.5], "optimizer": ["laprop"], "optimizer.mu": [0, 0.9]})
    assert sweep.runs[["mu", "seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [0.9, 0], [0.9, 1]]
    assert set(sweep.runs.optimizer) == {"laprop"}
    assert sweep.curves.empty


def test_settings_that_no_run_of_a_table_has_are_one_line(tmp_path: Path, capsys: Any) -> None:
    folder = str(tables(tmp_path))
    for wanted in ["mu=0.7"], ["optimizer=laprop", "nu=0.5", "mu=0,0.7"]:
        assert guarded(lambda wanted=wanted: command.main([folder, *wanted])) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"error: mu=0.7: no run in {folder} has it; they have 0.0, 0.9\n"


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


# Charts -------------------------------------------------------------------------------------------


def table(means: list[float], **axes: list[Any]) -> pd.DataFrame:
    """A table as charts take it."""
    frame = pd.DataFrame(axes | {"centre": means})
    return frame.assign(
        low=frame.centre - 0.1, high=frame.centre + 0.1, count=3, seeds=3, diverged=0
    )


def test_a_map_has_a_cell_for_each_and_a_panel_for_each_optimizer() -> None:
    grid = [(o, m, n) for o in ("laprop", "adam") for m in (0.5, 0.0) for n in (0.99, 0.9, 0.5)]
    names = dict(zip(("optimizer", "mu", "nu"), map(list, zip(*grid, strict=True)), strict=True))
    means = [float(i) for i in range(12)]
    means[4] = math.nan
    frame = table(means, **names)
    frame.loc[4, ["diverged", "count"]] = [3, 0]
    frame.loc[5, "count"] = 2
    spec = charts.grid(frame, "loss", "mu", "nu", ["optimizer"]).to_dict()
    assert spec["facet"]["column"]["sort"] == ["Adam", "LaProp"]
    blank, tiles, _ = spec["spec"]["layer"]
    assert (blank["transform"], tiles["transform"]) == (
        [{"filter": "!datum.known"}], [{"filter": "datum.known"}]
    )  # fmt: skip
    encoding = tiles["encoding"]
    assert encoding["x"]["sort"] == ["0", "0.5"]
    assert encoding["y"]["sort"] == ["0.99", "0.9", "0.5"]
    (rows,) = spec["datasets"].values()
    assert len(rows) == 12
    assert [rows[i]["label"] for i in (3, 4, 5)] == [["3", "±0.1"], ["diverged"], ["5", "2 of 3"]]
    assert [i for i in range(12) if not rows[i]["known"]] == [4]
    assert (rows[0]["optimizer"], rows[0]["mu"], rows[0]["nu"]) == ("LaProp", "0.5", "0.99")


def test_numbers_that_exploded_do_not_hide_the_others() -> None:
    usual = pd.Series(np.linspace(1, 3, 99))
    assert charts.spanned(usual) == (1, 3, False)
    least, most, log = charts.spanned(pd.concat([usual, pd.Series([1e30])]))
    assert (least, log) == (1, False)
    assert 2.8 < most <= 3
    assert charts.spanned(pd.Series([0.1, 1.0, 10.0])) == (0.1, 10.0, True)
    assert charts.spanned(pd.Series([-5.0, 1000.0]))[2] is False


def test_curves_and_lines_that_explode_can_be_drawn(tmp_path: Path) -> None:
    """Coordinates far outside of the picture end the rasteriser."""
    steps = list(range(60))
    means = [1e30 if step == 30 else 1 + step / 60 for step in steps]
    frame = table(means, step=steps, optimizer=["adam"] * 60)
    charts.curves(frame, "loss", "optimizer", []).save(tmp_path / "curves.png")
    frame = table(means, nu=[step / 100 for step in steps], optimizer=["adam"] * 60)
    charts.lines(frame, "loss", "nu", "optimizer", []).save(tmp_path / "lines.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert (tmp_path / "lines.png").stat().st_size > 5000


def test_the_page_opens_from_disk_and_shows_numbers_under_the_pointer(
    toy_sweep: Path, tmp_path: Path, browser: Any
) -> None:
    from selenium.webdriver import ActionChains

    assert command.main([str(toy_sweep), "--to", str(tmp_path / "page")]) == 0
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.set_window_size(1400, 1000)
    browser.get((tmp_path / "page" / "index.html").as_uri())
    browser.implicitly_wait(20)
    drawn = browser.find_elements("css selector", ".drawing svg.marks")
    assert len(drawn) == 3  # two maps and the curves
    parts = ("µ: 0.9", "ν: 0.5", "optimizer: Adam", "average: 2.95")
    label = "".join(f"[aria-label*='{part};']" for part in parts)
    (cell,) = drawn[0].find_elements("css selector", f"path{label}")
    ActionChains(browser).move_to_element_with_offset(cell, 20, 0).perform()
    tip = browser.find_element("css selector", "#vg-tooltip-element.visible").text
    assert re.search(r"optimizer\W+Adam", tip)
    assert re.search(r"from\W+2.9252\W+to\W+2.9748", tip)
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"
    ]
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
