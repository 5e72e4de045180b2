"""Read ``paper.yaml``, which lists the figures and claims, and find the results of each."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from experiments.common.records import RESULTS, Results, load
from scripts.effects import Effect

HERE = Path(__file__).parent
NAMES = {"adam": "Adam", "amsgrad": "AMSGrad", "laprop": "LaProp", "amsprop": "AmsProp",
         "centered": "centered LaProp", "sgd": "SGD", "lbfgs": "L-BFGS",
         "signsgd": "average of signs", "signum": "sign of the average"}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The measurement behind a verdict: what the function of a claim returns.

    The function returns None where the results lack what it measures; the claim is then "not run".

    Attributes:
        text: what was measured, with its interval; Markdown without line breaks.
        held: whether the claim held; None where that cannot be decided.
        apart: how far the measurement is from what the paper reports, or from the rule's limit.
        effects: the numbers in the text that a page draws beside it.
    """

    text: str
    held: bool | None
    apart: str
    effects: Sequence[Effect] = ()


@cache
def figures() -> dict[str, dict[str, Any]]:
    """Every figure by name with its entry of ``paper.yaml``: first the paper's, then ours."""
    return dict(yaml.safe_load((HERE / "paper.yaml").read_text()))


def claims() -> dict[str, dict[str, Any]]:
    """Every claim by name, with its entry, its ``figure``, and when its rule was ``written``."""
    return {
        name: {"figure": figure, "written": entry.get("written", "")} | claim
        for figure, entry in figures().items()
        for name, claim in entry.get("claims", {}).items()
    }


def drawn() -> list[str]:
    """Names of the figures that have a script, by globbing.

    Raises:
        SystemExit: for a script without a row in ``paper.yaml``.
    """
    names = sorted(file.stem for file in HERE.glob("figures/*.py") if file.stem != "style")
    for name in names:
        if name not in figures():
            raise SystemExit(
                f"error: scripts/figures/{name}.py: has no row in scripts/paper.yaml; "
                f"a row `{name}:` says what it shows"
            )
    return names


def script(figure: str) -> ModuleType:
    """The module that draws a figure and decides its claims."""
    return importlib.import_module(f"scripts.figures.{figure}")


def results_of(figure: str) -> Results | None:
    """The results from which a figure is drawn and its claims are decided.

    They are the figure's own, or those of the figure that ``results`` names. ``tables`` names a
    file that no run made; the figure is then drawn from the tables in that file's folder.
    """
    entry = figures()[figure]
    if "tables" in entry:
        table = RESULTS / entry["tables"]
        return Results(table.parent) if table.exists() else None
    return load(entry.get("results", figure))


def label(results: Results) -> str:
    """One line: scale, what it reduces, number of seeds; and the setting where it is ours."""
    setting = figures().get(results.manifest.get("figure"), {}).get("setting")
    return results.label + (f"; our setting: {setting}" if setting else "")


def drawable(figure: str) -> bool:
    """Whether a figure can be drawn: from results, or until then from the authors' runs alone."""
    return figure in drawn() and (results_of(figure) is not None or "authors" in figures()[figure])
