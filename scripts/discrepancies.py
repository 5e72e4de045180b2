"""The measured effect of each disagreement in ``discrepancies.yaml``, from the committed results.

A function without an underscore takes the results of a figure, and the arguments under ``with`` in
the YAML file. It returns one line of Markdown.
"""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import mean
from scripts.figures import cifar_schedule as schedule
from scripts.figures import rainbow_authors as deviations
from scripts.figures.fig02 import medians, reach, steps_by_nu
from scripts.figures.fig10 import gains, told
from scripts.figures.fig11 import LARGE, PAPER, SMALL, areas, compared
from scripts.paper import NAMES


def _percent(values: pd.Series, sign: str = "") -> str:
    """Mean over seeds in per cent with its interval, or an upper limit if it is tiny."""
    found = mean(100 * values.to_numpy())
    largest = 100 * values.abs().max()
    if largest < 0.001:
        return "below 0.001 %" if largest else "0"
    return f"{found.centre:{sign}.2g} % [{found.low:.2g}, {found.high:.2g}]"


def _pair(results: Results, pair: str) -> str:
    """The distance of two paths under the schedule with the largest one, and the loss's change."""
    runs = results.runs[results.runs.pair == pair]
    distance, loss = [], []
    for updates, cell in runs.groupby("updates"):
        schedule = cell.groupby("schedule").difference.mean().idxmax()
        worst = cell[cell.schedule == schedule]
        distance.append(f"{_percent(worst.difference)} after {updates:,} ({schedule})")
        loss.append(_percent(worst.loss_difference / worst.loss, "+"))
    if runs[runs.schedule == "constant"].difference.max() == 0:
        distance.append("0 at a constant lr")
    return f"{', '.join(distance)}; loss {' and '.join(loss)}"


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
