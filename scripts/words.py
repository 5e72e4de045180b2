"""Names and numbers as a reader sees them."""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from experiments.common import status
from scripts.paper import NAMES

GREEK = {"mu": "µ", "nu": "ν", "sigma": "σ"}


@cache
def table(part: str) -> Any:
    """``columns`` or ``values`` of ``words.yaml``."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())[part]


def name(column: str) -> str:
    """The reader's name of a column: ``test_accuracy`` -> ``test accuracy``, ``nu`` -> ``ν``."""
    return str(table("columns").get(column, column.replace("_", " ")))


def greek(text: str) -> str:
    """A text with Greek letters in place of the names of settings: ``nu 0.9`` -> ``ν 0.9``.

    What stands between backticks is a command or a name in the code, and stays as it is.
    """
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        letters = re.sub(r"(?<![\w.])(mu|nu|sigma)(?![\w=])", lambda m: GREEK[m[1]], parts[i])
        parts[i] = re.sub(r"\(-(σ(?:/2)?), ", r"(−\1, ", letters)
    return "".join(parts)


def never(column: str) -> bool:
    """Whether a missing number in this column means that a run never reached it."""
    return column in status.NEVER


def value(x: object) -> str:
    """A value of an axis as text; a dash for an optimizer without this setting."""
    if isinstance(x, float | np.floating):
        return "–" if math.isnan(x) else _exponent(f"{x:.7g}")
    word = str(x)
    plain = re.fullmatch(r"[a-z0-9_,\[\]]+", word)  # else it may be a path, which stays as it is
    spaced = word.replace("_", " ") if plain else word
    return str(NAMES.get(word) or table("values").get(word, spaced))


def listed(column: pd.Series) -> str:
    """The values of an axis as text: all of them if they are few, else the first and the last."""
    found = column.drop_duplicates()
    texts = [value(x) for x in (found if column.dtype == object else found.sort_values())]
    many = len(texts) > 12
    return f"{len(texts)} values, {texts[0]} to {texts[-1]}" if many else ", ".join(texts)


def _exponent(digits: str) -> str:
    """``1e-05`` and ``1e+10`` in the form ``1e-5`` and ``1e10``."""
    return re.sub(r"e\+?(-?)0*(?=\d)", r"e\1", digits)


def number(x: Any) -> str:
    """A measurement rounded for a reader, or a dash if there is none."""
    if pd.isna(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if abs(x) >= 10_000:
        return f"{x:,.0f}" if abs(x) < 1e9 else _exponent(f"{x:.3g}")
    return _exponent(f"{x:.4g}")


def deviation(x: float) -> str:
    """Half the length of an interval, with two digits."""
    return _exponent(f"{x:.2g}") if x < 100 else f"{x:,.0f}" if x < 1e9 else _exponent(f"{x:.1e}")


def label(figure: str) -> str:
    """``fig02`` -> ``Figure 2``, ``rosenbrock_bias`` -> ``rosenbrock bias``."""
    text = re.sub(r"(\d+)$", lambda match: f" {int(match[1])}", figure.replace("_", " "))
    return re.sub(r"^fig ", "Figure ", text)


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading: ``Adam's `lr` -- why`` -> ``adams-lr----why``."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def section(text: str) -> str:
    """A section of the paper: ``5.1`` -> ``§ 5.1``, ``beyond 5.1`` -> ``beyond § 5.1``.

    The space after the sign does not break a line.
    """
    return re.sub(r"^(beyond )?(?=[A-Z]?\.?\d)", "\\1§\u00a0", text)
