"""What the benchmark scripts share: ways measured in turn, written with their machine."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch

from experiments.common.provenance import device as device_of
from experiments.common.provenance import environment
from experiments.common.records import RESULTS

BENCHMARKS = RESULTS / "benchmarks"


def interleaved(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure every way once, and all of them again, so that a drift of the machine hits all alike.

    Args:
        ways: each measures once and returns its number.
        repeats: rounds.
    """
    numbers: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, measure in ways.items():
            numbers[way].append(measure())
    return numbers


def seconds_per_call(function: Callable[[], object], at_least: float) -> float:
    """Mean time of a call over as many as take ``at_least`` seconds in sum."""
    calls, elapsed = 1, 0.0
    while elapsed < at_least:
        calls = max(calls, int(1.2 * calls * at_least / elapsed) if elapsed else 1)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        elapsed = time.perf_counter() - start
    return elapsed / calls


def table(numbers: Mapping[str, list[float]], unit: str) -> pd.DataFrame:
    """A row per way: ``way``, the median in ``unit``, and the quartiles ``q25`` and ``q75``."""
    q25, median, q75 = np.transpose([np.quantile(n, [0.25, 0.5, 0.75]) for n in numbers.values()])
    return pd.DataFrame({"way": list(numbers), unit: median, "q25": q25, "q75": q75})


def write(name: str, rows: pd.DataFrame, device: str = "cpu") -> None:
    """Print the rows; keep them as ``results/benchmarks/<name>.csv`` with machine and versions."""
    print(rows.to_string(index=False), flush=True)
    where = environment(device_of(device))
    machine = {"cpu": where["hardware"]["cpu"], "cores": where["hardware"]["cores"]}
    if where["hardware"]["gpu"]:
        machine["gpu"] = where["hardware"]["gpu"]
    rows = rows.assign(**{k: v for k, v in machine.items() if k not in rows}, **where["versions"])
    rows = rows if "threads" in rows else rows.assign(threads=torch.get_num_threads())
    BENCHMARKS.mkdir(parents=True, exist_ok=True)
    rows.to_csv(BENCHMARKS / f"{name}.csv", index=False, float_format="%.4g")
