"""Time and temporary memory of an optimizer's step, as ratios to torch's fused Adam.

``python -m scripts.bench_optimizer`` writes ``results/benchmarks/optimizer.csv``, with
``--device cuda`` ``optimizer_cuda.csv``. The sets of float32 tensors are one of 10M numbers,
ResNet-20's 59 (0.27M, which stay in the cache), a transformer's 39M, and 300 of 64 numbers. The
last come also with a seventh of the gradients missing at random in each step (``come and go``), and
with one tensor whose elements have gaps between them (``one strided``). On a CPU the step is timed
on one thread and on all. ``stream`` is what no step of this kind can be faster than: on a CPU a C
loop that reads four arrays and writes three, and does no more than two products and four sums (it
needs ``cc``); on a GPU a copy within its memory that reads and writes as many bytes as a step does.
A peer that is not installed (``pip install '.[bench]'``) has a row without numbers.
"""

import argparse
import ctypes
import importlib
import itertools
import math
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.cifar10 import resnet
from experiments.common.provenance import keep_freed_memory
from laprop import LaProp
from scripts import benchmark

ROUNDS = 7
AT_LEAST = 0.05  # seconds a measurement
REFERENCE = "torch Adam, fused"

STREAM = """
#include <stdint.h>
void stream(float *p, const float *g, float *m, float *n, int64_t size, int32_t threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (int64_t i = 0; i < size; ++i) {
    m[i] = 0.9f * m[i] + g[i];
    n[i] = 0.5f * n[i] + g[i];
    p[i] += m[i] + n[i];
  }
}
"""


def transformer() -> list[torch.Size]:
    """Shapes of a 6-layer encoder of width 512 with 40,000 words: 39.4M numbers, 73 tensors."""
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, device="meta")
    net = torch.nn.Sequential(
        torch.nn.Embedding(40000, 512, device="meta"), torch.nn.TransformerEncoder(layer, 6)
    )
    return [p.shape for p in net.parameters()]


def small() -> list[torch.Size]:
    """Shapes of 300 small tensors, such as the experts of a mixture have."""
    return [torch.Size([64])] * 300


PROBLEMS: dict[str, Callable[[], list[torch.Size]]] = {
    "10M": lambda: [torch.Size([10_000_000])],
    "ResNet-20": lambda: [p.shape for p in resnet(20, 16, "pad").parameters()],
    "transformer": transformer,
    "300 small": small,
    "come and go": small,
    "one strided": small,
}


def peer(module: str, name: str, **options: Any) -> Callable[..., Any]:
    """An optimizer of another package.

    Raises:
        ImportError: it is not installed.
    """
    return partial(getattr(importlib.import_module(module), name), **options)


MODES: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
OPTIMIZERS: dict[str, Callable[[], Callable[..., Any]]] = {
    f"{name}, {mode}": partial(partial, optimizer, **options)
    for name, optimizer in (
        ("torch Adam", torch.optim.Adam),
        ("torch AdamW", torch.optim.AdamW),
        ("LaProp", LaProp),
    )
    for mode, options in MODES.items()
} | {
    "timm LaProp": partial(peer, "timm.optim.laprop", "LaProp"),
    "pytorch_optimizer LaProp": partial(peer, "pytorch_optimizer", "LaProp"),
    "heavyball LaProp": partial(peer, "heavyball", "LaProp"),
    "LaProp, fused, clipped": partial(partial, LaProp, fused=True, agc=0.3),
    "torchrl DreamerV3Optimizer": partial(
        peer, "torchrl.trainers.algorithms", "DreamerV3Optimizer", agc=0.0
    ),
    "torchrl DreamerV3Optimizer, clipped": partial(
        peer, "torchrl.trainers.algorithms", "DreamerV3Optimizer", agc=0.3
    ),
}


# Whose version stands in a row; else it is torch's or laprop's.
PEERS = ("timm", "pytorch_optimizer", "heavyball", "torchrl")


def missing(problem: str, count: int) -> list[list[bool]]:
    """Which gradients are missing in each of some steps, which are gone through in turn."""
    if problem != "come and go":
        return [[False] * count]
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(64, count, generator=generator) < 1 / 7).tolist()


def stepper(
    optimizer: Callable[..., Any], problem: str, shapes: list[torch.Size], device: str
) -> Callable[[], object]:
    """A step of a fresh optimizer on tensors of its own, after three that set it up."""
    generator = torch.Generator(device).manual_seed(0)
    some = {"generator": generator, "device": device}
    params = [torch.nn.Parameter(torch.randn(shape, **some)) for shape in shapes]
    if problem == "one strided":
        params[0] = torch.nn.Parameter(torch.randn(2 * shapes[0].numel(), **some)[::2])
    grads = [1e-2 * torch.randn(shape, **some) for shape in shapes]
    made = optimizer(params, lr=1e-6)
    gone = itertools.cycle(missing(problem, len(shapes)))

    def step() -> None:
        for param, grad, is_gone in zip(params, grads, next(gone), strict=True):
            param.grad = None if is_gone else grad  # some peers take them away
        made.step()

    for _ in range(3):
        step()
    return step


def assignments(problem: str, shapes: list[torch.Size]) -> Callable[[], object]:
    """What :func:`stepper` does besides the optimizer's step, to be taken off."""
    params = [torch.nn.Parameter(torch.empty(shape)) for shape in shapes]
    grads = [torch.empty(shape) for shape in shapes]
    gone = itertools.cycle(missing(problem, len(shapes)))

    def assign() -> None:
        for param, grad, is_gone in zip(params, grads, next(gone), strict=True):
            param.grad = None if is_gone else grad

    return assign


def stream(shapes: list[torch.Size], threads: int) -> Callable[[], object]:
    """The loop over as many numbers.

    Raises:
        ImportError: there is no C compiler.
    """
    if shutil.which("cc") is None:
        raise ImportError("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "stream.c"), Path(folder, "stream.so")
        source.write_text(STREAM)
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
        function = ctypes.CDLL(str(library)).stream
    size = sum(map(math.prod, shapes))
    arrays = [torch.zeros(size) for _ in range(4)]
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64, ctypes.c_int32]
    return lambda: function(*(a.data_ptr() for a in arrays), size, threads)


def copy(shapes: list[torch.Size]) -> Callable[[], object]:
    """A copy that reads and writes as many bytes as a step: seven numbers for each."""
    source = torch.zeros(sum(map(math.prod, shapes)) * 7 // 2, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def seconds_on_gpu(function: Callable[[], object], at_least: float) -> float:
    """Mean time of a call between two events in its stream, over at least so many seconds.

    What the host needs to launch a call counts where the device waits for it.
    """
    calls, elapsed = 1, 0.0
    while elapsed < at_least:
        calls = max(calls, int(1.2 * calls * at_least / elapsed) if elapsed else 1)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        elapsed = 1e-3 * begin.elapsed_time(end)
    return elapsed / calls


def temporary_bytes(step: Callable[[], object], device: str) -> float:
    """By how much memory in use grows at most during a step; NaN where the system can't tell.

    On a CPU it is the resident set: large blocks go back to the system when they are freed, as long
    as nobody told glibc otherwise.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return float(torch.cuda.max_memory_allocated() - before)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    except OSError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)


def memory(device: str) -> dict[str, float]:
    """Temporary bytes of a step on the tensor of 10M numbers."""
    found = {}
    for way, optimizer in OPTIMIZERS.items():
        with suppress(ImportError):
            step = stepper(optimizer(), "10M", PROBLEMS["10M"](), device)
            found[way] = temporary_bytes(step, device)
    return found


def measured(problem: str, device: str, threads: int) -> pd.DataFrame:
    """A row for each optimizer on one set of tensors."""
    torch.set_num_threads(threads)
    shapes = PROBLEMS[problem]()
    overhead = assignments(problem, shapes)
    made: dict[str, Callable[[], object] | None] = {}
    for way, optimizer in OPTIMIZERS.items():
        try:
            made[way] = stepper(optimizer(), problem, shapes, device)
        except ImportError:
            made[way] = None
    try:
        made["stream"] = copy(shapes) if device == "cuda" else stream(shapes, threads)
    except ImportError:
        made["stream"] = None

    def milliseconds(way: str, step: Callable[[], object]) -> float:
        if device == "cuda":  # the host's assignments pass while the device works
            return 1e3 * seconds_on_gpu(step, AT_LEAST)
        off = 0.0 if way == "stream" else benchmark.seconds_per_call(overhead, 0.002)
        return 1e3 * (benchmark.seconds_per_call(step, AT_LEAST) - off)

    ways = {w: partial(milliseconds, w, step) for w, step in made.items() if step is not None}
    rows = benchmark.table(benchmark.interleaved(ways, ROUNDS), "milliseconds")
    rows["times_fused_adam"] = rows.milliseconds / rows.set_index("way").milliseconds[REFERENCE]
    missing = pd.DataFrame({"way": [way for way, step in made.items() if step is None]})
    rows = pd.concat([rows, missing.assign(note="not installed")]) if len(missing) else rows
    for name in PEERS:
        peers = rows.way.str.startswith(f"{name} ") & rows.milliseconds.notna()
        rows.loc[peers, "version"] = version(name) if peers.any() else None
    rows.insert(0, "problem", problem)
    rows.insert(1, "numbers", sum(map(math.prod, shapes)))
    rows.insert(2, "threads", threads)
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("problems", nargs="*", help=f"of {', '.join(PROBLEMS)}; default all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    chosen, device = arguments.problems or list(PROBLEMS), arguments.device
    if unknown := sorted(set(chosen) - PROBLEMS.keys()):
        parser.error(f"{', '.join(unknown)}: unknown; allowed are {', '.join(PROBLEMS)}")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none")
    peaks = memory(device) if "10M" in chosen else {}
    keep_freed_memory()
    every = [1] if device == "cuda" else sorted({1, os.cpu_count() or 1})
    rows = [measured(problem, device, threads) for problem in chosen for threads in every]
    table = pd.concat(rows, ignore_index=True)
    table["temporary_bytes"] = table.way.map(peaks).where(table.problem == "10M")
    benchmark.write("optimizer" if device == "cpu" else "optimizer_cuda", table, device)


if __name__ == "__main__":
    main()
