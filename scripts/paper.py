"""What ``paper.yaml`` says of each figure and claim, and the results that these are judged by."""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from experiments.common.records import RESULTS, Results, load

HERE = Path(__file__).parent
NAMES = {"adam": "Adam", "amsgrad": "AMSGrad", "laprop": "LaProp", "amsprop": "AmsProp",
         "centered": "centered LaProp", "sgd": "SGD", "lbfgs": "L-BFGS",
         "signsgd": "average of signs", "signum": "sign of the average"}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The measurement behind a verdict: what the function of a claim returns.

    It returns None where the results lack what it would measure: then the claim is "not run".

    Attributes:
        text: what was measured, with its interval; Markdown without line breaks.
        held: whether the claim held; None where that cannot be decided.
        apart: how far this is from what the paper reports, or from where the rule draws the line.
    """

    text: str
    held: bool | None
    apart: str


@cache
def figures() -> dict[str, dict[str, Any]]:
    """Every figure of the paper, and ours after them, with its claims."""
    return dict(yaml.safe_load((HERE / "paper.yaml").read_text()))


def claims() -> dict[str, dict[str, Any]]:
    """Every claim by name, with the ``figure`` that it stands on."""
    return {
        name: {"figure": figure} | claim
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
    """What a figure is drawn from and its claims are judged by.

    Its own results, or those that ``results`` names; ``tables`` names a file of ``results/`` that
    no run made, beside which the others lie.
    """
    entry = figures()[figure]
    if "tables" in entry:
        table = RESULTS / entry["tables"]
        return Results(table.parent) if table.exists() else None
    return load(entry.get("results", figure))


def drawable(figure: str) -> bool:
    """Whether there is something to draw: results, or the authors' own runs, alone until then."""
    return figure in drawn() and (results_of(figure) is not None or "authors" in figures()[figure])
