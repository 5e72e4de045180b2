"""Identifies the program that made a result, by declared versions or by a hash of its text."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from experiments.common.tasks import task_module
from laprop.version import RULES

PACKAGES = ("experiments", "laprop")


def versions(task: str) -> dict[str, int | str]:
    """The versions that are part of a run's key besides its settings.

    A task declares ``VERSION`` and raises it when its numbers change, so that a refactor keeps the
    keys of its runs. For a task without one, for example while it is being written, the version is
    a hash of its whole program, so every edit gives new keys.

    Args:
        task: name of the module ``experiments.<task>``.
    """
    declared = getattr(task_module(task), "VERSION", None)
    return {"task": program(task) if declared is None else declared, "laprop": RULES}


@cache
def program(task: str) -> str:
    """A hash of a task's program: its own files, and all that they import from this repository.

    Comments, docstrings and layout do not change it.
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
    """The source file of one of our modules; None if the name is not a module, or not ours."""
    if module.split(".")[0] not in PACKAGES:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name inside a module
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the modules that a module imports, and the names that it imports from each."""
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
