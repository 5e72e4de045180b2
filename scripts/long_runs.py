"""The queue of long runs, most of them at the paper's own setting, complete or cut short.

``python -m scripts.long_runs`` starts or resumes the whole queue with two processes of one thread
at the lowest priority, until all runs are finished or Ctrl-C stops it. Every run resumes from its
newest checkpoint; runs that are finished, here or in the committed tables, are skipped. ``pause``
suspends the processes, for example while something else is measured, and ``resume`` continues them.
``status`` prints the progress of each figure. ``collect`` puts finished runs into ``results/``.

The output folder (``--output``) is in the user's data folder and not in the checkout, so that a
fresh clone can resume the runs of another one.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import platformdirs
import psutil

from experiments.common import ROOT
from experiments.common.collect import collect, finished, found
from experiments.common.config import expand
from experiments.common.execution import execute, outcome
from experiments.common.messages import ConfigError
from experiments.common.run import Interrupted
from experiments.common.settings import Settings
from experiments.common.terminal import as_command, end_with_parent

# Figure and scale, and for some the seed, in the order of the runs.
QUEUE = (
    # These take minutes to two hours.
    ("theorem1", "paper"),
    ("clipping", "paper"),
    ("nu_schedule", "paper"),
    ("tuning_range", "paper"),
    ("variants", "paper"),
    # These take hours.
    ("rainbow_authors", "small"),
    ("cifar_schedule", "small"),
    ("fig11", "small"),
    ("fig06", "small"),  # its runs are among those of fig11
    ("fig01", "paper"),
    # These take days; those that decide the most claims an hour come first.
    ("fig03", "short", "seed=[0]"),
    ("fig04", "short", "seed=0,1,2"),
    ("fig03", "short"),
    ("fig05", "short"),
    ("fig04", "short"),
    ("fig07", "short"),
    ("imdb_tuned", "short"),
    ("fig06", "short"),
    ("resnet20", "paper"),
    ("fig09", "short"),
    # Last, because Adam did not diverge in the first three cells, all with mu above nu: 20 epochs
    # may be too few for what the figure is about.
    ("fig12", "short"),
)
RESTARTS = 20  # how often processes that were killed are started again, in all
OUTPUT = Path(platformdirs.user_data_dir("laprop", appauthor=False)) / "outputs"


def overrides(output: Path, figure: str, scale: str, *seed: str) -> list[str]:
    """The command line of a figure's runs."""
    common = ["threads=1", f"output='{output}'"]
    return [f"figure={figure}", f"scale={scale}", *seed, *common]


def queue(output: Path) -> list[Settings]:
    """The settings of every run; those of a figure are sorted by seed, to complete seeds early."""
    figures = (expand(overrides(output, *entry)) for entry in QUEUE)
    return [settings for every in figures for settings in sorted(every, key=first_seed)]


def first_seed(settings: Settings) -> int:
    """The seed of a run, or the first of the seeds that run as one batch."""
    seeds = settings.seed
    return seeds[0] if isinstance(seeds, list | tuple) else seeds


def work(output: Path) -> int:
    """Execute each run that is not finished and that no other process executes.

    Several processes call this at the same time.

    Returns:
        exit status: 0, 1 if a run failed, 128 + n after signal n.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `start` handles Ctrl-C and ends its workers
    yield_to_others()
    failed = 0
    for settings in queue(output):
        if finished(settings):
            continue
        print(f"{settings.figure} {settings.folder}", flush=True)
        try:
            print(f"{execute(settings)}: {settings.folder}", flush=True)
        except Interrupted as stop:
            return int(stop.code)  # type: ignore[arg-type]
        except Exception as error:  # one failed run must not stop the others
            failed = 1
            print(f"failed: {settings.folder}: {error}", file=sys.stderr, flush=True)
    return failed


def yield_to_others() -> None:
    """Take the lowest priority, on Linux also for the group of this session's processes."""
    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def start(output: Path, processes: int) -> int:
    """Run the queue in several processes until all runs are finished or Ctrl-C is pressed.

    A process that is killed, for example where memory is short, is started again. If this one is
    killed, the others get SIGTERM, so that each stops after its step and a checkpoint.

    Returns:
        exit status: 0, 1 if a run failed or processes were killed too often, 130 after Ctrl-C.
    """
    output.mkdir(parents=True, exist_ok=True)  # fails here and not once a run
    command = [sys.executable, "-m", "scripts.long_runs", "work", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ends_with_it = partial(end_with_parent, signal.SIGTERM)
    workers: list[subprocess.Popen[bytes]] = []
    waiting, restarts, failed = processes, RESTARTS, False
    try:
        while waiting or workers:
            if waiting:
                waiting -= 1
                workers.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=ends_with_it)
                )
            time.sleep(5)  # so that the process before has locked its run
            for worker in [worker for worker in workers if worker.poll() is not None]:
                workers.remove(worker)
                if worker.returncode < 0 and restarts:
                    restarts -= 1
                    waiting += 1
                    print(f"{_killed(worker)}; another one is started", flush=True)
                elif worker.returncode < 0:
                    failed = True
                    print(f"{_killed(worker)}; not replaced after {RESTARTS} restarts", flush=True)
                else:
                    failed |= worker.returncode > 0
        return 1 if failed else 0
    except (KeyboardInterrupt, SystemExit):
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        print("stopped; run the same command again to resume")
        return 130


def _killed(worker: subprocess.Popen[bytes]) -> str:
    """The end of a process by a signal, in words."""
    return f"process {worker.pid} was killed by {signal.Signals(-worker.returncode).name}"


def signal_all(number: int) -> int:
    """Send a signal to the queue's processes and their children; return how many there are."""
    members: set[psutil.Process] = set()
    for process in psutil.process_iter(["cmdline"]):
        if "scripts.long_runs" in (process.info["cmdline"] or []) and process.pid != os.getpid():
            with suppress(psutil.Error):
                members |= {process, *process.children(recursive=True)}
    count = 0
    for member in members:
        with suppress(psutil.Error):
            member.send_signal(number)
            count += 1
    return count


def status(output: Path) -> None:
    """Print for each figure how many runs are finished, and the records of unfinished ones."""
    for entry in QUEUE:
        every = expand(overrides(output, *entry))
        done = [s for s in every if finished(s)]
        line = f"{' '.join(entry)}: {len(done)} of {len(every)} runs finished"
        for settings in every:
            if settings not in done and (log := settings.folder / "metrics.jsonl").exists():
                state = "under way" if outcome(settings) == "busy" else "stopped"
                steps = log.read_bytes().count(b"\n")
                line += f"; {settings.optimizer.name} seed {settings.seed} {state}, {steps} records"
        print(line)


def collected(output: Path) -> int:
    """Put the finished runs of each figure into the committed tables.

    Returns:
        exit status: 0, 1 if the runs of a figure cannot be collected.
    """
    failed = 0
    for figure, scale in dict.fromkeys(entry[:2] for entry in QUEUE):
        words = overrides(output, figure, scale)
        every = expand(words)
        try:
            if any(map(found, every)):
                results = collect(words, partial=True)
                print(f"{results.folder}: {results.label}")
            else:
                print(f"{figure} {scale}: none of {len(every)} runs is finished in {output}")
        except ConfigError as error:  # the other figures are collected all the same
            failed = 1
            print(f"error: {figure} {scale}: {error}", file=sys.stderr)
    return failed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts.long_runs", description=__doc__.split("\n")[0])
    choices = ["start", "status", "pause", "resume", "collect", "work"]
    parser.add_argument("what", nargs="?", default="start", choices=choices)
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default {OUTPUT}")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    arguments = parser.parse_args()
    if arguments.processes < 1:
        parser.error(f"--processes {arguments.processes}: must be at least 1")
    output = arguments.output.absolute()
    if arguments.what in ("pause", "resume"):
        number = signal.SIGSTOP if arguments.what == "pause" else signal.SIGCONT
        print(f"{signal_all(number)} processes: {arguments.what}d")
        return 0
    if arguments.what == "start":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return start(output, arguments.processes)
    if arguments.what == "work":
        return work(output)
    if arguments.what == "collect":
        return collected(output)
    status(output)
    return 0


if __name__ == "__main__":
    as_command(main)
