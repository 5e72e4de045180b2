"""Sweeps on every launcher: when they are disturbed, no finished cell is lost or done twice."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import forked
import psutil
import pytest
from conftest import ROOT, SERVER, files, statuses, wait_for
from swept import AT_ONCE, LAUNCHERS, PAUSE, SEEDS, STEPS, Sweep

pytestmark = pytest.mark.slow

CLI = Callable[..., "subprocess.CompletedProcess[str]"]
# Launchers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_failed_run_stops_no_other(cli: CLI, checkout: Path, tmp_path: Path, launcher: str):
    done = cli(
        "-m", "task=toy", "scale=smoke", "task.fail_at=-1,1", "task.explode_at=-1,2",
        f"hydra/launcher={launcher}", PYTHONPATH=str(checkout),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "finished: 1, diverged: 1, busy: 0, failed: 2"
    runs = statuses(tmp_path / "outputs")
    failed = {key for key, m in runs.items() if m["status"] == "failed"}
    said = re.findall(
        r"^failed: laprop explode_at \S+ fail_at 1: RuntimeError: this step fails as it was told "
        r"to \(.*toy\.py:\d+\); the traceback is in outputs/toy/(\w+)/manifest\.json$",
        done.stderr,
        re.MULTILINE,
    )
    assert sorted(said) == sorted(failed)
    summary = next(m for m in runs.values() if m["status"] == "finished")["key"]
    loss = json.loads((tmp_path / "outputs" / "toy" / summary / "summary.json").read_text())["loss"]
    assert f"laprop explode_at -1 fail_at -1: loss {loss:.4g} (" in done.stdout
    assert "laprop explode_at 2 fail_at -1: diverged at step 2 (" in done.stdout
    if launcher == "joblib":  # the machine is shared out, not asked for twice
        threads = [
            m["environments"][-1]["hardware"]["threads"]
            for m in statuses(tmp_path / "outputs").values()
        ]
        assert threads == [1] * 4


def test_submitit_runs_a_sweep_on_this_machine(cli: CLI, tmp_path: Path):
    done = cli(
        "-m", "task=rosenbrock", "scale=smoke", "optimizer=adam,laprop",
        "hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "finished: 2, diverged: 0, busy: 0, failed: 0"
    assert {m["status"] for m in statuses(tmp_path / "outputs").values()} == {"finished"}
    assert {path.parts[0] for path in map(Path, files(tmp_path))} == {"outputs"}


def test_the_slurm_preset_composes():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", ["hydra/launcher=slurm"], return_hydra_config=True)
    assert config.hydra.launcher._target_.endswith("SlurmLauncher")
    assert config.hydra.launcher.timeout_min == 1440


# Killed -------------------------------------------------------------------------------------------


def progress(output: Path) -> list[tuple[int, int]]:
    """Identity of each checkpoint file; every save makes a new one."""
    stats = [path.stat() for path in output.glob("*/*/checkpoint.pt")]
    return sorted((stat.st_ino, stat.st_mtime_ns) for stat in stats)


def damage(output: Path) -> None:
    """Cut the newest checkpoint of each run in half."""
    for path in output.glob("*/*/checkpoint.pt"):
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.usefixtures("forkserver")
def test_a_sweep_killed_ten_times_loses_and_repeats_nothing(tmp_path: Path, main):
    """After every other kill the newest checkpoint of each run is cut in half besides."""
    sweep = (
        "-m", "task=rosenbrock", "optimizer=adam,laprop", "seed=0,1,2,3,4", "task.updates=2000",
        "task.mean_over=100", "threads=1", "checkpoint_every=0",
    )  # fmt: skip
    assert main(*sweep, f"output={tmp_path / 'alone'}")[0] == 0
    alone = statuses(tmp_path / "alone")
    assert len(alone) == 10

    moments, kills, finished = random.Random(2), 0, {}
    output = tmp_path / "killed"
    while True:
        process = SERVER.Process(target=forked.sweep, args=([*sweep, f"output={output}"],))
        process.start()
        if kills < 10:
            before = progress(output)
            wait_for(lambda old=before: progress(output) != old)  # it has saved a checkpoint
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
            kills += 1
        process.join()
        if kills % 2:
            damage(output)
        now = statuses(output)
        for key, manifest in finished.items():
            assert now[key] == manifest  # neither lost nor done again
        finished = {key: m for key, m in now.items() if m["status"] == "finished"}
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills == 10
    assert finished.keys() == alone.keys()
    for key in alone:
        for name in ("summary.json", "metrics.jsonl"):
            paths = [tmp_path / which / "rosenbrock" / key / name for which in ("alone", "killed")]
            assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_interrupted_sweep_ends_with_128_plus_the_signal(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", "-m", "task=rosenbrock", "seed=0,1", "threads=1",
         "task.updates=1000000", "task.mean_over=1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    while not list(tmp_path.glob("outputs/*/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    (run,) = statuses(tmp_path / "outputs").values()
    assert run["status"] == "interrupted"
    assert err.splitlines() == [
        "stops after this step and a checkpoint; a second signal stops now",
        "ended: 0 of 2, 1 interrupted; run the same command again to resume",
    ]


@pytest.mark.parametrize(
    ("launcher", "victim", "code"),
    [
        ("joblib", "worker", 0),  # joblib starts another worker
        ("joblib", "parent", -signal.SIGKILL),
        ("submitit_local", "worker", 1),
        ("ray", "worker", 0),  # Ray runs the cell again
    ],
)
def test_a_killed_worker_takes_nothing_with_it(
    sweep: Sweep,
    undisturbed: Sweep,
    alone: dict[str, list[bytes]],
    launcher: str,
    victim: str,
    code: int,
):
    sweep.take_one(undisturbed)
    before = sweep.finished()
    process, workers = sweep.start(*LAUNCHERS[launcher]), []

    def busy() -> bool:
        workers[:] = sweep.at_work(process)
        return bool(workers) and sweep.midway()

    wait_for(busy, 300)
    children = psutil.Process(process.pid).children(recursive=True)
    (process if victim == "parent" else workers[0]).kill()
    assert process.wait(300) == code, sweep.said()
    if code:
        sweep.to_its_end(**AT_ONCE)
    else:
        assert "finished: 4, diverged: 0, busy: 0, failed: 0" in sweep.said().splitlines()
    for child in children:  # joblib's workers would wait five minutes for their killed parent
        with suppress(psutil.NoSuchProcess):
            child.kill()
    assert sweep.numbers() == alone
    for key, manifest in before.items():
        assert sweep.finished()[key] == manifest
        assert key not in sweep.starts()
    # at most the two that were interrupted began twice
    assert len(sweep.starts()) <= len(SEEDS) - 1 + 2


# Two at a time, and clocks ------------------------------------------------------------------------


def test_two_sweeps_on_one_folder_do_every_cell_once(sweep: Sweep, alone: dict[str, list[bytes]]):
    both = [sweep.start(*LAUNCHERS[launcher]) for launcher in ("joblib", "basic")]
    assert [process.wait(300) for process in both] == [0, 0], sweep.said()
    assert sorted(sweep.starts()) == sorted(alone)
    assert sweep.numbers() == alone


CLOCK = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) { return random() % 200000000 - 100000000; } /* seconds: three years */
int clock_gettime(clockid_t id, struct timespec *t) {
  int failed = syscall(SYS_clock_gettime, id, t);
  if (!failed && id == CLOCK_REALTIME) t->tv_sec += jump();
  return failed;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
"""


def test_clocks_that_jump(sweep: Sweep, alone: dict[str, list[bytes]], tmp_path: Path):
    """Each query of the clock gives another year, and so do the files' times after a kill."""
    library = tmp_path / "clock.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
    subprocess.run(command, input=CLOCK, text=True, check=True)
    clock = {"LD_PRELOAD": str(library)}
    look = [sys.executable, "-c", "import time; print(time.time() - time.time())"]
    jumped = subprocess.run(look, env=os.environ | clock, capture_output=True, check=True)
    assert abs(float(jumped.stdout)) > 1

    begin, moments = time.monotonic(), random.Random(3)
    process = sweep.start(**clock)
    wait_for(lambda: len(sweep.finished()) >= 2 and sweep.midway(), 300)
    process.kill()
    process.wait()
    before = sweep.finished()
    for path in sweep.output.rglob("*"):
        os.utime(path, (moments.uniform(0, 4e9),) * 2)
    sweep.to_its_end(**clock)
    elapsed = time.monotonic() - begin

    assert sweep.numbers() == alone
    assert {key: sweep.finished()[key] for key in before} == before
    assert len(sweep.starts()) == len(SEEDS) + 1  # the killed cell began twice
    started = sorted(m["started"] for m in sweep.finished().values())
    assert started[0][:7] != started[-1][:7]  # the processes did see several months
    for manifest in sweep.finished().values():
        assert STEPS * PAUSE <= manifest["wall_time_s"] < elapsed


# Disk ---------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line(tmp_path: Path):
    def limit() -> None:  # bytes past which no file may grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    done = subprocess.run(
        [sys.executable, "-m", "experiments", "task=rosenbrock", "scale=smoke", "threads=1",
         "checkpoint_every=0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    (run,) = statuses(tmp_path / "outputs").values()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(r"failed: .*: OSError: \[Errno 27\] File too large \(", line)
    assert run["key"] in line


@pytest.fixture
def namespace() -> list[str]:
    """A command that runs another one in a mount namespace of its own."""
    prefix = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-r"]
    script = "mount -t tmpfs none /mnt"
    if shutil.which("unshare") is None or subprocess.run([*prefix, "sh", "-c", script]).returncode:
        pytest.skip("nothing can be mounted here")
    return prefix


def test_a_full_disk_costs_the_cells_that_it_has_no_room_for(
    sweep: Sweep, alone: dict[str, list[bytes]], namespace: list[str]
):
    """The file system has 190 kB at first, then room for everything, and is read-only at last."""
    kept = sweep.folder / "kept"
    sweep.output.mkdir()
    for options, code in ("size=190k", 1), ("size=10m", 0), ("size=10m", 2):
        mount = f"mount -t tmpfs -o {options} none {sweep.output} && cp -a {kept}/. {sweep.output}"
        if code == 2:
            mount += f" && mount -o remount,ro {sweep.output}"
        save = f"code=$?; rm -r {kept}; cp -a {sweep.output} {kept}; exit $code"
        kept.mkdir(exist_ok=True)
        sweep.before = [*namespace, "sh", "-c", f'{mount} && "$@"; {save}', "sh"]
        assert sweep.start(**AT_ONCE).wait(300) == code, sweep.said()
        now = Sweep(sweep.checkout, sweep.folder)
        now.output = kept
        if options == "size=190k":
            before = now.finished()
            lines = (sweep.folder / "err").read_text().splitlines()
            full = [line for line in lines if ": OSError: [Errno 28] No space left on dev" in line]
            assert len(full) == len(SEEDS) - len(before)
            for line in lines:  # a second line is of a run whose manifest could not say so
                assert line in full or ": no space is left on the disk, " in line
                assert line.startswith("failed: ")
        assert {key: now.finished()[key] for key in before} == before
    assert 0 < len(before) < len(SEEDS)
    assert (sweep.folder / "err").read_text() == (
        f"error: output={sweep.output}: not writable; must be a folder that can be written\n"
    )
    assert now.numbers() == alone
    assert all(sweep.starts().count(key) == 1 for key in before)


def test_a_folder_that_may_not_be_written(sweep: Sweep, alone: dict[str, list[bytes]]):
    if os.geteuid() == 0:  # root ignores permissions unless this capability is dropped
        sweep.before = ["setpriv", "--bounding-set=-dac_override"]
    process = sweep.start()
    wait_for(lambda: bool(sweep.finished()), 300)
    (sweep.output / "toy").chmod(0o555)  # no further cell can begin; the one under way can end
    assert process.wait(300) == 1, sweep.said()
    lines = (sweep.folder / "err").read_text().splitlines()
    before = sweep.finished()
    assert len(lines) == len(SEEDS) - len(before) > 0
    for line in lines:
        assert re.fullmatch(r"failed: \S+: PermissionError: \[Errno 13\] Permission .*", line)

    (sweep.output / "toy").chmod(0o755)
    sweep.output.chmod(0o555)
    assert sweep.start().wait(300) == 2
    assert sweep.said() == (
        f"error: output={sweep.output}: not writable; must be a folder that can be written\n"
    )
    sweep.output.chmod(0o755)
    sweep.to_its_end(**AT_ONCE)
    assert sweep.numbers() == alone
    assert {key: sweep.finished()[key] for key in before} == before
    assert sorted(sweep.starts()) == sorted(alone)
