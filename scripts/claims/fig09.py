"""Claims of appendix C.3 on neural style transfer over learning rates."""

from experiments.common.records import Results
from scripts.claims.measured import Measured


def style_every_lr(results: Results) -> Measured:
    """At every lr LaProp's regret at its best nu is the lowest, from every start."""
    text, held = [], True
    for lr, runs in results.runs.groupby("lr"):
        best = runs.groupby(["optimizer", "seed"]).regret.min().unstack("optimizer")
        at = runs.loc[runs.groupby("optimizer").regret.idxmin()].set_index("optimizer").nu
        text.append(
            f"lr {lr:g}: "
            + ", ".join(f"{o} {best[o].mean():.4g} at nu {at[o]:g}" for o in sorted(best))
        )
        held &= bool((best.idxmin(axis=1) == "laprop").all())
    return Measured("lowest regret over nu: " + "; ".join(text), held)
