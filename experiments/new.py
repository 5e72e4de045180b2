"""Begin a task: ``python -m experiments.new NAME`` writes its two files, which can run at once.

They are copies of ``experiments/common/template``: one Python file and one YAML file. A task needs
no registration. docs/extend.md says what else it can have.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.common import ROOT
from experiments.common.files import atomic
from experiments.common.messages import ConfigError
from experiments.common.terminal import as_command

TEMPLATE = Path(__file__).parent / "common" / "template"
NEXT = """
  python -m experiments task=NAME scale=smoke
  python -m experiments.check task=NAME
  python -m experiments -m task=NAME optimizer=adam,laprop optimizer.nu=0.9,0.99 seed=0,1,2
  python -m scripts.sweep outputs/NAME
"""


def _of_hydra(name: str) -> Any:
    """The value that Hydra reads where a command line has this name: ``inf`` is a number."""
    return OverridesParser.create().parse_override(f"task={name}").value()


def files(name: str, root: Path) -> dict[Path, Path]:
    """The path of the new file for each file of the template.

    Raises:
        ConfigError: the name cannot be a module's name, or is taken.
    """
    if not re.fullmatch("[a-z_][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"{name}: must be a name of lower-case letters, digits and _")
    # null, true and inf are no texts for YAML or Hydra, and _self_ is a word of Hydra's own
    if yaml.safe_load(name) != name or _of_hydra(name) != name or name == "_self_":
        raise ConfigError(
            f"{name}: must be another name; this one means something to YAML or Hydra"
        )
    targets = {
        TEMPLATE / "task.py": root / "experiments" / f"{name}.py",
        TEMPLATE / "task.yaml": root / "configs" / "task" / f"{name}.yaml",
    }
    there = [str(path.relative_to(root)) for path in targets.values() if path.exists()]
    if not there and importlib.util.find_spec(f"experiments.{name}"):
        there = [f"experiments/{name}"]
    if there:
        raise ConfigError(f"{name}: there is {' and '.join(there)} already")
    return targets


def main(root: Path = ROOT) -> int:
    """Write the files and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.new", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("name", metavar="NAME", help="name of the task, and of both files")
    name = parser.parse_args().name
    targets = files(name, root)
    # Both files get their names when both are written, the YAML file last, as it makes the task.
    with ExitStack() as stack:
        for source, target in reversed(targets.items()):
            text = source.read_text(encoding="utf-8").replace("NAME", name)
            stack.enter_context(atomic(target)).write_text(text, encoding="utf-8")
    written = " and ".join(str(path.relative_to(root)) for path in targets.values())
    print(f"{written} are written; next:\n{NEXT.replace('NAME', name)}", end="")
    return 0


if __name__ == "__main__":
    as_command(main)
