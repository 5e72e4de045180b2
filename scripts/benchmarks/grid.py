"""Cells per second of Figure 2's grid: one batch, a loop over cells, a process per cell.

``python -m scripts.benchmarks.grid`` writes ``results/benchmarks/grid.csv``. A cell is one
optimizer, sigma, nu and seed, trained for the paper's 10,000 updates on one thread. The loop and
the processes train three cells from different places of the grid, because all of them would take
hours.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from experiments.common import ROOT
from experiments.common.config import expand
from experiments.common.execution import execute
from scripts.benchmarks import measure

GRID = ["figure=fig02", "optimizer=laprop", "task.noise=halfwidth", "threads=1"]
CELLS = [(0.04, 0.0, 0), (0.1, 0.5, 40), (0.16, 0.9, 80)]  # sigma, nu, seed


def cell(sigma: float, nu: float, seed: int, output: str) -> list[str]:
    """The command line of one cell."""
    values = [f"task.sigma={sigma}", f"optimizer.nu={nu}", f"seed={seed}", f"output={output}"]
    return ["task=rosenbrock", *GRID[1:], *values]


def batch(output: str) -> int:
    """Train all cells of one optimizer and reading of sigma as one batch; return their number."""
    (settings,) = expand([*GRID, f"output={output}"])
    execute(settings)
    return sum(1 for _ in settings.members())


def loop(output: str) -> int:
    """Train cells one after the other in this process, and return their number."""
    for values in CELLS:
        (settings,) = expand(cell(*values, output))
        execute(settings)
    return len(CELLS)


def processes(output: str) -> int:
    """Train cells one after the other, each by a command of its own, and return their number."""
    for values in CELLS:
        command = [sys.executable, "-m", "experiments", *cell(*values, output)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return len(CELLS)


def rate(way: Callable[[str], int]) -> float:
    """Cells per second; the output folder is new, so that no cell counts as finished."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        count = way(output)
        return count / (time.perf_counter() - start)


def main() -> None:
    """Measure, print and write."""
    arguments = measure.parser(__doc__, rounds=3).parse_args()
    ways = {way.__name__: partial(rate, way) for way in (batch, loop, processes)}
    rows = measure.table(measure.interleaved(ways, arguments.rounds), "cells_per_second")
    rows["times_a_process_per_cell"] = rows.cells_per_second / rows.cells_per_second.iloc[-1]
    measure.write(arguments.to / "grid.csv", rows.assign(threads=1))


if __name__ == "__main__":
    main()
