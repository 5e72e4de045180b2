"""The ten minutes on a GPU: what is packed, what runs there, and what is unpacked."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TOYS
from hypothesis import given
from hypothesis import strategies as st

from experiments.common import data
from experiments.common.collect import collect
from experiments.common.config import expand
from experiments.common.messages import ConfigError
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


# Imports what the steps import, where no package can be imported but those of the machine, those
# that these need here, and the wheels.
IMPORTS = """
import importlib, json, sys
from importlib.metadata import packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

has, wheels = ([canonicalize_name(name) for name in names] for names in json.loads(sys.argv[1]))
installed = {canonicalize_name(n) for names in packages_distributions().values() for n in names}
allowed, waiting = set(wheels), has
while waiting:
    name = waiting.pop()
    if name not in allowed:
        allowed.add(name)
        for needed in map(Requirement, requires(name) or () if name in installed else ()):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(needed.name))
owners = {
    module: {canonicalize_name(name) for name in names}
    for module, names in packages_distributions().items()
    if module not in ("experiments", "laprop", "scripts")
}

class Lacking:
    def find_spec(self, name, path=None, target=None):
        of = owners.get(name.partition(".")[0])
        if of and not of & allowed:
            raise ModuleNotFoundError(f"{name} is of {', '.join(of)}", name=name)

sys.meta_path.insert(0, Lacking())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def test_the_machine_has_or_is_given_all_that_the_steps_import() -> None:
    lines = (ROOT / "tests" / "gpu_machine.txt").read_text().splitlines()
    has = [line for line in lines if not line.startswith("#")]
    given = [*gpu_pack.WHEELS, *gpu_pack.FROM_SOURCE]
    commands = [command.split() for step in STEPS for command in step.commands]
    tasks = {
        f"experiments.{settings.task_name}"
        for words in commands if words[0] == "experiments" for settings in expand(words[1:])
    }  # fmt: skip
    common = [f"experiments.common.{name}" for name in ("config", "execution", "launch", "watch")]
    modules = [*common, *sorted(tasks), "scripts.benchmarks.optimizer", "conftest", "in_triton"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps([has, given]), *modules],
        env=os.environ | {"PYTHONPATH": path, "HYPOTHESIS_NO_PLUGINS": "1"},  # those of trio
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_package_to_pack_has_a_version() -> None:
    names = gpu_pack.WHEELS + gpu_pack.FROM_SOURCE
    assert [text.partition("==")[0] for text in gpu_pack.pinned(names)] == list(names)
    with pytest.raises(ConfigError, match=r"^constraints.txt: nonesuch: missing; "):
        gpu_pack.pinned(("pooch", "nonesuch"))


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
    with pytest.raises(ConfigError, match="large"):
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


@pytest.mark.slow
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


def test_a_signal_stops_every_step_and_keeps_what_came(parts, tmp_path, monkeypatch):
    """It comes when the first step has logged; the second has not begun."""
    work, back = tmp_path / "work", tmp_path / "back"
    work.mkdir()
    steps = (Step("endless", None, 10, [], [ENDLESS]), Step("late", "endless", 10, [], [FINISHED]))
    monkeypatch.setattr(gpu_runs, "STEPS", steps)
    monkeypatch.setattr(gpu_runs, "places", lambda: (work, work))
    arguments = ["gpu_runs", "--output", str(back), "--parts", str(parts), "--rehearse"]
    monkeypatch.setattr(sys, "argv", arguments)
    ended = threading.Event()

    def send() -> None:
        while not any(log.stat().st_size for log in work.glob("outputs/toy/*/metrics.jsonl")):
            if ended.wait(0.1):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert gpu_runs.main() == 0
    finally:
        ended.set()
        sender.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    notes = json.loads((back / "report.json").read_text())["steps"]
    assert notes["endless"]["stopped"]
    assert notes["endless"]["exit_codes"] == [128 + signal.SIGTERM]
    assert notes["late"] == {"started_s": None, "stopped": True}
    with (back / "reached.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["status"] == "interrupted"
    assert int(row["records"]) > 0


def test_a_line_that_is_just_written_is_no_record(tmp_path):
    environment = {"hardware": {"gpu": None}}
    manifest = {"task": "toy", "figure": None, "scale": "smoke", "key": "k", "status": "running"}
    manifest |= {"settings": {"optimizer": {"name": "adam"}, "seed": 0}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"environments": [environment]}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    row = gpu_runs.reached(tmp_path)
    assert (row["records"], row["last_step"]) == (2, 2)


def test_results_that_cannot_be_gathered_end_no_step_and_spoil_no_file(
    parts, tmp_path, monkeypatch, capsys
):
    work, back = tmp_path / "work", tmp_path / "back"
    work.mkdir()
    machine = Machine(parts, work, work, back, 1, rehearse=True)
    (back / "runs.tar.gz").write_text("as before")
    add, calls = tarfile.TarFile.add, []

    def full(self: tarfile.TarFile, *arguments: object) -> None:
        calls.append((back / "runs.tar.gz").read_bytes())
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(tarfile.TarFile, "add", full)
    (work / "outputs" / "toy" / "k").mkdir(parents=True)
    (work / "outputs" / "toy" / "k" / "manifest.json").write_text("{}")
    monkeypatch.setattr(gpu_runs, "reached", lambda folder: {"task": "toy"})
    quick = [Step(name, None, 10, [], ["this --version"]) for name in ("one", "two")]
    machine.run(quick)
    assert "not gathered: OSError(28, 'No space left on device')" in capsys.readouterr().out
    assert calls[0] == b"as before"  # the file in its place stays whole until the new one is
    assert len(json.loads((back / "report.json").read_text())["steps"]) == 2
    assert not list(back.glob(".*"))


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
