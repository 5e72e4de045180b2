"""Where paper, code and logs disagree, and the measured effect of each discrepancy.

``discrepancies.yaml`` has the discrepancies in words. Under ``measured`` it names a figure and a
function of the last part of this module, which takes the results of the figure, and the arguments
under ``with``. It returns one line of Markdown. ``python -m scripts.build claims`` writes
``results/DISCREPANCIES.md``.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.common.records import RESULTS, Results, load
from experiments.common.stats import ALPHA, Estimate, mean
from scripts.figures import cifar_schedule as schedule
from scripts.figures import rainbow_authors as deviations
from scripts.figures.fig02 import medians, reach, steps_by_nu
from scripts.figures.fig10 import gains, told
from scripts.figures.fig11 import LARGE, PAPER, SMALL, areas, compared
from scripts.paper import NAMES

LABELS = {  # keys of a discrepancy that a reader sees, and what the page calls them
    "paper": "paper",
    "code": "code and logs",
    "ours": "here",
    "option": "to get the other reading",
    "measured": "measured",
}
NOT_RUN = "not run"
TEXTUAL = "textual"
INTRODUCTION = """\
# Where paper, code and logs disagree

Written by `make claims`. P is the paper, R the authors' repository (Z-T-WANG/LaProp-Optimizer).
**here** is what we do by default. **not run**: nothing has measured it yet. **textual**: two texts
or a log disagree, and there is nothing to measure. What is said about logs is taken from the
authors' files; it is not a measurement of ours. Intervals are 95 %.

How the discrepancies of the optimizer are measured: two copies of a small ReLU net on MNIST start
alike and see the same minibatches, one with our default and one with the other reading, under five
schedules of lr. **distance** is that between their weights after 100 and after 1,000 updates, in
per cent of the distance of the default copy from its start. **loss** is the change of the final
training loss after as many updates. Each is given for the schedule with the largest mean over
seeds, which the brackets name ([all schedules](figures/discrepancies.png)). Because the largest of
five means is chosen, the intervals are simultaneous: with probability 95 % those of all five
schedules contain their means (Bonferroni). **not above the control**: under no schedule does the
interval of the distance lie above those of the second control after as many updates. Two controls
run the default twice:

{controls}"""


# The page -----------------------------------------------------------------------------------------


def entries() -> dict[str, dict[str, Any]]:
    """The discrepancies of ``discrepancies.yaml`` by name."""
    return dict(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))


def measured(where: str, arguments: dict[str, Any] | None = None) -> str:
    """The result of ``<figure>.<function>``, or "not run" if the figure has no results."""
    if where == TEXTUAL:
        return TEXTUAL
    figure, _, function = where.partition(".")
    results = None if where == NOT_RUN else load(figure)
    if results is None:
        return NOT_RUN
    text = globals()[function](results, **(arguments or {}))
    return text if results.scale == "paper" else f"{text} ({results.label})"


def rows() -> list[dict[str, Any]]:
    """All discrepancies with their ``name``, it in words as ``title``, and their measurements."""
    return [
        row
        | {"name": name, "title": name.replace("_", " ").capitalize()}
        | {"measured": measured(row["measured"], row.get("with"))}
        for name, row in entries().items()
    ]


def introduction() -> str:
    """The beginning of the page, with what the two controls have measured."""
    return INTRODUCTION.format(controls=measured("discrepancies.controls"))


def page(table: list[dict[str, Any]]) -> str:
    """The text of ``results/DISCREPANCIES.md``."""
    parts = [introduction()]
    for group, members in groupby(table, key=lambda row: row["group"]):
        parts.append(f"## {group[0].upper()}{group[1:]}")
        for row in members:
            parts.append(f"### {row['title']} ({row['where']})")
            parts.append("\n".join(f"- {label}: {row[key]}" for key, label in LABELS.items()))
    return "\n\n".join(parts) + "\n"


def files(table: list[dict[str, Any]]) -> dict[Path, bytes]:
    """The page with its present text."""
    return {RESULTS / "DISCREPANCIES.md": page(table).encode()}


# Measurements -------------------------------------------------------------------------------------


def _by_schedule(runs: pd.DataFrame, shares: pd.Series) -> dict[str, Estimate]:
    """The mean over seeds in per cent under each schedule, with simultaneous intervals."""
    groups = (100 * shares).groupby(runs.schedule)
    return {str(name): mean(seeds, ALPHA / groups.ngroups) for name, seeds in groups}


def _largest(means: dict[str, Estimate], sign: str = "") -> tuple[str, str]:
    """The largest mean in absolute value with its interval, and its schedule, as text."""
    schedule, found = max(means.items(), key=lambda item: abs(item[1].centre))
    largest = pd.Series([found.centre, found.low, found.high]).abs().max()
    tiny = "below 0.001 %" if largest else "0"
    return tiny if largest < 0.001 else f"{found:{sign}.2g} %", schedule


def _pair(results: Results, pair: str) -> str:
    """The largest distance of two paths over the schedules, and the largest change of the loss."""
    both = results.runs[results.runs.pair.isin([pair, "last_bit"])]
    runs, distance, loss = both[both.pair == pair], [], []
    for updates, cell in both.groupby("updates"):
        own, control = cell[cell.pair == pair], cell[cell.pair == "last_bit"]
        means = _by_schedule(own, own.difference)
        limits = _by_schedule(control, control.difference)
        lowest = pd.Series([found.low for found in means.values()])  # NaN without an interval
        above = lowest.max() > pd.Series([found.high for found in limits.values()]).max()
        number, name = _largest(means)
        mark = "" if above or pair == "last_bit" else "; not above the control"
        distance.append(f"{number} after {updates:,} ({name}{mark})")
        number, name = _largest(_by_schedule(own, own.loss_difference / own.loss), "+")
        loss.append(f"{number} after {updates:,} ({name})")
    if runs[runs.schedule == "constant"].difference.max() == 0:
        distance.append("0 at a constant lr")
    return f"distance {', '.join(distance)}; loss {', '.join(loss)}"


def pairs(results: Results, pairs: dict[str, str]) -> str:
    """For each pair its label, the distance of its paths, and the change of the loss."""
    text = {label: _pair(results, pair) for label, pair in pairs.items()}
    return "; ".join(f"{label}: {found}" if label else found for label, found in text.items())


def controls(results: Results) -> str:
    """The two controls in a line each: other minibatches, and weights changed in the last bit."""
    batches, bit = _pair(results, "other_batches"), _pair(results, "last_bit")
    return f"- on other minibatches: {batches}\n- from weights changed in the last bit: {bit}"


def moves_at_zero_lr(results: Results) -> str:
    """The effect of the pair, and the largest move of a weight in a step with lr = 0."""
    runs = results.runs[results.runs.pair == "moves_at_zero_lr"]
    lr = results.manifest["settings"]["optimizer.lr"]
    moved = runs[runs.schedule == "pause"].groupby("updates").zero_lr_step.mean()
    text = ", ".join(f"{step:.2g} ({n:,} updates)" for n, step in moved.items())
    found = _pair(results, "moves_at_zero_lr")
    return f"{found}; largest change of a weight in a step at lr 0, after lr {lr:g}: {text}"


def proposition_2_factor(results: Results) -> str:
    """Adam's largest updates as factors of the printed bound and of the proven one."""
    runs = results.runs
    adam = runs[(runs.optimizer == "adam") & (runs.mu**2 < runs.nu)]
    above = adam["update"] / adam.bound_printed
    worst = adam.loc[above.idxmax()]
    return (
        f"largest update found {above.max():.3g} times the printed bound (mu {worst.mu:g}, "
        f"nu {worst.nu:g}), {(adam['update'] / adam.bound).max():.3g} times the proven one"
    )


def proposition_2_condition(results: Results) -> str:
    """The largest update of Adam for mu > sqrt(nu), and LaProp's."""
    runs = results.runs[results.runs.mu**2 > results.runs.nu]
    largest = runs.groupby("optimizer")["update"].max()
    return (
        f"mu > sqrt(nu): updates up to {largest['adam']:.1g} lr found for Adam, as the range of "
        f"float64 allows, {largest['laprop']:.3g} lr for LaProp, over all sequences"
    )


def theorem_1(results: Results) -> str:
    """Growth of the regret on rare gradients, and whether the regret exceeds the bound."""
    runs = results.runs[results.runs.problem == "rare"]
    text = []
    for optimizer in ("laprop", "amsprop"):
        cell = runs[runs.optimizer == optimizer]
        linear = cell[cell.growth_exponent > 0.9]
        passed = cell.bound_uniform_passed_at.notna()
        text.append(
            f"{NAMES[optimizer]}'s regret is linear in T (log2 R(T)/R(T/2) above 0.9) in "
            f"{len(linear)} of {len(cell)} runs, and passes Theorem 1's bound beforehand in "
            f"{passed.sum()}"
        )
    return "rare gradients, which break the condition: " + "; ".join(text)


def rosenbrock_sigma(results: Results) -> str:
    """The nu at which each optimizer converges, under each reading of sigma."""
    text = []
    for noise, reading in (("halfwidth", "sigma"), ("width", "sigma/2")):
        for sigma in (0.1, 0.12):
            where = {
                o: reach(medians(steps_by_nu(results, o, noise, "sigma", sigma)))
                for o in ("adam", "amsgrad", "laprop")
            }
            names = ", ".join(f"{NAMES[o]} {nu}" for o, nu in where.items())
            text.append(f"noise in (-{reading}, {reading}), sigma {sigma:g}: {names}")
    return f"who converges where: {'; '.join(text)}"


def cifar_schedule(results: Results) -> str:
    """The effect of the authors' milestones on the end of a training, for both optimizers."""
    return f"at the end: {'; '.join(schedule.told(results, o) for o in ('laprop', 'adam'))}"


def iwslt_loss(results: Results) -> str:
    """Final training loss of both optimizers, with and without warmup."""
    text = []
    for warmup, runs in results.runs.groupby("warmup"):
        loss = runs.groupby("optimizer").final_loss
        ends = ", ".join(f"{NAMES[str(o)]} {mean(arm):.2f}" for o, arm in loss)
        text.append(f"{'with' if warmup else 'without'} warmup {ends}")
    updates = results.manifest["settings"]["task.average_over"]
    return f"mean loss of the last {updates} updates, bits: {'; '.join(text)}"


def roberta_faster(results: Results) -> str:
    """Mean loss over all updates at the two nu for which the authors' logs have both optimizers."""
    cells = {cell: gain for cell, gain in gains(results, "mean_loss").items() if cell[0] != 0.9}
    return f"mean loss, Adam minus LaProp, bits: {told(cells)}"


def roberta_nu(results: Results) -> str:
    """Gain of LaProp's final loss in each cell of the grid."""
    return f"final loss, Adam minus LaProp, bits: {told(gains(results, 'final_loss'))}"


def rainbow_eps(results: Results) -> str:
    """Area under Rainbow's training curve for both optimizers, each at both epsilons."""
    table = areas(results)
    pairs = {
        "LaProp and Adam at the same epsilon": [
            (("laprop", e), ("adam", e)) for e in (SMALL, LARGE)
        ],
        "the two epsilons with the same optimizer": [
            ((o, SMALL), (o, LARGE)) for o in ("adam", "laprop")
        ],
        "as in the paper": [PAPER],
    }
    text = [
        f"{what}: {'; '.join(compared(table, a, b) for a, b in arms)}"
        for what, arms in pairs.items()
    ]
    return f"normalised area, {'; '.join(text)}"


def rainbow_authors(results: Results, deviation: str) -> str:
    """The effect of one of the authors' deviations on the area under Rainbow's training curve."""
    table = deviations.changes(results)
    games = deviations.games(table, deviation)
    if not games:
        return "changes no run"
    text = ", ".join(
        f"{NAMES[o]} {deviations.told(table, o, deviation)}" for o in ("laprop", "adam")
    )
    every = table.index.unique("game")
    where = "" if len(games) == len(every) else f" in {' and '.join(games)}, no change elsewhere"
    return f"area under the training curve: {text}{where}"
