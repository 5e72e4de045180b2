"""Claims of section 4 on the regret (Theorem 1), with the statement that laprop.bounds derives."""

import pandas as pd

from experiments.common.records import Results
from scripts.claims.measured import Measured


def _ratio(results: Results, optimizer: str, column: str) -> pd.Series:
    """Largest final regret over a bound among seeds, by problem, lr and nu."""
    runs = results.runs[results.runs.optimizer == optimizer]
    return (runs.regret / runs[column]).groupby([runs.problem, runs.lr, runs.nu]).max()


def laprop_regret_bounded(results: Results) -> Measured:
    """The bound before the run, which grows as sqrt(T), on every problem and at every nu."""
    runs = results.runs
    ratio = _ratio(results, "laprop", "bound_uniform")
    passed = ratio[ratio > 1]
    rare = runs[(runs.optimizer == "laprop") & (runs.problem == "rare")]
    growth = rare.growth_exponent
    along = _ratio(results, "laprop", "bound_run")["mnist"]
    text = (
        f"rare large gradients: passed at nu {', '.join(_values(passed, 'nu'))} (up to "
        f"{ratio.max():.3g} times the bound); there the regret grows as T^{growth.median():.2f} "
        f"(median over nu and seeds), so that every bound of order sqrt(T) is passed in the end; "
        f"MNIST: at most {ratio['mnist'].max():.2g} of it, but up to {along.max():.2g} of the same "
        "bound along the run"
    )
    return Measured(text, passed.empty)


def amsprop_regret_bounded(results: Results) -> Measured:
    """With the largest second moment so far the theorem's step sizes never rise."""
    along = _ratio(results, "amsprop", "bound_run")
    before = _ratio(results, "amsprop", "bound_uniform")
    text = (
        f"AmsProp on both problems, all nu: regret at most {along.max():.2f} of the bound along "
        f"the run, {before.max():.2f} of the one before it"
    )
    return Measured(text, bool(max(along.max(), before.max()) <= 1))


def laprop_bound_without_condition(results: Results) -> Measured:
    """Finite for every nu, where AMSGrad's needs mu < sqrt(nu), and smaller where both are."""
    runs = results.runs
    keys = ["problem", "lr", "nu", "seed"]
    ours = runs[runs.optimizer == "laprop"].set_index(keys).bound_uniform
    other = runs[runs.optimizer == "amsgrad"].set_index(keys).bound_uniform
    both = (other / ours).dropna()
    infinite = sorted(set(other[other.isna()].index.get_level_values("nu")))
    text = (
        f"mu 0.9: AMSGrad's bound is infinite at nu {infinite[0]:g} to {infinite[-1]:g}, Theorem 1 "
        f"nowhere; where both are finite AMSGrad's is {both.min():.3g} to {both.max():.3g} times "
        "as large. LaProp has the bound only where root(n)/lr never falls, AmsProp always"
    )
    return Measured(text, bool(ours.notna().all() and (both > 1).all()))


def _values(series: pd.Series, level: str) -> list[str]:
    return [f"{v:g}" for v in sorted(set(series.index.get_level_values(level)))]
