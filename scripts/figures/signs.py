"""Footnote 1: the average of signs and the sign of the average, on the noisy Rosenbrock."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, every_within, log_ratio
from scripts.effects import ratio
from scripts.figures import style
from scripts.paper import Measured

MARGIN = 1.5
LABEL = {"signsgd": "average of signs (LaProp at ν 0)", "signum": "sign of the average"}


def finding(results: Results) -> str:
    """The title."""
    behaves = {
        True: "the sign of the average behaves like the average of signs",
        False: "the sign of the average does not behave like the average of signs",
        None: "undecided whether the sign of the average behaves like the average of signs",
    }
    return f"Noisy Rosenbrock: {behaves[signed_alike(results).held]}; it takes {_times(results)}"


def draw(results: Results) -> Figure:
    """The share of seeds that have converged by each update."""
    runs = results.runs
    sigmas = sorted(runs.sigma.unique())
    figure, axes = plt.subplots(1, len(sigmas), figsize=(3.8 * len(sigmas), 3.6), squeeze=False)
    for axis, sigma in zip(axes[0], sigmas, strict=True):
        for optimizer in ("signsgd", "signum"):
            chosen = runs[(runs.optimizer == optimizer) & (runs.sigma == sigma)]
            values = np.sort(chosen.steps_to_converge.dropna())
            share = np.arange(1, len(values) + 1) / len(chosen)
            look = style.line(optimizer) | {"label": LABEL[optimizer]}
            axis.step(values, share, where="post", **look)
        axis.set(
            xscale="log",
            ylim=(0, 1.02),
            xlabel="updates",
            title=f"σ {sigma:g}: ratio of the updates {ratio(ratios_of(results)[sigma])}",
        )
        style.plain(axis.xaxis)
    axes[0, 0].set_ylabel("share of seeds that have converged")
    style.legend(figure, axes[0, 0], 2)
    style.provenance(
        figure,
        results,
        "noise in (−σ/2, σ/2), lr 0.01, µ 0.9; ratio: updates of the sign of the average over "
        "those of the average of signs, with its 95 % interval",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def steps(results: Results, optimizer: str, sigma: float) -> pd.Series:
    """Updates until convergence by seed; the last update for a seed that never does."""
    runs = results.runs
    chosen = runs[(runs.optimizer == optimizer) & (runs.sigma == sigma)]
    last = results.manifest["settings"]["task.updates"]
    return chosen.set_index("seed").steps_to_converge.fillna(last)


def ratios_of(results: Results) -> dict[float, Estimate]:
    """Updates of the sign of the average over those of the average of signs, by sigma."""
    return {
        sigma: log_ratio(steps(results, "signum", sigma), steps(results, "signsgd", sigma))
        for sigma in sorted(results.runs.sigma.unique())
    }


def _times(results: Results) -> str:
    """``0.29 times the updates at σ 0.04, 3.1 times at σ 0.1``."""
    (first, log), *others = ratios_of(results).items()
    text = f"{math.exp(log.centre):.2g} times the updates at σ {first:g}"
    return text + "".join(f", {math.exp(r.centre):.2g} times at σ {sigma:g}" for sigma, r in others)


def signed_alike(results: Results) -> Measured:
    """Both methods take as many updates at every sigma, by equivalence tests."""
    ratios = ratios_of(results)
    margin = math.log(MARGIN)
    text = ", ".join(f"{ratio(r)} at σ {sigma:g}" for sigma, r in ratios.items())
    return Measured(
        f"updates of the sign of the average over those of the average of signs {text}",
        every_within(ratios.values(), -margin, margin),
        f"the sign of the average takes {_times(results)}; the claim allows a factor of {MARGIN:g}",
        [ratio(r) for r in ratios.values()],
    )
