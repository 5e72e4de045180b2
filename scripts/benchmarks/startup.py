"""Seconds of importing laprop, of the command line's help, and of redrawing all figures.

``python -m scripts.benchmarks.startup`` writes ``results/benchmarks/startup.csv``. Each measurement
runs in its own process. ``import torch`` is measured too, since ``import laprop`` contains it.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial

from experiments.common import ROOT
from scripts.benchmarks import measure


def seconds(*arguments: str) -> float:
    """Wall time of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    arguments = measure.parser(__doc__, rounds=5).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "import torch": partial(seconds, "-c", "import torch"),
            "import laprop": partial(seconds, "-c", "import laprop"),
            "python -m experiments --help": partial(seconds, "-m", "experiments", "--help"),
        }
        numbers = measure.interleaved(ways, arguments.rounds)
        redraw = partial(seconds, "-m", "scripts.make_figures", "--to", folder)
        numbers["all figures redrawn"] = [redraw()]
    measure.write(arguments.to / "startup.csv", measure.table(numbers, "seconds"))


if __name__ == "__main__":
    main()
