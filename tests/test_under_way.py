"""A sweep while it runs: signals, readers that are gone, refusals, status, plans."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, files, statuses, wait_for
from swept import AT_ONCE, LAUNCHERS, SEEDS, Sweep

pytestmark = pytest.mark.slow


# Signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["the group", "the parent"])
def test_a_signal_ends_the_workers_too(sweep: Sweep, alone: dict[str, list[bytes]], whom: str):
    """Ctrl-C reaches every process of a terminal, a scheduler's SIGTERM the parent alone."""
    process = sweep.start(*LAUNCHERS["joblib"])
    wait_for(lambda: len(sweep.at_work(process)) == 2 and sweep.midway(), 200)
    children = psutil.Process(process.pid).children(recursive=True)
    if whom == "the group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    assert process.wait(100) == (130 if whom == "the group" else 143)
    psutil.wait_procs(children, timeout=100)
    assert not any(child.is_running() for child in children)
    runs = statuses(sweep.output)
    cut = [key for key, m in runs.items() if m["status"] == "interrupted"]
    assert cut
    assert {m["status"] for m in runs.values()} <= {"interrupted", "finished"}
    assert not any(map(sweep.lost, cut))
    first, last = (sweep.folder / "err").read_text().splitlines()
    assert first == "runs in progress stop after this step; a second signal stops them now"
    assert last.endswith(f"{len(cut)} interrupted; run the same command again to resume")
    begun = len(sweep.starts())
    sweep.to_its_end(**AT_ONCE)
    assert sweep.numbers() == alone
    assert len(sweep.starts()) - begun == len(SEEDS) - len(runs) + len(cut)


def test_workers_end_after_their_step_when_the_parent_is_killed(
    sweep: Sweep, alone: dict[str, list[bytes]]
):
    process = sweep.start(*LAUNCHERS["joblib"])
    wait_for(lambda: len(sweep.at_work(process)) == 2 and sweep.midway(), 200)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    time.sleep(0.3)  # a run may have been about to begin
    begun = len(sweep.starts())
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert gone
    assert not alive
    assert len(sweep.starts()) == begun  # no other run begins
    runs = statuses(sweep.output)
    cut = [key for key, m in runs.items() if m["status"] == "interrupted"]
    assert cut
    assert {m["status"] for m in runs.values()} <= {"interrupted", "finished"}
    assert not any(map(sweep.lost, cut))
    sweep.to_its_end(**AT_ONCE)
    assert sweep.numbers() == alone


def test_a_sweep_whose_workers_a_signal_kills_is_not_started_again(sweep: Sweep):
    """A scheduler's SIGTERM reaches workers, too, while they still start."""
    process = sweep.start(*LAUNCHERS["joblib"])

    def workers() -> list[psutil.Process]:
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it ended meanwhile
                if "LokyProcess" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    wait_for(workers, 200)
    for child in [psutil.Process(process.pid), *workers()]:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    assert process.wait(100) == 143
    first, last = (sweep.folder / "err").read_text().splitlines()
    assert first == "runs in progress stop after this step; a second signal stops them now"
    assert last.endswith("run the same command again to resume")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_second_signal_does_not_wait_for_a_long_step(sweep: Sweep, launcher: str):
    process = sweep.start(*LAUNCHERS[launcher], "task.pause=1000")

    def in_its_step() -> bool:
        logs = sweep.output.glob("toy/*/metrics.jsonl")
        return sum(log.stat().st_size > 0 for log in logs) == (2 if launcher == "joblib" else 1)

    wait_for(in_its_step, 200)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "a second signal" in (sweep.folder / "err").read_text(), 20)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in sweep.said()
    assert (
        sweep.said().splitlines()[-1].endswith("interrupted; run the same command again to resume")
    )
    assert {m["status"] for m in statuses(sweep.output).values()} == {"interrupted"}


# Readers that are gone ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "gone"),
    [
        ("basic", "| head -1"),
        ("basic", "2>&-"),
        ("joblib", "| head -1"),
        ("joblib", ">&- 2>&-"),
    ],
)
def test_a_sweep_outlives_its_readers(
    sweep: Sweep, alone: dict[str, list[bytes]], launcher: str, gone: str
):
    sweep.before = ["sh", "-c", f'"$@" {gone}', "sh"]
    assert sweep.start(*LAUNCHERS[launcher], **AT_ONCE).wait(200) == 0, sweep.said()
    assert sweep.numbers() == alone


def test_ctrl_c_ends_a_sweep_whose_reader_it_ends(sweep: Sweep):
    sweep.before = ["bash", "-c", 'set -o pipefail; "$@" | tee log', "bash"]
    process = sweep.start()
    wait_for(sweep.midway, 200)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    assert (
        (sweep.folder / "err")
        .read_text()
        .splitlines()[-1]
        .endswith("run the same command again to resume")
    )
    assert {m["status"] for m in statuses(sweep.output).values()} <= {"interrupted", "finished"}


# Before, and from elsewhere -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("task=toy", "optimizer=laprop,adam", "optimizer.weight_decay=0.01"),
            r"error: optimizer\.decay_by_lr=false: torch\.optim\.AdamW scales the decay by lr; .*",
        ),
        (
            ("task=rainbow", "task.game=breakout,nosuchgame"),
            r"error: task\.game=nosuchgame: ale-py has adventure, .*",
        ),
    ],
)
@pytest.mark.usefixtures("toy_configs")
def test_what_one_run_refuses_stops_the_sweep_before_it_begins(
    main, tmp_path: Path, arguments: tuple[str, ...], line: str
):
    code, _, err = main("-m", *arguments)
    assert code == 2
    assert re.fullmatch(line, err.strip())
    assert not statuses(tmp_path / "outputs")


def test_status_from_another_terminal(sweep: Sweep):
    def status(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "scripts.status", f"output={sweep.output}", *arguments],
            cwd=sweep.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        return done.stdout.splitlines()

    def one_failed() -> bool:
        return any(m["status"] == "failed" for m in statuses(sweep.output).values())

    process = sweep.start("task.pause=0.5", "task.fail_at=0,-1")
    wait_for(lambda: one_failed() and sweep.midway(), 200)
    command, whole, *runs = status()
    assert command.startswith("python -m experiments -m task=toy ")
    assert re.match(r"\d of 8, \d failed(, .* left)?$", whole)
    assert any(re.match(r"  laprop fail_at 0 seed \d: failed: RuntimeError: ", run) for run in runs)
    assert any(re.match(r"  laprop fail_at -1 seed \d: \d+ of 30", run) for run in runs)
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 130
    _, whole, *runs = status("--runs")
    assert whole.endswith("it has ended; run the same command again to resume")
    assert len(runs) == 8
    assert sum(run.endswith("interrupted") for run in runs) == 1


def test_a_plan_starts_nothing(sweep: Sweep, undisturbed: Sweep):
    """By a timed beginning first; then by what a finished run of the same task cost."""
    planned = sweep.start("plan=true", "task.steps=2000", "task.starts=''", **AT_ONCE)
    assert planned.wait(200) == 0
    lines = (sweep.folder / "out").read_text().splitlines()
    assert lines[0] == "runs: 4 of toy; finished before: 0"
    assert re.fullmatch(r"4 x laprop: each .*, by a beginning of .*", lines[2])
    assert lines[-1] == "nothing was started"
    assert not sweep.output.exists()

    sweep.take_one(undisturbed)
    before = files(sweep.output)
    assert (
        sweep.start("plan=true", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2").wait(200) == 0
    )
    lines = (sweep.folder / "out").read_text().splitlines()
    assert lines[0] == "runs: 4 of toy; finished before: 1"
    assert re.fullmatch(r"3 x laprop: each \d+ s, .* of memory, by 1 finished", lines[2])
    assert re.match(r"all: \d+ s of work, \d+ s with 2 at a time; memory ", lines[3])
    assert files(sweep.output) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_plan_that_is_ended_leaves_no_process(sweep: Sweep, number: int):
    process = sweep.start("plan=true", "task.pause=1000")
    wait_for(lambda: sweep.at_work(process), 200)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert "Traceback" not in sweep.said()


def test_output_folders_are_taken_as_typed(main, tmp_path: Path):
    for name in ("runs of é", "ünï (1)", "it's {here}"):
        code, _, err = main("task=rosenbrock", "scale=smoke", "threads=1", f"output={name}")
        assert code == 0, err
        assert len(statuses(tmp_path / name)) == 1
