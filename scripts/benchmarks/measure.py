"""Functions that the benchmarks share: measuring in turn, and a table that names the machine."""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.common import RESULTS
from experiments.common.files import atomic
from experiments.common.provenance import device as device_of
from experiments.common.provenance import environment


def parser(doc: str, rounds: int) -> argparse.ArgumentParser:
    """The command line of a benchmark: its first line as help, ``--rounds`` and ``--to``."""
    made = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    made.add_argument(
        "--rounds", type=int, default=rounds, help=f"measurements of each way; default {rounds}"
    )
    made.add_argument("--to", type=Path, default=RESULTS / "benchmarks", help="folder of the table")
    return made


def interleaved(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure every way once per round, so that a change of the machine's speed affects all ways.

    Args:
        ways: for each name a function that measures once and returns its number.
        repeats: number of rounds.

    Returns:
        for each way its numbers, one per round.
    """
    numbers: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, one_measurement in ways.items():
            numbers[way].append(one_measurement())
    return numbers


def seconds_per_call(function: Callable[[], object], at_least: float) -> float:
    """Mean time of a call in seconds, over so many calls that they take ``at_least`` seconds."""
    calls, elapsed = 1, 0.0
    while elapsed < at_least:
        calls = max(calls, math.ceil(1.2 * calls * at_least / elapsed) if elapsed else 1)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        elapsed = time.perf_counter() - start
    return elapsed / calls


def table(numbers: Mapping[str, list[float]], unit: str) -> pd.DataFrame:
    """One row for each way: its name, the median (column ``unit``) and the quartiles."""
    q25, median, q75 = np.transpose([np.quantile(n, [0.25, 0.5, 0.75]) for n in numbers.values()])
    return pd.DataFrame({"way": list(numbers), unit: median, "q25": q25, "q75": q75})


def write(path: Path, rows: pd.DataFrame, device: str = "cpu") -> None:
    """Print the rows and write them to a CSV file, with columns for the machine and versions."""
    print(rows.to_string(index=False), flush=True)
    where = environment(device_of(device))
    machine = {"cpu": where["hardware"]["cpu"], "cores": where["hardware"]["cores"]}
    if where["hardware"]["gpu"]:
        machine["gpu"] = where["hardware"]["gpu"]
    rows = rows.assign(**{k: v for k, v in machine.items() if k not in rows}, **where["versions"])
    rows = rows if "threads" in rows else rows.assign(threads=torch.get_num_threads())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.4g")
