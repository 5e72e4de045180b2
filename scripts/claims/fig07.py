"""Claims of appendix C.1 on the LSTM with label noise. All errors are of the clean test set."""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import paired_difference
from scripts.claims.measured import Measured, decided, every

NAMES = {"adam": "Adam", "amsgrad": "AMSGrad", "laprop": "LaProp"}


def cells(results: Results) -> pd.DataFrame:
    """Test errors in per cent: one row per seed, columns flip, optimizer, nu."""
    return 100 * results.runs.pivot(
        index="seed", columns=["flip", "optimizer", "nu"], values="test_error"
    )


def imdb_zero_nu(results: Results) -> Measured:
    """Held where, at every noise level, no other optimizer and nu has a lower mean error."""
    text, verdicts = [], []
    for flip, table in cells(results).T.groupby(level="flip"):
        errors = table.droplevel("flip").T
        zero = errors["laprop", 0.0]
        others = errors.drop(columns=[("laprop", 0.0)])
        best = others.mean().idxmin()
        gap, low, high = paired_difference(others[best], zero)
        verdicts.append(decided(low, high))
        text.append(
            f"r {flip:g}: {zero.mean():.1f} %, best other {others[best].mean():.1f} % "
            f"({NAMES[best[0]]}, nu {best[1]:g}), difference {gap:+.1f} [{low:+.1f}, {high:+.1f}]"
        )
    return Measured("error of LaProp at nu 0: " + "; ".join(text), every(verdicts))


def imdb_ten_points(results: Results) -> Measured:
    """Held where the best of Adam and AMSGrad over nu is 10 points above LaProp at nu 0."""
    errors = cells(results)[0.0]
    others = errors[["adam", "amsgrad"]]
    best = others.mean().idxmin()
    gain, low, high = paired_difference(others[best], errors["laprop", 0.0])
    return Measured(
        f"without noise: LaProp at nu 0 {errors['laprop', 0.0].mean():.1f} % wrong, best of the "
        f"others {others[best].mean():.1f} % ({NAMES[best[0]]}, nu {best[1]:g}); gain {gain:+.1f} "
        f"[{low:+.1f}, {high:+.1f}] points",
        True if low >= 10 else False if high < 10 else None,
    )


def imdb_unstable(results: Results) -> Measured:
    """Held where the error varies more over nu for Adam and for AMSGrad than for LaProp.

    How much: its standard deviation over nu, mean over the noise levels.
    """
    spread = cells(results).T.groupby(level=["optimizer", "flip"]).std().groupby("optimizer").mean()
    text, verdicts = [f"LaProp {spread.loc['laprop'].mean():.1f}"], []
    for optimizer in ("adam", "amsgrad"):
        gap, low, high = paired_difference(spread.loc[optimizer], spread.loc["laprop"])
        verdicts.append(decided(low, high))
        text.append(
            f"{NAMES[optimizer]} {spread.loc[optimizer].mean():.1f} "
            f"({gap:+.1f} [{low:+.1f}, {high:+.1f}])"
        )
    return Measured(
        f"standard deviation of the error over nu, points: {', '.join(text)}", every(verdicts)
    )
