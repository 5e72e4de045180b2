"""``python -m experiments.new``: its two files run as they are; a name that does not do is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import new
from experiments.common.terminal import guarded

pytestmark = pytest.mark.slow


def python(copy: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_task_runs_at_once_and_resumes(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["python -m experiments.new", "mine"])
    assert new.main(copy) == 0
    said = capsys.readouterr().out
    assert said.startswith("experiments/mine.py and configs/task/mine.yaml are written; next:")
    assert "NAME" not in said
    assert "NAME" not in (copy / "experiments" / "mine.py").read_text()
    python(copy, "experiments", "task=mine", "scale=smoke", "schedule.lr.shape=cosine")
    (summary,) = copy.glob("outputs/mine/*/summary.json")
    numbers = json.loads(summary.read_text())
    records = (summary.parent / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["valid_loss"] for line in records]
    assert len(losses) == 4
    assert numbers["best_valid_loss"] == min(losses) < losses[0]
    assert "all the same" in python(copy, "experiments.check", "task=mine")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Mine", "Mine: must be a name of lower-case letters, digits and _"),
        ("my-task", "my-task: must be a name of lower-case"),
        ("class", "class: must be a name"),
        ("../mine", "../mine: must be a name"),
        ("gpt", "gpt: there is experiments/gpt.py and configs/task/gpt.yaml already"),
        ("common", "common: there is experiments/common already"),
    ],
)
def test_a_name_that_does_not_do_is_refused_in_one_line(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["python -m experiments.new", name])
    assert guarded(new.main) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1
