"""The queue of long runs, most of them at the paper's own setting, complete or cut short.

``python -m scripts.long_runs`` starts or resumes the whole queue with two processes of one thread
at the lowest priority, until all runs are finished or Ctrl-C stops it. Every run resumes from its
newest checkpoint; runs that are finished, here or in the committed tables, are skipped. ``pause``
suspends the processes, for example while something else is measured, and ``resume`` continues them.
``status`` prints how many runs of each figure are finished; ``python -m scripts.status OUTPUT``
shows those in progress. ``collect`` puts finished runs into ``results/``.

The output folder (``--output``) is in the user's data folder and not in the checkout, so that a
fresh clone can resume the runs of another one.
"""

import argparse
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import platformdirs
import psutil

from experiments.__main__ import run
from experiments.common.collect import collect, finished, found
from experiments.common.config import expand, hydra_settings
from experiments.common.messages import ConfigError
from experiments.common.settings import Settings
from experiments.common.status import lives, sweeps
from experiments.common.terminal import as_command

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
    ("resnet20", "paper"),  # decides no claim; it shows whether our CIFAR-10 is the paper's
    ("fig04", "short"),
    ("fig07", "short"),
    ("imdb_tuned", "short"),
    ("fig06", "short"),
    ("fig09", "short"),
    # Last, because Adam did not diverge in the first three cells, all with mu above nu: 20 epochs
    # may be too few for what the figure is about.
    ("fig12", "short"),
)
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


def start(output: Path, processes: int) -> int:
    """Run what is not finished, here or in the committed tables, by the launcher of a sweep.

    Args:
        output: the folder of the runs.
        processes: number of runs at a time.

    Returns:
        exit status, see :func:`experiments.__main__.run`.
    """
    todo = {s.folder: s for s in queue(output) if not finished(s)}  # some are of two figures
    if not todo:
        print("all runs are finished")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    yield_to_others()
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={processes}"]
    command = f"python -m scripts.long_runs --output {shlex.quote(str(output))}"
    return run([*todo.values()], hydra_settings(launcher), command)


def yield_to_others() -> None:
    """Take the lowest priority, on Linux also for the group of this session's processes."""
    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def signal_all(output: Path, number: int) -> int:
    """Send a signal to the processes of the sweeps in a folder; return how many there are."""
    members: set[psutil.Process] = set()
    for sweep in sweeps(output)[0]:
        if lives(sweep.parent):
            with suppress(psutil.Error):
                parent = psutil.Process(sweep.parent["pid"])
                members |= {parent, *parent.children(recursive=True)}
    count = 0
    for member in members:
        with suppress(psutil.Error):
            member.send_signal(number)
            count += 1
    return count


def status(output: Path) -> None:
    """Print for each figure how many runs are finished, here or in the committed tables."""
    for entry in QUEUE:
        every = expand(overrides(output, *entry))
        print(f"{' '.join(entry)}: {sum(map(finished, every))} of {len(every)} runs finished")


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
    choices = ["start", "status", "pause", "resume", "collect"]
    parser.add_argument("what", nargs="?", default="start", choices=choices)
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default {OUTPUT}")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    arguments = parser.parse_args()
    if arguments.processes < 1:
        parser.error(f"--processes {arguments.processes}: must be at least 1")
    output = arguments.output.absolute()
    if arguments.what in ("pause", "resume"):
        number = signal.SIGSTOP if arguments.what == "pause" else signal.SIGCONT
        print(f"{signal_all(output, number)} processes: {arguments.what}d")
        return 0
    if arguments.what == "start":
        return start(output, arguments.processes)
    if arguments.what == "collect":
        return collected(output)
    status(output)
    return 0


if __name__ == "__main__":
    as_command(main)
