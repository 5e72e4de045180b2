"""Which program made a result: the versions that tasks declare, and hashes of program text."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from laprop.version import RULES

PACKAGES = ("experiments", "laprop")


def versions(task: str) -> dict[str, int | str]:
    """What a run's key holds besides its settings.

    A task declares ``VERSION`` and raises it when its numbers change, so that a refactor keeps the
    keys of its runs. A task that declares none, as while it is being written, has the hash of its
    whole program in that place: any edit then makes new keys.

    Args:
        task: name of the module ``experiments.<task>``.
    """
    declared = getattr(importlib.import_module(f"experiments.{task}"), "VERSION", None)
    return {"task": program(task) if declared is None else declared, "laprop": RULES}


@cache
def program(task: str) -> str:
    """Hash of a task's program: its own files, and all that they import from this repository.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256()
    for name, file in sorted(sources(task).items()):
        digest.update(name.encode() + _text(file).encode())
    return digest.hexdigest()[:16]


def sources(task: str) -> dict[str, Path]:
    """The files of a task's program by the names of their modules."""
    files: dict[str, Path] = {}
    waiting = [f"experiments.{task}"]
    while waiting:
        name = waiting.pop()
        if name in files or (file := _file(name)) is None:
            continue
        files[name] = file
        if file.name == "__init__.py" and name == f"experiments.{task}":
            waiting += [f"{name}.{part}" for part in _parts(file.parent)]
        waiting += _imports(name, file)
    return files


def _parts(folder: Path) -> list[str]:
    """Dotted names of the modules below a package's folder."""
    files = (file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py"))
    return [".".join(file.parts) for file in files if file.name != "__init__"]


def _file(module: str) -> Path | None:
    """The source of one of our modules; None for a name that is no module, or not ours."""
    if module.split(".")[0] not in PACKAGES:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name inside a module
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _imports(module: str, file: Path) -> Iterator[str]:
    """Names that a module imports, each with the names that it takes from them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _text(file: Path) -> str:
    """A module's syntax tree without docstrings, as text."""
    tree = ast.parse(file.read_text())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
