"""Damaged files and places that cannot be written: each is named in one line, nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import files
from tables import grid, pretend

from experiments.common import collect as collecting
from experiments.common.collect import collect
from experiments.common.config import expand
from experiments.common.files import Damaged
from experiments.common.messages import ConfigError
from experiments.common.terminal import guarded
from scripts import collect as command
from scripts import sweep

# Collecting ---------------------------------------------------------------------------------------

DAMAGE = [
    ("manifest.json", '{"status": "finished"}'),  # as if nothing else had been written
    ("summary.json", ""),
    ("summary.json", '{"final_lo'),
    ("summary.json", '["final_loss"]'),
    ("summary.json", '{"final_loss": [1, 2, 3]}'),
    ("metrics.jsonl", None),
    ("metrics.jsonl", '{"step": 1, "train_loss": 1.0}\n{"step": 2, "tra'),
    ("metrics.jsonl", '{"step": 1}\n{"step"\n{"step": 3}\n'),
    ("metrics.jsonl", "[1]\n"),
    ("metrics.jsonl", '{"loss": 1.0}\n'),
    ("metrics.jsonl", '{"step": 1, "loss": "small"}\n'),
    ("metrics.jsonl", '{"step": 1, "loss": [1, 2, 3]}\n'),
    ("layers.csv", ""),
    ("layers.csv", "layer,size\n0,8\n3,1"),  # of 16
]


def only_line(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints of an error: one line, and nothing else."""
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize(("name", "content"), DAMAGE)
def test_a_damaged_file_of_a_run_is_named_and_nothing_written(
    tmp_path: Path, results_folder: Path, monkeypatch, capsys, name: str, content: str | None
):
    every = expand(grid(tmp_path))
    for settings in every:
        pretend(settings)
    path = every[3].folder / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["collect", *grid(tmp_path)])
    line = only_line(guarded(command.main), capsys)
    assert line.startswith(f"error: {path}: cannot be used (")
    assert line.endswith("; delete the folder of this run, and run it again")
    assert not results_folder.exists()


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("manifest.json", -20),
        ("runs.csv", -3),
        ("curves.parquet", -20),
        ("runs.csv", "a line less"),
    ],
)
def test_damaged_tables_are_named_and_left_alone(
    tmp_path: Path, results_folder: Path, name: str, keep: int | str
):
    """Also where a whole line is missing, which no reader of such files can see."""
    every = expand(grid(tmp_path))
    for settings in every[:4]:
        pretend(settings)
    target = collect(grid(tmp_path), partial=True).folder
    for settings in every[:2]:
        shutil.rmtree(settings.folder)
    for settings in every[4:]:
        pretend(settings)
    content = (target / name).read_bytes()
    lines = content.splitlines(keepends=True)
    if isinstance(keep, int):
        (target / name).write_bytes(content[:keep])
    else:  # the rows of a run that is still in the output folder are not needed
        (target / name).write_bytes(b"".join(lines[:1] + lines[2:]))
    before = {path: (target / path).read_bytes() for path in files(target)}
    with pytest.raises(Damaged, match=re.escape(f"{target / name}: cannot be used (")) as caught:
        collect(grid(tmp_path))
    assert str(caught.value).endswith("; restore it by git, or collect the runs again")
    assert {path: (target / path).read_bytes() for path in files(target)} == before
    if name != "runs.csv":
        return
    (target / "runs.csv").write_bytes(content)
    assert len(collect(grid(tmp_path)).runs) == len(every)


def test_tables_are_of_one_scale(tmp_path: Path, results_folder: Path):
    output = f"output={tmp_path / 'outputs'}"
    with pytest.raises(ConfigError) as caught:
        collect(["task=rosenbrock", "scale=smoke,paper", output], partial=True)
    assert str(caught.value) == (
        "scale=smoke,paper: must be one scale, because each scale has its own tables"
    )
    assert files(tmp_path) == set()


def test_tables_have_a_place_that_can_be_written(
    tmp_path: Path, results_folder: Path, monkeypatch, capsys
):
    for settings in expand(grid(tmp_path)):
        pretend(settings)
    monkeypatch.setattr(sys, "argv", ["collect", *grid(tmp_path)])
    for place in results_folder, results_folder / "fig05", results_folder / "fig05" / "short":
        place.write_text("mine")
        line = only_line(guarded(command.main), capsys)
        assert line.startswith(f"error: {results_folder / 'fig05' / 'short'}: Not a directory; ")
        assert place.read_text() == "mine"
        place.unlink()
        place.mkdir()
    assert guarded(command.main) == 0


def test_the_old_tables_return_if_the_new_ones_cannot_take_their_place(tmp_path: Path, monkeypatch):
    target = tmp_path / "results" / "smoke"
    target.mkdir(parents=True)
    (target / "old.csv").touch()
    real = Path.rename

    def rename(self: Path, other: Path) -> Path:
        if other == target and (self / "new.csv").exists():
            raise OSError(28, "No space left on device")
        return real(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(OSError, match="No space"), collecting._replaced(target) as build:
            (build / "new.csv").touch()
    assert files(tmp_path) == {"results/smoke/old.csv"}
    with collecting._replaced(target) as build:
        assert list(build.iterdir()) == []
        (build / "new.csv").touch()
    assert files(tmp_path) == {"results/smoke/new.csv"}
    assert [path.name for path in target.parent.iterdir()] == ["smoke"]


def test_damaged_tables_are_named_by_the_sweeps_command(tmp_path: Path, capsys):
    runs = pd.DataFrame({"optimizer": "adam", "nu": [0.5, 0.9], "seed": 0, "loss": [1.0, 2.0]})
    runs.to_csv(tmp_path / "runs.csv", index=False)
    axes = {"optimizer": "optimizer.name", "nu": "optimizer.nu", "seed": "seed"}
    manifest = {"figure": "f", "task": "toy", "scale": "paper", "settings": {}, "axes": axes}
    whole = json.dumps(manifest | {"summary": ["loss"], "runs": []})
    for name, content in (
        ("manifest.json", whole[:-9]), ("manifest.json", "{}"), ("manifest.json", "[]"),
        ("curves.parquet", "nothing"), ("runs.csv", ""), ("runs.csv", "optimizer,nu,seed\nadam,0."),
        ("runs.csv", "optimizer,seed,loss\nadam,0,1\n"),  # without nu, without loss, a row twice
        ("runs.csv", "optimizer,nu,seed\nadam,0.9,0\n"),
        ("runs.csv", "optimizer,nu,seed,loss\nadam,0.9,0,1\nadam,0.9,0,1\n"),
    ):  # fmt: skip
        (tmp_path / "manifest.json").write_text(whole)
        (tmp_path / name).write_text(content)
        arguments = [str(tmp_path), "--to", str(tmp_path / "to")]
        assert guarded(lambda arguments=arguments: sweep.main(arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / name}: cannot be used (")
        assert line.endswith("); restore it by git, or collect the runs again")
        (tmp_path / "curves.parquet").unlink(missing_ok=True)
    assert not (tmp_path / "to").exists()
