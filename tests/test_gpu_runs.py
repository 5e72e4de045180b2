"""The ten minutes on a GPU: what is packed, what runs there, and what is unpacked."""

import csv
import itertools
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TOYS
from hypothesis import given
from hypothesis import strategies as st

from experiments.common import data
from experiments.common.collect import collect
from experiments.common.config import expand
from experiments.common.terminal import guarded
from scripts import gpu_pack, gpu_runs
from scripts.gpu_runs import STEPS, Machine, Step

FINISHED = "experiments task=rosenbrock scale=smoke optimizer=laprop"
ENDLESS = "experiments task=toy task.steps=1000000 task.pause=0.05"


def keys(command: str) -> set[str]:
    return {s.key for s in expand(command.split()[1:])}


def test_the_steps_name_each_other_in_order_and_end_in_time():
    names = [step.name for step in STEPS]
    for i, step in enumerate(STEPS):
        assert step.after is None or step.after in names[:i]
        assert step.until * 60 + gpu_runs.GRACE < 600
        assert step.commands
        assert step.rehearsal


def test_the_runs_are_those_of_the_figures():
    """The runs have the keys of the figures' grids, so that they count for the committed tables."""
    steps = {step.name: step for step in STEPS}
    wanted = {"iwslt14": "fig05 scale=short task.updates=2000", "resnet20": "resnet20 scale=paper",
              "fig12": "fig12 scale=short"}  # fmt: skip
    for name, figure in wanted.items():
        runs = [keys(command) for command in steps[name].commands]
        assert set().union(*runs) <= keys(f"experiments figure={figure}")
    assert [len(keys(command)) for command in steps["iwslt14"].commands] == [1] * 6
    for step in steps.values():
        for command in (c for c in step.rehearsal if c.startswith("experiments ")):
            assert {s.scale for s in expand(command.split()[1:])} == {"smoke"}
    for command in steps["roberta"].commands:
        (settings,) = expand(command.split()[1:])
        assert (settings.task.width, settings.task.layers, settings.task.updates) == (768, 12, 4000)


@given(st.lists(st.integers(0, 50), max_size=20))
def test_every_item_is_in_one_part_and_no_part_is_too_large(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("items")
    items = [folder / str(i) for i in range(len(sizes))]
    for item, size in zip(items, sizes, strict=True):
        item.write_bytes(bytes(size))
    parts = gpu_pack.distributed(items, 50)
    assert sorted(itertools.chain.from_iterable(parts)) == sorted(items)
    assert all(sum(item.stat().st_size for item in part) <= 50 for part in parts)


def test_an_item_without_room_is_named(tmp_path):
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(SystemExit, match="large"):
        gpu_pack.distributed([tmp_path / "large"], 99)


def test_images_arrive_as_they_were(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    records = np.zeros((10000, 3073), np.uint8)
    records[:, 0] = rng.integers(10, size=10000)
    records[::50, 1:] = rng.integers(256, size=(200, 3072))
    (tmp_path / "data_batch_1.bin").write_bytes(records.tobytes())
    monkeypatch.setattr(data, "fetch", lambda name: tmp_path)
    labels, sheet = gpu_pack.images(tmp_path / "cifar10")
    assert labels.stat().st_size == 10000
    gpu_runs.images_back(sheet, tmp_path / "back")
    assert (tmp_path / "back" / "data_batch_1.bin").read_bytes() == records.tobytes()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed parts, but without packages and data, which this machine has."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "1").mkdir()
    with tarfile.open(folder / "1" / "program.tar.gz", "w:gz") as tar:
        for name in ("laprop", "experiments", "configs"):
            tar.add(ROOT / name, name)
        tar.add(TOYS / "toy.py", "experiments/toy.py")
        tar.add(TOYS / "toy.yaml", "configs/task/toy.yaml")
    (folder / "1" / "commit").write_text("0123abc")
    return folder


def test_what_is_finished_can_be_collected_and_what_is_not_is_told_apart(parts, tmp_path):
    steps = [
        Step("done", None, 10, [], [FINISHED]),
        Step("endless", None, 4, [], [ENDLESS]),
        Step("late", "endless", 3, [], [FINISHED]),
        Step("broken", None, 10, [], ["experiments task=nothing"]),
    ]
    # two folders, as on a machine with much memory
    work, store = (
        tmp_path / "work",
        tmp_path / "store",
    )
    back, output = tmp_path / "back", tmp_path / "outputs"
    work.mkdir()
    store.mkdir()
    machine = Machine(parts, work, store, back, 1.5, rehearse=True)
    assert machine.run(steps) == 1  # the broken one
    report = json.loads((back / "report.json").read_text())
    notes = report["steps"]
    assert notes["done"]["exit_codes"] == [0]
    assert not notes["done"]["stopped"]
    assert notes["endless"]["stopped"]
    assert notes["late"] == {"started_s": None, "stopped": True}
    assert report["too_large"] == []
    assert len(list(back.iterdir())) <= 8

    with (back / "reached.csv").open() as stream:
        rows = {row["task"]: row for row in csv.DictReader(stream)}
    assert rows["rosenbrock"]["status"] == "finished"
    assert rows["toy"]["status"] == "interrupted"
    assert int(rows["toy"]["records"]) > 0

    gpu_pack.unpack(back, output)
    gpu_pack.unpack(back, output)  # a second time changes nothing
    results = collect([*FINISHED.split()[1:], f"output='{output}'"])
    assert len(results.runs)
    places = json.loads((results.folder / "manifest.json").read_text())["environments"]
    assert {place["commit"] for place in places} <= {"0123abc"}
    assert not (output / "toy").exists()
    (left,) = (output / "reached" / "toy").iterdir()
    records = (left / "metrics.jsonl").read_text().splitlines()
    assert len(records) == int(rows["toy"]["records"])


def test_a_signal_stops_every_step_and_keeps_what_came(parts, tmp_path):
    work, back = tmp_path / "work", tmp_path / "back"
    work.mkdir()
    machine = Machine(parts, work, work, back, 10, rehearse=True)
    machine.stop()
    assert machine.run(list(STEPS)) == 0
    notes = json.loads((back / "report.json").read_text())["steps"]
    assert all(note["started_s"] is None for note in notes.values())


def test_a_step_waits_for_what_the_steps_between_would_wait_for(parts, tmp_path):
    """The benchmark runs alone also where RoBERTa is the only other step."""
    work, back = tmp_path / "work", tmp_path / "back"
    work.mkdir()
    chosen = [s for s in STEPS if s.name in ("benchmark", "roberta")]
    quick = [s._replace(rehearsal=["this --version"]) for s in chosen]
    machine = Machine(parts, work, work, back, 1, rehearse=True)
    machine.run(quick)
    notes = json.loads((back / "report.json").read_text())["steps"]
    assert notes["roberta"]["started_s"] >= notes["benchmark"]["ended_s"]


def test_a_file_that_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_pack", "unpack", str(tmp_path / "none")])
    assert guarded(gpu_pack.main) == 2
    line = f"error: {tmp_path / 'none' / 'report.json'}: No such file or directory\n"
    assert capsys.readouterr() == ("", line)
