"""Standard streams that never end a run: closed ones, and pipes whose reader is gone."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class _Lasting(io.FileIO):
    """A stream that goes on into nothing once nobody reads it any more."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        """As a file's; a broken pipe is replaced by the null device."""
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
    """Have the standard output and error of this process outlive their readers.

    To be called before anything opens a file, which might else get the number of a closed stream.
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
    """Print a line now; to the standard output by default."""
    print(line, file=to or sys.stdout, flush=True)
