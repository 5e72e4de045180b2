"""``python -m scripts.sweep``: tables, maps and curves of whatever runs a folder holds."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Maker
from PIL import Image

from experiments.common import stats
from experiments.common.config import ConfigError, Settings, expand
from experiments.common.execution import execute
from experiments.common.tables import read, same
from experiments.common.terminal import guarded
from scripts import cells, charts
from scripts import sweep as command

MU, NU, SEEDS = (0.0, 0.9), (0.5, 0.9, 0.99), (0, 1, 2)


def pretend(
    settings: Settings,
    log: list[dict[str, Any]],
    summary: dict[str, Any] | None,
    status: str = "finished",
    **changes: Any,
) -> Path:
    """The folder of a run that nothing trained; without a summary it is not finished."""
    folder = settings.folder
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    plain = json.loads(json.dumps(asdict(settings), default=str))
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    manifest = {
        "key": settings.key,
        "task": settings.task_name,
        "scale": settings.scale,
        "status": status,
        "started": "2020-01-01",
        "settings": settings.decisive(),
        "axes": list(settings.axes()),
        "versions": {"task": 1, "laprop": 1},
        "diverged_at": 7 if status == "diverged" else None,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def loss(optimizer: str, mu: float, nu: float, seed: int) -> float:
    """A number that tells every cell and seed from every other."""
    return (2 if optimizer == "adam" else 1) + mu + nu / 10 + 0.01 * (seed - 1)


@pytest.fixture
def runs(toy: Maker) -> dict[tuple[Any, ...], Settings]:
    """Mu x nu x two optimizers x three seeds of a task of one's own, by these."""
    made = {}
    for name in ("adam", "laprop"):
        for mu in MU:
            for nu in NU:
                for seed in SEEDS:
                    settings = toy(_optimizer={"name": name, "mu": mu, "nu": nu}, _seed=seed)
                    value = loss(name, mu, nu, seed)
                    log = [{"step": step, "train_loss": value / step} for step in (1, 2, 3)]
                    pretend(settings, log, {"final_loss": value})
                    made[name, mu, nu, seed] = settings
    return made


@pytest.fixture
def folder(runs: dict[tuple[Any, ...], Settings]) -> Path:
    """The folder of these runs."""
    return next(iter(runs.values())).folder.parent


def test_every_run_is_a_row_with_its_settings(folder: Path) -> None:
    sweep = read(folder, {})
    assert sweep.axes == {
        "optimizer": "optimizer.name", "mu": "optimizer.mu", "nu": "optimizer.nu", "seed": "seed"
    }  # fmt: skip
    assert (sweep.name, sweep.scale, sweep.versions) == ("toy", "paper", 1)
    assert sweep.statuses == {"finished": 36}
    assert len(sweep.runs) == 36
    for row in sweep.runs.itertuples():
        assert row.final_loss == loss(row.optimizer, row.mu, row.nu, row.seed)
    for row in sweep.curves.itertuples():
        assert row.train_loss == loss(row.optimizer, row.mu, row.nu, row.seed) / row.step


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


def test_only_runs_with_certain_settings(folder: Path) -> None:
    for wanted in {"optimizer.nu": [0.5, 0.99]}, {"nu": [0.5, 0.99]}:
        assert set(read(folder, wanted).runs["nu"]) == {0.5, 0.99}
    sweep = read(folder, {"optimizer": ["laprop"], "mu": [0.9], "steps": [12]})
    assert set(sweep.runs.optimizer) == {"laprop"}
    assert "mu" not in sweep.axes
    assert len(sweep.runs) == len(NU) * len(SEEDS)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: no folder of runs, as outputs/TASK, nor of tables"),
        (["outputs"], "outputs: no folder of runs, .*; it holds those of toy: give one of these"),
        (["toy", "nu=0.7"], "nu=0.7: none of the 36 runs in outputs/toy"),
        (["toy", "nuu=0.9"], r"nuu=0.9: unknown \(did you mean nu\?\); allowed are decay_by_lr, "),
        (["toy", "scale=smoke"], "scale=smoke: the runs are paper"),
        (["toy", "nu"], "nu: not KEY=VALUE or KEY=VALUE,VALUE"),
        (["toy", "nu=[0.9"], r"nu=\[0.9: \[0.9 is no value"),
        (["toy", "--metric", "los"], "--metric=los: unknown.*; allowed are final_loss, train_loss"),
        (["toy", "--x", "lr"], "lr: does not vary here; optimizer, mu, nu, seed do"),
    ],
)
def test_bad_input_is_one_line(folder: Path, monkeypatch, capsys, arguments: list[str], line: str):
    monkeypatch.chdir(folder.parents[1])
    assert guarded(lambda: command.main(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: {line}.*\n", err)
    assert not (folder.parent / "sweeps").exists()


def test_runs_of_two_scales_are_not_mixed(folder: Path, toy: Maker) -> None:
    pretend(toy(_scale="smoke", steps=3), [], {"final_loss": 9.0})
    with pytest.raises(ConfigError, match="several scales; add one of scale=paper, scale=smoke"):
        read(folder, {})
    assert len(read(folder, {"scale": ["paper"]}).runs) == 36
    assert len(read(folder, {"scale": ["smoke"]}).runs) == 1


def test_a_part_of_a_sweep_under_way(toy: Maker, runs, folder: Path) -> None:
    """Finished runs are in the table; the curves of the others are there as far as they are."""
    running = toy(_optimizer={"name": "laprop", "mu": 0.5}, _seed=0)
    path = pretend(running, [{"step": 1, "train_loss": 4.0}], None, status="running")
    with (path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 2, "tra')  # is being written
    pretend(toy(_optimizer={"mu": 0.6}), [], None, status="failed")
    begins = toy(_optimizer={"mu": 0.7}).folder
    begins.mkdir()
    (begins / "manifest.json").write_text("")
    sweep = read(folder, {})
    assert sweep.statuses == {"finished": 36, "running": 1, "failed": 1}
    assert len(sweep.runs) == 36
    assert sweep.curves[sweep.curves.mu == 0.5].train_loss.tolist() == [4.0]
    target = folder.parent / "drawn"
    assert command.main([str(folder), "mu=0.5", "--to", str(target)]) == 0  # nothing is finished
    assert [path.name for path in target.iterdir()] == ["index.html"]  # one step is no curve
    failed = [str(folder), "mu=0.6", "--to", str(target)]
    assert guarded(lambda: command.main(failed)) == 2


def test_of_the_same_settings_the_newest_counts(toy: Maker, runs, folder: Path) -> None:
    """As of a task without a version, whose key changes with every edit."""
    settings = runs["laprop", 0.9, 0.5, 1]
    for name, started, value in ("before", "2019-01-01", 8.0), ("after", "2021-01-01", 9.0):
        copy = shutil.copytree(settings.folder, folder / name)
        manifest = json.loads((copy / "manifest.json").read_text()) | {"started": started}
        manifest["versions"] = {"task": name, "laprop": 1}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        (copy / "summary.json").write_text(json.dumps({"final_loss": value}))
    sweep = read(folder, {})
    at = (sweep.runs.optimizer == "laprop") & (sweep.runs.mu == 0.9) & (sweep.runs["nu"] == 0.5)
    assert sorted(sweep.runs[at].final_loss) == sorted([1.95 - 0.01, 9.0, 1.95 + 0.01])
    assert sweep.versions == 2


@pytest.mark.parametrize("name", ["0", "zz"])  # before and after the other in the folder's order
def test_a_newer_run_counts_if_it_is_finished_or_none_is(toy: Maker, name: str) -> None:
    path = pretend(toy(), [], {"final_loss": 1.0})
    newer = shutil.copytree(path, path.with_name(name))
    written = json.loads((path / "manifest.json").read_text())

    def put(folder: Path, **changes: str) -> None:
        (folder / "manifest.json").write_text(json.dumps(written | changes))

    put(newer, started="2021-01-01", status="running")
    assert read(path.parent, {}).statuses == {"finished": 1}
    put(path, status="failed")
    assert read(path.parent, {}).statuses == {"running": 1}
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
    runs, folder: Path, tmp_path: Path, capsys
) -> None:
    broken = []
    for settings, (name, content) in zip(runs.values(), DAMAGE, strict=False):
        broken.append(settings.folder / name)
        if content is None:
            broken[-1].unlink()
        else:
            broken[-1].write_text(content)
    sweep = read(folder, {})
    kept = list(runs)[len(DAMAGE) :]
    for frame in sweep.runs, sweep.curves:
        at = frame[["optimizer", "mu", "nu", "seed"]].drop_duplicates()
        assert sorted(at.itertuples(index=False, name=None)) == sorted(kept)
    assert sweep.statuses == {"finished": len(kept)}

    arguments = [str(folder), "--to", str(tmp_path / "to"), "--metric", "final_loss"]
    assert command.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"toy paper: 25 finished; {len(DAMAGE)} damaged and left out\n")
    said = sorted(err.splitlines())
    assert len(said) == len(DAMAGE)
    for line, path in zip(said, sorted(broken), strict=True):
        assert line.startswith(f"damaged: {path}: cannot be used (")
        assert line.endswith("); delete the folder of this run, and run it again")

    for settings in runs.values():
        (settings.folder / "manifest.json").write_text("{")
    assert guarded(lambda: command.main(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: .*/manifest\.json: cannot be used \(", line)


@pytest.mark.parametrize("below", ["", "below"])
def test_pictures_have_a_place_that_can_be_written(
    folder: Path, tmp_path: Path, capsys, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    to = str(tmp_path / "file" / below)
    arguments = [str(folder), "nu=0.5", "--metric", "final_loss", "--to", to]
    assert guarded(lambda: command.main(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: {to}: .*; must be a place that can be written\n", err)
    assert (tmp_path / "file").read_text() == "mine"


def test_cells_have_the_mean_and_interval_of_their_seeds(toy: Maker, runs, folder: Path) -> None:
    pretend(toy(_optimizer={"mu": 0.0, "nu": 0.5}, _seed=3), [], {"final_loss": None})
    pretend(
        toy(_optimizer={"mu": 0.0, "nu": 0.5}, _seed=4), [], {"final_loss": 1e9}, status="diverged"
    )
    sweep = read(folder, {})
    by = command.varied(sweep)
    assert by == ["optimizer", "mu", "nu"]
    table = command.summary(sweep, by)
    assert list(dict.fromkeys(table.metric)) == ["final_loss", "train_loss"]
    table = table[table.metric == "final_loss"].set_index(by)
    assert len(table) == 12
    for (optimizer, mu, nu), cell in table.iterrows():
        values = [loss(optimizer, mu, nu, seed) for seed in SEEDS]
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
    manifest = {"figure": None, "scale": "paper", "axes": axes, "runs": [{"status": "finished"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    runs.to_csv(tmp_path / "runs.csv", index=False)
    assert command.main([str(tmp_path), "--to", str(tmp_path / "drawn")]) == 0
    assert "| 0.9 | 1 | ∞ | – (0 of 1) | −∞ |" in (tmp_path / "drawn" / "table.md").read_text()
    pictures = [path.name for path in (tmp_path / "drawn").glob("*.png")]
    assert pictures == ["map-bound.png"]  # of the others there is nothing to be drawn


def test_an_axis_that_the_optimizer_decides_is_none(toy: Maker) -> None:
    for name, epsilon in ("adam", 1e-8), ("laprop", 1e-15):
        for nu in NU:
            pretend(toy(_optimizer={"name": name, "epsilon": epsilon, "nu": nu}), [], {"x": nu})
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


def test_all_is_written_and_said(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder.parents[1])
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
        expected = stats.mean([loss(*key, seed) for seed in SEEDS])
        assert row.final_loss == pytest.approx(expected.centre)
        assert row.final_loss_high == pytest.approx(expected.high, rel=1e-6)
        assert (row.final_loss_count, row.seeds) == (3, 3)
    for path in target.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert len(picture.getcolors(2**24)) > 20
    page = (target / "index.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.split("</script>", 1)[1])

    assert command.main(["toy", "--metric", "train_loss", "--to", "there", "--by", "mu"]) == 0
    assert {path.name for path in Path("there").glob("*.png")} == {
        "map-train_loss.png", "curves-train_loss.png"
    }  # fmt: skip


def test_collected_tables_are_drawn_too(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """What stands in results, and what ``scripts.collect`` makes of any sweep."""
    sweep = read(folder, {})
    tables = tmp_path / "tables"
    tables.mkdir()
    sweep.runs.to_csv(tables / "runs.csv", index=False)
    sweep.curves.to_parquet(tables / "curves.parquet")
    manifest = {
        "figure": None, "scale": "paper", "axes": sweep.axes,
        "runs": [{"status": "finished"}] * 36, "unfinished_seeds": [],
    }  # fmt: skip
    (tables / "manifest.json").write_text(json.dumps(manifest))
    for place, target in (str(folder), "one"), (str(tables), "other"):
        arguments = [place, "nu=0.5", "--to", str(tmp_path / target), "--metric", "final_loss"]
        assert command.main(arguments) == 0
    one, other = (pd.read_csv(tmp_path / name / "table.csv") for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other[list(one)])


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
    folder: Path, tmp_path: Path, browser: Any
) -> None:
    from selenium.webdriver import ActionChains

    assert command.main([str(folder), "--to", str(tmp_path / "page")]) == 0
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
