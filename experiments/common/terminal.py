"""What commands share: lasting streams, errors as one line, children that end with a parent."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from experiments.common.messages import ConfigError, named


class _Lasting(io.FileIO):
    """A stream that discards what is written once its reader is gone."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        """Write as to a file; a broken pipe is replaced by the null device.

        Raises:
            OSError: it cannot be written, for example because the disk is full. The null device
                takes its place, since the data that wait would raise the error again at the end.
        """
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            _replace(self.fileno())
            return len(data)
        except OSError as error:
            _replace(self.fileno())
            error.filename = "output" if self.fileno() == 1 else "error output"
            raise


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


def as_command(main: Callable[[], int]) -> NoReturn:
    """Run a script as a command, and end this process with its exit status.

    Args:
        main: the script's function, which returns the exit status.

    Raises:
        SystemExit: always, see :func:`guarded`; after Ctrl-C with the status 130.
    """
    lasting_streams()
    try:
        code = guarded(main)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def guarded(main: Callable[[], int]) -> int:
    """The exit status of a command; bad input and an error of a file are one line and the status 2.

    Args:
        main: the command's function, which returns the exit status.
    """
    try:
        return main()
    except ConfigError as error:
        text = str(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror or named(error)}"
        if not isinstance(error, FileNotFoundError):
            text += "; must be a place that can be written"
    say(f"error: {text}", sys.stderr)
    return 2


def say(line: str, to: TextIO | None = None) -> None:
    """Print a line without delay, by default to the standard output."""
    print(line, file=to or sys.stdout, flush=True)


def end_with_parent(number: int) -> None:
    """Let this process get a signal when its parent dies, even by SIGKILL; on Linux only.

    Args:
        number: number of the signal.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, number)  # PR_SET_PDEATHSIG
