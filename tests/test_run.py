"""A run that was killed, interrupted or short of disk space ends with the right numbers."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SERVER, Maker, files, interrupt, manifest, wait_for
from filelock import FileLock
from forked import child

from experiments.common import checkpoint, execution, launch, progress, provenance, tracking
from experiments.common.execution import execute, outcome, status
from experiments.common.files import Damaged
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.settings import Settings
from experiments.common.tasks import task_module
from laprop import LaProp

NUMBERS = ("summary.json", "metrics.jsonl")

pytestmark = pytest.mark.usefixtures("forkserver")


def start(settings: Settings, **options: int):
    process = SERVER.Process(target=child, args=(settings,), kwargs=options)
    process.start()
    return process


def numbers(settings: Settings) -> dict[str, bytes]:
    return {name: (settings.folder / name).read_bytes() for name in NUMBERS}


def logged(settings: Settings) -> int:
    try:
        return (settings.folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


# Killed -------------------------------------------------------------------------------------------


def kill_and_compare(make_at, reference: dict[str, bytes], kills: int, longest: float) -> int:
    """Kill runs at random moments and resume them; compare each that ends; return how many did."""
    moments, done, ended = random.Random(1), 0, 0
    while done < kills or not ended:
        settings = make_at(ended)
        process = start(settings)
        process.join(moments.uniform(0.03, longest) if done < kills else None)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)  # 0: it had ended before the signal
        done += process.exitcode == -signal.SIGKILL
        assert status(settings) != "failed"
        if status(settings) == "finished":
            assert numbers(settings) == reference
            ended += 1
    return ended


def test_network_killed_ten_times_ends_with_the_same_bytes(toy: Maker, tmp_path: Path):
    def at(name: object) -> Settings:
        return toy(steps=60, pause=0.01, output=tmp_path / str(name), _checkpoint_every=0.02)

    alone = at("alone")
    assert execute(alone) == "finished"
    kill_and_compare(at, numbers(alone), kills=10, longest=0.6)
    assert files(at(0).folder) == files(alone.folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_ends_the_process(
    toy: Maker, tmp_path: Path, number: signal.Signals
):
    alone = toy(steps=30, output=tmp_path / "alone")
    execute(alone)
    settings = toy(steps=30, pause=0.02)
    process = start(settings)
    wait_for(lambda: logged(settings) >= 3)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert status(settings) == "interrupted"
    assert 3 <= checkpoint.load_checkpoint(settings.folder)["step"] < 30
    assert execute(settings) == "finished"
    assert numbers(settings) == numbers(alone)


def test_a_signal_in_the_last_step_ends_the_process_after_the_run(toy: Maker):
    """The run is done then, but the sweep does not begin another."""
    settings = toy(explode_at=4)
    interrupt(settings, after=5)
    assert status(settings) == "diverged"
    assert not list(settings.folder.glob("checkpoint*"))


def test_a_signal_outside_the_loop_ends_at_once(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    from experiments import toy as task

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(task, "train", lambda cfg, run: os.kill(os.getpid(), signal.SIGTERM))
    settings = toy()
    with pytest.raises(SystemExit) as caught:
        execute(settings)
    assert caught.value.code == 143
    assert status(settings) == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_in_the_midst_of_an_import_is_no_failure(
    toy: Maker, monkeypatch: pytest.MonkeyPatch
):
    """Python 3.11 turns what is raised while a class is made into a RuntimeError."""
    from experiments import toy as task

    class Signals:
        def __set_name__(self, owner: type, name: str) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(task, "train", lambda cfg, run: type("Made", (), {"field": Signals()}))
    settings = toy()
    with pytest.raises(SystemExit) as caught:
        execute(settings)
    assert caught.value.code == 143
    assert status(settings) == "interrupted"


# Checkpoints --------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_falls_back_to_the_one_before(toy: Maker, tmp_path: Path, capfd):
    alone = toy(output=tmp_path / "alone")
    execute(alone)
    settings = toy(_checkpoint_every=0.0)
    interrupt(settings, after=6)
    newest, older = (settings.folder / name for name in checkpoint.CHECKPOINTS)
    steps = [checkpoint.load(path)["step"] for path in (newest, older)]
    assert steps == [6, 5]

    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2 :] = b""
    newest.write_bytes(damaged)
    assert checkpoint.load_checkpoint(settings.folder)["step"] == 5
    assert "checkpoint.pt: damaged" in capfd.readouterr().err
    both = tmp_path / "both"
    shutil.copytree(settings.output, both)
    assert execute(settings) == "finished"
    assert numbers(settings) == numbers(alone)

    settings = toy(output=both)
    older = settings.folder / older.name
    older.write_bytes(b"nothing that torch knows")
    capfd.readouterr()
    assert execute(settings) == "finished"
    assert "starts from the beginning" in capfd.readouterr().err
    assert numbers(settings) == numbers(alone)


def test_the_checkpoint_before_is_named_where_it_is_the_one_that_does_not_fit(toy: Maker):
    settings = toy(_checkpoint_every=0.0)
    interrupt(settings, after=6)
    newest, older = (settings.folder / name for name in checkpoint.CHECKPOINTS)
    newest.write_bytes(b"")
    saved = checkpoint.load(older)
    del saved["tracked"]["model"]
    checkpoint.save(saved, older)
    with pytest.raises(Damaged, match=re.escape(f"{older}: cannot be used")):
        execute(settings)


def test_a_log_shorter_than_the_checkpoint_says_is_not_padded(toy: Maker, tmp_path: Path, capfd):
    alone = toy(output=tmp_path / "alone")
    execute(alone)
    settings = toy()
    interrupt(settings, after=6)
    (settings.folder / "metrics.jsonl").write_text("")  # as after a power failure
    assert execute(settings) == "finished"
    assert "newer than metrics.jsonl" in capfd.readouterr().err
    assert numbers(settings) == numbers(alone)


def test_a_checkpoint_of_another_structure_is_named_and_kept(toy: Maker, tmp_path: Path):
    """As after an edit of the task that changes its model, but not its version."""
    alone = toy(output=tmp_path / "alone")
    execute(alone)
    settings = toy()
    interrupt(settings, after=6)
    path = settings.folder / "checkpoint.pt"
    whole = path.read_bytes()
    changes = [
        lambda saved: saved["tracked"].pop("model"),
        lambda saved: saved["tracked"]["model"].update({"0.bias": torch.zeros(3)}),
        lambda saved: saved["tracked"].update(mean=torch.zeros(1)),
        lambda saved: saved["tracked"].update(best=3),
        lambda saved: saved["updates"].append(1),
        lambda saved: saved.update(step="six"),
        lambda saved: saved.pop("torch"),
    ]
    for change in changes:
        saved = checkpoint.load(path)
        change(saved)
        checkpoint.save(saved, path)
        changed = path.read_bytes()
        with pytest.raises(Damaged) as caught:
            execute(settings)
        line = str(caught.value)
        assert re.fullmatch(rf"{path}: cannot be used \(.*\); delete the folder of this .*", line)
        assert manifest(settings)["failure"] == line
        assert path.read_bytes() == changed
        path.write_bytes(whole)
    assert execute(settings) == "finished"
    assert numbers(settings) == numbers(alone)


def test_what_is_no_checkpoint_of_a_run_is_left_aside(toy: Maker, tmp_path: Path, capfd):
    alone = toy(output=tmp_path / "alone")
    execute(alone)
    settings = toy(_checkpoint_every=0.0)
    interrupt(settings, after=6)
    for name, state in zip(checkpoint.CHECKPOINTS, ({}, {"metrics_bytes": "6"}), strict=True):
        checkpoint.save(state, settings.folder / name)
    (settings.folder / ".checkpoint.pt.7.new").touch()  # as a process leaves it that is killed
    assert execute(settings) == "finished"
    assert capfd.readouterr().err.count("damaged, not used") == 2
    assert numbers(settings) == numbers(alone)
    assert files(settings.folder) == files(alone.folder)


def test_a_damaged_log_is_refused_before_the_run_goes_on(toy: Maker):
    settings = toy()
    interrupt(settings, after=6)
    log = settings.folder / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:3] + b"\0" + whole[4:])
    with pytest.raises(Damaged, match=re.escape(f"{log}: cannot be used (ValueError: line 1 is")):
        execute(settings)
    log.write_bytes(whole)
    assert execute(settings) == "finished"


def test_a_run_whose_folder_cannot_be_made_is_one_line(toy: Maker, capfd):
    settings = toy()
    settings.folder.parent.mkdir(parents=True)
    settings.folder.touch()
    launch.run_one(settings)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"failed: {settings.folder}: FileExistsError: ")
    assert outcome(settings) == "failed"


def test_records_after_the_checkpoint_are_written_once(toy: Maker):
    settings = toy()
    interrupt(settings, after=4)
    with (settings.folder / "metrics.jsonl").open("a") as log:
        # written by a process that was then killed
        log.write('{"step": 4, "loss": 0.5}\n{"step": 5, "lo')
    execute(settings)
    lines = (settings.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(12))


def test_what_cannot_be_restored_is_refused_at_once(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    from experiments import toy as task

    def lists(cfg, run: Run) -> None:
        run.track(history=[1, 2])

    def objects(cfg, run: Run) -> None:
        run.track(carry={"numbers": np.zeros(3)})
        run.checkpoint()

    for train, text in (lists, "cannot restore a list"), (objects, "[Ww]eights"):
        monkeypatch.setattr(task, "train", train)
        with pytest.raises(Exception, match=text):
            execute(toy())
    assert not (toy().folder / "checkpoint.pt").exists()


def test_dictionaries_return_to_where_they_were_made():
    meta = torch.device("meta")  # in place of a GPU, another device than the checkpoint's
    state = {"a": torch.zeros(2), "t": torch.tensor(3), "new": (torch.ones(1), 5)}
    like = {"a": torch.zeros(2, device=meta), "t": torch.tensor(0)}
    placed = checkpoint._placed(state, like, meta)
    assert placed["a"].device == meta
    assert placed["t"].device.type == "cpu"
    assert placed["new"][0].device == meta
    assert placed["new"][1] == 5


# Ends ---------------------------------------------------------------------------------------------


def test_divergence_is_a_result_with_its_step(toy: Maker):
    settings = toy(explode_at=4)
    assert execute(settings) == "diverged"
    assert manifest(settings)["diverged_at"] == 4
    last = (settings.folder / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["loss"] is None  # strict JSON has no NaN
    assert json.loads((settings.folder / "summary.json").read_text())["loss"] is None
    assert execute(settings) == outcome(settings) == "diverged"


def test_divergence_above_a_limit(make: Maker):
    settings = make("task=rosenbrock", "scale=smoke")
    settings.folder.mkdir(parents=True)
    run = Run(settings)
    assert not run.diverged(2.0, 1, limit=2.0)
    assert not run.diverged(torch.tensor(-1.0), 2)
    assert run.diverged(torch.tensor(2.5), 3, limit=2.0)
    assert run.diverged_at == 3
    assert list(run.steps(10)) == []


def test_a_failed_run_says_why_and_is_tried_again(toy: Maker, tmp_path: Path):
    alone = toy(output=tmp_path / "alone")
    execute(alone)
    settings = toy(fail_at=5, _checkpoint_every=0.0)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="this step fails"):
            execute(settings)
        assert status(settings) == outcome(settings) == "failed"
        assert "raise RuntimeError" in manifest(settings)["error"]
    (settings.folder / "mended").touch()
    assert execute(settings) == "finished"
    assert "error" not in manifest(settings)
    assert numbers(settings) == numbers(alone)


def test_a_finished_run_is_not_touched_again(toy: Maker):
    settings = toy()
    execute(settings)
    before = {path: path.stat().st_mtime_ns for path in settings.folder.iterdir()}
    assert execute(settings) == "finished"
    assert {path: path.stat().st_mtime_ns for path in settings.folder.iterdir()} == before


def test_two_processes_never_do_the_same_run(toy: Maker):
    settings = toy(steps=100, pause=0.02)
    process = start(settings)
    wait_for(lambda: logged(settings) >= 1)
    assert execute(settings) == outcome(settings) == "busy"
    process.kill()
    process.join()
    lock = FileLock(settings.folder / ".lock", timeout=0)  # a killed process holds no lock
    lock.acquire()
    lock.release()
    assert outcome(settings) == "failed"


def test_to_ask_for_the_outcome_takes_no_lock(toy: Maker):
    """It could keep another process from executing the run."""
    settings = toy()
    settings.folder.mkdir(parents=True)
    with FileLock(settings.folder / ".lock"):
        assert outcome(settings) == "failed"


def test_a_full_disk_leaves_the_old_files(toy: Maker, tmp_path: Path):
    alone = toy(steps=90, output=tmp_path / "alone")
    execute(alone)
    settings = toy(steps=90, _checkpoint_every=0.0)
    interrupt(settings, after=60)  # so that the log, and not the manifest, is too large first
    before = {path.name: path.read_bytes() for path in settings.folder.glob("checkpoint*")}
    # With the first limit the log cannot grow, with the second no checkpoint can be written.
    size = (settings.folder / "metrics.jsonl").stat().st_size
    for limit in size + 1000, size + 3000:
        process = start(settings, limit=limit)
        process.join()
        assert process.exitcode == 1
        assert manifest(settings)["error"].endswith("OSError: [Errno 27] File too large\n")
        assert {p.name: p.read_bytes() for p in settings.folder.glob("checkpoint*")} == before
    assert execute(settings) == "finished"
    assert numbers(settings) == numbers(alone)


def test_a_manifest_that_cannot_be_written_hides_no_error(
    toy: Maker, monkeypatch: pytest.MonkeyPatch
):
    real, calls = execution.write_json, []

    def full(path: Path, data: object) -> None:
        calls.append(path.name)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(execution, "write_json", full)
    with pytest.raises(RuntimeError, match="this step fails"):
        execute(toy(fail_at=2))
    assert status(toy(fail_at=2)) == "running"  # the old file is still whole


def test_an_exit_with_a_reason_is_a_failure(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    def train(cfg: object, run: object) -> None:
        sys.exit("the data are gone")

    settings = toy()
    monkeypatch.setattr(task_module(settings.task_name), "train", train)
    with pytest.raises(RuntimeError, match="the data are gone"):
        execute(settings)
    assert status(settings) == "failed"
    assert "the data are gone" in manifest(settings)["failure"]


@pytest.mark.parametrize("code", [0, 3, None])
def test_an_exit_without_a_reason_is_a_failure_too(
    toy: Maker, monkeypatch: pytest.MonkeyPatch, code: int | None
):
    """Else the sweep would stop at this run whenever it is resumed."""

    def train(cfg: object, run: object) -> None:
        sys.exit(code)

    settings = toy()
    monkeypatch.setattr(task_module(settings.task_name), "train", train)
    with pytest.raises(RuntimeError, match=re.escape(f"sys.exit({code})")):
        execute(settings)
    line = train.__code__.co_firstlineno + 1
    assert manifest(settings)["failure"].endswith(f"({__file__}:{line})")


def test_an_exit_of_submitit_is_no_failure(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    """It has put the job back into the queue, where the run goes on from its checkpoint."""
    found: dict[str, Any] = {"__name__": "submitit.core.job_environment"}
    exec("def requeue(): raise SystemExit(-1)", found)
    settings = toy()
    task = task_module(settings.task_name)
    monkeypatch.setattr(task, "train", lambda cfg, run: found["requeue"]())
    with pytest.raises(SystemExit, match="-1"):
        execute(settings)
    assert status(settings) == "interrupted"


LIBRARIES = {  # where an error is raised: a call by the task that raises it
    "a package": lambda run: torch.zeros(2) @ torch.zeros(3),
    "a package's Python": lambda run: torch.nn.functional.max_pool1d(1, 2, padding="x"),
    "the standard library": lambda run: json.loads("{"),
    "a frozen module": lambda run: importlib.import_module("nowhere"),
    "laprop": lambda run: LaProp([torch.zeros(1)], lr=-1.0),
    "experiments.common": lambda run: run.table("numbers", 3),
    "a dataclass": lambda run: setattr(run.config.task, "steps", 3),
}


@pytest.mark.parametrize("place", LIBRARIES)
def test_an_error_in_a_library_is_placed_where_the_task_called_it(
    toy: Maker, monkeypatch: pytest.MonkeyPatch, place: str
):
    call, settings = LIBRARIES[place], toy()
    monkeypatch.setattr(task_module(settings.task_name), "train", lambda cfg, run: call(run))
    with pytest.raises(Exception) as caught:
        execute(settings)
    raised = caught.traceback[-1].path
    assert place == "a package" or str(raised) != __file__
    line = call.__code__.co_firstlineno
    assert manifest(settings)["failure"].endswith(f"({__file__}:{line})")


def test_an_error_of_the_disk_outside_of_the_task_has_no_line():
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_bytes(b"x")
    frames = caught.value.__traceback__.tb_next  # those of pathlib alone
    error = caught.value.with_traceback(frames)
    assert execution.failure(error) == "OSError: [Errno 28] No space left on device"


def test_a_task_whose_name_begins_like_a_folder_of_ours_is_the_users(
    toy: Maker, monkeypatch: pytest.MonkeyPatch
):
    """``experiments/common_voice.py`` is not in ``experiments/common``."""
    file = str(ROOT / "experiments" / "common_voice.py")
    text = "import torch\ndef train(cfg, run):\n    torch.zeros(2) @ torch.zeros(3)\n"
    found: dict[str, Any] = {}
    exec(compile(text, file, "exec"), found)
    settings = toy()
    monkeypatch.setattr(task_module(settings.task_name), "train", found["train"])
    with pytest.raises(RuntimeError):
        execute(settings)
    assert manifest(settings)["failure"].endswith(f"({file}:3)")


def test_a_tracker_that_fails_costs_no_result(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    def offline(*_: object) -> None:
        raise ConnectionError("no such host")

    monkeypatch.setattr(tracking.Tracker, "finish", offline)
    settings = toy(_checkpoint_every=0.0)
    with pytest.raises(ConnectionError):
        execute(settings)
    assert status(settings) == "finished"
    assert execute(settings) == "finished"
    assert not {*checkpoint.CHECKPOINTS, progress.NAME} & files(settings.folder)


def test_output_that_is_no_folder_is_bad_input(toy: Maker, tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=f"output={file}: .*must be a folder"):
        execute(toy(output=file))


def test_a_resumed_run_names_every_program_it_was_made_by(
    toy: Maker, monkeypatch: pytest.MonkeyPatch
):
    """A run that began before a refactor goes on after it, since its key is the same."""
    monkeypatch.setattr(execution, "program", lambda task: "before")
    settings = toy(_checkpoint_every=0.0)
    interrupt(settings, after=6)
    assert [place["program"] for place in manifest(settings)["environments"]] == ["before"]
    monkeypatch.setattr(execution, "program", lambda task: "after")
    assert execute(settings) == "finished"
    assert [p["program"] for p in manifest(settings)["environments"]] == ["before", "after"]
    shutil.rmtree(settings.folder)
    execute(settings)  # a fresh run names only the present program
    assert [place["program"] for place in manifest(settings)["environments"]] == ["after"]


def test_wall_time_and_memory_add_up_over_resumes(toy: Maker):
    settings = toy(pause=0.01, _checkpoint_every=0.0)
    interrupt(settings, after=6)
    first = manifest(settings)
    saved = checkpoint.load_checkpoint(settings.folder)
    assert 6 * 0.01 <= saved["wall_time"] <= first["wall_time_s"] + 0.001
    execute(settings)
    last = manifest(settings)
    assert last["wall_time_s"] >= saved["wall_time"] + 6 * 0.01 - 0.001
    assert last["peak_memory_bytes"] >= saved["peak_memory"] > 1e7


def test_memory_is_the_runs_own(toy: Maker):
    """Neither what an earlier run freed nor what a child of it used counts."""
    execute(toy(_seed=1))
    before = resident()
    ballast: list[object] = [torch.ones(4_000_000) for _ in range(40)]
    ballast.append(ballast)  # so that only the next collection of garbage frees it
    del ballast
    with_child(before + 500_000_000)
    execute(toy())
    assert manifest(toy())["peak_memory_bytes"] < before + 200e6


def test_memory_of_a_runs_child_counts():
    here, size = torch.device("cpu"), resident() + 300_000_000
    for _ in range(2):  # the second child needs no more than the first
        provenance.reset_peak_memory(here)
        with_child(size)
        assert provenance.peak_memory(here) > size


def resident() -> int:
    """The bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def with_child(size: int) -> None:
    """Let a child process use so many bytes, and end."""
    subprocess.run([sys.executable, "-c", f"b'x' * {size}"], check=True)


# Numbers ------------------------------------------------------------------------------------------


def test_numbers_of_all_kinds_become_strict_json(make: Maker):
    settings = make("task=rosenbrock", "scale=smoke", "seed=[0,1]")
    settings.folder.mkdir(parents=True)
    run = Run(settings)
    run.log(
        1,
        tensor=torch.tensor([1.5, torch.nan]),
        half=torch.tensor([2.0, -torch.inf], dtype=torch.bfloat16),
        array=np.array([1, 2]),
        scalar=np.float32(0.5),
        whole=3,
    )
    run.close(completed=True)
    record = json.loads((settings.folder / "metrics.jsonl").read_text())
    assert record == {
        "step": 1, "tensor": [1.5, None], "half": [2.0, None], "array": [1, 2], "scalar": 0.5,
        "whole": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="loss: 3 numbers for 2 members"):
        run.summary(loss=torch.zeros(3))


def test_streams_depend_on_purpose_and_seed_alone(toy: Maker):
    def draws(*asked: tuple[str, int | None], seed: int = 0) -> list[float]:
        settings = toy(_seed=seed)
        settings.folder.mkdir(parents=True, exist_ok=True)
        run = Run(settings)
        return [float(torch.rand(1, generator=run.generator(*ask))) for ask in asked]

    a, b = draws(("a", None), ("b", None))
    assert a != b
    assert draws(("b", None), ("a", None)) == [b, a]
    assert draws(("a", 3), seed=5) == draws(("a", None), seed=3)
    first, second = draws(("a", None), ("a", None))  # the same stream goes on
    assert first == a
    assert second != a


def test_a_seed_alone_and_as_a_list_of_one_give_the_same_numbers(make: Maker):
    """They have the same key."""
    drawn = []
    for seed in "seed=3", "seed=[3]":
        settings = make("task=rosenbrock", "scale=smoke", seed)
        settings.folder.mkdir(parents=True, exist_ok=True)
        run = Run(settings)
        drawn.append([settings.key, torch.rand(1), torch.rand(1, generator=run.generator("x"))])
    assert drawn[0] == drawn[1]


def test_global_generators_are_seeded_by_the_run(toy: Maker, tmp_path: Path):
    torch.manual_seed(99)
    one, other = toy(), toy(output=tmp_path / "other")
    execute(one)
    torch.rand(5)
    execute(other)
    assert numbers(one) == numbers(other)
    third = toy(_seed=1)
    execute(third)
    assert numbers(third) != numbers(one)


def test_a_gpu_would_compute_in_full_float32(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def train(cfg: Any, run: Run) -> None:
        seen.append([torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32])

    monkeypatch.setattr(task_module("toy"), "train", train)
    execute(toy())
    assert seen == [[False, False]]
    assert torch.backends.cudnn.allow_tf32  # the default
