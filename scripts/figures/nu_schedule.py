"""B.2, 3.2, 5.4: one nu for the first epoch of our MNIST net and another one after it."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, decide, every_below, interval, log_ratio, mean
from scripts.effects import percent, ratio
from scripts.figures import style
from scripts.paper import NAMES, Measured

SMALL, LARGE = 0.9, 0.999
FIRST = 195  # updates, and as many last ones


def finding(results: Results) -> str:
    """The title."""
    raised = final(results, SMALL, LARGE)
    small, large = (log_ratio(raised, final(results, nu, None)) for nu in (SMALL, LARGE))
    return (
        f"MNIST net: raising ν from {SMALL:g} to {LARGE:g} after an epoch changes LaProp's "
        f"final loss by {_percent(small)} against ν {SMALL:g}, {_percent(large)} against ν "
        f"{LARGE:g}; at first ν {SMALL:g} costs {_percent(_window(results, last=False))}"
    )


def _percent(log: Estimate) -> str:
    centre, low, high = percent(log)
    return f"{centre:+.1f} {interval(low, high, '+.1f')} %"


def draw(results: Results) -> Figure:
    """LaProp's loss over that at the large nu all along, for three courses of nu."""
    curves = results.curves
    figure, axes = plt.subplots(1, 2, figsize=(9.8, 3.8), sharey=True)
    courses = ((SMALL, None), (SMALL, LARGE), (LARGE, SMALL))
    for axis, optimizer in zip(axes, ("laprop", "adam"), strict=True):
        if optimizer not in set(curves.optimizer):
            continue
        base = _losses(curves, optimizer, LARGE, None)
        for (first, later), colour in zip(courses, style.OTHER[1:4], strict=True):
            logs = np.log(_losses(curves, optimizer, first, later) / base)
            found = logs.groupby("step").apply(lambda seeds: mean(seeds.to_numpy()))
            label = f"ν {first:g}" + (f", then {later:g}" if later else " throughout")
            style.geometric(axis, found.index, found, color=colour, label=label)
        axis.axhline(1, color="#999999", linewidth=1, label=f"ν {LARGE:g} throughout")
        later_from = results.manifest["settings"]["task.later_from"]
        axis.axvline(later_from, color="#999999", linewidth=0.8, linestyle=":")
        axis.set(xlabel="updates", title=NAMES[optimizer])
    axes[0].set_ylabel(f"training loss divided by that\nwith ν {LARGE:g} throughout")
    style.legend(figure, axes[0], 4)
    style.provenance(
        figure,
        results,
        f"geometric mean over seeds with 95 % intervals; at first: the first {FIRST} updates, "
        f"against ν {LARGE:g}; dotted: where ν changes",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def _course(frame: pd.DataFrame, optimizer: str, first: float, later: float | None) -> pd.DataFrame:
    chosen = frame[(frame.optimizer == optimizer) & np.isclose(frame.nu, first)]
    return chosen[chosen.later_nu.isna() if later is None else np.isclose(chosen.later_nu, later)]


def _losses(frame: pd.DataFrame, optimizer: str, first: float, later: float | None) -> pd.Series:
    """Training loss by seed and step."""
    return _course(frame, optimizer, first, later).set_index(["seed", "step"]).train_loss


def final(results: Results, first: float, later: float | None) -> pd.Series:
    """LaProp's final loss by seed."""
    return _course(results.runs, "laprop", first, later).set_index("seed").final_loss


def small_then_large(results: Results) -> Measured:
    """A small nu and then a large one is better than either all along, and than the reverse."""
    found = {
        f"ν {SMALL:g}": log_ratio(final(results, SMALL, LARGE), final(results, SMALL, None)),
        f"ν {LARGE:g}": log_ratio(final(results, SMALL, LARGE), final(results, LARGE, None)),
        f"ν {LARGE:g}, then {SMALL:g}": log_ratio(
            final(results, SMALL, LARGE), final(results, LARGE, SMALL)
        ),
    }
    text = ", ".join(f"{ratio(log)} of that with {name}" for name, log in found.items())
    return Measured(
        f"LaProp's final loss with ν {SMALL:g}, then {LARGE:g}: {text}",
        every_below(found.values()),
        f"the loss is at most {math.exp(max(r.centre for r in found.values())):.3f} times that of "
        "another course; the claim needs less than 1 for each",
        [ratio(log) for log in found.values()],
    )


def _window(results: Results, last: bool) -> Estimate:
    curves = results.curves
    start = curves.step.max() - FIRST if last else 0
    window = curves[(curves.step > start) & (curves.step <= start + FIRST)]
    small, large = (
        _losses(window, "laprop", nu, None).groupby("seed").mean() for nu in (SMALL, LARGE)
    )
    return log_ratio(small, large)


def nu_over_time(results: Results, last: bool) -> Measured:
    """LaProp's mean loss at the small nu over that at the large one, at first or at last."""
    log = _window(results, last)
    true, false = (log.above(), log.below()) if last else (log.below(), log.above())
    # Two comparisons rest on these runs: each has half of the error.
    return Measured(
        f"LaProp's training loss at ν {SMALL:g} over that at {LARGE:g}, "
        f"{'last' if last else 'first'} {FIRST} updates: {ratio(log)}",
        decide(2 * true, 2 * false),
        f"the loss of the {'last' if last else 'first'} {FIRST} updates is "
        f"{math.exp(log.centre):.3f} times as high at ν {SMALL:g} as at {LARGE:g}; the claim needs "
        f"{'more' if last else 'less'} than 1",
        [ratio(log)],
    )
