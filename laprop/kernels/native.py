"""The library built from the C++ files, and what its interface has in common with them.

It is built with the package where there is a C++ compiler. An editable install builds it anew only
when it is installed again, so the Python files may be newer than it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util

from laprop.options import warn

__all__ = ["AVERAGES", "COLUMNS", "SCALARS", "Options", "library", "path"]

_INTERFACE = 1  # the same number as in table.h, where it says when to raise it

AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_grad", "master_param")
SCALARS = ("step", "exp_avg_weight", "exp_avg_sq_weight")
# The columns of the table in table.h.
COLUMNS = ("numel", "param", "grad", *AVERAGES, *SCALARS)


class Options(ctypes.Structure):
    """``Options`` in cpu.cpp."""

    _fields_ = (
        *((key, ctypes.c_double) for key in ("lr", "mu", "nu", "eps", "weight_decay", "agc")),
        ("centered_warmup", ctypes.c_int64),
        ("seed", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("flags", ctypes.c_int32),
    )


def path() -> str | None:
    """Return the path of the library, or None if it was not built."""
    built = importlib.util.find_spec("laprop.kernels._native")
    return None if built is None else built.origin


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the library once.

    Returns:
        The library, or None if it was not built, or cannot be used. In the second case a warning
        says why.
    """
    built = path()
    if built is None:
        return None
    try:
        loaded = ctypes.CDLL(built)
        interface = loaded.laprop_interface
    except OSError as error:
        reason = f"does not load ({error})"
    except AttributeError:  # it was built before there was this function
        reason = "was built from other C++ files"
    else:
        interface.restype = ctypes.c_int64
        if interface() == _INTERFACE << 32 | ctypes.sizeof(Options) << 16 | len(COLUMNS):
            return loaded
        reason = "was built from other C++ files"
    warn(
        f"LaProp makes its steps without a kernel, because {built} {reason}: install laprop again, "
        "in a clone of its repository with `pip install -e .`"
    )
    return None
