"""Read ``paper.yaml``, which lists the figures and claims, and find the results of each."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.common import CONFIGS, RESULTS
from experiments.common.files import read_config
from experiments.common.messages import ConfigError, near, shown
from experiments.common.records import Results, load
from experiments.common.timings import COMMITTED
from scripts.effects import Effect

HERE = Path(__file__).parent
OPTIMIZERS = ("laprop", "adam", "amsgrad")  # those that the paper compares
NAMES = {"adam": "Adam", "amsgrad": "AMSGrad", "laprop": "LaProp", "amsprop": "AmsProp",
         "centered": "centered LaProp", "sgd": "SGD", "lbfgs": "L-BFGS",
         "signsgd": "average of signs", "signum": "sign of the average"}  # fmt: skip
REDUCED = {"short": "Cut short: ", "small": "Small model: ", "smoke": "Test: "}  # before a title
EXPERIMENTS = {  # name -> the `task` of its figures in paper.yaml
    "Noisy Rosenbrock function": ("rosenbrock",),
    "Small nets on MNIST": ("mnist_divergence",),
    "Style transfer": ("style_transfer",),
    "Deep fully connected nets on MNIST": ("deep_fc",),
    "IWSLT14, translation": ("translation", "translation, roberta"),
    "RoBERTa": ("roberta",),
    "Rainbow on Atari": ("rainbow",),
    "IMDB, LSTM with label noise": ("imdb",),
    "CIFAR-10, ResNet-20": ("cifar10",),
    "Limits, bounds and regret": (
        *("limits", "update_bounds", "convex_regret", "one_gradient", "update_variance"),
    ),
}


# Keys of a figure and of a claim in paper.yaml, and whether each is required.
FIGURE = {key: key in ("section", "task", "shows") for key in (
    "section", "task", "shows", "authors", "results", "beside", "tables", "setting", "mathematics",
    "written", "removed", "one_run", "command", "claims")}  # fmt: skip
CLAIM = {key: key in ("of", "section", "says", "rule") for key in (
    "of", "section", "says", "reports", "rule", "written", "not_at_short", "changed", "decided_by",
    "with", "logs")}  # fmt: skip
FLAGS = ("logs", "mathematics")  # keys of true or false


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
    """Every figure by name, with its entry in ``paper.yaml``: first the paper's, then ours.

    Raises:
        ConfigError: an entry lacks a key, or has one that is unknown.
    """
    found = read_config(HERE / "paper.yaml")
    for figure, entry in found.items():
        _check(figure, entry, FIGURE)
        tasks = [] if "tables" in entry else entry["task"].split(", ")
        for task in tasks:
            if not (CONFIGS / "task" / f"{task}.yaml").exists():
                raise ConfigError(f"scripts/paper.yaml: {figure}: task={task}: unknown")
        for claim, said in entry.get("claims", {}).items():
            _check(f"{figure}.claims.{claim}", said, CLAIM)
            if said["of"] not in ("paper", "ours"):
                raise ConfigError(
                    f"scripts/paper.yaml: {figure}.claims.{claim}: of={said['of']}: must be "
                    "paper or ours"
                )
    return found


def _check(name: str, entry: dict[str, Any], keys: dict[str, bool]) -> None:
    """Refuse an entry that has no keys, lacks a required one or has an unknown one."""
    if not isinstance(entry, dict):
        needed = ", ".join(key for key, required in keys.items() if required)
        raise ConfigError(
            f"scripts/paper.yaml: {name}={shown(entry)}: must be KEY: VALUE with the keys {needed}"
        )
    for key in entry.keys() - keys.keys():
        hint = near(str(key), [*keys])
        raise ConfigError(f"scripts/paper.yaml: {name}: unknown key {key}{hint}")
    for key in (key for key, needed in keys.items() if needed and entry.get(key) is None):
        raise ConfigError(f"scripts/paper.yaml: {name}: needs the key {key}")
    for key, value in entry.items():
        kind = dict if key in ("with", "claims") else bool if key in FLAGS else str
        if not isinstance(value, kind):
            must = {dict: "KEY: VALUE", bool: "true or false", str: "a text (quote a number)"}[kind]
            raise ConfigError(f"scripts/paper.yaml: {name}.{key}={shown(value)}: must be {must}")


def by_experiment() -> dict[str, list[str]]:
    """The figures of each experiment, in the order of :data:`EXPERIMENTS`; then all others."""
    found = {
        experiment: [name for name, entry in figures().items() if entry["task"] in tasks]
        for experiment, tasks in EXPERIMENTS.items()
    }
    known = {name for names in found.values() for name in names}
    rest = [name for name in figures() if name not in known]
    return found | ({"Other": rest} if rest else {})


def claims() -> dict[str, dict[str, Any]]:
    """Every claim by name: its entry, its ``figure``, and when its rule was ``written``.

    ``written`` is "before" if the rule was written before its runs and not changed after them.
    """
    return {
        name: {"figure": figure, "changed": "", "reports": ""}
        | {"written": "" if "changed" in claim else entry.get("written", "")}
        | claim
        for figure, entry in figures().items()
        for name, claim in entry.get("claims", {}).items()
    }


def drawn() -> list[str]:
    """Names of the figures that have a script in ``scripts/figures``.

    Raises:
        ConfigError: a script has no row in ``paper.yaml``.
    """
    names = sorted(file.stem for file in HERE.glob("figures/*.py") if file.stem != "style")
    for name in names:
        if name not in figures():
            raise ConfigError(
                f"scripts/figures/{name}.py: has no row in scripts/paper.yaml; "
                f"a row `{name}:` says what it shows"
            )
    return names


def script(figure: str) -> ModuleType:
    """The module that draws a figure and decides its claims.

    Raises:
        ConfigError: it lacks one of the functions that every figure needs.
    """
    module = importlib.import_module(f"scripts.figures.{figure}")
    for name in ("finding", "draw"):
        if not hasattr(module, name):
            raise ConfigError(f"scripts/figures/{figure}.py: has no function {name}(results)")
    return module


def finding(figure: str, own: Results | None = None) -> str:
    """The title of a figure: the scale of its results, if it is a reduced one, and its finding.

    Args:
        figure: its name.
        own: results to use in place of the committed ones.
    """
    results, entry = own or results_of(figure), figures()[figure]
    text = str(script(figure).finding(results))
    if results is None or "authors" in entry or "tables" in entry:
        return text
    return REDUCED.get(results.scale, "") + text


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


def smaller(figure: str) -> list[Results]:
    """The committed scales of a figure that are smaller than the one from which it is drawn."""
    places = [RESULTS / figure / scale for scale in COMMITTED]
    found = [Results(place) for place in places if (place / "manifest.json").exists()]
    return [results for results in found if results.manifest["seeds"]][1:]


def label(results: Results) -> str:
    """One line: scale, what it reduces, number of seeds, and the setting if it is ours."""
    setting = figures().get(str(results.manifest.get("figure")), {}).get("setting")
    return results.label + (f"; our setting: {setting}" if setting else "")


def drawable(figure: str) -> bool:
    """Whether a figure can be drawn, from results or, before there are any, from authors' runs."""
    return figure in drawn() and (results_of(figure) is not None or "authors" in figures()[figure])
