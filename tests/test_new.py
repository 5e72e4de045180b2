"""``python -m experiments.new``: its two files run as they are; a name that does not do is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import files

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
    monkeypatch.setattr(sys, "argv", ["python -m experiments.new", "mole"])
    assert new.main(copy) == 0
    said = capsys.readouterr().out
    assert said.startswith("experiments/mole.py and configs/task/mole.yaml are written; next:")
    assert "NAME" not in said
    assert "NAME" not in (copy / "experiments" / "mole.py").read_text()
    python(copy, "experiments", "task=mole", "scale=smoke", "schedule.lr.shape=cosine")
    (summary,) = copy.glob("outputs/mole/*/summary.json")
    numbers = json.loads(summary.read_text())
    records = (summary.parent / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["valid_loss"] for line in records]
    assert len(losses) == 4
    assert numbers["best_valid_loss"] == min(losses) < losses[0]
    assert "all the same" in python(copy, "experiments.check", "task=mole")


def test_a_task_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "task").write_text("a file where the folder should be")
    monkeypatch.setattr(sys, "argv", ["python -m experiments.new", "mole"])
    assert guarded(lambda: new.main(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    place = tmp_path / "configs" / "task" / "mole.yaml"
    assert line == f"error: {place}: Not a directory; must be a place that can be written"
    assert list((tmp_path / "experiments").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_task_that_is_interrupted_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    for folder in "experiments", "configs/task":
        (tmp_path / folder).mkdir(parents=True)
    real, calls = Path.write_text, []

    def write_text(self: Path, text: str, **more: str) -> int:
        calls.append(real(self, text, **more))
        if len(calls) == 2:
            raise error
        return calls[-1]

    monkeypatch.setattr(Path, "write_text", write_text)
    monkeypatch.setattr(sys, "argv", ["python -m experiments.new", "mole"])
    with pytest.raises(error if isinstance(error, type) else OSError):
        new.main(tmp_path)
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Mole", "Mole: must be a name of lower-case letters, digits and _"),
        ("my-task", "my-task: must be a name of lower-case"),
        ("class", "class: must be a name"),
        ("café", "café: must be a name of lower-case letters"),
        ("null", "null: must be another name; this one means something to YAML or Hydra"),
        ("inf", "inf: must be another name"),
        ("_self_", "_self_: must be another name"),
        ("../mole", "../mole: must be a name"),
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
