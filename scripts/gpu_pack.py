"""Pack what ``scripts.gpu_runs`` needs on a bare GPU machine; unpack the results from there.

``python -m scripts.gpu_pack pack`` needs the network and what ``make fairseq`` installs. It fills
``.gpu/1``, ``.gpu/2``, ... with what such a machine lacks: the committed program, wheels, prepared
text and images. No part is larger than ``--limit``, and the first part is enough to start.

``python -m scripts.gpu_pack unpack DIR`` puts finished runs into the output folder of
``scripts.long_runs``, where ``scripts.collect`` finds them. It puts unfinished ones into the folder
``reached`` in it.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from experiments import roberta, translation
from experiments.common import ROOT, data
from experiments.common.checkpoint import CHECKPOINTS
from experiments.common.config import expand
from experiments.common.files import atomic, read_manifest, write_json
from experiments.common.messages import ConfigError
from experiments.common.status import FINAL, size
from experiments.common.terminal import as_command
from scripts import gpu_runs
from scripts.gpu_runs import PACK, STEPS, records
from scripts.long_runs import OUTPUT

PROGRAM = ("laprop", "experiments", "configs", "scripts", "tests", "pyproject.toml", "README.md")
PYTHON = "3.12"  # Python version of the GPU machine
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (35, 34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]
# Packages that the machine lacks. tests/gpu_machine.txt lists those that it has.
WHEELS = (
    *("annotated-types", "bitarray", "cffi", "fairseq-fixed", "hydra-core", "omegaconf"),
    *("platformdirs", "pooch", "pycparser", "pydantic", "pydantic_core", "sacremoses"),
    *("typing-inspection", "typing_extensions", "heavyball", "pytorch_optimizer"),
)
FROM_SOURCE = ("antlr4-python3-runtime",)  # it has no wheel and nothing to compile


def pack(folder: Path, limit: float, commands: list[str]) -> None:
    """Fill the parts; what an earlier call downloaded or prepared is used again.

    Args:
        folder: folder of the parts, which git ignores.
        limit: largest size of a part, in MB.
        commands: commands of the steps, whose prepared text is packed too.
    """
    commit = git("rev-parse", "HEAD")
    if git("status", "--porcelain", "--", *PROGRAM):
        raise ConfigError(f"uncommitted changes; what is packed is the commit {commit}")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(gpu_runs.__file__, folder / "gpu_runs.py")
    program = folder / "program.tar.gz"
    git("archive", "--format=tar.gz", f"--output={program}", "HEAD", "--", *PROGRAM)
    (folder / "commit").write_text(commit)
    items = [folder / "gpu_runs.py", program, folder / "commit", *wheels(folder / "wheels")]
    items += [*texts(folder, commands), *images(folder / "cifar10")]
    parts = distributed(items, int(limit * 1e6))
    for old in folder.glob("[0-9]*"):
        shutil.rmtree(old)
    for number, part in enumerate(parts, 1):
        for item in part:
            target = folder / str(number) / item.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(item, target)
        total = size(sum(item.stat().st_size for item in part))
        print(f"{folder / str(number)}: {total}: {', '.join(i.name for i in part)}")


def distributed(items: list[Path], limit: int) -> list[list[Path]]:
    """Distribute the items to parts: each goes into the first part that has room for it.

    Args:
        items: files.
        limit: largest size of a part, in bytes.

    Raises:
        ConfigError: an item alone is larger than the limit.
    """
    parts: list[list[Path]] = []
    for item in items:
        if item.stat().st_size > limit:
            raise ConfigError(f"{item}: {size(item.stat().st_size)}, but a part has {size(limit)}")
        for part in parts:
            if sum(other.stat().st_size for other in [*part, item]) <= limit:
                part.append(item)
                break
        else:
            parts.append([item])
    return parts


def git(*arguments: str) -> str:
    """Run git in this repository; return what it prints."""
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()


def pinned(names: tuple[str, ...]) -> list[str]:
    """Packages as requirements, at the versions of ``constraints.txt``.

    Raises:
        ConfigError: the file has no version of a package.
    """
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name in names:
        if name not in pins:
            raise ConfigError(
                f"constraints.txt: {name}: missing; a package to pack needs a version"
            )
    return [f"{name}=={pins[name]}" for name in names]


def wheels(folder: Path) -> list[Path]:
    """Download the wheels that the machine lacks, at the versions of ``constraints.txt``."""
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
    """Yield an archive for each prepared text of fairseq's runs, and one of GPT-2's byte pairs.

    The runs find their text in the output folder, so they do not prepare it again.
    """
    made = {}
    prepare: dict[str, Callable[..., Path]]
    prepare = {"translation": translation.prepared, "roberta": roberta.prepared}
    for overrides in (text.split()[1:] for text in commands if text.startswith("experiments ")):
        for settings in expand([*overrides, f"output='{folder}'"]):
            if settings.task_name in prepare:
                place = prepare[settings.task_name](settings.task, settings)
                made[place] = settings.task_name
    for place, task in made.items():
        # Training reads the text as numbers; translation needs the training text itself again.
        names = ["bin"] if task == "roberta" else ["bin", "train.en"]
        inside = {place / name: f"outputs/prepared/{place.name}/{name}" for name in names}
        yield archived(folder / f"{place.name}.tar.xz", inside)
    if "roberta" in made.values():
        yield archived(folder / "gpt2_bpe.tar.xz", {data.fetch("gpt2_bpe"): "data/gpt2_bpe"})


def archived(target: Path, inside: dict[Path, str]) -> Path:
    """Make a tar archive of files and folders under new names, unless it exists."""
    if not target.exists():
        with atomic(target) as partial, tarfile.open(partial, "w:xz") as tar:
            for path, name in inside.items():
                tar.add(path, name)
    return target


def images(folder: Path) -> Iterator[Path]:
    """Yield CIFAR-10 as lossless pictures of many images, three fifths of the size, and labels."""
    folder.mkdir(exist_ok=True)
    for path in sorted(data.fetch("cifar10").glob("*.bin")):
        sheet, labels = folder / f"{path.stem}.webp", folder / f"{path.stem}.labels"
        if not sheet.exists():
            records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073)
            labels.write_bytes(records[:, 0].tobytes())
            grid = records[:, 1:].reshape(100, 100, 3, 32, 32).transpose(0, 3, 1, 4, 2)
            picture = Image.fromarray(np.ascontiguousarray(grid).reshape(3200, 3200, 3))
            with atomic(sheet) as partial:
                picture.save(partial, "WEBP", lossless=True, quality=50, method=4)
        yield from (labels, sheet)


def unpack(folder: Path, output: Path) -> None:
    """Put the runs of ``runs.tar.gz`` into the output folder, and the benchmark into ``results/``.

    The GPU machine has no git, so the packed commit is written into each manifest here. A run that
    is already finished here, or that a process is executing, is left as it is.
    """
    if (table := folder / "optimizer_cuda.csv").exists():
        shutil.copy(table, ROOT / "results" / "benchmarks" / table.name)
        print("results/benchmarks/optimizer_cuda.csv")
    commit = json.loads((folder / "report.json").read_text()).get("commit")
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(folder / "runs.tar.gz") as tar:
            tar.extractall(temporary, filter="data")
        for path in sorted(Path(temporary).glob("*/*/manifest.json")):
            run = path.parent
            manifest = json.loads(path.read_text())
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
                    # The manifest is copied last, because it marks the run as finished.
                    for file in reversed(records(run)):
                        shutil.copy(file, target / file.name)
                    print(f"{name}: {manifest['status']}, {target}")
            except Timeout:
                print(f"{name}: a process here executes it; stop that process first")


def main() -> int:
    """The command line."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(prog="scripts.gpu_pack", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    packing = commands.add_parser("pack", help="make the parts")
    packing.add_argument("--limit", type=float, default=46, help="MB of a part; default 46")
    packing.add_argument("--rehearse", action="store_true", help="only for scale smoke")
    packing.add_argument("--steps", nargs="*", choices=names, default=names, help="default all")
    packing.add_argument("--parts", type=Path, default=PACK, help="their folder; default .gpu")
    taking = commands.add_parser("unpack", help="take over what came back")
    taking.add_argument("folder", type=Path, help="where it lies")
    taking.add_argument("--output", type=Path, default=OUTPUT, help=f"default {OUTPUT}")
    arguments = parser.parse_args()
    if arguments.what == "unpack":
        unpack(arguments.folder, arguments.output.absolute())
        return 0
    chosen = [step for step in STEPS if step.name in arguments.steps]
    lists = [step.rehearsal for step in chosen]  # these are small and always packed
    lists += [step.commands for step in chosen if not arguments.rehearse]
    pack(arguments.parts.absolute(), arguments.limit, list(itertools.chain.from_iterable(lists)))
    return 0


if __name__ == "__main__":
    as_command(main)
