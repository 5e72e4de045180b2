"""The display of a running sweep in a terminal; its data come from the runs' folders."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from experiments.common.status import FINAL, RunFolder, State, Sweep, how_far, overview
from experiments.common.terminal import say

EVERY = 0.5  # seconds between two updates


class Watch:
    """Prints the outcome of each run when it ends; on a terminal it also shows runs in progress.

    The line of a run goes to the standard output, that of a failed run to the standard error. A
    thread reads the runs' files every half second, so runs in this process and in others are shown
    in the same way.

    Args:
        sweep: the sweep to show.
        then: a function that is called after each reading, with the states of the runs.
    """

    def __init__(self, sweep: Sweep, then: Callable[[Sequence[State]], None]) -> None:
        self._sweep, self._then = sweep, then
        self._before = [run.look() for run in sweep.runs]
        self._states = [s if s.status in FINAL else State() for s in self._before]
        self._ended, self._one_at_a_time = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        console = Console()
        both = console.is_terminal and sys.stderr.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True) if both else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.look()
        if self._live:
            self._live.stop()

    def _loop(self) -> None:
        while not self._ended.wait(EVERY):
            self.look()

    def look(self) -> list[State]:
        """Read the states of all runs and print the outcomes of those that have ended since.

        Returns:
            the state of each run; one that this sweep has not begun counts as waiting.
        """
        with self._one_at_a_time:
            self._look()
            return list(self._states)

    def _look(self) -> None:
        for i, (run, old) in enumerate(zip(self._sweep.runs, self._states, strict=True)):
            if old.status in FINAL:
                continue
            new = run.look()
            if new.status not in FINAL and new.started == self._before[i].started:
                new = State()  # this state is from an earlier sweep
            self._states[i] = new
            ended = new.status in (*FINAL, "failed")
            if ended and (new.status, new.started) != (old.status, old.started):
                self._say(run, new)
        if self._live:
            self._live.update(self._picture(), refresh=True)
        self._then(self._states)

    def _say(self, run: RunFolder, state: State) -> None:
        line = f"{run.label}: {state.says or state.status}"
        if len(self._states) > 1 and not self._live:
            line += f" ({overview(self._states, self._sweep.processes)})"
        if state.status == "failed":
            place = f"the traceback is in {run.folder / 'manifest.json'}"
            say(f"failed: {run.label}: {state.says}; {place}", sys.stderr)
        else:
            say(line)

    def _picture(self) -> Group:
        """One line about all runs; below it a line and a bar for each run in progress."""
        lines: list[Text | ProgressBar] = [
            Text(overview(self._states, self._sweep.processes), style="bold")
        ]
        for run, state in zip(self._sweep.runs, self._states, strict=True):
            if state.status == "running":
                lines.append(Text(f"{run.label}: {how_far(state)}"))
                process = state.process or {}
                bar = ProgressBar(process.get("total", 1), process.get("step", 0), width=60)
                lines.append(bar)
        return Group(*lines)
