"""Standard streams whose errors do not end a run: closed ones, and pipes without a reader."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


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


def say(line: str, to: TextIO | None = None) -> None:
    """Print a line without delay, by default to the standard output."""
    print(line, file=to or sys.stdout, flush=True)
