"""Claims of section 5.1 on the noisy Rosenbrock function.

A setting converges where at least half of the seeds do: the median over all seeds, those that
never arrive included, is then finite; the upper end of its 95 % interval need not be.
nu = 0 is left out for Adam and AMSGrad: there Adam is on its way to infinity and its path crosses
the region by chance (see the share of seeds in the figure).
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import median
from scripts.claims.measured import Measured


def medians(results: Results, optimizer: str, noise: str, column: str, value: float) -> pd.Series:
    """Median steps to converge by nu; infinite where most seeds never converge."""
    runs = results.runs
    chosen = runs[
        (runs.optimizer == optimizer) & (runs.noise == noise) & np.isclose(runs[column], value)
    ]
    return chosen.groupby("nu").steps_to_converge.apply(lambda steps: median(steps)[0])


def reach(steps: pd.Series) -> str:
    """The range of nu at which the medians are finite, in words."""
    nu = steps.index[np.isfinite(steps)]
    if len(nu) == 0:
        return "nowhere"
    if len(nu) == len(steps):
        return "at every nu"
    whole = len(nu) == ((steps.index >= nu.min()) & (steps.index <= nu.max())).sum()
    return f"at nu {nu.min():g} to {nu.max():g}" + ("" if whole else " with gaps")


def flat_at_small_noise(results: Results) -> Measured:
    """Flat: the slowest nu takes at most 1.5 times the steps of the fastest."""
    text, held = [], True
    for noise in ("halfwidth", "width"):
        ratio = {}
        for optimizer in ("laprop", "adam", "amsgrad"):
            steps = medians(results, optimizer, noise, "sigma", 0.04)
            ratio[optimizer] = steps.max() / steps.min()
        text.append(
            f"{noise}: slowest over fastest nu {ratio['laprop']:.2f} (Adam {ratio['adam']:.2f}, "
            f"AMSGrad {ratio['amsgrad']:.2f})"
        )
        held &= ratio["laprop"] <= 1.5
    return Measured("; ".join(text), held)


def _medium(results: Results, noise: str) -> Measured:
    steps = {
        o: medians(results, o, noise, "sigma", 0.1)[lambda s: s.index > 0]
        for o in ("adam", "amsgrad", "laprop")
    }
    fails_small = [
        np.isinf(steps[o].iloc[0]) and np.isfinite(steps[o].iloc[-1]) for o in ("adam", "amsgrad")
    ]
    first = {o: s.iloc[0] for o, s in steps.items()}
    best = first["laprop"] < min(first["adam"], first["amsgrad"])
    fastest = {o: s.min() for o, s in steps.items() if np.isfinite(s.min())}
    text = ", ".join(f"{o} converges {reach(s)}" for o, s in steps.items())
    text += "; fewest median steps: " + ", ".join(f"{o} {s:,.0f}" for o, s in fastest.items())
    return Measured(text, all(fails_small) and best)


def small_nu_at_medium_noise(results: Results) -> Measured:
    """As stated: noise within sigma."""
    return _medium(results, "halfwidth")


def small_nu_at_medium_noise_width(results: Results) -> Measured:
    """Noise within sigma/2."""
    return _medium(results, "width")


def _large(results: Results, noise: str) -> Measured:
    text, held = [], True
    for sigma in (0.12, 0.16):
        steps = {
            o: medians(results, o, noise, "sigma", sigma) for o in ("laprop", "adam", "amsgrad")
        }
        others = [s[s.index > 0] for o, s in steps.items() if o != "laprop"]
        text.append(
            f"sigma {sigma:g}: laprop converges {reach(steps['laprop'])}, adam "
            f"{reach(others[0])}, amsgrad {reach(others[1])} (nu > 0)"
        )
        held &= np.isfinite(steps["laprop"]).any() and not any(np.isfinite(s).any() for s in others)
    return Measured("; ".join(text), bool(held))


def only_laprop_at_large_noise(results: Results) -> Measured:
    """As stated: noise within sigma."""
    return _large(results, "halfwidth")


def only_laprop_at_large_noise_width(results: Results) -> Measured:
    """Noise within sigma/2."""
    return _large(results, "width")
