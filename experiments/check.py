"""Check that a task resumes to the same numbers: ``python -m experiments.check task=NAME``.

Runs the task at its smoke scale twice, once undisturbed and once killed (SIGKILL) and resumed
several times, and compares what the two runs wrote: every logged record, the summary, tables and
pictures. They differ if the loop carries something from one step to the next that ``run.track``
does not name. Takes the overrides of a run: ``task=a,b`` checks two tasks, and ``task.epochs=3``
makes the run longer.

Exit status: 0 if all numbers are the same, 1 if one differs or a run fails, 2 for bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.common.config import expand
from experiments.common.execution import execute, failure
from experiments.common.files import read_log, read_manifest, read_summary
from experiments.common.launch import labels
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.settings import Settings, Tracking
from experiments.common.status import FINAL
from experiments.common.terminal import as_command

SERVER = multiprocessing.get_context("forkserver")
# These modules are imported once, before the processes fork, to save time. torch.optim would import
# the second one at its first use.
PRELOADED = ["experiments.common.execution", "torch._dynamo"]
FAILURE = "failure.txt"  # beside the runs: the error of the one that failed, in one line
UNDISTURBED = 1e9  # seconds between checkpoints: none is written


@dataclass(frozen=True)
class Kill:
    """When a run is killed: right after the checkpoint of a step, or in the middle of the next."""

    step: int
    midway: bool


def kills(steps: int) -> list[Kill]:
    """The moments at which a run of so many steps is killed, in order."""
    between = {1, steps // 2, steps - 1, steps} - {0}
    chosen = [Kill(step, False) for step in between] + [Kill(2 * steps // 3, True)]
    return sorted(chosen, key=lambda kill: (kill.step, kill.midway))


def attempt(settings: Settings, planned: Sequence[Kill], told: Any) -> None:
    """Run or resume until the end or the next kill; it runs in a process of its own.

    A kill in the middle of a step happens when that step logs, or, if it does not log, when the
    next step that logs does.

    Args:
        settings: the settings of the run.
        planned: the kills that are still to come.
        told: two shared integers for the parent: the number of the run's steps so far, and the
            index of the kill, if there is one.
    """
    checkpoint, log, finish = Run.checkpoint, Run.log, Run.finish

    def die(run: Run, index: int) -> None:
        told[:] = run._step, index
        os.kill(os.getpid(), signal.SIGKILL)

    def checkpoint_and_die(run: Run) -> None:
        checkpoint(run)
        for index, kill in enumerate(planned):
            if not kill.midway and kill.step == run._step:
                die(run, index)

    def log_and_die(run: Run, step: int, **metrics: Any) -> None:
        log(run, step, **metrics)  # resuming has to remove this record, newer than the checkpoint
        for index, kill in enumerate(planned):
            if kill.midway and kill.step <= run._step:
                die(run, index)

    def count(run: Run) -> str:
        if not run._steps_asked:
            raise ConfigError("train does not loop over run.steps(n), so a killed run begins again")
        told[0] = run._step
        return finish(run)

    Run.checkpoint = checkpoint_and_die  # type: ignore[assignment, method-assign]
    Run.log = log_and_die  # type: ignore[assignment, method-assign]
    Run.finish = count  # type: ignore[assignment, method-assign]
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is a semaphore, which outlives the kill
    try:
        execute(settings)
    except Exception as error:  # it may come before the run has a manifest
        settings.output.mkdir(parents=True, exist_ok=True)
        (settings.output / FAILURE).write_text(failure(error), encoding="utf-8")


def run(settings: Settings, planned: Sequence[Kill] = ()) -> tuple[list[Kill], int]:
    """Start a run, and resume it after each kill, until its end.

    Returns:
        the kills that happened, and the number of steps.

    Raises:
        TaskError: the task failed.
    """
    done: list[Kill] = []
    while True:
        told = SERVER.RawArray("q", 2)
        process = SERVER.Process(target=attempt, args=(settings, planned, told))
        process.start()
        process.join()
        manifest = read_manifest(settings.folder) or {}
        if manifest.get("status") in FINAL:
            return done, told[0]
        if not planned or process.exitcode != -signal.SIGKILL:
            file = settings.output / FAILURE
            error = file.read_text(encoding="utf-8") if file.exists() else ""
            raise TaskError((error or f"its process ended with {process.exitcode}") + _after(done))
        steps, index = told
        done.append(replace(planned[index], step=steps))  # one midway may come later than planned
        planned = [*planned[:index], *planned[index + 1 :]]


class TaskError(Exception):
    """A task failed; the message is its error in one line."""


def numbers(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield what a finished run wrote, in order: name, place, value."""
    for record in read_log(folder, ended=True):
        for name, value in record.items():
            yield name, f"at step {record['step']}", value
    for path in sorted(folder.glob("*.csv")):
        for row, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            yield path.name, f"in row {row}", line
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        yield str(path.relative_to(folder)), "in its bytes", digest
    for name, value in read_summary(folder).items():
        yield name, "in the summary", value
    manifest = read_manifest(folder) or {}
    yield "status", "in the manifest", manifest["status"]
    yield "diverged_at", "in the manifest", manifest["diverged_at"]


def difference(one: Path, other: Path, ignored: set[str]) -> tuple[str, str, Any, Any] | None:
    """The first value that differs between two runs: name, place, both values; or None."""
    first = [entry for entry in numbers(one) if entry[0] not in ignored]
    second = [entry for entry in numbers(other) if entry[0] not in ignored]
    places = {entry[:2] for entry in first}
    for a, b in itertools.zip_longest(first, second):
        if a != b:
            here = b if a is None or (b is not None and b[:2] not in places) else a
            values = [e[2] if e is not None and e[:2] == here[:2] else "nothing" for e in (a, b)]
            return here[0], here[1], *_apart(*values)
    return None


def _apart(a: Any, b: Any) -> tuple[Any, Any]:
    """The first members that differ, of two lists; numbers are shortened if they still differ."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        a, b = next(pair for pair in zip(a, b, strict=True) if pair[0] != pair[1])
    if isinstance(a, float) and isinstance(b, float) and f"{a:.4g}" != f"{b:.4g}":
        return f"{a:.4g}", f"{b:.4g}"
    return a, b


def unrepeatable(one: Path, other: Path) -> set[str]:
    """The names of values that differ even between two undisturbed runs, such as times."""
    names: set[str] = set()
    while (found := difference(one, other, names)) is not None:
        names.add(found[0])
    return names


def check(settings: Settings, folder: Path, name: str) -> tuple[bool, str]:
    """Compare a run that was killed and resumed with an undisturbed one.

    Args:
        settings: the settings of the run; output folder, tracker and checkpoints are replaced.
        folder: an empty folder for the runs.
        name: how the line calls the run.

    Returns:
        whether all numbers are the same, and one line that says so or names what differs first.
    """

    def copy(name: str, every: float) -> Settings:
        return replace(settings, output=folder / name, checkpoint_every=every, tracking=Tracking())

    alone, resumed = copy("alone", UNDISTURBED), copy("resumed", 0.0)
    try:
        _, steps = run(alone)
        done, _ = run(resumed, kills(steps))
        ignored: set[str] = set()
        found = difference(alone.folder, resumed.folder, ignored)
        if found is not None:  # perhaps the value differs without a kill too
            again = copy("again", UNDISTURBED)
            run(again)
            ignored = unrepeatable(alone.folder, again.folder)
            found = difference(alone.folder, resumed.folder, ignored)
    except TaskError as error:
        return False, f"{name}: fails: {error}"
    if found is not None:
        metric, place, before, after = found
        return False, (
            f"{name}: {metric} differs first {place}: {before} undisturbed, {after} resumed"
            f"{_after(done)}; what the loop carries from one step to the next has to be named "
            "in run.track"
        )
    count = sum(entry[0] not in ignored for entry in numbers(alone.folder))
    text = f"{name}: {steps} steps, {count} values, all the same{_after(done)}"
    if ignored:
        text += f"; not compared, as they differ in any two runs: {', '.join(sorted(ignored))}"
    if (diverged_at := (read_manifest(alone.folder) or {})["diverged_at"]) is not None:
        text += f"; diverged at step {diverged_at}"
    elif steps < 2:
        text += "; nothing is carried from one step to the next, so give the run more steps"
    return True, text


def _after(done: Sequence[Kill]) -> str:
    """The steps at which a run was killed, as the end of a sentence."""
    if not done:
        return ""
    places = [f"{'in' if kill.midway else 'after'} step {kill.step + kill.midway}" for kill in done]
    return f", killed {', '.join(places)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check each run of the command line and return the exit status.

    Args:
        arguments: those of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[1], prog="python -m experiments.check"
    )
    parser.add_argument(
        "overrides", nargs="+", metavar="KEY=VALUE", help="as for a run; scale=smoke by default"
    )
    overrides = parser.parse_args(arguments).overrides
    if not any(text.startswith("scale=") for text in overrides):
        overrides = [*overrides, "scale=smoke"]
    every = expand(overrides)
    SERVER.set_forkserver_preload(PRELOADED)
    verdicts = []
    for settings, label in zip(every, labels(every), strict=True):
        task = settings.task_name
        name = task if len(every) == 1 else f"{task} {label.removeprefix(f'{task} ')}"
        with tempfile.TemporaryDirectory(prefix="check-") as folder:
            same, text = check(settings, Path(folder), name)
        print(text, flush=True)
        verdicts.append(same)
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    as_command(main)
