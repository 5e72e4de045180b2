"""Begin a task: ``python -m experiments.new NAME`` writes its two files, which run at once.

They are copies of ``experiments/common/template``: one Python file and one YAML file, and nothing
is registered anywhere. docs/extend.md says what else a task can have.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import sys
from pathlib import Path

from experiments.common import ROOT

TEMPLATE = Path(__file__).parent / "common" / "template"
NEXT = """
  python -m experiments task=NAME scale=smoke
  python -m experiments.check task=NAME
  python -m experiments -m task=NAME optimizer=adam,laprop optimizer.nu=0.9,0.99 seed=0,1,2
  python -m scripts.sweep outputs/NAME
"""


def files(name: str, root: Path) -> dict[Path, Path]:
    """Where each file of the template goes.

    Raises:
        ValueError: the name is no name for a module, or is taken; with one line that says so.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"{name}: must be a name of lower-case letters, digits and _")
    targets = {
        TEMPLATE / "task.py": root / "experiments" / f"{name}.py",
        TEMPLATE / "task.yaml": root / "configs" / "task" / f"{name}.yaml",
    }
    there = [str(path.relative_to(root)) for path in targets.values() if path.exists()]
    if not there and importlib.util.find_spec(f"experiments.{name}"):
        there = [f"experiments/{name}"]
    if there:
        raise ValueError(f"{name}: there is {' and '.join(there)} already")
    return targets


def main(root: Path = ROOT) -> int:
    """Write the files; exit status 2 where the name does not do."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.new", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("name", metavar="NAME", help="of the task, and of both files")
    name = parser.parse_args().name
    try:
        targets = files(name, root)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for source, target in targets.items():  # the YAML file, which makes it a task, comes last
        target.write_text(source.read_text().replace("NAME", name))
    written = " and ".join(str(path.relative_to(root)) for path in targets.values())
    print(f"{written} are written; next:\n{NEXT.replace('NAME', name)}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
