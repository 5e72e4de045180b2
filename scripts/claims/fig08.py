"""Claims of appendix C.2 on the noisy Rosenbrock function over learning rates."""

import numpy as np

from experiments.common.records import Results
from scripts.claims.fig02 import medians, reach
from scripts.claims.measured import Measured


def _every_lr(results: Results, noise: str) -> Measured:
    text, held = [], True
    for lr in sorted(results.runs.lr.unique()):
        steps = medians(results, "laprop", noise, "lr", lr)
        text.append(f"{lr:g}: {reach(steps).removeprefix('at ')}")
        held &= bool(np.isfinite(steps).any())
    return Measured("nu at which LaProp converges, by lr: " + "; ".join(text), held)


def every_lr(results: Results) -> Measured:
    """As stated: noise within sigma."""
    return _every_lr(results, "halfwidth")


def every_lr_width(results: Results) -> Measured:
    """Noise within sigma/2."""
    return _every_lr(results, "width")
