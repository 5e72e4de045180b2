"""The long runs on a GPU: one prepared command of ten minutes for a bare machine with torch.

``python -m scripts.gpu_runs pack`` needs the network and what ``make fairseq`` installs. It fills
``.gpu/1``, ``.gpu/2``, ... with all that such a machine lacks: the committed program, wheels,
prepared text and images. No part is larger than what is sent to it at a time; only the first is
needed to start.

``python3 .gpu/1/gpu_runs.py run --output DIR`` runs ``STEPS`` there, from the parts that have
arrived, and leaves at most seven small files in DIR: what was reached (``reached.csv``), records
of the runs without weights (``runs.tar.gz``), the benchmark, the tests' log, the logs of the steps
and of fairseq, and ``report.json``. A run whose time is up gets SIGTERM and counts as unfinished.

``python -m scripts.gpu_runs unpack DIR`` puts finished runs into the output folder of
``scripts.long_runs``, where ``scripts.collect`` finds them, and the others into its ``reached``.

Runs of IWSLT14 and CIFAR-10 compute in float32, not TF32, which is switched off. RoBERTa's compute
in fp16, as the authors' did.
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
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

# `run` starts where the packages are still missing: what is not in the standard library is
# imported where it is used.

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / ".gpu"
PROGRAM = ("laprop", "experiments", "configs", "scripts", "tests", "pyproject.toml", "README.md")
PYTHON = "3.12"  # of the machine
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (35, 34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]
# What the machine lacks; numpy, pandas, pillow, pyarrow, scipy and the like are there with torch.
WHEELS = (
    *("annotated-types", "bitarray", "cffi", "fairseq-fixed", "hydra-core", "omegaconf"),
    *("platformdirs", "pycparser", "pydantic", "pydantic_core", "sacremoses", "typing-inspection"),
    *("typing_extensions", "heavyball", "pytorch_optimizer"),
)
FROM_SOURCE = ("antlr4-python3-runtime",)  # has no wheel, and no compiled part
# Of a run, what comes back: all but checkpoints and the logs, which have an archive of their own.
RECORDS = ("manifest.json", "config.yaml", "metrics.jsonl", "summary.json", "*.csv")
MIB = 1 << 20
LARGEST = 16 * MIB  # of a file that comes back
GRACE = 20.0  # seconds from SIGTERM to SIGKILL
PAIRS = list(itertools.product((0, 1, 2), ("adam", "laprop")))


class Step(NamedTuple):
    """Processes that run side by side, and beside those of other steps.

    Attributes:
        name: of the step and its logs.
        after: the step that must have ended before this one begins.
        until: minute of ten, from the start, at which what is not finished is stopped.
        commands: one a process: what follows ``python -m``.
        rehearsal: the same at scale ``smoke`` on a CPU.
    """

    name: str
    after: str | None
    until: float
    commands: list[str]
    rehearsal: list[str]


STEPS = (
    Step("kernel", None, 2.0,
         ["pytest -v -n 8 -p no:cacheprovider tests/in_triton.py tests/test_cuda.py "
          "--deselect tests/test_cuda.py::test_the_kernel"],  # it is in_triton.py again
         ["pytest -v -p no:cacheprovider tests/test_cuda.py -k import"]),
    # Nothing else runs beside it: it measures times.
    Step("benchmark", "kernel", 3.0,
         ["scripts.bench_optimizer --device cuda"], ["scripts.bench_optimizer ResNet-20"]),
    Step("iwslt14", "benchmark", 9.0,
         [f"experiments figure=fig05 scale=short task.warmup=0 seed={s} optimizer={o}"
          for s, o in PAIRS],
         [f"experiments figure=fig05 scale=smoke task.warmup=0 seed=0 optimizer={o}"
          for o in ("adam", "laprop")]),
    Step("resnet20", "benchmark", 9.3,
         [f"experiments figure=resnet20 scale=paper optimizer={o}" for o in ("laprop", "adam")],
         ["experiments figure=resnet20 scale=smoke optimizer=laprop"]),
    # Each process takes the next cell that no other is at.
    Step("fig12", "iwslt14", 9.3,
         6 * ["experiments figure=fig12 scale=short"],
         2 * ["experiments figure=fig12 scale=smoke seed=0"]),
    # 4,000 updates are 160 PFLOP a run. Beside the others it gets what is left of ten minutes,
    # `--steps roberta` gives it all of them.
    Step("roberta", "fig12", 9.3,
         [f"experiments figure=fig10 scale=paper task.updates=4000 task.warmup=0 seed=0 "
          f"optimizer.nu=0.999 optimizer={o}" for o in ("laprop", "adam")],
         [f"experiments figure=fig10 scale=smoke task.warmup=0 seed=0 optimizer.nu=0.999 "
          f"optimizer={o}" for o in ("laprop", "adam")]),
)  # fmt: skip


# Packing ----------------------------------------------------------------------------------------


def pack(folder: Path, limit: float, commands: list[str]) -> None:
    """Fill the parts; what was downloaded or prepared before is kept.

    Args:
        folder: of the parts, ignored by git.
        limit: of a part, in MiB.
        commands: of steps; the text of their runs goes along.
    """
    commit = git("rev-parse", "HEAD")
    if git("status", "--porcelain", "--", *PROGRAM):
        raise SystemExit(f"error: uncommitted changes; what is packed is the commit {commit}")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "gpu_runs.py")
    program = folder / "program.tar.gz"
    git("archive", "--format=tar.gz", f"--output={program}", "HEAD", "--", *PROGRAM)
    (folder / "commit").write_text(commit)
    items = [folder / "gpu_runs.py", program, folder / "commit", *wheels(folder / "wheels")]
    items += [*texts(folder, commands), *images(folder / "cifar10")]
    parts = distributed(items, int(limit * MIB))
    for old in folder.glob("[0-9]*"):
        shutil.rmtree(old)
    for number, part in enumerate(parts, 1):
        for item in part:
            target = folder / str(number) / item.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(item, target)
        size = sum(item.stat().st_size for item in part) / MIB
        print(f"{folder / str(number)}: {size:.1f} MiB: {', '.join(i.name for i in part)}")


def distributed(items: list[Path], limit: int) -> list[list[Path]]:
    """The items in as few parts as come out when each goes into the first that has room.

    Raises:
        SystemExit: an item alone is larger than the limit, in bytes.
    """
    parts: list[list[Path]] = []
    for item in items:
        if item.stat().st_size > limit:
            size = item.stat().st_size / MIB
            raise SystemExit(f"error: {item}: {size:.1f} MiB, but a part has {limit / MIB:g}")
        for part in parts:
            if sum(other.stat().st_size for other in [*part, item]) <= limit:
                part.append(item)
                break
        else:
            parts.append([item])
    return parts


def git(*arguments: str) -> str:
    """What git prints about this repository."""
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()


def wheels(folder: Path) -> list[Path]:
    """The wheels that the machine lacks, at the versions of ``constraints.txt``."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().split()
        if "==" in line  # comments have none
    )

    def pinned(names: tuple[str, ...]) -> list[str]:
        return [f"{name}=={pins[name]}" if name in pins else name for name in names]

    if not folder.exists():
        partial = folder.with_suffix(".new")
        shutil.rmtree(partial, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--quiet"]
        platforms = [f"--platform={name}" for name in PLATFORMS]
        subprocess.run(
            [*pip, "download", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}",
             "--implementation=cp", *platforms, f"--dest={partial}", *pinned(WHEELS)],
            check=True,
        )  # fmt: skip
        subprocess.run(
            [*pip, "wheel", "--no-deps", f"--wheel-dir={partial}", *pinned(FROM_SOURCE)], check=True
        )
        partial.rename(folder)
    return sorted(folder.iterdir())


def texts(folder: Path, commands: list[str]) -> Iterator[Path]:
    """An archive for each prepared text of the runs of fairseq, and one of what they read beside.

    Runs find their text in the output folder and prepare nothing.
    """
    from experiments import roberta, translation
    from experiments.common import data
    from experiments.common.config import expand

    made = {}
    prepare = {"translation": translation.prepared, "roberta": roberta.prepared}
    for overrides in (text.split()[1:] for text in commands if text.startswith("experiments ")):
        for settings in expand([*overrides, f"output='{folder}'"]):
            if settings.task_name in prepare:
                place = prepare[settings.task_name](settings.task, settings)
                made[place] = settings.task_name
    for place, task in made.items():
        # The text itself has been turned into numbers; translation reads its training text again.
        names = ["bin"] if task == "roberta" else ["bin", "train.en"]
        inside = {place / name: f"outputs/prepared/{place.name}/{name}" for name in names}
        yield archived(folder / f"{place.name}.tar.xz", inside)
    if "roberta" in made.values():
        yield archived(folder / "gpt2_bpe.tar.xz", {data.fetch("gpt2_bpe"): "data/gpt2_bpe"})


def archived(target: Path, inside: dict[Path, str]) -> Path:
    """A tar archive of files and folders under other names, made where it is not yet."""
    if not target.exists():
        partial = target.with_suffix(".new")
        with tarfile.open(partial, "w:xz") as tar:
            for path, name in inside.items():
                tar.add(path, name)
        partial.rename(target)
    return target


def images(folder: Path) -> Iterator[Path]:
    """CIFAR-10 as lossless sheets, three fifths of the size, and a file of labels for each."""
    import numpy as np
    from PIL import Image

    from experiments.common import data

    folder.mkdir(exist_ok=True)
    for path in sorted(data.fetch("cifar10").glob("*.bin")):
        sheet, labels = folder / f"{path.stem}.webp", folder / f"{path.stem}.labels"
        if not sheet.exists():
            records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073)
            labels.write_bytes(records[:, 0].tobytes())
            grid = records[:, 1:].reshape(100, 100, 3, 32, 32).transpose(0, 3, 1, 4, 2)
            partial = sheet.with_suffix(".new")
            Image.fromarray(np.ascontiguousarray(grid).reshape(3200, 3200, 3)).save(
                partial, "WEBP", lossless=True, quality=50, method=4
            )
            partial.rename(sheet)
        yield from (labels, sheet)


# Running ----------------------------------------------------------------------------------------


def images_back(sheet: Path, folder: Path) -> None:
    """The official binary file of a sheet and its labels; a run checks its sha256."""
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
    """Lay out program and packages in ``work``, data in ``store``; returns the environment."""
    for archive in sorted([*parts.glob("*/program.tar.gz"), *parts.glob("*/*.tar.xz")]):
        into = work / "program" if archive.name.startswith("program") else store
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    together = work / "cifar10"  # a sheet and its labels may have come in two parts
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
    path = [str(work / "program"), str(work / "site"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        "LAPROP_DATA": str(store / "data"),
        "OMP_NUM_THREADS": "1",
        "NVIDIA_TF32_OVERRIDE": "0",  # cuDNN's convolutions would use it
    }


def places() -> tuple[Path, Path]:
    """Two new folders: to work in, and for data and runs.

    The second is in memory where there is room, since fairseq saves 470 MB every 50 updates. It
    does not hold packages: programs may not be allowed there.
    """
    work, memory = Path(tempfile.mkdtemp(prefix="laprop-")), Path("/dev/shm")  # Linux has it
    if memory.is_dir() and shutil.disk_usage(memory).free > 40e9:
        return work, Path(tempfile.mkdtemp(prefix="laprop-", dir=memory))
    return work, work


class Machine:
    """The steps on this machine: starts what may begin, stops what must end, keeps what came."""

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
        self.told: dict[str, float] = {}  # when a step's processes got SIGTERM
        self.over = False  # for all steps
        (self.work / "logs").mkdir()
        output.mkdir(parents=True, exist_ok=True)
        self.environment = install(parts, work, store)
        self.report["installed_after_s"] = round(self.seconds(), 1)

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begin

    def run(self, steps: list[Step]) -> int:
        """All steps; returns the number of processes that failed by themselves."""
        waiting, named = list(steps), {step.name: step for step in STEPS}
        while waiting or self.running:
            for step in list(waiting):
                over = self.over or self.seconds() >= self._until(step)
                unfinished = {*self.running, *(other.name for other in waiting)}
                before = step.after  # of a step that was not chosen, what it would wait for
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
                words += [f"output='{self.work / 'outputs'}'", f"device={device}", "threads=1"]
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
        """Stop a step whose time is up, kill what does not stop, note what has ended."""
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
            self.gather()  # in case that this process is killed later

    def stop(self, *_: object) -> None:
        """Stop every step; a handler of signals."""
        self.over = True

    def gather(self) -> None:
        """Write what there is by now into the folder that comes back."""
        runs = sorted(self.outputs.glob("*/*/manifest.json"))
        rows = [reached(path.parent) for path in runs]
        with (self.output / "reached.csv").open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]) if rows else ["task"])
            table.writeheader()
            table.writerows(rows)
        kept = [p for run in runs for p in records(run.parent)]
        self._tar("runs.tar.gz", kept, self.outputs)
        self._tar("logs.tar.gz", sorted((self.work / "logs").iterdir()), self.work)
        self._tar("fairseq.tar.gz", sorted(self.outputs.glob("*/*/fairseq.log")), self.outputs)
        tests = self.work / "logs" / "kernel-0.log"
        if tests.exists():
            shutil.copy(tests, self.output / "tests.log")
        for path in (self.work / "program" / "results" / "benchmarks").glob("*.csv"):
            shutil.copy(path, self.output / path.name)
        self.report["seconds"] = round(self.seconds(), 1)
        self.report["too_large"] = [
            path.name for path in self.output.iterdir() if path.stat().st_size > LARGEST
        ]
        (self.output / "report.json").write_text(json.dumps(self.report, indent=1) + "\n")

    def _tar(self, name: str, paths: list[Path], root: Path) -> None:
        partial = self.work / name
        with tarfile.open(partial, "w:gz") as tar:
            for path in paths:
                tar.add(path, str(path.relative_to(root)))
        shutil.move(partial, self.output / name)


def records(folder: Path) -> list[Path]:
    """What is kept of a run, the manifest first."""
    return [path for pattern in RECORDS for path in sorted(folder.glob(pattern))]


def reached(folder: Path) -> dict[str, Any]:
    """A run's row: what it is, its status and its last record."""
    manifest = json.loads((folder / "manifest.json").read_text())
    settings = manifest["settings"]
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
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


# Unpacking --------------------------------------------------------------------------------------


def unpack(folder: Path, output: Path) -> None:
    """Put the runs of ``runs.tar.gz`` into the output folder, and the benchmark into its place.

    The machine has no git, so that the commit that was packed is entered into each manifest. A run
    that is finished here, or that a process is at, is left alone.
    """
    from filelock import FileLock, Timeout

    from experiments.common.checkpoint import CHECKPOINTS, write_json
    from experiments.common.execution import FINAL, read_manifest

    if (table := folder / "optimizer_cuda.csv").exists():
        shutil.copy(table, ROOT / "results" / "benchmarks" / table.name)
        print("results/benchmarks/optimizer_cuda.csv")
    commit = json.loads((folder / "report.json").read_text()).get("commit")
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(folder / "runs.tar.gz") as tar:
            tar.extractall(temporary, filter="data")
        for path in sorted(Path(temporary).glob("*/*/manifest.json")):
            run, manifest = path.parent, json.loads(path.read_text())
            name = run.relative_to(temporary)
            for where in manifest["environments"]:
                if where["commit"] is None and commit:
                    where |= {"commit": commit, "uncommitted_changes": False}
            write_json(path, manifest)
            done = manifest["status"] in FINAL
            target = output / name if done else output / "reached" / name
            target.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(target / ".lock", timeout=0):
                    if ((read_manifest(target) or {}).get("status")) in FINAL:
                        print(f"{name}: is finished here")
                        continue
                    for old in [*records(target), *(target / name for name in CHECKPOINTS)]:
                        old.unlink(missing_ok=True)
                    for file in reversed(records(run)):  # the manifest last: it says finished
                        shutil.copy(file, target / file.name)
                    print(f"{name}: {manifest['status']}, {target}")
            except Timeout:
                print(f"{name}: a process is at it here; stop that first")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts.gpu_runs", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    names = [step.name for step in STEPS]
    steps = f"of {', '.join(names)}; default all"
    packing = commands.add_parser("pack", help="make the parts")
    packing.add_argument("--limit", type=float, default=44, help="MiB of a part; default 44")
    running = commands.add_parser("run", help="run the steps from the parts, on the GPU machine")
    running.add_argument("--output", type=Path, required=True, help="folder of what comes back")
    running.add_argument("--minutes", type=float, default=10, help="in all; default 10")
    for one in (packing, running):
        one.add_argument("--rehearse", action="store_true", help="at scale smoke, on the CPU")
        one.add_argument("--steps", nargs="*", choices=names, default=names, help=steps)
        one.add_argument("--parts", type=Path, help="their folder; default .gpu")
    taking = commands.add_parser("unpack", help="take over what came back")
    taking.add_argument("folder", type=Path, help="where it lies")
    taking.add_argument("--output", type=Path, help="default that of scripts.long_runs")
    arguments = parser.parse_args()
    if arguments.what == "unpack":
        from scripts.long_runs import OUTPUT

        unpack(arguments.folder, (arguments.output or OUTPUT).absolute())
        return 0
    chosen = [step for step in STEPS if step.name in arguments.steps]
    if arguments.what == "pack":
        lists = [step.rehearsal for step in chosen]  # small: they always go along
        lists += [step.commands for step in chosen if not arguments.rehearse]
        commands = list(itertools.chain.from_iterable(lists))
        pack((arguments.parts or PACK).absolute(), arguments.limit, commands)
        return 0
    # The copy of this file that runs there lies in a part itself.
    parts = (arguments.parts or (PACK if PACK.is_dir() else ROOT)).absolute()
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
