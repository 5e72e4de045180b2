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
    """The measurement behind a verdict, which the function of a claim returns.

    If the results do not contain what it measures, the function returns None, and the claim is "not
    run".

    Attributes:
        text: what was measured, with its interval; Markdown without line breaks.
        held: whether the claim held; None if that cannot be decided.
        apart: the distance of the measurement from what the paper reports, or from the rule's
            limit, in words.
        effects: the numbers in the text that a page also draws.
    """

    text: str
    held: bool | None
    apart: str
    effects: Sequence[Effect] = ()


@cache
def figures() -> dict[str, dict[str, Any]]:
    """Every figure by name, with its entry in ``paper.yaml``: first the paper's, then ours."""
    return dict(yaml.safe_load((HERE / "paper.yaml").read_text()))


def claims() -> dict[str, dict[str, Any]]:
    """Every claim by name: its entry, its ``figure``, and when its rule was ``written``.

    ``written`` is "before" if the rule was written before its runs and not changed after them.
    """
    return {
        name: {"figure": figure, "changed": ""}
        | {"written": "" if "changed" in claim else entry.get("written", "")}
        | claim
        for figure, entry in figures().items()
        for name, claim in entry.get("claims", {}).items()
    }


def drawn() -> list[str]:
    """Names of the figures that have a script in ``scripts/figures``.

    Raises:
        SystemExit: a script has no row in ``paper.yaml``.
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

    They are the figure's own, or those of the figure that its entry ``results`` names. If the entry
    has ``tables``, a file that is not from runs, the figure is drawn from that file's folder.
    """
    entry = figures()[figure]
    if "tables" in entry:
        table = RESULTS / entry["tables"]
        return Results(table.parent) if table.exists() else None
    return load(entry.get("results", figure))


def label(results: Results) -> str:
    """One line: scale, what it reduces, number of seeds, and the setting if it is ours."""
    setting = figures().get(results.manifest.get("figure"), {}).get("setting")
    return results.label + (f"; our setting: {setting}" if setting else "")


def drawable(figure: str) -> bool:
    """Whether a figure can be drawn, from results or, before there are any, from authors' runs."""
    return figure in drawn() and (results_of(figure) is not None or "authors" in figures()[figure])
