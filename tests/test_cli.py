"""``python -m experiments`` as a user meets it: help, sweeps, launchers, bad input, wandb."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import FIGURES, ROOT, TASKS, files, statuses

from experiments.common import config
from scripts import wandb_sweep

CLI = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ("task=rosenbrock", "scale=smoke", "threads=1")


# Help and single runs -----------------------------------------------------------------------------


def test_help_is_ours_and_needs_no_torch(cli: CLI, tmp_path: Path):
    done = cli("--help", PYTHONVERBOSE="", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for name in (
        *TASKS,
        *FIGURES,
        "optimizer: adam",
        "tracking: none, wandb",
        "scale: paper",
        "-m",
    ):
        assert name in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "pandas", "numpy", "experiments.common.config"}
    assert files(tmp_path) == set()


def test_a_run_in_one_process_says_where_it_is(main, tmp_path: Path):
    code, out, err = main(*SMALL)
    assert (code, err) == (0, "")
    (key,) = statuses(tmp_path / "outputs")
    assert out.splitlines() == [
        "runs: 1 of rosenbrock; finished before: 0",
        f"finished: outputs/rosenbrock/{key}",
        "finished: 1, diverged: 0, busy: 0, failed: 0",
    ]
    assert files(tmp_path / "outputs") == {
        f"rosenbrock/{key}/{name}"
        for name in (".lock", "config.yaml", "manifest.json", "metrics.jsonl", "summary.json")
    }
    assert "finished before: 1" in main(*SMALL)[1]


def test_settings_with_a_default_need_no_line_in_yaml(main, tmp_path: Path):
    assert main(*SMALL, "optimizer.weight_decay=0.1", "optimizer.decay_by_lr=true")[0] == 0
    (run,) = (tmp_path / "outputs" / "rosenbrock").iterdir()
    assert "weight_decay: 0.1" in (run / "config.yaml").read_text()


# Bad input ----------------------------------------------------------------------------------------

BAD = {
    # arguments after `task=rosenbrock`: what the one line must contain
    ("task.sigmaa=1",): ["task.sigmaa=1", "did you mean sigma?", "sigma, noise, updates"],
    ("optimizer.beta=3",): ["optimizer.beta=3", "lr, mu, nu, epsilon"],
    ("scal=small",): ["scal=small", "did you mean scale?"],
    ("nu=0.5",): ["nu=0.5", "did you mean optimizer.nu=0.5?"],
    ("output=",): ["output=", "path of a folder"],
    ("optimizer.nu=1.5",): ["optimizer.nu=1.5", "at least 0 and less than 1"],
    ("optimizer.nu=[0.1,1]",): ["optimizer.nu=1:", "at least 0 and less than 1"],
    ("optimizer.nu=[]",): ["optimizer.nu=[]", "must not be empty"],
    ("optimizer.lr=fast",): ["optimizer.lr=fast", "a number, at least 0"],
    ("optimizer.lr=true",): ["optimizer.lr=true", "a number, at least 0"],
    ("optimizer.lr=inf",): ["optimizer.lr=inf", "finite"],
    ("optimizer.lr=interval(0,1)", "-m"): ["optimizer.lr=interval(0,1)", "a,b,c"],
    ("optimizer.weight_decay=[0,1]",): ["optimizer.weight_decay=[0,1]", "a number"],
    ("optimizer.decay_by_lr=5",): ["optimizer.decay_by_lr=5", "true or false"],
    ("seed=-1",): ["seed=-1", "an integer, at least 0"],
    ("seed=1.5",): ["seed=1.5", "an integer"],
    ("seed=",): ["seed=", "an integer"],
    ("seed=${range:a}",): ["seed=${range:a}", "missing 1 required"],
    ("threads=0",): ["threads=0", "an integer, at least 1, or null"],
    ("checkpoint_every=soon",): ["checkpoint_every=soon", "a number, at least 0"],
    ("task.noise=Width",): ["task.noise=Width", "halfwidth, width", "did you mean width?"],
    ("task.start=[1]",): ["task.start", "a list of 2 values"],
    ("task.name=other",): ["task.name=other", "task=other"],
    ("task=rosenbrok",): ["task=rosenbrok", "did you mean rosenbrock?", *TASKS],
    ("task=null",): ["task=null", *TASKS],
    ("~task",): ["~task"],
    ("optimizer=lapropp",): ["optimizer=lapropp", "did you mean laprop?", "adam"],
    ("figure=fig002",): ["figure=fig002", "did you mean fig02?", *FIGURES],
    ("figure=fig02", "scale=small"): ["scale=small", "paper, smoke"],
    ("scale=tiny",): ["scale=tiny", "paper, short, small, smoke"],
    ("tracking=wandbb",): ["tracking=wandbb", "did you mean wandb?", "none"],
    ("tracking.mode=never",): ["tracking.mode=never", "auto, online, offline"],
    ("hydra/launcher=joblb", "-m"): ["hydra/launcher=joblb", "did you mean joblib?", "basic"],
    ("device=foo",): ["device=foo", "auto, cpu, cuda or cuda:<index>"],
    ("device=cuda:7",): ["device=cuda:7", "auto, cpu"],
    ("output=/dev/null/runs",): ["output=/dev/null/runs", "a folder that can be written"],
    ("optimizer=adam,laprop",): ["optimizer=adam,laprop", "add -m"],
    ("optimizer.nu=[0.1",): ["optimizer.nu=[0.1", "key=value"],
    ("a=b=c",): ["a=b=c", "key=value"],
    ("device",): ["device", "key=value"],
    ("-m", "seed=range(0,30)", "optimizer.nu=0,0.5,0.9,1.0"): ["optimizer.nu=1.0", "less than 1"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_is_one_line(main, tmp_path: Path, arguments: tuple[str, ...]):
    task = [] if any(a.startswith(("task=", "~task", "figure=")) for a in arguments) else SMALL[:1]
    code, out, err = main(*task, *arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for part in BAD[arguments]:
        assert part in line
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("optimizer.nu=0.5",), ("task=rosenbrock", "-m", "seed=0,-1")],
    ids=["no task", "last of a sweep"],
)
def test_bad_input_is_one_line_from_a_process(cli: CLI, tmp_path: Path, arguments):
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(("error: task=null: one is needed", "error: seed=-1: must be"))
    assert list(tmp_path.iterdir()) == []


def test_wandb_that_is_not_installed(main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = main(*SMALL, "tracking=wandb")
    assert code == 2
    assert err.splitlines() == [
        "error: tracking=wandb: not installed; pip install 'laprop[wandb]' first"
    ]
    assert list(tmp_path.iterdir()) == []


# Tracking -----------------------------------------------------------------------------------------


def test_wandb_offline_holds_all_and_stays_in_the_output_folder(cli: CLI, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    done = cli(
        "task=mnist_divergence", "figure=fig01", "scale=smoke", "optimizer=laprop",
        "optimizer.lr=[0.001,0.003]", "seed=0", "tracking=wandb", "tracking.mode=offline",
        HOME=str(home), LAPROP_DATA=os.environ.get("LAPROP_DATA", str(data_folder())),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "finished: 1, diverged: 0, busy: 0, failed: 0"
    assert {name.split("/")[0] for name in files(tmp_path)} == {"outputs"}
    (key,) = statuses(tmp_path / "outputs")
    (log,) = (tmp_path / "outputs").rglob("*.wandb")
    settings, history, summary, run = read_wandb(log)
    (artifact,) = wandb_artifacts(log)
    assert (artifact.name, artifact.type) == (f"mnist_divergence-{key}", "run")
    folder = tmp_path / "outputs" / "mnist_divergence" / key
    assert {entry.path: entry.digest for entry in artifact.manifest.contents} == {
        name: base64.b64encode(hashlib.md5((folder / name).read_bytes()).digest()).decode()
        for name in ("config.yaml", "manifest.json", "metrics.jsonl", "summary.json")
    }
    assert settings["optimizer"]["lr"] == [0.001, 0.003]
    assert settings["seed"] == 0
    assert (run.run_id, run.run_group, run.job_type) == (key, "fig01", "smoke")
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [row["step"] for row in logged]
    for row, record in zip(history, logged, strict=True):
        assert row["train_loss/_type"] == "histogram"
        assert sum(row["train_loss/values"]) == len(record["train_loss"]) == 2
        bins, losses = row["train_loss/bins"], record["train_loss"]
        assert (bins[0], bins[-1]) == pytest.approx((min(losses), max(losses)))
    assert (summary["step"], summary["train_loss/_type"]) == (logged[-1]["step"], "histogram")


def test_wandb_takes_scalars_and_closes_a_failed_run(tmp_path: Path):
    """One process makes several runs, as in a sweep, and the second of them fails."""
    program = """
import forked
from experiments import toy
from experiments.common import config
from experiments.common.execution import execute
for fail_at in (-1, 3):
    optimizer = config.Optimizer(name="laprop", lr=0.01, mu=0.9, nu=0.99, epsilon=1e-15)
    settings = config.Settings(
        task_name="toy", task=toy.Config(steps=6, explode_at=4, fail_at=fail_at),
        optimizer=optimizer, seed=0, scale="paper", figure=None, device="cpu", threads=1,
        output="outputs", checkpoint_every=0,
        tracking=config.Tracking(name="wandb", mode="offline"),
    )
    try:
        execute(settings)
    except RuntimeError:
        pass
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logs = sorted((tmp_path / "outputs").rglob("*.wandb"), key=lambda p: p.stat().st_mtime_ns)
    (settings, history, summary, run), (_, short, _, _) = map(read_wandb, logs)
    assert [len(wandb_artifacts(log)) for log in logs] == [1, 0]  # the failed run has no summary
    assert run.run_group == "toy"
    assert settings["optimizer"]["nu"] == 0.99
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4]  # diverged at 4
    assert [row["step"] for row in short] == [0, 1, 2, 3]
    assert history[4]["loss"] is None
    assert summary["best_at"] == min(range(4), key=lambda i: history[i]["loss"])
    assert [m["status"] for m in statuses(tmp_path / "outputs").values()].count("failed") == 1


@pytest.mark.parametrize("grid", [["figure=fig10", "scale=small"], ["figure=fig04", "scale=smoke"]])
def test_a_wandb_sweep_is_the_figures_grid(grid: list[str], tmp_path: Path):
    """The agent's command lines, cell by cell, are exactly the runs of the grid."""
    made = yaml.safe_load(yaml.safe_dump(wandb_sweep.sweep([*grid, f"output={tmp_path}"])))
    assert made["method"] == "grid"
    command = made["command"]
    assert command[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    assert command[-2:] == ["tracking=wandb", "${args_no_hyphens}"]
    cells = itertools.product(*(entry["values"] for entry in made["parameters"].values()))
    keys = []
    for cell in cells:
        arguments = [f"{k}={v}" for k, v in zip(made["parameters"], cell, strict=True)]
        (settings,) = config.expand([*command[4:-1], *arguments])
        assert settings.tracking.name == "wandb"
        keys.append(settings.key)
    wanted = [settings.key for settings in config.expand([*grid, f"output={tmp_path}"])]
    assert sorted(keys) == sorted(wanted)
    assert len(set(keys)) == len(keys) > 3


def test_a_list_of_grids_is_no_wandb_sweep():
    with pytest.raises(config.ConfigError, match=r"figure=fig05 scale=short: its grid is 2 grids"):
        wandb_sweep.sweep(["figure=fig05", "scale=short"])


def data_folder() -> Path:
    from experiments.common import data

    return data.fetch("mnist").parent


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file, which is seven bytes and then a log in LevelDB's format."""
    data, at, record = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at < len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield record
            record = b""


def wandb_artifacts(path: Path) -> list[Any]:
    """The artifacts of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in wandb_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("artifact"):
            found.append(record.artifact)
    return found


def read_wandb(path: Path) -> tuple[dict, list[dict], dict, Any]:
    """Configuration, history, summary and run record of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    def values(items: Any) -> dict[str, Any]:
        return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}

    config, history, summary, run = {}, [], {}, None
    for data in wandb_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run, config = record.run, values(record.run.config.update)
        elif record.HasField("history"):
            history.append(values(record.history.item))
        elif record.HasField("summary"):
            summary |= values(record.summary.update)
    return config, history, summary, run
