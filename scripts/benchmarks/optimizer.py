"""Time and temporary memory of an optimizer's step, as ratios to torch's fused Adam.

``python -m scripts.benchmarks.optimizer`` writes ``results/benchmarks/optimizer.csv``, and
``--device cuda`` writes ``optimizer_cuda.csv``. It measures these sets of float32 tensors:

- ``10M``: one tensor of 10M numbers.
- ``ResNet-20``: 59 tensors, 0.27M numbers, which fit into the cache.
- ``transformer``: 73 tensors, 39M numbers.
- ``300 small``: 300 tensors of 64 numbers.
- ``come and go``: the same, but in each step a random seventh of the gradients is missing.
- ``one strided``: the same, with gaps between the elements of one tensor.

On a CPU each step is timed on one thread and on all. ``stream`` is a lower limit for the time of a
step. On a CPU it is a C loop that reads four arrays, writes three and hardly computes (it needs
``cc``), on a GPU a copy that reads and writes as many bytes as a step. Another package that is not
installed (``pip install '.[bench]'``) has a row without numbers.
"""

import ctypes
import importlib
import itertools
import math
import os
import resource
import shutil
import subprocess
import sys
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
from scripts.benchmarks import measure

ROUNDS = 7
AT_LEAST = 0.05  # least duration of a measurement in seconds
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


FOR_LOOP, FOREACH, FUSED = {"foreach": False, "fused": False}, {"foreach": True}, {"fused": True}
# For each way to make a step: the module of an optimizer, its name there, and its options.
OPTIMIZERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "torch Adam, for-loop": ("torch.optim", "Adam", FOR_LOOP),
    "torch Adam, foreach": ("torch.optim", "Adam", FOREACH),
    "torch Adam, fused": ("torch.optim", "Adam", FUSED),
    "torch AdamW, for-loop": ("torch.optim", "AdamW", FOR_LOOP),
    "torch AdamW, foreach": ("torch.optim", "AdamW", FOREACH),
    "torch AdamW, fused": ("torch.optim", "AdamW", FUSED),
    "LaProp, for-loop": ("laprop", "LaProp", FOR_LOOP),
    "LaProp, foreach": ("laprop", "LaProp", FOREACH),
    "LaProp, fused": ("laprop", "LaProp", FUSED),
    "timm LaProp": ("timm.optim.laprop", "LaProp", {}),
    "pytorch_optimizer LaProp": ("pytorch_optimizer", "LaProp", {}),
    "heavyball LaProp": ("heavyball", "LaProp", {}),
    "LaProp, fused, clipped": ("laprop", "LaProp", {"fused": True, "agc": 0.3}),
    "torchrl DreamerV3Optimizer": (
        "torchrl.trainers.algorithms", "DreamerV3Optimizer", {"agc": 0.0}
    ),
    "torchrl DreamerV3Optimizer, clipped": (
        "torchrl.trainers.algorithms", "DreamerV3Optimizer", {"agc": 0.3}
    ),
}  # fmt: skip


def optimizer(way: str) -> Callable[..., Any]:
    """The optimizer of a way, to be called with parameters and ``lr``.

    Raises:
        ImportError: its package is not installed.
    """
    module, name, options = OPTIMIZERS[way]
    return partial(getattr(importlib.import_module(module), name), **options)


# heavyball compiles its step for the tensors that it gets. This takes minutes for 300 of them, and
# happens again whenever other gradients are missing.
NOT_TIMED = {"heavyball LaProp": ("300 small", "come and go", "one strided")}

# Rows of these packages have a column with their version. Every row has torch's and laprop's.
PEERS = ("timm", "pytorch_optimizer", "heavyball", "torchrl")


def missing(problem: str, count: int) -> list[list[bool]]:
    """For each step of a cycle and each of ``count`` gradients whether that gradient is missing."""
    if problem != "come and go":
        return [[False] * count]
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(64, count, generator=generator) < 1 / 7).tolist()


def stepper(
    make: Callable[..., Any], problem: str, shapes: list[torch.Size], device: str
) -> Callable[[], object]:
    """A function that makes a step of a new optimizer on new tensors.

    Three steps have been made before, so that its state exists.
    """
    generator = torch.Generator(device).manual_seed(0)
    some = {"generator": generator, "device": device}
    params = [torch.nn.Parameter(torch.randn(shape, **some)) for shape in shapes]
    if problem == "one strided":
        params[0] = torch.nn.Parameter(torch.randn(2 * shapes[0].numel(), **some)[::2])
    grads = [1e-2 * torch.randn(shape, **some) for shape in shapes]
    made = make(params, lr=1e-6)
    gone = itertools.cycle(missing(problem, len(shapes)))

    def step() -> None:
        for param, grad, is_gone in zip(params, grads, next(gone), strict=True):
            # Set in every step, because some peers set gradients to None.
            param.grad = None if is_gone else grad
        made.step()

    for _ in range(3):
        step()
    return step


def assignments(problem: str, shapes: list[torch.Size]) -> Callable[[], object]:
    """A function that does what :func:`stepper`'s does besides the step; its time is subtracted."""
    params = [torch.nn.Parameter(torch.empty(shape)) for shape in shapes]
    grads = [torch.empty(shape) for shape in shapes]
    gone = itertools.cycle(missing(problem, len(shapes)))

    def assign() -> None:
        for param, grad, is_gone in zip(params, grads, next(gone), strict=True):
            param.grad = None if is_gone else grad

    return assign


def stream(shapes: list[torch.Size], threads: int) -> Callable[[], object]:
    """A function that calls the C loop ``STREAM`` on as many numbers as the shapes have in total.

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
    """A function that copies as many bytes as a step reads and writes, seven numbers per weight."""
    source = torch.zeros(sum(map(math.prod, shapes)) * 7 // 2, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def seconds_on_gpu(function: Callable[[], object], at_least: float) -> float:
    """Mean time of a call in seconds, between two events in the stream.

    The host's time for launching a call counts only if the device has to wait for it.

    Args:
        function: what is timed.
        at_least: least duration in seconds of all calls together.
    """
    calls, elapsed = 1, 0.0
    while elapsed < at_least:
        calls = max(calls, math.ceil(1.2 * calls * at_least / elapsed) if elapsed else 1)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        elapsed = 1e-3 * begin.elapsed_time(end)
    return elapsed / calls


def temporary_bytes(step: Callable[[], object], device: str) -> float:
    """Largest growth in bytes of the memory in use during a step; NaN if the system cannot tell.

    On a CPU the memory in use is the resident set. It decreases when a large block is freed, but
    only before :func:`keep_freed_memory` has been called.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return float(torch.cuda.max_memory_allocated() - before)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the memory in use now
    except OSError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)


def memory(device: str) -> dict[str, float]:
    """Temporary bytes of a step on the tensor of 10M numbers."""
    found = {}
    for way in OPTIMIZERS:
        with suppress(ImportError):
            step = stepper(optimizer(way), "10M", PROBLEMS["10M"](), device)
            found[way] = temporary_bytes(step, device)
    return found


def measured(problem: str, device: str, threads: int, rounds: int) -> pd.DataFrame:
    """A row for each optimizer, and one for ``stream``, on one set of tensors."""
    print(f"{problem}, {threads} thread{'s' * (threads > 1)}", file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    shapes = PROBLEMS[problem]()
    overhead = assignments(problem, shapes)
    made: dict[str, Callable[[], object] | None] = {}
    for way in OPTIMIZERS:
        if problem in NOT_TIMED.get(way, ()):
            continue
        try:
            made[way] = stepper(optimizer(way), problem, shapes, device)
        except ImportError:
            made[way] = None
    try:
        made["stream"] = copy(shapes) if device == "cuda" else stream(shapes, threads)
    except ImportError:
        made["stream"] = None

    def milliseconds(way: str, step: Callable[[], object]) -> float:
        if device == "cuda":  # the host assigns gradients while the device still works
            return 1e3 * seconds_on_gpu(step, AT_LEAST)
        step()  # to load its data into the caches, which the other ways have overwritten
        off = 0.0 if way == "stream" else measure.seconds_per_call(overhead, 0.002)
        return 1e3 * (measure.seconds_per_call(step, AT_LEAST) - off)

    ways = {w: partial(milliseconds, w, step) for w, step in made.items() if step is not None}
    rows = measure.table(measure.interleaved(ways, rounds), "milliseconds")
    rows["times_fused_adam"] = rows.milliseconds / rows.set_index("way").milliseconds[REFERENCE]
    missing = pd.DataFrame({"way": [way for way, step in made.items() if step is None]})
    rows = pd.concat([rows, missing.assign(note="not installed")]) if len(missing) else rows
    left_out = pd.DataFrame({"way": [way for way in NOT_TIMED if problem in NOT_TIMED[way]]})
    rows = (
        pd.concat([rows, left_out.assign(note="compiles for minutes")]) if len(left_out) else rows
    )
    for name in PEERS:
        peers = rows.way.str.startswith(f"{name} ") & rows.milliseconds.notna()
        rows.loc[peers, "version"] = version(name) if peers.any() else None
    rows.insert(0, "problem", problem)
    rows.insert(1, "numbers", sum(map(math.prod, shapes)))
    rows.insert(2, "threads", threads)
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = measure.parser(__doc__, ROUNDS)
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
    rows = [
        measured(problem, device, threads, arguments.rounds)
        for problem in chosen
        for threads in every
    ]
    table = pd.concat(rows, ignore_index=True)
    table["temporary_bytes"] = table.way.map(peaks).where(table.problem == "10M")
    name = "optimizer.csv" if device == "cpu" else "optimizer_cuda.csv"
    measure.write(arguments.to / name, table, device)


if __name__ == "__main__":
    main()
