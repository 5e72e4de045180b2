"""Cells per second of Figure 2's grid: one batch, a loop over cells, a process per cell.

``python -m scripts.bench_grid`` writes ``results/benchmarks/grid.csv``. A cell is one optimizer,
sigma, nu and seed, trained for the paper's 10,000 updates on one thread. The single cells are
spread over the grid; each way is repeated in turn, and the median is kept.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from experiments.common.config import ROOT, expand
from experiments.common.records import RESULTS
from experiments.common.run import environment, execute

GRID = ["figure=fig02", "optimizer=laprop", "task.noise=halfwidth", "threads=1"]
CELLS = [(0.04, 0.0, 0), (0.1, 0.5, 40), (0.16, 0.9, 80)]  # sigma, nu, seed
REPEATS = 3


def cell(sigma: float, nu: float, seed: int, output: str) -> list[str]:
    """The command line of one cell."""
    values = [f"task.sigma={sigma}", f"optimizer.nu={nu}", f"seed={seed}", f"output={output}"]
    return ["task=rosenbrock", *GRID[1:], *values]


def batch(output: str) -> int:
    """All cells of one optimizer and reading of sigma as one tensor program."""
    (settings,) = expand([*GRID, f"output={output}"])
    execute(settings)
    return sum(1 for _ in settings.members())


def loop(output: str) -> int:
    """Cells one after the other in this process."""
    for values in CELLS:
        (settings,) = expand(cell(*values, output))
        execute(settings)
    return len(CELLS)


def processes(output: str) -> int:
    """Cells one after the other, each as a command of its own."""
    for values in CELLS:
        command = [sys.executable, "-m", "experiments", *cell(*values, output)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return len(CELLS)


def main() -> None:
    """Measure, print and write."""
    rates: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        for way in (batch, loop, processes):
            with tempfile.TemporaryDirectory() as output:
                start = time.perf_counter()
                count = way(output)
                seconds = time.perf_counter() - start
            rates.setdefault(way.__name__, []).append(count / seconds)
    table = pd.DataFrame(
        {
            "way": list(rates),
            "cells_per_second": [statistics.median(r) for r in rates.values()],
            "lowest": [min(r) for r in rates.values()],
            "highest": [max(r) for r in rates.values()],
        }
    )
    table["times_a_process_per_cell"] = table.cells_per_second / table.cells_per_second.iloc[-1]
    where = environment("cpu")
    table = table.assign(cpu=where["hardware"]["cpu"], **where["versions"])
    target: Path = RESULTS / "benchmarks" / "grid.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(target, index=False, float_format="%.4g")
    print(table.iloc[:, :5].to_string(index=False))


if __name__ == "__main__":
    main()
