"""``python -m experiments.check`` finds what a task forgets to track, and nothing in ours."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TASKS, TOYS, Maker

from experiments import check
from experiments.check import Kill, kills

# More than one step, so that something is carried from step to step.
LONGER = {"mnist_divergence": ["task.epochs=2"]}


@pytest.mark.parametrize("steps", range(1, 40))
def test_a_run_is_killed_first_last_and_in_the_midst(steps: int) -> None:
    planned = kills(steps)
    assert {Kill(1, False), Kill(steps, False)} <= set(planned)
    assert all(1 <= kill.step <= steps for kill in planned if not kill.midway)
    (midway,) = (kill for kill in planned if kill.midway)
    assert 0 <= midway.step < steps
    assert len(set(planned)) == len(planned) <= 5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("forkserver")
def test_every_task_resumes_to_the_same_numbers(make: Maker, tmp_path: Path, task: str) -> None:
    if task in ("translation", "roberta") and importlib.util.find_spec("fairseq") is None:
        pytest.skip("fairseq is not installed: make fairseq")
    settings = make(f"task={task}", "scale=smoke", *LONGER.get(task, ()))
    same, line = check.check(settings, tmp_path)
    assert same, line
    assert line.startswith(f"{task}: ")
    assert "killed after step 1" in line
    assert "not compared" not in line
    assert "shows only in a run of more steps" not in line


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project with the task of a user: one Python file and one YAML file."""
    folder = tmp_path / "checkout"
    for name in ("experiments", "configs", "laprop"):
        ignored = shutil.ignore_patterns("__pycache__", "build")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(TOYS / "forgets.py", folder / "experiments")
    shutil.copy(TOYS / "forgets.yaml", folder / "configs" / "task")
    return folder


def checked(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.check", *arguments],
        cwd=checkout.parent,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_what_a_task_forgets_to_track_is_named_with_its_step(checkout: Path) -> None:
    """The first number that can differ is the one of the first step after the first kill."""
    done = checked(checkout, "task=forgets", "task.tracked=false,true", "task.random=false,true")
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    forgets, forgets_random, tracks, tracks_random = done.stdout.splitlines()
    for line in forgets, forgets_random:
        start = "forgets: loss differs first at step 1: "
        assert line.startswith(start)
        before, after = line.removeprefix(start).split(" resumed")[0].split(" undisturbed, ")
        assert float(before) != float(after)
        assert "killed after step 1" in line
        assert line.endswith("has to be named in run.track")
    killed = "killed after step 1, after step 4, in step 7, after step 8, after step 9"
    assert tracks == f"forgets: 9 steps, 21 values, all the same, {killed}"
    assert tracks_random == (
        f"forgets: 9 steps, 21 values, all the same, {killed}; "
        "not compared, as they differ in any two runs: chance"
    )
    assert not (checkout.parent / "outputs").exists()


def test_a_task_that_fails_says_when(checkout: Path) -> None:
    done = checked(checkout, "task=forgets", "task.fails_late=true")
    assert done.returncode == 1
    assert done.stdout == (
        "forgets: fails: RuntimeError: the mean is lost, killed after step 1, after step 4\n"
    )
    done = checked(checkout, "task=forgets", "task.steps=none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: task.steps=none: must be a valid integer")


def written(folder: Path, records: list[dict], summary: dict, status: str = "finished") -> Path:
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "manifest.json").write_text(json.dumps({"status": status, "diverged_at": None}))
    return folder


def test_the_first_difference_is_found(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": [0.5, 2.0]}, {"step": 2, "loss": [0.25, 1.0]}]
    one = written(tmp_path / "one", log, {"best": 1.0})
    same = written(tmp_path / "same", log, {"best": 1.0})
    assert check.difference(one, same, set()) is None
    other = [log[0], {"step": 2, "loss": [0.25, 1.5]}]
    batch = written(tmp_path / "batch", other, {"best": 2.0})
    assert check.difference(one, batch, set()) == ("loss", "at step 2", "1", "1.5")
    assert check.difference(one, batch, {"loss"}) == ("best", "in the summary", "1", "2")
    assert check.unrepeatable(one, batch) == {"loss", "best"}
    short = written(tmp_path / "short", log[:1], {"best": 1.0})
    assert check.difference(one, short, set())[:2] == ("step", "at step 2")
    more = written(tmp_path / "more", log, {"best": 1.0, "worst": 3.0})
    assert check.difference(one, more, set()) == ("worst", "in the summary", "nothing", 3.0)
    ended = written(tmp_path / "ended", log, {"best": 1.0}, status="diverged")
    assert check.difference(one, ended, set())[:2] == ("status", "in the manifest")
