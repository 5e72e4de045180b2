"""Claims of Table 1: what Adam and LaProp become in the limits of mu and nu.

A limit counts as measured where the distance of the two paths, relative to their length, falls at
each tenfold approach for every seed, down to at most 1 % at the nearest.
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from scripts.claims.measured import Measured


def _distances(results: Results, optimizer: str, limit: str) -> pd.DataFrame:
    """Distance of the paths: a row per distance from the limit, the nearest first; by seed."""
    runs = results.runs
    chosen = runs[(runs.optimizer == optimizer) & (runs.limit == limit)]
    return chosen.pivot(index="distance", columns="seed", values="path_distance")


def _reached(distances: pd.DataFrame) -> bool:
    falls = (np.diff(distances.to_numpy(), axis=0) > 0).all()
    return bool(falls and distances.iloc[0].max() <= 0.01)


def _become(results: Results, cases: list[tuple[str, str]]) -> Measured:
    text, held = [], True
    for optimizer, limit in cases:
        distances = _distances(results, optimizer, limit)
        far, near = distances.index[-1], distances.index[0]
        text.append(
            f"{optimizer}, {limit}: distance of the paths {distances.iloc[-1].median():.2g} at "
            f"{far:g}, {distances.iloc[0].median():.2g} at {near:g} from the limit "
            f"(largest of {distances.shape[1]} seeds {distances.iloc[0].max():.2g})"
        )
        held &= _reached(distances)
    return Measured("; ".join(text), held)


def mu_to_zero(results: Results) -> Measured:
    """RMSProp, for both."""
    return _become(results, [("adam", "mu_0"), ("laprop", "mu_0")])


def laprop_nu_to_zero(results: Results) -> Measured:
    """Signed SGD with momentum."""
    return _become(results, [("laprop", "nu_0")])


def adam_nu_to_zero(results: Results) -> Measured:
    """Diverges: the distance grows toward the limit; with mu = 0 it is signed SGD."""
    signed = _become(results, [("adam", "both_0")])
    distances = _distances(results, "adam", "nu_0")
    runs = results.runs
    update = runs[(runs.optimizer == "adam") & (runs.limit == "nu_0")].largest_update
    text = (
        f"with momentum: distance from signed SGD-M {distances.iloc[-1].median():.1g} lengths of "
        f"its path at nu {distances.index[-1]:g}, {distances.iloc[0].median():.1g} at "
        f"{distances.index[0]:g}, largest update {update.max():.1g} lr; without: {signed.text}"
    )
    return Measured(text, bool(signed.held) and bool((distances > 1).all().all()))


def nu_to_one(results: Results) -> Measured:
    """SGD with momentum once n is warm; from n = 0, what the bias correction makes of it."""
    warm = _become(results, [("adam", "nu_1"), ("laprop", "nu_1")])
    cold = _become(results, [("adam", "nu_1_cold"), ("laprop", "nu_1_cold")])
    text = (
        f"from a warm n, with lr/sqrt(n) a coordinate: {warm.text}; from n = 0 the limit is no "
        f"SGD-M: n becomes the mean of all squared gradients so far ({cold.text})"
    )
    return Measured(text, warm.held)
