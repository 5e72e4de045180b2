"""What commands share: streams that outlive their readers, and errors of input as one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from experiments.common.messages import ConfigError, named


class _Lasting(io.FileIO):
    """A stream that discards what is written once its reader is gone."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        """Write as to a file; a broken pipe is replaced by the null device."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            _replace(self.fileno())
            return len(data)


def _replace(number: int) -> None:
    """Put the null device behind a file descriptor."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)  # workers need theirs, too


def lasting_streams() -> None:
    """Make the standard output and error of this process survive the loss of their readers.

    Call this before any file is opened; a file could otherwise get the number of a closed stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _replace(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Lasting(number, "w", closefd=False)),
            encoding=getattr(getattr(sys, name), "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, stream)


def guarded(command: Callable[[], int]) -> int:
    """The exit status of a command; bad input and a place that cannot be written are one line."""
    try:
        return command()
    except ConfigError as error:
        text = str(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror or named(error)}; must be a place that can be written"
    say(f"error: {text}", sys.stderr)
    return 2


def say(line: str, to: TextIO | None = None) -> None:
    """Print a line without delay, by default to the standard output."""
    print(line, file=to or sys.stdout, flush=True)
