"""Seconds until things start: importing laprop, the command line's help, all figures redrawn.

``python -m scripts.bench_startup`` writes ``results/benchmarks/startup.csv``. Each is a process of
its own; ``import torch`` stands beside for what laprop adds to it.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial

from experiments.common import ROOT
from scripts import benchmark

REPEATS = 5


def seconds(*arguments: str) -> float:
    """Wall time of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "import torch": partial(seconds, "-c", "import torch"),
            "import laprop": partial(seconds, "-c", "import laprop"),
            "python -m experiments --help": partial(seconds, "-m", "experiments", "--help"),
        }
        numbers = benchmark.interleaved(ways, REPEATS)
        redraw = partial(seconds, "-m", "scripts.make_figures", "--to", folder)
        numbers["all figures redrawn"] = [redraw()]
    benchmark.write("startup", benchmark.table(numbers, "seconds"))


if __name__ == "__main__":
    main()
