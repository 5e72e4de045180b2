"""What is said of a sweep: labels, results, time that is left; and settings that go to a worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TASKS, Maker
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.common import checkpoint, launch, plan, progress, status
from experiments.common.config import compose_settings, expand
from experiments.common.launch import Jobs, labels
from experiments.common.settings import plain_settings, restored
from experiments.common.status import RunFolder, State

WITH = [
    *([f"task={task}"] for task in TASKS),
    *(["task=gpt", f"optimizer={name}"] for name in ("adamw", "lion", "sgd")),
    ["task=gpt", "schedule.lr.shape=cosine", "schedule.lr.warmup=3"],
    ["task=rosenbrock", "seed=[1,2]", "optimizer.nu=[0,0.5]", "output=a/$b"],
]


@pytest.mark.parametrize("overrides", WITH, ids=" ".join)
def test_settings_in_json_are_the_same_settings(overrides: list[str]):
    settings = compose_settings([*overrides, "scale=smoke"])
    again = restored(json.loads(json.dumps(plain_settings(settings))))
    assert again == settings
    assert again.key == settings.key


def test_a_job_carries_any_text():
    job = json.dumps({"output": "a/${b} é", "task": {"x": [1, None, "'"]}})
    config = Jobs().load_sweep_config(OmegaConf.create({"hydra": {}}), [job])
    assert json.loads(config.job) == json.loads(job)


def test_labels_name_what_varies():
    every = expand(["task=rosenbrock", "optimizer=adam,sgd", "optimizer.lr=0.1,0.2", "seed=0,1"])
    assert labels(every)[:2] == ["adam lr 0.1 seed 0", "adam lr 0.1 seed 1"]
    assert len(set(labels(every))) == len(every) == 8
    mixed = expand(["task=rosenbrock,one_gradient"])
    assert labels(mixed)[1].startswith("one_gradient laprop")
    assert labels(every[:1]) == ["adam"]


@given(
    ended=st.lists(st.floats(1, 1e5), min_size=1, max_size=9),
    waiting=st.integers(0, 50),
    processes=st.integers(1, 8),
)
def test_what_is_left_of_equal_runs(ended: list[float], waiting: int, processes: int):
    states = [State("finished", seconds=s) for s in ended] + [State()] * waiting
    seconds = status.left(states, processes)
    if waiting:
        mean = sum(ended) / len(ended)
        assert seconds == pytest.approx(waiting * mean / processes)
    else:
        assert seconds is None


def test_what_is_left_while_the_first_run_is_under_way():
    half = State("running", process={"step": 50, "total": 100, "seconds_left": 60.0})
    assert status.left([half, State(), State()], 1) == pytest.approx(60 + 2 * 120)
    assert status.left([State("running", process={}), State()], 1) is None
    assert status.overview([half, State("failed"), State("diverged", seconds=5.0)], 1) == (
        "1 of 3, 1 failed, 1 diverged, 60 s left"
    )


def killed(plain: dict[str, object]) -> None:
    """In place of the run whose beginning is timed."""
    os.kill(os.getpid(), signal.SIGKILL)


def exits(plain: dict[str, object]) -> None:
    """In place of the run whose beginning is timed."""
    os._exit(7)


ENDS = {"KILL": killed, 7: exits}


def run_folder(folder: Path, summary: dict[str, object], **manifest: object) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"status": "finished"} | manifest))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    return folder


@pytest.mark.parametrize(
    ("summary", "name", "says"),
    [
        ({"loss": 0.25, "accuracy": 0.91}, None, "loss 0.25"),
        ({"loss": 0.25, "accuracy": 0.91}, "accuracy", "accuracy 0.91"),
        ({"bleu": None, "loss": 2.0}, None, "loss 2"),
        ({"at": [3, 0, 1, 2]}, None, "at 1, median of 4 members"),
        ({"at": [3, None, 1, 2]}, None, "at 2, median of the 3 of 4 members that have one"),
        (
            {"steps_to_converge": [None, 265, None, 300]},
            None,
            "steps_to_converge 265, median of the 2 of 4 members that have one",
        ),
        ({"steps_to_converge": [None, None], "x_mean": [1, 2]}, None, "steps_to_converge never"),
        ({"steps_to_converge": None}, None, "steps_to_converge never"),
        ({"at": None}, None, ""),
        ({"at": None, "loss": 1.0}, "at", "at: no number"),
        ({"loss": 1.0, "err": 2}, "acc", "RESULT=acc is not in the summary: loss, err"),
        ({}, "acc", "RESULT=acc is not in the summary: it is empty"),
    ],
)
def test_the_main_result_of_a_run(tmp_path: Path, summary: dict, name: str | None, says: str):
    assert RunFolder(run_folder(tmp_path / "run", summary), "laprop", name).look().says == says


def test_a_run_whose_process_is_gone_is_not_under_way(tmp_path: Path):
    folder = run_folder(tmp_path / "run", {}, status="running")
    progress.Progress(folder).update(3, 9)
    assert RunFolder(folder, "laprop").look().status == "running"
    process = progress.read(folder)
    assert (process["step"], process["total"]) == (3, 9)
    (folder / "progress.json").write_text(json.dumps(process | {"pid": 2**22 + 1}))
    assert RunFolder(folder, "laprop").look().status == "stopped"
    (folder / "progress.json").write_text(json.dumps(process | {"pid": 10**30}))
    assert RunFolder(folder, "laprop").look().status == "stopped"
    (folder / "progress.json").write_text(json.dumps(process | {"host": "another"}))
    assert RunFolder(folder, "laprop").look().status == "running"


def test_a_process_that_has_ended_unheard_is_gone():
    child = subprocess.Popen(["sleep", "100"])
    one = {"host": socket.gethostname(), "pid": child.pid}
    assert status.lives(one)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not status.lives(one)
    child.wait()
    assert not status.lives(one)


def test_a_pid_that_another_process_has_got_is_not_the_run(tmp_path: Path):
    folder = run_folder(tmp_path / "run", {}, status="running")
    progress.Progress(folder).update(3, 9)
    process = progress.read(folder)
    assert status.lives(process)
    (folder / "progress.json").write_text(json.dumps(process | {"began": process["began"] - 5}))
    assert RunFolder(folder, "laprop").look().status == "stopped"
    assert not status.lives(progress.read(folder))
    del process["began"]  # as earlier versions wrote it
    (folder / "progress.json").write_text(json.dumps(process))
    assert RunFolder(folder, "laprop").look().status == "running"


def test_sweeps_of_the_same_runs_are_ended_apart(make: Maker, monkeypatch: pytest.MonkeyPatch):
    runs = [make("task=rosenbrock", f"seed={seed}") for seed in (0, 1)]
    one = launch.begin(runs, "one", 1)
    one.stop.touch()
    monkeypatch.setattr(launch, "process", lambda: progress.process() | {"pid": 2**22 + 1})
    other = launch.begin(runs, "other", 1)
    assert one.record == other.record
    assert one.stop.exists()
    assert not other.stop.exists()
    again = status.sweeps(runs[0].output)[0]
    assert [sweep.stop for sweep in again] == [other.stop]


def test_joblib_takes_the_cores_that_this_process_may_use():
    launcher = OmegaConf.create({"_target_": "plugin.JoblibLauncher", "n_jobs": -1})
    every = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(every)})
        assert launch.processes(launcher, 9) == 1
    finally:
        os.sched_setaffinity(0, every)
    launcher.n_jobs = 5
    assert launch.processes(launcher, 9) == 5


TORN = ("", '{"status": 0.', "3", "[]", "null", '"status"', b"\xff\xfe")
RERUN = "delete the folder of this run, and run it again"


def spoil(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("content", TORN)
@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
def test_a_damaged_file_of_a_run_is_named(tmp_path: Path, name: str, content: str | bytes):
    folder = run_folder(tmp_path / "run", {})
    spoil(folder / name, content)
    state = RunFolder(folder, "laprop").look()
    assert state.status == "damaged"
    assert state.says.startswith(f"{folder / name}: cannot be used (")
    assert state.says.endswith(f"); {'run it again' if 'manifest' in name else RERUN}")
    assert len(state.says.splitlines()) == 1


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_a_log_without_its_end_is_named(tmp_path: Path, status: str):
    folder = run_folder(tmp_path / "run", {"loss": 0.5}, status=status, diverged_at=3)
    log = folder / "metrics.jsonl"
    assert RunFolder(folder, "laprop").look().status == status
    log.write_text('{"step": 1}\n{"step": 2')
    says = RunFolder(folder, "laprop").look().says
    assert says == f"{log}: cannot be used (ValueError: its last line is cut off); {RERUN}"
    log.unlink()
    says = RunFolder(folder, "laprop").look().says
    assert says == f"{log}: cannot be used (No such file or directory); {RERUN}"
    log.mkdir()  # as for a file whose permissions do not let it be read
    says = RunFolder(folder, "laprop").look().says
    assert says == f"{log}: cannot be used (Is a directory); make it a file that can be read"


@pytest.mark.parametrize(
    "manifest",
    [
        {"status": 5},
        {"status": ["finished"]},
        {"status": "diverged"},
        {"status": "finished", "wall_time_s": "long"},
    ],
)
def test_a_manifest_of_another_kind_is_named(tmp_path: Path, manifest: dict[str, object]):
    folder = run_folder(tmp_path / "run", {})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    state = RunFolder(folder, "laprop").look()
    assert (state.status, "manifest.json: cannot be used" in state.says) == ("damaged", True)


@pytest.mark.parametrize(
    "content", [*TORN, '{"host": "here"}', '{"host": "h", "pid": 1, "step": 2}', '{"pid": "x"}']
)
def test_a_run_whose_progress_is_damaged_is_not_under_way(tmp_path: Path, content: str | bytes):
    folder = run_folder(tmp_path / "run", {}, status="running")
    spoil(folder / progress.NAME, content)
    assert RunFolder(folder, "laprop").look() == State("stopped")


def test_status_names_what_is_damaged_and_shows_the_rest(tmp_path: Path, monkeypatch, capsys):
    from scripts import status as command

    for i in range(3):
        run_folder(tmp_path / f"run{i}", {"loss": 0.5}, wall_time_s=1)
    (tmp_path / "run1" / "summary.json").write_text("{")
    runs = [{"folder": f"run{i}", "label": f"seed {i}", "result": None} for i in range(3)]
    record = {"command": "the command", "processes": 1, "parent": progress.process(), "runs": runs}
    (tmp_path / ".sweep").mkdir()
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path)])
    damaged = [
        *TORN, "{}", json.dumps(record | {"processes": "many"}), json.dumps(record | {"parent": 3})
    ]  # fmt: skip
    for i, content in enumerate(damaged):
        spoil(tmp_path / ".sweep" / f"bad{i}.json", content)
    assert command.main() == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", len(damaged))
    (tmp_path / ".sweep" / "good.json").write_text(json.dumps(record))
    assert command.main() == 0
    out, err = capsys.readouterr()
    summary = tmp_path / "run1" / "summary.json"
    lines = out.splitlines()
    assert lines[:2] == ["the command", "2 of 3, 1 damaged"]
    assert lines[2].startswith(f"  seed 1: damaged: {summary}: cannot be used (")
    assert len(lines) == 3
    for i, line in enumerate(sorted(err.splitlines())):
        assert line.startswith(f"error: {tmp_path / '.sweep' / f'bad{i}.json'}: cannot be used (")
        assert line.endswith("; delete it; the command of the sweep writes it again")


def test_a_plan_knows_what_data_a_task_reads(make: Maker):
    assert plan.needed("mnist_divergence") == {"mnist"}
    assert plan.needed("imdb") == {"imdb", "glove"}
    assert plan.needed("rosenbrock") == set()


def test_runs_alike_differ_in_what_costs_nothing(make: Maker):
    base = plan.alike(make("task=rosenbrock"))
    assert plan.alike(make("task=rosenbrock", "seed=3", "optimizer.lr=0.5")) == base
    for other in ("seed=[0,1]", "task.updates=200", "optimizer=adam", "threads=2"):
        assert plan.alike(make("task=rosenbrock", other)) != base


def test_a_plan_takes_committed_times_of_the_same_settings_alone(make: Maker):
    same = make("figure=fig11", "scale=small")
    assert plan.by_manifests(same) is not None
    for other in ("task.steps=40000", "task.hidden=64", "task.n_step=7"):
        assert plan.by_manifests(make("figure=fig11", "scale=small", other)) is None
    assert plan.by_manifests(same).by.endswith(" in results/ (CPU threads: 1)")
    assert plan.by_manifests(make("figure=fig11", "scale=small", "device=cuda")) is None


def test_a_plan_says_how_the_process_that_it_timed_ended(make: Maker, monkeypatch):
    for end, says in (("KILL", "SIGKILL"), (7, "exit status 7")):
        monkeypatch.setattr(plan, "_begin", ENDS[end])
        assert plan.by_a_beginning(make("task=rosenbrock")) == f"its process ended with {says}"


def test_the_disk_that_a_run_needs_is_that_of_the_files_that_remain(tmp_path: Path):
    gone = (
        *(*checkpoint.CHECKPOINTS, ".checkpoint.pt.7.new", "best.old.pt", ".best.pt.7.new"),
        *("progress.json", "fairseq/checkpoint_last.pt"),
    )
    folder = tmp_path / "fairseq"  # a user's folder may have any name
    for name in ("metrics.jsonl", "pictures/0.png", "best.pt", *gone):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(7 if name in gone else 10))
    assert plan.weight(folder) == 30


def test_a_command_whose_reader_is_gone_ends_without_a_traceback(tmp_path: Path):
    runs = [{"folder": f"toy/{i}", "label": f"laprop seed {i}", "result": None} for i in range(9)]
    record = {"command": "python -m experiments", "processes": 1, "runs": runs}
    (tmp_path / ".sweep").mkdir()
    text = json.dumps(record | {"parent": progress.process()})
    (tmp_path / ".sweep" / "one.json").write_text(text)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.status", str(tmp_path), "--runs"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
