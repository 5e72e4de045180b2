"""``python -m experiments`` as a user meets it: help, sweeps, launchers, bad input."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import FIGURES, ROOT, TASKS, files, statuses

from experiments.common import execution, launch, progress, status
from experiments.common.run import signals_to
from experiments.common.settings import Settings
from experiments.common.tasks import task_module

CLI = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ("task=rosenbrock", "scale=smoke", "threads=1")


# Help and single runs -----------------------------------------------------------------------------


def test_help_is_ours_and_needs_no_torch(cli: CLI, tmp_path: Path):
    done = cli("--help", PYTHONVERBOSE="", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for name in (
        *TASKS,
        *FIGURES,
        "optimizer: adabelief, adam",
        "tracking: none, tensorboard, wandb",
        "scale: paper",
        "-m",
    ):
        assert name in done.stdout
    assert re.search(r"^  fig02 +paper \d+ (s|min)$", done.stdout, re.MULTILINE)
    assert re.search(r"^  fig12 +paper .*; short .*; small\* \d+ min$", done.stdout, re.MULTILINE)
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
        "laprop: steps_to_converge never",
        f"finished: outputs/rosenbrock/{key}",
        "finished: 1, diverged: 0, busy: 0, failed: 0",
    ]
    assert files(tmp_path / "outputs" / "rosenbrock") == {
        f"{key}/{name}"
        for name in (".lock", "config.yaml", "manifest.json", "metrics.jsonl", "summary.json")
    }
    assert "finished before: 1" in main(*SMALL)[1]


def test_a_damaged_run_is_made_again_or_named(main, tmp_path: Path):
    """A run without a manifest is made again; one without numbers is the user's to delete."""
    assert main(*SMALL)[0] == 0
    (run,) = (tmp_path / "outputs" / "rosenbrock").iterdir()
    (run / "manifest.json").write_text("{")
    code, out, err = main(*SMALL)
    assert (code, err, "finished before: 0" in out) == (0, "", True)
    (run / "summary.json").write_text("{")
    code, out, err = main(*SMALL)
    (line,) = err.splitlines()
    assert "runs: 1 of rosenbrock; finished before: 0; damaged: 1\n" in out
    assert code == 1
    assert line.startswith(f"damaged: laprop: outputs/rosenbrock/{run.name}/summary.json: cannot ")
    assert line.endswith("; delete the folder of this run, and run it again")


@pytest.mark.parametrize(
    ("free", "why"), [(0, "no space is left on the disk"), (10**9, "its end could not be written")]
)
def test_a_run_that_could_not_say_its_end_is_given_the_reason(
    main, monkeypatch: pytest.MonkeyPatch, free: int, why: str
):
    real, calls = execution.write_json, []

    def full(path: Path, data: object) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(execution, "write_json", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    code, out, err = main(*SMALL)
    first, last = err.splitlines()
    assert code == 1
    assert out.endswith("finished: 0, diverged: 0, busy: 0, failed: 1\n")
    assert "OSError: [Errno 28] No space left on device" in first
    assert last.startswith(f"failed: laprop: {why}, outputs/rosenbrock/")


def test_runs_whose_workers_die_are_named_once(main, monkeypatch: pytest.MonkeyPatch):
    """joblib then ends all its workers with one long error, again at each new beginning."""

    class TerminatedWorkerError(Exception):
        pass

    def launched(todo: list[Settings], hydra: object, sweep: status.Sweep) -> None:
        folder = todo[0].folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text('{"status": "running"}')
        process = progress.process() | {"pid": 2**22 + 1}
        (folder / progress.NAME).write_text(json.dumps(process))
        raise TerminatedWorkerError("A worker process managed by the executor was")

    monkeypatch.setattr(launch, "launch", launched)
    code, out, err = main(*SMALL, "-m", "seed=0,1,2")
    assert code == 1
    assert out.endswith("finished: 0, diverged: 0, busy: 0, failed: 3\n")
    died, rest = err.splitlines()
    assert died.startswith("failed: laprop seed 0: its process was killed, outputs/rosenbrock/")
    assert rest == "failed: 2 of 3 runs were not begun"


@pytest.mark.parametrize("name", ["of ${x}", r"a\${x}", "$x"])
def test_a_folder_with_a_dollar_sign_is_made_as_typed(main, tmp_path: Path, name: str):
    code, _, err = main(*SMALL, f"output={name}")
    assert (code, err) == (0, "")
    assert statuses(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("flag", ["--multi", "--", "--run", "--config-name=other"])
def test_a_flag_that_would_run_nothing_is_refused(main, tmp_path: Path, flag: str):
    code, out, err = main(flag, *SMALL)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {flag.split('=')[0]}: unknown flag; -m starts a sweep; ")
    assert len(err.splitlines()) == 1
    assert files(tmp_path) == set()


def test_a_signal_that_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_to(launch.Ending(None, "basic").on_signal):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


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
    ("optimizer.nu=1.5",): ["optimizer.nu=1.5", "less than 1"],
    ("optimizer.nu=[0.1,1]",): ["optimizer.nu=1:", "less than 1"],
    ("optimizer.nu=[]",): ["optimizer.nu=[]", "must not be empty"],
    ("optimizer.lr=fast",): ["optimizer.lr=fast", "a number"],
    ("optimizer.lr=true",): ["optimizer.lr=true", "a number, not true or false"],
    ("optimizer.lr=inf",): ["optimizer.lr=inf", "finite"],
    ("optimizer.lr=interval(0,1)", "-m"): ["optimizer.lr=interval(0,1)", "a,b,c"],
    ("optimizer.weight_decay=[0,1]",): ["optimizer.weight_decay=[0,1]", "a number"],
    ("optimizer.decay_by_lr=5",): ["optimizer.decay_by_lr=5", "true or false"],
    ("seed=-1",): ["seed=-1", "greater than or equal to 0"],
    ("seed=1.5",): ["seed=1.5", "a whole number"],
    ("seed=",): ["seed=", "a whole number"],
    ("seed=[${nope}]",): ["seed[0]", "nope"],
    ("schedule=cosine",): ["schedule=cosine", "schedule.lr.shape"],
    ("-m", "seed=range(5,5)"): ["seed=range(5,5)", "no value"],
    ("-m", "seed=range(0,5,0)"): ["seed=range(0,5,0)"],
    ("-m", "optimizer=glob(zzz*)"): ["optimizer=glob(zzz*)", "no value"],
    ("task=cifar10", "schedule.lr.shape=constant"): ["schedule.lr.shape=constant", "task.*"],
    ("task=convex_regret", "task.rounds=250"): ["task.rounds=250", "multiple of 100"],
    ("output=~nosuch/x",): ["output=~nosuch/x: there is no user nosuch", "whole path"],
    ("seed=${range:a}",): ["seed=${range:a}: must be ${range:FIRST,STOP}, ${range:FIRST,STOP,"],
    ("seed=${range:0,3,0}",): ["seed=${range:0,3,0}: must be ${range:FIRST,STOP}"],
    ("seed=${rang:0,3}",): ["seed=${rang:0,3}: must be ${range:FIRST,STOP}", "${linspace:FIRST,L"],
    ("threads=0",): ["threads=0", "greater than or equal to 1"],
    ("checkpoint_every=soon",): ["checkpoint_every=soon", "a number"],
    ("task.noise=Width",): ["task.noise=Width", "'halfwidth' or 'width'", "did you mean width?"],
    ("task.start=[1]",): ["task.start=[1]", "too short"],
    ("task.name=other",): ["task.name=other", "task=other"],
    ("task=rosenbrok",): ["task=rosenbrok", "did you mean rosenbrock?", *TASKS],
    ("task=null",): ["task=null", *TASKS],
    ("~task",): ["~task"],
    ("optimizer=lapropp",): ["optimizer=lapropp", "did you mean laprop?", "adam"],
    ("figure=fig2",): ["figure=fig2", "did you mean fig02?"],
    ("task=cifar10", "task.milestones=5"): ["task.milestones=5", "a list, such as [1,2]"],
    ("figure=fig002",): ["figure=fig002", "did you mean fig02?", *FIGURES],
    ("figure=fig02", "scale=small"): ["scale=small", "paper, smoke"],
    ("figure=fig02", "task=gpt"): ["figure=fig02 is of task=rosenbrock", "sigma, which gpt"],
    ("scale=tiny",): ["scale=tiny", "paper, short, small, smoke"],
    ("tracking=wandbb",): ["tracking=wandbb", "did you mean wandb?", "none"],
    ("tracking.mode=never",): ["tracking.mode=never", "'auto', 'online' or 'offline'"],
    ("plan=yes",): ["plan=yes", "true or false"],
    ("task.sigma.x=1",): ["task.sigma.x=1", "a single value"],
    ("hydra/launcher=joblb", "-m"): ["hydra/launcher=joblb", "did you mean joblib?", "basic"],
    ("device=foo",): ["device=foo", "auto, cpu, cuda or cuda:<index>"],
    ("device=cuda:7",): ["device=cuda:7", "auto, cpu"],
    ("output=/dev/null/runs",): ["output=/dev/null/runs", "a folder that can be written"],
    ("optimizer=adam,laprop",): ["optimizer=adam,laprop", "add -m"],
    ("optimizer.nu=[0.1",): ["optimizer.nu=[0.1", "key=value"],
    ("a=b=c",): ["a=b=c", "key=value"],
    ("device",): ["device", "key=value"],
    ("optimizer.nu", "=", "0.1"): ["optimizer.nu: must be key=value, without a space"],
    ("optimizer.nu=0.5,",): ["optimizer.nu=0.5,: a value is missing after the last comma"],
    ("scale=smoke", "schedule.nu.shape=linear", "schedule.nu.begin=400", "schedule.nu.end=0.5"): [
        "schedule.nu.begin=400: must be below 400, the number of updates of the run",
    ],
    ("scale=smoke", "schedule.lr.shape=cosine", "schedule.lr.begin=4000"): ["lr.begin=4000: must"],
    ("scale=smoke", "schedule.lr.warmup=400"): ["schedule.lr.warmup=400: must be below 400"],
    ("scale=smoke", "schedule.lr.shape=steps", "schedule.lr.milestones=[400,500]"): [
        "schedule.lr.milestones=[400,500]: the first must be below 400",
    ],
    ("optimizer=adam", "optimizer.weight_decay=2"): ["weight_decay=2.0: must be at most 1"],
    ("optimizer.lr=[0.1,1]", "optimizer.weight_decay=2", "optimizer.decay_by_lr=true"): [
        "optimizer.weight_decay=2.0: times optimizer.lr must be at most 1",
    ],
    ("-m", "optimizer.nu=0.1,0.2", "--cfg", "hydra"): ["-m: --cfg all, --cfg hydra and --info sh"],
    ("-m", "--info"): ["-m: --cfg all, --cfg hydra and --info show one run"],
    ("optimizer.nu=0.1,0.2", "--cfg=all"): ["-m: --cfg all, --cfg hydra and --info show one run"],
    ("task=rosenbrok", "--cfg", "hydra"): ["task=rosenbrok: unknown (did you mean rosenbrock?)"],
    ("figure=fíg",): ["figure=fíg: unknown; allowed are", *FIGURES],
    ("optimizer=é",): ["optimizer=é: unknown; allowed are", "laprop"],
    ("hydra/launcher=jöb",): ["hydra/launcher=jöb: unknown; allowed are", "joblib"],
    ("hydra/launcher=joblib", "hydra.launcher.n_jobs=abc"): ["n_jobs=abc: must be of type integer"],
    ("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"): ["n_jobs=0", "number of processes"],
    ("hydra/launcher=joblib", "hydra.launcher.n_job=2"): ["n_job=2", "did you mean n_jobs?"],
    ("hydra.launcher.n_jobs=2",): ["hydra.launcher.n_jobs=2", "has no settings here"],
    ("hydra.launcher=joblib",): ["hydra.launcher=joblib", "chosen by hydra/launcher=NAME"],
    ("hydra/launcher=null",): ["hydra/launcher=null", "chosen by hydra/launcher=NAME"],
    ("hydra=1",): ["hydra=1", "chosen by hydra/launcher=NAME"],
    ("-m", "hydra.sweeper.params={optimizer.nu: '0.1'}"): ["hydra.sweeper.params", "no effect"],
    ("hydra.job.chdir=true",): ["hydra.job.chdir=true: has no effect here; of Hydra's"],
    ("hydra.mode=MULTIRUN",): ["hydra.mode=MULTIRUN: has no effect here", "hydra.launcher.KEY"],
    ("tracking.mode=offline",): ["tracking.mode=offline: needs tracking=wandb, not none"],
    ("--cfg", "job", "-p", "task"): ["--package: --cfg job prints all settings"],
    ("task=mnist_divergence", "task.batch_size=70000"): ["batch_size=70000: must be less than"],
    ("task=mnist_divergence", "task.log_every=39000"): ["log_every=39000: must be at most 23400"],
    ("task=mnist_divergence", "scale=smoke", "task.later_nu=0.5"): ["later_from=468: must be bel"],
    ("task=mnist_divergence", "task.later_nu=0.5", "optimizer=sgd"): ["optimizer=sgd: has no nu"],
    ("task=one_gradient", "optimizer.lr=0.5"): ["optimizer.lr=0.5: must be 1.0; one_gradient meas"],
    ("task=update_bounds", "optimizer.lr=0.5"): ["optimizer.lr=0.5: must be 1.0"],
    ("task=update_variance", "optimizer.lr=0.5"): ["optimizer.lr=0.5: must be 1.0"],
    ("task=limits", "task.distance=1"): ["task.distance=1: must be less than 1"],
    ("-m", "hydra/launcher=joblib,basic"): ["hydra/launcher=joblib,basic", "must be one value"],
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


def test_a_value_error_of_a_tasks_own_check_is_one_line(
    main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def check(settings: Settings) -> None:
        raise ValueError("sigma must differ\nfrom noise")

    monkeypatch.setattr(task_module("rosenbrock"), "check", check, raising=False)
    line = "error: task=rosenbrock: sigma must differ; from noise\n"
    assert main(*SMALL) == (2, "", line)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_tasks_own_check_is_one_line(main, monkeypatch: pytest.MonkeyPatch):
    def check(settings: Settings) -> None:
        settings.task.nothing  # noqa: B018

    monkeypatch.setattr(task_module("rosenbrock"), "check", check, raising=False)
    code, out, err = main(*SMALL)
    assert (code, out) == (2, "")
    assert re.fullmatch(
        r"error: task=rosenbrock: AttributeError: 'Config' .* 'nothing' \(.*test_cli\.py:\d+\)\n",
        err,
    )


@pytest.mark.parametrize(
    "flag", [["--cfg", "job"], ["--cfg=job"], ["-c=job"], ["--cfg", "job", "--resolve"]]
)
def test_the_settings_are_shown_with_those_of_the_scale(main, flag: list[str]):
    code, out, err = main(*SMALL, *flag)
    assert (code, err) == (0, "")
    assert "updates: 400" in out
    assert "scales" not in out


def test_files_are_read_in_utf_8_whatever_the_locale(cli: CLI, tmp_path: Path):
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cli(*SMALL, "optimizer=adam", **ascii, PYTHONWARNDEFAULTENCODING="1")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "/experiments/" in line] == []


def test_a_command_without_a_task_is_told_which_there_are(main):
    code, out, err = main("optimizer.nu=0.5")
    assert (code, out) == (2, "")
    assert err.startswith("error: task=null: one is needed; allowed are ")


def test_the_last_run_of_a_sweep_is_refused_by_a_process_before_the_first(cli: CLI, tmp_path: Path):
    done = cli("task=rosenbrock", "-m", "seed=0,-1")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: seed=-1: must be")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", [["experiments", *SMALL, "--cfg", "job"], ["scripts.wandb_sweep", *SMALL, "seed=0,1"]]
)
def test_output_that_cannot_be_written_is_one_line(module: list[str]):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *module], cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    place = "must be a place that can be written"
    assert done.stderr == f"error: output: No space left on device; {place}\n"
