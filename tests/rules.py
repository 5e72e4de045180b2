"""Tables on which the verdict of every claim is known, for ``test_rules.py``.

On its table every claim of a figure holds, but for those in :data:`REFUTED`. A function of
:data:`CURVES` makes the curve of a run from its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tables import written

from experiments import one_gradient
from experiments.common.records import Results
from experiments.update_variance import exact
from laprop import bounds
from scripts import check_claims, paper

Verdicts = dict[str, bool | None]
NAN = math.nan
THREE = ("laprop", "adam", "amsgrad")


def cells(**axes: Any) -> pd.DataFrame:
    """A row for each combination of the values."""
    return pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)


def scattered(levels: Any, size: float = 0.005, seed: int = 0) -> np.ndarray:
    """Positive numbers, each away from its level by about this share."""
    levels = np.asarray(levels, float)
    return levels * np.exp(size * np.random.default_rng(seed).normal(size=len(levels)))


def mnist_divergence() -> pd.DataFrame:
    """``end``: the mean loss of the last tenth of the training over that of the tenth before."""
    runs = cells(optimizer=("adam", "laprop"), lr=(0.001, 0.003), seed=range(20))
    return runs.assign(end=np.where(runs.optimizer == "adam", 1.2, 1.0))


def mnist_divergence_curves(run: pd.Series) -> dict[str, Any]:
    tenths = [*np.linspace(3, 1, 9), run.end]
    return {"step": range(20), "train_loss": np.repeat(tenths, 2) + [0.1, -0.1] * 10}


def rosenbrock() -> pd.DataFrame:
    """LaProp always converges; the others not under strong noise, and under 0.1 at large nu only.

    At nu 0 Adam crosses the minimum by chance, which must not count.
    """
    runs = cells(optimizer=THREE, noise=("halfwidth", "width"), sigma=(0.04, 0.1, 0.12, 0.16),
                 nu=(0.0, 0.025, 0.5, 0.975), seed=range(30))  # fmt: skip
    lost = (runs.sigma > 0.11) | ((runs.sigma > 0.05) & (runs.nu < 0.1))
    steps = np.where(lost, NAN, 1000 + 500 * runs.nu)
    steps = np.where(runs.optimizer == "laprop", 800 + 100 * runs.nu, steps)
    by_chance = (runs.optimizer == "adam") & (runs.nu == 0)
    return runs.assign(steps_to_converge=scattered(np.where(by_chance, 300, steps)))


def rosenbrock_rates() -> pd.DataFrame:
    runs = cells(optimizer=THREE, noise=("halfwidth", "width"), lr=(0.001, 0.1), nu=(0.0, 0.5),
                 seed=range(20))  # fmt: skip
    lost = (runs.optimizer != "laprop") | (runs.nu > 0)
    return runs.assign(steps_to_converge=scattered(np.where(lost, NAN, 900)), updates=400_000)


def style_transfer() -> pd.DataFrame:
    """LaProp is the lowest, and lowest at nu 0.4; the others fall with nu, and Adam's loss rises.

    ``rises`` is the share of the first updates at which the loss rises.
    """
    runs = cells(optimizer=THREE, nu=(0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.999), seed=range(4))
    laprop = runs.optimizer == "laprop"
    regret = np.where(laprop, 50 + 40 * abs(runs.nu - 0.4), 120 - 20 * runs.nu)
    rises = scattered(np.where(runs.optimizer == "adam", 0.4, 0.2), 0.05)
    return runs.assign(regret=scattered(regret, 0.002), rises=rises)


def style_transfer_curves(run: pd.Series) -> dict[str, Any]:
    """Only the first 120 updates count: after them the loss rises always."""
    moves = np.ones(139)
    moves[round(119 * run.rises) : 119] = -1
    return {"step": range(1, 141), "loss": 500 + np.concatenate([[0], moves.cumsum()])}


def style_transfer_rates() -> pd.DataFrame:
    runs = cells(optimizer=THREE, lr=(0.001, 0.1), nu=(0.0, 0.4, 0.9), seed=range(3))
    lowest = runs.optimizer.map({"laprop": 50, "adam": 60, "amsgrad": 70})
    return runs.assign(regret=scattered(lowest * (1 + abs(runs.nu - 0.4)), 0.002))


def deep_fc() -> pd.DataFrame:
    """LaProp learns up to 1e-4, the others up to 1e-5; at the smallest rate all are slow."""
    runs = cells(optimizer=THREE, depth=(100, 300), lr=(1e-3, 1e-4, 1e-5, 1e-6), seed=range(6))
    learns = runs.lr <= np.where(runs.optimizer == "laprop", 1.1e-4, 1.1e-5)
    final = np.where(learns, np.where(runs.lr < 2e-6, 1.0, 0.5), 2.3)
    return runs.assign(
        final_loss=scattered(final),
        mean_loss=scattered(np.where(learns, 0.9, 2.25)), start=2.3,
    )  # fmt: skip


def deep_fc_curves(run: pd.Series) -> dict[str, Any]:
    return {"step": range(4), "train_loss": [run.start, *[run.mean_loss] * 3]}


def imdb() -> pd.DataFrame:
    """LaProp at nu 0 is 20 points ahead of the others, whose error depends more on nu."""
    runs = cells(optimizer=THREE, nu=(0.0, 0.4, 0.9), flip=(0.0, 0.1, 0.3), seed=range(5))
    others = runs.nu.map({0.0: 0.3, 0.4: 0.5, 0.9: 0.7})
    level = np.where(runs.optimizer == "laprop", np.where(runs.nu > 0, 0.12, 0.1), others)
    return runs.assign(test_error=scattered(level, 0.01))


def imdb_tuned() -> pd.DataFrame:
    """The lowest error on held out reviews is at lr 0.002 and nu 0.9."""
    runs = cells(optimizer=THREE, lr=(0.001, 0.002), nu=(0.5, 0.9), seed=range(5))
    level = np.where(runs.optimizer == "laprop", 0.1, 0.3)
    worse = 0.1 * ((runs.lr < 0.002) | (runs.nu < 0.9))
    return runs.assign(test_error=scattered(level, 0.01), valid_error=scattered(level + worse))


def cifar10() -> pd.DataFrame:
    """Adam diverges at mu 0.99 and nu 0.1 or 0.4, at epoch ``ends``; its test loss rises below.

    A higher test loss comes with a higher accuracy. LaProp's training loss depends on the cell.
    """
    runs = cells(optimizer=("adam", "laprop"), mu=(0.7, 0.9, 0.99), nu=(0.1, 0.4, 0.99),
                 seed=range(12))  # fmt: skip
    adam, small = runs.optimizer == "adam", runs.nu <= 0.4
    train = np.exp(np.where(adam, 0.01, 0.5) * (runs.mu + runs.nu) - 2)
    loss = pd.Series(scattered(0.5 + 0.2 * (adam & small), 0.01))
    rank = loss.groupby([runs.optimizer, runs.seed]).rank()
    return runs.assign(
        train_loss=np.where(adam & small & (runs.mu == 0.99), NAN, scattered(train, 0.01)),
        test_loss=loss, test_accuracy=0.9 + 0.0005 * rank * scattered(np.ones(len(runs)), 0.4, 1),
        ends=np.where(runs.nu == 0.4, 9 + runs.seed % 2, 4),
    )  # fmt: skip


def cifar10_diverging() -> pd.DataFrame:
    """The same, but Adam diverges in every cell with mu > sqrt(nu)."""
    runs = cifar10()
    diverges = (runs.optimizer == "adam") & (runs.mu > np.sqrt(runs.nu))
    return runs.assign(train_loss=runs.train_loss.where(~diverges))


def cifar10_curves(run: pd.Series) -> dict[str, Any]:
    """The loss begins above that of guessing, falls, and rises above it only where it diverges."""
    loss = [5.0, *np.linspace(2, 1, 19)]
    if not run.train_loss < np.log(10):
        loss = [5.0, *[1.0] * (int(run.ends) - 2), 3.0, 0.9 * np.log(10), 9.0]
    return {"step": range(1, len(loss) + 1), "train_loss": loss}


def limits() -> pd.DataFrame:
    """Paths whose distance is their distance from the limit; Adam's for nu to 0 is beyond reach."""
    runs = cells(
        optimizer=("adam", "laprop"), distance=(1e-1, 1e-2, 1e-3), seed=range(2),
        limit=("mu_0", "nu_0", "both_0", "nu_1", "nu_1_other", "nu_1_other_warm"),
    )  # fmt: skip
    far = np.where((runs.limit == "nu_0") & (runs.optimizer == "adam"), 5.0, runs.distance)
    far = np.where(runs.limit == "nu_1_other", 0.05, far)
    return runs.assign(path_distance=far, largest_update=1e3)


def update_bounds() -> pd.DataFrame:
    """What the worst gradients reach, by the closed forms: LaProp its bound, Adam its supremum.

    Adam is then above the bound that section 4 prints, which is the paper's mistake. Of mu =
    sqrt(nu) = 0.5 neither proposition says anything. A search comes less near to the supremum.
    """
    runs = cells(optimizer=("adam", "laprop"), mu=(0.0, 0.5, 0.9), seed=(0,),
                 nu=(0.0, 0.1, 0.25, 0.5, 0.9, 0.99))  # fmt: skip

    def at(of_adam: Callable[..., float], *step: int) -> np.ndarray:
        return np.array(
            [of_adam(r.mu, r.nu, *step) if r.optimizer == "adam" else bounds.proposition1(r.nu)
             for r in runs.itertuples()]
        )  # fmt: skip

    reached = at(bounds.proposition2_supremum, 200)
    runs = runs.assign(bound=at(bounds.proposition2), bound_printed=at(bounds.proposition2_printed))
    worst = runs.assign(sequence="adam_worst", update=reached,
                        excess_over_supremum=np.where(np.isinf(reached), NAN, 0))  # fmt: skip
    searched = runs.assign(sequence="searched", update=0.5, excess_over_supremum=-0.9)
    return pd.concat([worst, searched], ignore_index=True)


def convex_regret() -> pd.DataFrame:
    """Regrets of half the smaller bound; AMSGrad has no bound where mu is above sqrt(nu)."""
    runs = cells(optimizer=("laprop", "amsprop", "amsgrad"), problem=("rare", "mnist"), lr=(1.0,),
                 nu=(0.5, 0.95), seed=range(2))  # fmt: skip
    infinite = (runs.optimizer == "amsgrad") & (runs.nu < 0.81)
    return runs.assign(
        regret=5.0, bound_run=10.0, bound_uniform=np.where(infinite, NAN, 20.0), growth_exponent=1,
        bound_run_passed_at=NAN, bound_uniform_passed_at=NAN, condition_broken=0.0,
    )  # fmt: skip


def one_gradient_table() -> pd.DataFrame:
    """The closed form of an infinite exception, by which LaProp's direction changes."""
    runs = cells(optimizer=("adam", "laprop"), mu=(0.5, 0.8, 0.9, 0.95), seed=(0,),
                 nu=(0.5, 0.95, 0.999, 0.9999), size=(10.0, 1e10))  # fmt: skip
    closed = [one_gradient.closed_form(r.optimizer, r.mu, r.nu) for r in runs.itertuples()]
    return runs.assign(update_after=closed, update_closed=closed)


def update_variance() -> pd.DataFrame:
    """The variance of the updates on normal gradients, as it was derived."""
    runs = cells(optimizer=("adam", "laprop"), mu=(0.0, 0.5), nu=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2))
    derived = [exact(r.optimizer, r.mu, r.nu) for r in runs.itertuples()]
    runs = runs.assign(variance=derived, variance_exact=derived)
    return runs.merge(pd.DataFrame({"seed": range(2)}), how="cross")


def variants_rosenbrock() -> pd.DataFrame:
    """At lr 0.02 paths reach the minimum in half of the steps and leave it again."""
    runs = cells(optimizer=("laprop", "amsprop", "centered", "adam", "amsgrad"), lr=(0.01, 0.02),
                 sigma=(0.04, 0.1, 0.12), nu=(0.0, 0.1, 0.9), seed=range(40))  # fmt: skip
    steps = runs.optimizer.map({"laprop": 500, "adam": 560, "amsgrad": 700}).fillna(515)
    fast = runs.lr > 0.01
    return runs.assign(
        steps_to_converge=scattered(np.where(fast, steps / 2, steps)),
        near_share=np.where(fast, 0.3, 0.9),
        expected_loss=scattered(np.where(runs.optimizer == "adam", 0.6, 0.5) * (1 + runs.lr)),
    )


def variants() -> pd.DataFrame:
    """All are best at lr 0.01; AmsProp and AMSGrad are a tenth worse than the others."""
    runs = cells(optimizer=("laprop", "amsprop", "centered", "adam", "amsgrad"), lr=(0.001, 0.01),
                 nu=(0.9, 0.99), seed=range(20))  # fmt: skip
    worse = np.where(runs.optimizer.isin(["amsprop", "amsgrad"]), 1.1, 1)
    return runs.assign(final_loss=scattered(worse * np.where(runs.lr < 0.01, 2, 1)))


def epsilons() -> pd.DataFrame:
    runs = cells(optimizer=("adam", "laprop"), epsilon=(1e-20, 1e-15, 1e-8, 1e-4), nu=(0.9, 0.999),
                 seed=range(10))  # fmt: skip
    adam = (runs.optimizer == "adam") & (runs.epsilon < 1e-10)
    level = np.where(adam, 1.2, np.where(runs.epsilon > 1e-6, 1.5, 1))
    return runs.assign(final_loss=scattered(level))


def clips() -> pd.DataFrame:
    runs = cells(optimizer=("adam", "laprop"), nu=(0.9, 0.999), clip=(0, 1),
                 spike_share=(0.0, 0.01), seed=range(10))  # fmt: skip
    return runs.assign(final_loss=scattered(np.ones(len(runs))))


def courses() -> pd.DataFrame:
    """``first`` and ``last``: the loss over the first and over the last 195 updates."""
    runs = cells(optimizer=("laprop",), nu=(0.9, 0.999), later_nu=(NAN, 0.9, 0.999), seed=range(10))
    runs = runs[runs.nu != runs.later_nu].reset_index(drop=True)
    small, raised = runs.nu < 0.99, (runs.nu < 0.99) & (runs.later_nu > 0.99)
    return runs.assign(
        final_loss=scattered(np.where(raised, 0.9, 1.1)),
        first=scattered(np.where(small, 1.0, 1.2)), last=scattered(np.where(small, 1.1, 1.0)),
    )  # fmt: skip


def courses_curves(run: pd.Series) -> dict[str, Any]:
    """Between the two windows it is the other way round, and far more so."""
    step = np.arange(39, 1873, 39)
    middle = np.where(step < 936, 9, 0.1) if run.nu < 0.99 else 1
    loss = np.where(step <= 195, run["first"], np.where(step > 1677, run["last"], middle))
    return {"step": step, "train_loss": loss}


def ranges() -> pd.DataFrame:
    """At lr 0.01 Adam's losses scatter about the limit, 5 % above the lowest mean."""
    runs = cells(optimizer=THREE, lr=(0.001, 0.01), mu=(0.0, 0.9), nu=(0.9,), seed=range(10))
    near = (runs.optimizer != "laprop") & (runs.lr > 0.005)
    return runs.assign(final_loss=scattered(np.where(near, 1.055, 1)))


def signed() -> pd.DataFrame:
    runs = cells(optimizer=("signsgd", "signum"), sigma=(0.04, 0.1), seed=range(20))
    return runs.assign(steps_to_converge=scattered(np.full(len(runs), 500)))


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "fig01": mnist_divergence, "fig02": rosenbrock, "fig03": style_transfer, "fig04": deep_fc,
    "fig07": imdb, "fig08": rosenbrock_rates, "fig09": style_transfer_rates,
    "fig12": cifar10_diverging,
    "fig13": cifar10, "imdb_tuned": imdb_tuned, "table1": limits, "propositions": update_bounds,
    "theorem1": convex_regret, "one_gradient": one_gradient_table, "signs": signed,
    "update_variance": update_variance, "variants_rosenbrock": variants_rosenbrock,
    "variants": variants, "epsilon": epsilons, "clipping": clips, "nu_schedule": courses,
    "tuning_range": ranges,
}  # fmt: skip
CURVES = {
    "fig01": mnist_divergence_curves, "fig03": style_transfer_curves, "fig04": deep_fc_curves,
    "fig12": cifar10_curves, "nu_schedule": courses_curves,
}  # fmt: skip
SETTINGS = {
    "task.updates": 400_000,
    "task.rounds": 50_000,
    "task.later_from": 468,
    "optimizer.mu": 0.9,
}
# The claims that do not hold on these tables, because they do not hold by the closed forms.
REFUTED = (
    *("adam_update_bounded", "bound_smaller", "direction_kept"),
    *("large_epsilon_equivalent", "small_epsilon_equivalent_adam"),
)


# Verdicts -----------------------------------------------------------------------------------------


@cache
def runs_of(figure: str) -> pd.DataFrame:
    return TABLES[figure]()


def tables(figure: str, runs: pd.DataFrame, folder: Path, settings: dict[str, Any]) -> Results:
    """These runs as the results of a figure at the paper's scale, of several seeds."""
    source = paper.figures()[figure].get("results", figure)
    curves = None
    if source in CURVES:
        columns = ["optimizer", "lr", "mu", "nu", "later_nu", "depth", "seed"]
        curves = [
            pd.DataFrame({**run[run.index.intersection(columns)], **CURVES[source](run)})
            for _, run in runs.iterrows()
        ]
    manifest = {"figure": source, "scale": "paper", "reduced": None, "seeds": 2}
    return written(folder / figure, runs, curves, **manifest, settings=SETTINGS | settings)


def verdicts(figure: str, found: Results) -> Verdicts:
    """Every claim's verdict on these results, but for those that they do not tell."""
    rows = check_claims.rows(figure, found)
    return {row["claim"]: row["held"] for row in rows if row["kind"] in check_claims.OF}


def unchanged(figure: str) -> Verdicts:
    claims = paper.figures()[figure]["claims"]
    return {name: name not in REFUTED for name in claims}
