"""Execute as much of the long runs as ten minutes allow, on a GPU machine without a network.

The machine needs nothing but torch.

``python3 .gpu/1/gpu_runs.py --output DIR`` runs ``STEPS`` there, from those parts of
``scripts.gpu_pack`` that have arrived. It writes at most seven small files to DIR: the progress of
each run (``reached.csv``), the records of the runs without weights (``runs.tar.gz``), the
benchmark, the logs of the tests, of the steps and of fairseq, and ``report.json``. A run whose time
is up gets SIGTERM and counts as unfinished.

Runs of IWSLT14 and CIFAR-10 compute in float32, with TF32 switched off. Those of RoBERTa compute in
fp16, as the authors' runs did.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

# This file runs before any package is installed, so packages are imported where they are used.

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / ".gpu"
# The files of a run that come back: all but checkpoints and logs. Logs have their own archive.
RECORDS = ("manifest.json", "config.yaml", "metrics.jsonl", "summary.json", "*.csv")
LARGEST = 16 << 20  # largest size in bytes of a file that comes back
GRACE = 20.0  # seconds between SIGTERM and SIGKILL
PAIRS = list(itertools.product((0, 1, 2), ("adam", "laprop")))


class Step(NamedTuple):
    """Processes that run at the same time; several steps may also run at the same time.

    Attributes:
        name: name of the step and of its logs.
        after: the step that must have ended before this one begins.
        until: minutes after the start at which unfinished processes are stopped.
        commands: the arguments of ``python -m`` for each process.
        rehearsal: the commands of a rehearsal at scale ``smoke`` on a CPU.
    """

    name: str
    after: str | None
    until: float
    commands: list[str]
    rehearsal: list[str]


STEPS = (
    Step("kernel", None, 2.0,
         ["pytest -v -n 8 -p no:cacheprovider tests/in_triton.py tests/test_cuda.py "
          "--deselect tests/test_cuda.py::test_the_kernel"],  # it would run in_triton.py again
         ["pytest -v -p no:cacheprovider tests/test_cuda.py -k import"]),
    # This step measures times, so nothing else runs at the same time.
    Step("benchmark", "kernel", 3.0,
         ["scripts.benchmarks.optimizer --device cuda"],
         ["scripts.benchmarks.optimizer ResNet-20"]),
    Step("iwslt14", "benchmark", 9.0,
         [f"experiments figure=fig05 scale=short task.updates=2000 seed={s} "
          f"optimizer={o}" for s, o in PAIRS],
         [f"experiments figure=fig05 scale=smoke task.warmup=0 seed=0 optimizer={o}"
          for o in ("adam", "laprop")]),
    Step("resnet20", "benchmark", 9.3,
         [f"experiments figure=resnet20 scale=paper optimizer={o}" for o in ("laprop", "adam")],
         ["experiments figure=resnet20 scale=smoke optimizer=laprop"]),
    # Each process takes the next cell that no other process works on.
    Step("fig12", "iwslt14", 9.3,
         6 * ["experiments figure=fig12 scale=short"],
         2 * ["experiments figure=fig12 scale=smoke seed=0"]),
    # A run of 4,000 updates takes 160 PFLOP. It shares the ten minutes with the other steps;
    # `--steps roberta` gives it all of them.
    Step("roberta", "fig12", 9.3,
         [f"experiments figure=fig10 scale=paper task.updates=4000 task.warmup=0 seed=0 "
          f"optimizer.nu=0.999 optimizer={o}" for o in ("laprop", "adam")],
         [f"experiments figure=fig10 scale=smoke task.warmup=0 seed=0 optimizer.nu=0.999 "
          f"optimizer={o}" for o in ("laprop", "adam")]),
)  # fmt: skip


def images_back(sheet: Path, folder: Path) -> None:
    """Restore a binary file of CIFAR-10 from a picture and its labels; runs check its sha256."""
    import numpy as np
    from PIL import Image

    with Image.open(sheet, formats=["WEBP"]) as image:
        grid = np.asarray(image.convert("RGB")).reshape(100, 32, 100, 32, 3)
    pixels = grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3072)
    labels = np.frombuffer(sheet.with_suffix(".labels").read_bytes(), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    both = np.concatenate([labels[:, None], pixels], axis=1)
    (folder / f"{sheet.stem}.bin").write_bytes(both.tobytes())


def install(parts: Path, work: Path, store: Path) -> dict[str, str]:
    """Unpack program and packages to ``work`` and data to ``store``; return the environment."""
    for archive in sorted([*parts.glob("*/program.tar.gz"), *parts.glob("*/*.tar.xz")]):
        into = work / "program" if archive.name.startswith("program") else store
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    together = work / "cifar10"  # a picture and its labels may have come in two parts
    together.mkdir()
    for path in parts.glob("*/cifar10/*"):
        (together / path.name).symlink_to(path)
    for sheet in sorted(together.glob("*.webp")):
        if sheet.with_suffix(".labels").exists():
            images_back(sheet, store / "data" / "cifar10")
    found = sorted(map(str, parts.glob("*/wheels/*.whl")))
    if found:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        pip += ["--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(work / "site"), *found], check=True)
    places = [str(work / "program"), str(work / "site"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "PYTHONUNBUFFERED": "1",
        "LAPROP_DATA": str(store / "data"),
        "OMP_NUM_THREADS": "1",
        "NVIDIA_TF32_OVERRIDE": "0",  # otherwise cuDNN's convolutions use TF32
    }


def places() -> tuple[Path, Path]:
    """Make two new folders, one to work in and one for data and runs.

    The second is in memory if there is room, since fairseq saves 470 MB every 50 updates. Packages
    are in the first, because a file system in memory may not allow programs to be executed.
    """
    work, memory = Path(tempfile.mkdtemp(prefix="laprop-")), Path("/dev/shm")  # exists on Linux
    if memory.is_dir() and shutil.disk_usage(memory).free > 40e9:
        return work, Path(tempfile.mkdtemp(prefix="laprop-", dir=memory))
    return work, work


class Machine:
    """Runs the steps: starts those that may begin, stops those that must end, keeps the results."""

    def __init__(
        self, parts: Path, work: Path, store: Path, output: Path, minutes: float, rehearse: bool
    ) -> None:
        self.begin = time.monotonic()
        self.output, self.minutes, self.rehearse = output, minutes, rehearse
        self.work, self.outputs = work, store / "outputs"
        self.report: dict[str, Any] = {"minutes": minutes, "rehearsal": rehearse, "steps": {}}
        for path in parts.glob("*/commit"):
            self.report["commit"] = path.read_text()
        self.running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.told: dict[str, float] = {}  # the time at which a step's processes got SIGTERM
        self.over = False  # whether all steps have to stop
        (self.work / "logs").mkdir()
        output.mkdir(parents=True, exist_ok=True)
        self.environment = install(parts, work, store)
        self.report["installed_after_s"] = round(self.seconds(), 1)

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begin

    def run(self, steps: list[Step]) -> int:
        """Run all steps; return the number of processes that failed by themselves."""
        waiting, named = list(steps), {step.name: step for step in STEPS}
        while waiting or self.running:
            for step in list(waiting):
                over = self.over or self.seconds() >= self._until(step)
                unfinished = {*self.running, *(other.name for other in waiting)}
                # A step that was not chosen is replaced by the step that it would wait for.
                before = step.after
                while before is not None and before not in unfinished:
                    before = named[before].after if before in named else None
                blocked = before is not None
                if over or not blocked:
                    waiting.remove(step)
                    self._start(step, over)
            for step in steps:
                self._look(step)
            time.sleep(0.1)
        self.gather()
        return sum(
            code not in (0, None) and not step["stopped"]
            for step in self.report["steps"].values()
            for code in step.get("exit_codes", [])
        )

    def _until(self, step: Step) -> float:
        return step.until * 6 * self.minutes  # seconds

    def _start(self, step: Step, over: bool) -> None:
        note = {"started_s": None if over else round(self.seconds(), 1), "stopped": over}
        self.report["steps"][step.name] = note
        if over:
            return
        print(f"{self.seconds():6.1f} s: {step.name} begins", flush=True)
        device = "cpu" if self.rehearse else "cuda"
        self.running[step.name] = []
        for i, command in enumerate(step.rehearsal if self.rehearse else step.commands):
            words = command.split()
            if words[0] == "experiments":
                words += [f"output='{self.outputs}'", f"device={device}", "threads=1"]
            with (self.work / "logs" / f"{step.name}-{i}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    cwd=self.work / "program",
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.running[step.name].append(process)

    def _look(self, step: Step) -> None:
        """Stop a step whose time is up, kill processes that do not stop, note those that ended."""
        processes = self.running.get(step.name, [])
        alive = [process for process in processes if process.poll() is None]
        note = self.report["steps"].get(step.name, {})
        if alive and (self.over or self.seconds() >= self._until(step)):
            since = self.told.setdefault(step.name, self.seconds())
            number = signal.SIGTERM if not note["stopped"] else signal.SIGKILL
            if not note["stopped"] or self.seconds() > since + GRACE:
                note["stopped"] = True
                for process in alive:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
        if processes and not alive:
            del self.running[step.name]
            note["ended_s"] = round(self.seconds(), 1)
            note["exit_codes"] = [process.returncode for process in processes]
            print(f"{self.seconds():6.1f} s: {step.name} ended, {note['exit_codes']}", flush=True)
            try:
                self.gather()  # written now, because this process may be killed later
            except Exception as error:  # the other steps go on, and their end gathers again
                print(f"{self.seconds():6.1f} s: not gathered: {error!r}", flush=True)

    def stop(self, *_: object) -> None:
        """Stop every step; called as a handler of signals."""
        self.over = True

    def gather(self) -> None:
        """Write the present results into the folder that comes back."""
        runs = sorted(self.outputs.glob("*/*/manifest.json"))
        rows = [reached(path.parent) for path in runs]
        with replaced(self.output / "reached.csv") as path, path.open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]) if rows else ["task"])
            table.writeheader()
            table.writerows(rows)
        kept = [p for run in runs for p in records(run.parent)]
        self._tar("runs.tar.gz", kept, self.outputs)
        self._tar("logs.tar.gz", sorted((self.work / "logs").iterdir()), self.work)
        self._tar("fairseq.tar.gz", sorted(self.outputs.glob("*/*/fairseq.log")), self.outputs)
        tests = self.work / "logs" / "kernel-0.log"
        if tests.exists():
            with replaced(self.output / "tests.log") as path:
                shutil.copy(tests, path)
        for table_file in (self.work / "program" / "results" / "benchmarks").glob("*.csv"):
            with replaced(self.output / table_file.name) as path:
                shutil.copy(table_file, path)
        self.report["seconds"] = round(self.seconds(), 1)
        self.report["too_large"] = [
            path.name for path in self.output.iterdir() if path.stat().st_size > LARGEST
        ]
        with replaced(self.output / "report.json") as path:
            path.write_text(json.dumps(self.report, indent=1) + "\n")

    def _tar(self, name: str, paths: list[Path], root: Path) -> None:
        with replaced(self.output / name) as archive, tarfile.open(archive, "w:gz") as tar:
            for path in paths:
                tar.add(path, str(path.relative_to(root)))


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A context with a temporary path, which replaces ``path`` if the block ends without error."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def records(folder: Path) -> list[Path]:
    """The files of a run that come back, the manifest first."""
    return [path for pattern in RECORDS for path in sorted(folder.glob(pattern))]


def reached(folder: Path) -> dict[str, Any]:
    """A run's row of ``reached.csv``: its settings, its status and its last record."""
    manifest = json.loads((folder / "manifest.json").read_text())
    settings = manifest["settings"]
    metrics = folder / "metrics.jsonl"
    written = metrics.read_text() if metrics.exists() else ""
    lines = written.splitlines()[: written.count("\n")]  # without a line that is just written
    last = json.loads(lines[-1]) if lines else {}
    return {
        "task": manifest["task"],
        "figure": manifest["figure"],
        "scale": manifest["scale"],
        "key": manifest["key"],
        "optimizer": settings["optimizer"]["name"],
        "mu": settings["optimizer"].get("mu"),
        "nu": settings["optimizer"].get("nu"),
        "seed": settings["seed"],
        "status": manifest["status"],
        "wall_time_s": manifest.get("wall_time_s"),
        "records": len(lines),
        "last_step": last.get("step"),
        "last_train_loss": last.get("train_loss"),
        "gpu": manifest["environments"][-1]["hardware"]["gpu"],
    }


def main() -> int:
    """The command line."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(prog="gpu_runs", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of what comes back")
    parser.add_argument("--minutes", type=float, default=10, help="total time; default 10")
    parser.add_argument("--rehearse", action="store_true", help="at scale smoke, on the CPU")
    parser.add_argument("--steps", nargs="*", choices=names, default=names, help="default all")
    parser.add_argument("--parts", type=Path, help="their folder; default .gpu")
    arguments = parser.parse_args()
    # The copy of this file that runs on the GPU machine lies in one of the parts.
    parts = (arguments.parts or (PACK if PACK.is_dir() else ROOT)).absolute()
    chosen = [step for step in STEPS if step.name in arguments.steps]
    (work, store), output = places(), arguments.output.absolute()
    machine = Machine(parts, work, store, output, arguments.minutes, arguments.rehearse)
    signal.signal(signal.SIGTERM, machine.stop)
    signal.signal(signal.SIGINT, machine.stop)
    failed = machine.run(chosen)
    print((output / "reached.csv").read_text())
    for folder in {work, store}:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
