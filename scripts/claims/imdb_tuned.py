"""The claim of appendix C.1 once more, with every optimizer tuned on the same grid.

Learning rate and nu are those of the lowest mean error on the held out reviews; what is compared is
the error on the test reviews. A learning rate at the grid's end may not be the best there is: the
text says so.
"""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import paired_difference
from scripts.claims.measured import NAMES, Measured, decided


def tuned(results: Results) -> dict[str, tuple[tuple[float, float], pd.Series]]:
    """Per optimizer the chosen (lr, nu), and its test errors in per cent by seed."""
    found = {}
    for optimizer, runs in results.runs.groupby("optimizer"):
        chosen = runs.groupby(["lr", "nu"]).valid_error.mean().idxmin()
        errors = runs.set_index(["lr", "nu", "seed"]).sort_index().test_error.loc[chosen]
        found[str(optimizer)] = (chosen, 100 * errors)
    return found


def imdb_ten_points_tuned(results: Results) -> Measured:
    """Held where the better of tuned Adam and AMSGrad is 10 points above tuned LaProp."""
    by = tuned(results)
    best = min(("adam", "amsgrad"), key=lambda o: by[o][1].mean())
    gain, low, high = paired_difference(by[best][1], by["laprop"][1])
    rates = results.runs.lr
    ends = {rates.min(): ", the grid's lowest", rates.max(): ", the grid's highest"}
    text = ", ".join(
        f"{NAMES[o]} {errors.mean():.1f} % (lr {lr:g}{ends.get(lr, '')}, nu {nu:g})"
        for o, ((lr, nu), errors) in sorted(by.items())
    )
    return Measured(
        f"wrong without noise: {text}; gain of LaProp over {NAMES[best]} {gain:+.1f} "
        f"[{low:+.1f}, {high:+.1f}] points",
        decided(low, high, 10),
    )
