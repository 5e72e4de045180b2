"""What trackers are sent, read back from the files that they write."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml
from conftest import SERVER, files, statuses

from experiments.common import config, tracking
from experiments.common.settings import Tracking
from experiments.common.terminal import guarded
from scripts import wandb_sweep

pytestmark = pytest.mark.slow

CLI = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed(
    main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = main("task=rosenbrock", "scale=smoke", f"tracking={tracker}")
    assert code == 2
    assert err.splitlines() == [
        f"error: tracking={tracker}: not installed; pip install 'laprop[{tracker}]' first"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (["tracking.project=a/b"], {}, "tracking.project=a/b: Invalid project name 'a/b': cannot "),
        (["tracking.mode=online"], {}, "tracking.mode=online: needs an API key, by wandb login or"),
        ([], {"WANDB_MODE": "never"}, "WANDB_MODE=never: must be online, offline or disabled"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_the_first_run(
    main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, environment, line: str
):
    monkeypatch.setattr(tracking, "_api_key", lambda: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = main("task=rosenbrock", "scale=smoke", "tracking=wandb", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "wished", "key", "taken"),
    [
        ("auto", None, "key", "online"),
        ("auto", None, None, "offline"),
        ("auto", "disabled", "key", "disabled"),
        ("offline", "online", "key", "offline"),
    ],
)
def test_wandbs_own_variable_chooses_the_mode_if_the_settings_do_not(
    monkeypatch: pytest.MonkeyPatch, mode: str, wished: str | None, key: str | None, taken: str
):
    monkeypatch.setattr(tracking, "_api_key", lambda: key)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if wished:
        monkeypatch.setenv("WANDB_MODE", wished)
    assert tracking._mode(Tracking(name="wandb", mode=mode)) == taken


def logged(folder: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def toy(folder: Path, tracking: str, *runs: dict[str, int], killed_after: int | None = None):
    """A process that runs the toy task with a tracker, see ``forked.tracked``."""
    process = SERVER.Process(target=forked.tracked, args=(folder, tracking, runs, killed_after))
    process.start()
    process.join(120)
    assert process.exitcode == (0 if killed_after is None else -signal.SIGKILL)


# Weights & Biases ---------------------------------------------------------------------------------


def test_wandb_offline_holds_all_and_stays_in_the_output_folder(cli: CLI, tmp_path: Path):
    """Of a batch it gets histograms; of one member scalars, from the vectorised task too."""
    home = tmp_path / "home"
    home.mkdir()
    done = cli(
        "-m", "task=mnist_divergence", "figure=fig01", "scale=smoke", "optimizer=laprop",
        "optimizer.lr=[0.001,0.003],0.001", "seed=0", "tracking=wandb", "tracking.mode=offline",
        HOME=str(home), LAPROP_DATA=str(data_folder()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "finished: 2, diverged: 0, busy: 0, failed: 0"
    assert {name.split("/")[0] for name in files(tmp_path)} == {"outputs"}
    output = tmp_path / "outputs"
    found = {}
    for log in output.rglob("*.wandb"):
        settings, *rest = read_wandb(log)
        found[json.dumps(settings["optimizer"]["lr"])] = log, settings, *rest
    assert found.keys() == {"[0.001, 0.003]", "0.001"}

    log, settings, history, summary, run = found["[0.001, 0.003]"]
    folder = output / "mnist_divergence" / run.run_id
    (artifact,) = wandb_artifacts(log)
    assert (artifact.name, artifact.type) == (f"mnist_divergence-{run.run_id}", "run")
    assert {entry.path: entry.digest for entry in artifact.manifest.contents} == {
        name: base64.b64encode(hashlib.md5((folder / name).read_bytes()).digest()).decode()
        for name in ("config.yaml", "manifest.json", "metrics.jsonl", "summary.json")
    }
    assert settings["seed"] == 0
    assert run.run_id in statuses(output)
    assert (run.run_group, run.job_type) == ("fig01", "smoke")
    records = logged(folder)
    assert [row["step"] for row in history] == [record["step"] for record in records]
    for row, record in zip(history, records, strict=True):
        assert row["train_loss/_type"] == "histogram"
        assert sum(row["train_loss/values"]) == len(record["train_loss"]) == 2
        bins, losses = row["train_loss/bins"], record["train_loss"]
        assert (bins[0], bins[-1]) == pytest.approx((min(losses), max(losses)))
    assert (summary["step"], summary["train_loss/_type"]) == (records[-1]["step"], "histogram")

    _, _, history, summary, run = found["0.001"]
    folder = output / "mnist_divergence" / run.run_id
    losses = [record["train_loss"] for record in logged(folder)]
    assert [[row["train_loss"]] for row in history] == losses
    final = json.loads((folder / "summary.json").read_text())
    assert len(final) == 3
    for name, values in final.items():
        assert [summary[name]] == values


@pytest.mark.usefixtures("forkserver")
def test_an_offline_run_of_wandb_that_was_killed_begins_at_its_beginning(tmp_path: Path):
    """Syncing puts the second file in the place of the first."""
    toy(tmp_path, "wandb", {"steps": 8}, killed_after=4)
    toy(tmp_path, "wandb", {"steps": 8})
    logs = sorted((tmp_path / "outputs").rglob("*.wandb"), key=lambda p: p.stat().st_mtime_ns)
    assert len(logs) == 2
    _, history, summary, run = read_wandb(logs[-1])
    ((key, manifest),) = statuses(tmp_path / "outputs").items()
    assert (run.run_id, manifest["status"]) == (key, "finished")
    records = logged(tmp_path / "outputs" / "toy" / key)
    assert [record["step"] for record in records] == list(range(8))
    kept = [{name: row[name] for name in ("step", "loss", "rate")} for row in history]
    assert kept == records
    assert summary["loss"] == records[-1]["loss"]


@pytest.mark.usefixtures("forkserver")
def test_wandb_takes_scalars_and_closes_a_failed_run(tmp_path: Path):
    """One process, one run after another, as a sweep has them; the second fails."""
    diverges = {"steps": 6, "explode_at": 4}
    toy(tmp_path, "wandb", diverges, diverges | {"fail_at": 3})
    logs = sorted((tmp_path / "outputs").rglob("*.wandb"), key=lambda p: p.stat().st_mtime_ns)
    (settings, history, summary, run), (_, short, _, _) = map(read_wandb, logs)
    assert [len(wandb_artifacts(log)) for log in logs] == [1, 0]  # none of the run that failed
    assert run.run_group == "toy"
    assert settings["optimizer"]["nu"] == 0.99
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4]  # diverged at 4
    assert [row["step"] for row in short] == [0, 1, 2, 3]
    assert history[4]["loss"] is None
    assert summary["best_at"] == min(range(4), key=lambda i: history[i]["loss"])
    assert [m["status"] for m in statuses(tmp_path / "outputs").values()].count("failed") == 1


def cells(made: dict[str, Any]) -> Iterator[config.Settings]:
    """What wandb's agents would run for a sweep."""
    for cell in itertools.product(*(entry["values"] for entry in made["parameters"].values())):
        arguments = [f"{k}={v}" for k, v in zip(made["parameters"], cell, strict=True)]
        (settings,) = config.expand([*made["command"][4:-1], *arguments])
        assert settings.tracking.name == "wandb"
        yield settings


@pytest.mark.parametrize("grid", [["figure=fig10", "scale=small"], ["figure=fig04", "scale=smoke"]])
def test_a_wandb_sweep_is_the_figures_grid(grid: list[str], tmp_path: Path):
    """Cell by cell: the agent's command lines stand for the runs of the grid, none else."""
    made = yaml.safe_load(yaml.safe_dump(wandb_sweep.sweep([*grid, f"output={tmp_path}"])))
    assert made["method"] == "grid"
    command = made["command"]
    assert command[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    assert command[-2:] == ["tracking=wandb", "${args_no_hyphens}"]
    keys = [settings.key for settings in cells(made)]
    wanted = [settings.key for settings in config.expand([*grid, f"output={tmp_path}"])]
    assert sorted(keys) == sorted(wanted)
    assert len(set(keys)) == len(keys) > 3


@pytest.mark.parametrize("figure", ["fig03", "fig09"])
def test_the_runs_of_a_grid_are_no_others(figure: str):
    """The grids have different optimizers, and some fix what others list."""
    overrides, keys = [f"figure={figure}", "scale=short"], []
    for grid in (1, 2):
        keys += [cell.key for cell in cells(wandb_sweep.sweep(overrides, grid))]
    wanted = {s.key for s in config.expand(overrides) if s.optimizer.name != "lbfgs"}
    assert set(keys) == wanted


def test_each_grid_of_a_figure_is_a_wandb_sweep():
    overrides = ["figure=fig12", "scale=short"]
    with pytest.raises(config.ConfigError, match=r"figure=fig12 scale=short: .* --grid 1 to 3"):
        wandb_sweep.sweep(overrides)
    keys = [cell.key for grid in (1, 2, 3) for cell in cells(wandb_sweep.sweep(overrides, grid))]
    assert sorted(keys) == sorted(settings.key for settings in config.expand(overrides))
    with pytest.raises(config.ConfigError, match=r"--grid 4: .* has the grids 1 to 3"):
        wandb_sweep.sweep(overrides, 4)


def test_a_sweep_of_ones_own_is_a_wandb_sweep_as_it_is_typed(capsys: pytest.CaptureFixture[str]):
    """With the -m that the runs themselves need, and with a tracker that was chosen before."""
    typed = ["-m", "task=rosenbrock", "scale=smoke", "optimizer=adam,laprop"]
    typed += ["optimizer.nu=[0,0.5],[0.9]", "seed=range(0,2)", "tracking=wandb"]
    assert wandb_sweep.main(typed) == 0
    made = yaml.safe_load(capsys.readouterr().out)
    assert list(made["parameters"]) == ["optimizer", "optimizer.nu", "seed"]
    wanted = [settings.key for settings in config.expand(typed[1:])]
    assert sorted(settings.key for settings in cells(made)) == sorted(wanted)
    assert len(set(wanted)) == 8
    assert guarded(lambda: wandb_sweep.main(["task=rosenbrock"])) == 2
    assert "one run is no sweep" in capsys.readouterr().err


# TensorBoard --------------------------------------------------------------------------------------


def events(folder: Path) -> Any:
    """All that TensorBoard sees of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0}).Reload()


@pytest.mark.usefixtures("forkserver")
def test_tensorboard_has_every_record_once_after_a_kill(tmp_path: Path):
    toy(tmp_path, "tensorboard", {"steps": 8}, killed_after=4)
    toy(tmp_path, "tensorboard", {"steps": 8, "explode_at": 6}, {"steps": 8})
    ((key, manifest),) = (
        (k, m) for k, m in statuses(tmp_path / "outputs").items() if m["status"] == "finished"
    )
    seen = events(tmp_path / "outputs" / "tensorboard" / f"toy-laprop-{key}")
    records = logged(tmp_path / "outputs" / "toy" / key)
    for name in ("loss", "rate"):
        got = [(event.step, event.value) for event in seen.Scalars(name)]
        assert [step for step, _ in got] == list(range(8))
        assert [value for _, value in got] == pytest.approx([r[name] for r in records], rel=1e-6)
    final = json.loads((tmp_path / "outputs" / "toy" / key / "summary.json").read_text())
    for name in ("loss", "best", "mean"):
        (event,) = seen.Scalars(f"final/{name}")
        assert event.value == pytest.approx(final[name], rel=1e-6)
    assert "_hparams_/session_start_info" in seen.summary_metadata

    (exploded,) = (k for k, m in statuses(tmp_path / "outputs").items() if m != manifest)
    seen = events(tmp_path / "outputs" / "tensorboard" / f"toy-laprop-{exploded}")
    assert [event.step for event in seen.Scalars("loss")] == list(range(6))  # then it is NaN
    assert [event.step for event in seen.Scalars("rate")] == list(range(7))


def test_tensorboard_gets_the_members_of_a_batch_as_histograms(tmp_path: Path, make):
    from experiments.common.tracking import tracker

    settings = make("task=rosenbrock", "scale=smoke", "seed=[0,1,2]", "tracking=tensorboard")
    sent = tracker(settings, [{"step": 1, "loss": [1.0, 2.0, 4.0]}])
    sent.log({"step": 2, "loss": [1.0, None, 3.0]})
    sent.finish({"best": [1.0, 2.0, 3.0]}, completed=True)
    seen = events(settings.output / "tensorboard" / f"rosenbrock-laprop-{settings.key}")
    first, second = seen.Histograms("loss")
    assert (first.step, first.histogram_value.min, first.histogram_value.max) == (1, 1, 4)
    assert (second.step, second.histogram_value.num, second.histogram_value.sum) == (2, 2, 4)
    assert seen.Tags()["scalars"] == []


# Reading wandb's files ----------------------------------------------------------------------------


def data_folder() -> Path:
    from experiments.common import data

    return data.fetch("mnist").parent


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: seven bytes, then LevelDB's log format in 32 KiB blocks."""
    data, at, record = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at < len(data):
        if 32768 - at % 32768 < 7:  # what is left of a block is padding
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
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
