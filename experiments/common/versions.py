"""Identifies the program that made a result, by declared versions or by a hash of its text."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

from experiments.common import ROOT
from experiments.common.tasks import task_module
from laprop.version import RULES


def versions(task: str) -> dict[str, int | str]:
    """The versions that are part of a run's key besides its settings.

    A task declares ``VERSION`` and raises it when its numbers change, so that a refactor keeps the
    keys of its runs. For a task without one, for example while it is being written, the version is
    a hash of its whole program, so every edit gives new keys.

    The hash is computed and cached here even if ``VERSION`` exists. The task has just been
    imported, so manifests name the program that runs, even if a file is edited before the first
    run.

    Args:
        task: name of the module ``experiments.<task>``.
    """
    declared = getattr(task_module(task), "VERSION", None)
    now = program(task)
    return {"task": now if declared is None else declared, "laprop": RULES}


@cache
def program(task: str) -> str:
    """A hash of a task's program: its own files, and all that they import from this repository.

    Comments, docstrings and layout do not change it.
    """
    return _hash(sources(task))


@cache
def program_behind(name: str) -> str | None:
    """A hash of the program behind the dotted name of an optimizer's class, as of a task's.

    It is None for a class of an installed package, and for one of ``laprop``, which declares its
    own version.
    """
    outermost = name.partition(".")[0]
    if outermost == "laprop" or not _ours(outermost):
        return None
    return _hash(_closure(list(accumulate(name.split("."), "{}.{}".format))))


def sources(task: str) -> dict[str, Path]:
    """The files of a task's program by the names of their modules."""
    name = f"experiments.{task}"
    file = _file(name)
    inside = _parts(file.parent) if file and file.name == "__init__.py" else []
    return _closure([name, *(f"{name}.{part}" for part in inside)])


def _closure(waiting: list[str]) -> dict[str, Path]:
    """The files of these modules, and of all that they import from this repository, by name."""
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name in files or (file := _file(name)) is None:
            continue
        files[name] = file
        waiting += _imports(name, file)
    return files


def _hash(files: dict[str, Path]) -> str:
    """A hash of modules' names and texts."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(name.encode() + _text(file).encode())
    return digest.hexdigest()[:16]


def _parts(folder: Path) -> list[str]:
    """Dotted names of the modules below a package's folder."""
    files = (file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py"))
    return [".".join(file.parts) for file in files if file.name != "__init__"]


def _file(module: str) -> Path | None:
    """The source file of one of our modules; None if the name is not a module, or not ours."""
    if not _ours(module.partition(".")[0]):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name inside a module
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _ours(outermost: str) -> bool:
    """Whether a package or module lies in this repository, and is not installed in it."""
    if outermost in sys.stdlib_module_names or outermost == "__main__":
        return False
    spec = importlib.util.find_spec(outermost)
    if spec is None:
        return False
    paths = [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    return any(p.is_relative_to(ROOT) and "site-packages" not in p.parts for p in paths)


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the modules that a module imports, and the names that it imports from each."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _text(file: Path) -> str:
    """A module's syntax tree without docstrings, as text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
