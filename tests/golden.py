"""Run each task at scale ``smoke`` and compare its numbers with those in ``golden.json``.

``python tests/golden.py TASK ...`` runs the named tasks (default: all) and writes their numbers
anew. Do that after a task's ``VERSION``, or ``RULES`` in ``laprop/version.py``, was raised.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.common.config import compose_settings
from experiments.common.execution import execute
from experiments.common.messages import ConfigError
from experiments.common.overrides import options
from experiments.common.versions import versions

FILE = Path(__file__).with_suffix(".json")
OPTIMIZERS = ("adam", "laprop")


def numbers(task: str, optimizer: str, output: Path) -> dict[str, list[float | None]]:
    """All numbers of a smoke run: its summary, and its first and its last record."""
    # A checkpoint after every step does not change the numbers, and shows that one can be written.
    settings = compose_settings(
        [f"task={task}", f"optimizer={optimizer}", "scale=smoke", "threads=1", f"output={output}"]
        + ["checkpoint_every=0"]
    )
    execute(settings)
    summary = json.loads((settings.folder / "summary.json").read_text())
    log = (settings.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in log] or [{}]  # for tasks that log nothing
    parts = {"summary": summary, "first": records[0], "last": records[-1]}
    found = {}
    for part, values in parts.items():
        for name, value in values.items():
            row = value if isinstance(value, list) else [value]
            if all(isinstance(x, int | float | None) for x in row):
                found[f"{part}.{name}"] = row
    return found


def differences(
    golden: dict[str, list[float | None]], found: dict[str, list[float | None]]
) -> list[str]:
    """Names of the numbers that differ by more than the rounding of different processors."""
    names = sorted(golden.keys() | found.keys())
    return [name for name in names if not _close(golden.get(name), found.get(name))]


def _close(one: list[float | None] | None, other: list[float | None] | None) -> bool:
    if one is None or other is None or len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    return all(
        a == b if a is None or b is None else math.isclose(a, b, rel_tol=2e-3, abs_tol=1e-7)
        for a, b in pairs
    )


def compare(task: str, output: Path) -> None:
    """Fail where a task gives other numbers than the committed ones at the same version.

    Args:
        task: its name.
        output: a folder for the runs; those that are finished there count.
    """
    committed, now = json.loads(FILE.read_text()), versions(task)
    assert isinstance(now["task"], int), f"experiments/{task}.py declares no VERSION"
    again = f"then: python tests/golden.py {task}"
    assert task in committed, f"the numbers of {task} are not committed; {again}"
    assert now == committed[task]["versions"], f"the version of {task} changed; {again}"
    assert committed[task]["runs"]
    for optimizer, wanted in committed[task]["runs"].items():
        changed = differences(wanted, numbers(task, optimizer, output))
        assert not changed, f"{task} gives other numbers at the same VERSION: raise it; {again}"


def main(tasks: list[str]) -> None:
    """Write the numbers of the named tasks."""
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    for task in tasks:
        runs = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in OPTIMIZERS:
                with suppress(ConfigError):  # some tasks take only one of the two
                    runs[name] = numbers(task, name, Path(folder))
        golden[task] = {"versions": versions(task), "runs": runs}
        FILE.write_text(json.dumps(dict(sorted(golden.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or options("task"))
