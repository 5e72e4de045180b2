"""Show the state of a sweep, running or ended, in any terminal: ``python -m scripts.status``.

It reads only the output folder, so it works on any node that sees this folder, and with any
launcher. It shows the newest sweep with its runs that are in progress, have failed or are damaged,
or with ``--runs`` all its runs. ``--sweeps`` adds a line for each earlier sweep.
"""

import argparse
import sys
from pathlib import Path

from experiments.common.status import State, Sweep, how_far, lives, overview, sweeps
from experiments.common.terminal import as_command

TROUBLE = ("failed", "damaged")  # statuses of runs of which the user has to know the reason


def whole(sweep: Sweep, states: list[State]) -> str:
    """One line for a sweep."""
    under_way = lives(sweep.parent) or any(state.status == "running" for state in states)
    ends = ("finished", "diverged", "failed", "damaged")
    waiting = any(state.status not in ends for state in states)
    if under_way or not waiting:
        return overview(states, sweep.processes)
    line = overview(states, sweep.processes, estimate=False)
    return f"{line}; it has ended; run the same command again to resume"


def line(label: str, state: State) -> str:
    """One line for a run."""
    text = how_far(state) if state.status == "running" else state.says or state.status
    return f"  {label}: {f'{state.status}: ' * (state.status in TROUBLE)}{text}"


def main() -> int:
    """Print the state and return the exit status, 2 if there is no sweep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="scripts.status")
    parser.add_argument("output", nargs="?", default="outputs", help="folder (default: outputs)")
    parser.add_argument("--runs", action="store_true", help="every run of the newest sweep")
    parser.add_argument("--sweeps", action="store_true", help="a line for each sweep")
    arguments = parser.parse_args()
    folder = Path(arguments.output.removeprefix("output="))
    found, damaged = sweeps(folder)
    for error in damaged:
        print(f"error: {error}", file=sys.stderr)
    if not found:
        if not damaged:
            print(f"error: output={folder}: no sweep has run there", file=sys.stderr)
        return 2
    for sweep in found if arguments.sweeps else found[-1:]:
        states = [run.look() for run in sweep.runs]
        print(f"{sweep.command}\n{whole(sweep, states)}")
    for run, state in zip(sweep.runs, states, strict=True):
        if arguments.runs or state.status in ("running", *TROUBLE):
            print(line(run.label, state))
    return 0


if __name__ == "__main__":
    as_command(main)
