"""The files of runs: written atomically, and read so that a damaged one is named in one line.

Nothing here needs torch or pandas.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from experiments.common import ROOT
from experiments.common.messages import ConfigError, named, one_line, shown

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What the user can do about a damaged file of a run, and of committed results.
RERUN = "delete the folder of this run, and run it again"
REMAKE = "run it again"  # which makes a run without a whole manifest anew
RESTORE = "restore it by git, or collect the runs again"


# Writing ------------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A context with a temporary path, which replaces ``path`` if the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # which the user knows
        raise
    finally:
        with suppress(OSError):  # the error of the block is the one to know
            temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old file or the new one, never a part."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    write(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


# Reading ------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file of the repository, which the user may have written.

    Raises:
        ConfigError: it is no YAML, or holds something else; the line names the file, and for a
            mistake in its grammar the line number.
    """
    try:
        found = yaml.load(path.read_bytes(), LOADER)
    except yaml.YAMLError as error:
        raise no_yaml(path, error) from None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{shown_path(path)}: must hold lines of KEY: VALUE, but it is {shown(found)}"
        )
    return found


def shown_path(path: Path) -> str:
    """A file of the repository as a message names it: ``configs/task/gpt.yaml``."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])


def no_yaml(path: Path, error: yaml.YAMLError) -> ConfigError:
    """The error for a file of the repository that is no YAML."""
    if not isinstance(error, yaml.MarkedYAMLError):  # of its encoding
        return ConfigError(f"{shown_path(path)}: must be text in UTF-8 ({one_line(error)})")
    mark = error.problem_mark or error.context_mark
    line = f", line {mark.line + 1}" if mark else ""
    return ConfigError(f"{shown_path(path)}{line}: {error.problem or error.context}")


class Damaged(ConfigError):
    """A file cannot be read, or does not hold what this program writes to such a file."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """A context in which a file is read and used; any error in it becomes :class:`Damaged`.

    Args:
        path: the file.
        remedy: what the user can do if the file is damaged or missing.

    Raises:
        Damaged: there was an error in the block, of whatever kind, because libraries raise many for
            a damaged file. Its line names the file, the error and the remedy.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else named(error)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            remedy = "make it a file that can be read"
        raise Damaged(f"{path}: cannot be used ({why}); {remedy}") from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file, see :func:`reading`."""
    with reading(path, remedy):
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise TypeError("it holds no JSON object")
        return found


def whole_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a run's folder, or None if the run has not begun.

    Raises:
        Damaged: it is no manifest.
    """
    path = folder / "manifest.json"
    with reading(path, REMAKE):
        if not path.exists():
            return None
        manifest = read_object(path, REMAKE)
        if not isinstance(manifest["status"], str):
            raise TypeError("its status is no text")
        return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a run's folder, or None if there is no readable one."""
    try:
        return whole_manifest(folder)
    except Damaged:
        return None


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings in a run's folder as plain data."""
    path = folder / "config.yaml"
    with reading(path, RERUN):
        return dict(yaml.load(path.read_bytes(), LOADER))


def read_summary(folder: Path) -> dict[str, Any]:
    """The final numbers in the folder of a finished run."""
    return read_object(folder / "summary.json", RERUN)


def check_log(folder: Path) -> None:
    """Look at the end of the log of a run that has ended, without reading all of it.

    Raises:
        Damaged: there is no log, or its last line is cut off.
    """
    path = folder / "metrics.jsonl"
    with reading(path, RERUN), path.open("rb") as log:
        if log.seek(0, os.SEEK_END):
            log.seek(-1, os.SEEK_END)
            if log.read() != b"\n":
                raise ValueError("its last line is cut off")


def read_log(folder: Path, ended: bool) -> Iterator[dict[str, Any]]:
    """Yield the records that a run has logged.

    Args:
        folder: the run's folder.
        ended: whether the run has ended. The last line of another run may just be written; it is
            then left out.
    """
    path = folder / "metrics.jsonl"
    with reading(path, RERUN), path.open(encoding="utf-8") as log:
        for number, line in enumerate(log, 1):
            if not line.endswith("\n"):
                if ended:
                    raise ValueError(f"line {number} is cut off")
                return
            try:
                record = json.loads(line)
                record["step"]
            except (ValueError, LookupError, TypeError):
                raise ValueError(f"line {number} is no record") from None
            yield record
