"""Claims of section 5.2 on neural style transfer.

The paper starts at black, once; an interval here is over that start and starts that differ from it
by less than a grey level, so it says how far the result hangs on what nobody sees, not how far on
the choice of pictures. Small nu: above 0 and up to 0.4; large nu: 0.9 and above. At nu = 0 Adam
divides its momentum by the present gradient alone; that end is shown in the figure, not judged.
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import interval, paired_difference
from scripts.claims.measured import Measured, decided, every

FIRST = 120  # updates


def regrets(results: Results, optimizer: str) -> pd.DataFrame:
    """R(T)/T, one row per seed, one column per nu."""
    runs = results.runs[results.runs.optimizer == optimizer]
    return runs.pivot(index="seed", columns="nu", values="regret")


def style_best_nu(results: Results) -> Measured:
    """Lower than both others at every nu, and the best nu within 0.1 of 0.4 from every start."""
    laprop = regrets(results, "laprop")
    text, verdicts = [], []
    for optimizer in ("adam", "amsgrad"):
        other = regrets(results, optimizer)
        cells = [decided(*paired_difference(other[nu], laprop[nu])[1:]) for nu in laprop]
        verdicts += cells
        text.append(f"lower than {optimizer}'s at {cells.count(True)} of {len(cells)} nu")
        if False in cells:
            lost = [f"{nu:g}" for nu, cell in zip(laprop, cells, strict=True) if cell is False]
            text.append(f"higher at {', '.join(lost)}")
    best = laprop.idxmin(axis=1)
    verdicts.append(bool(np.isclose(best, 0.4, atol=0.1 + 1e-9).all()))
    lowest = ", ".join(
        f"{o} {r.min(axis=1)[0]:.4g} at nu {r.loc[0].idxmin():g}"
        for o in ("laprop", "adam", "amsgrad")
        for r in [regrets(results, o)]
    )
    text.append(f"LaProp's best nu {best.min():g} to {best.max():g} over starts")
    return Measured(f"{'; '.join(text)}; lowest from black: {lowest}", every(verdicts))


def small_over_large(results: Results, optimizer: str) -> tuple[float, float, float]:
    """Mean log regret at small nu less that at large nu, as a ratio, with its interval."""
    logs = np.log(regrets(results, optimizer))
    small = logs.loc[:, (logs.columns > 0) & (logs.columns <= 0.4)].mean(axis=1)
    large = logs.loc[:, logs.columns >= 0.9].mean(axis=1)
    centre, low, high = np.exp(interval(small - large))
    return float(centre), float(low), float(high)


def rises(results: Results, optimizer: str) -> pd.Series:
    """Per seed the share of the first 120 updates whose loss rose, mean over nu above 0."""
    curves = results.curves
    chosen = curves[(curves.optimizer == optimizer) & (curves.nu > 0) & (curves.step <= FIRST)]
    ordered = chosen.sort_values("step").groupby(["seed", "nu"]).loss
    return ordered.apply(lambda loss: (np.diff(loss) > 0).mean()).groupby("seed").mean()


def style_small_nu(results: Results) -> Measured:
    """Regret at small over large nu below 1 for LaProp, above for both others; Adam rises most."""
    text, verdicts = [], []
    for optimizer, sign in (("laprop", -1), ("amsgrad", 1), ("adam", 1)):
        ratio, low, high = small_over_large(results, optimizer)
        verdicts.append(decided(*sorted((sign * np.log(low), sign * np.log(high)))))
        text.append(f"{optimizer} {ratio:.3g} [{low:.3g}, {high:.3g}]")
    adam = rises(results, "adam")
    shares = [f"adam {adam.mean():.0%}"]
    for optimizer in ("amsgrad", "laprop"):
        other = rises(results, optimizer)
        verdicts.append(decided(*paired_difference(adam, other)[1:]))
        shares.append(f"{optimizer} {other.mean():.0%}")
    return Measured(
        f"regret at small nu over that at large nu: {', '.join(text)}; "
        f"updates among the first {FIRST} at which the loss rises: {', '.join(shares)}",
        every(verdicts),
    )
