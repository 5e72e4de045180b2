"""An oracle for every printed algorithm, in NumPy: the paper's equations without recursion.

Averages are written out as sums over all gradients, n_t = (1 - nu) sum_s nu^(t-s) g_s^2, with no
recursion and no state; arithmetic is float64 for float32 results and extended precision for float64
ones. Nothing of `laprop` is used.

Beside each theta the oracle returns the scale of the numbers that were added up to reach it. Errors
are counted in ulp of that scale, since no implementation keeps the digits that cancel on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

RULES_ALONE = (  # rules of laprop.functional that no option of LaProp gives
    "sgd",
    "momentum",
    "signsgd",
    "signum",
    "rmsprop",
    "adam",
    "amsgrad",
)
NAMES = (
    *RULES_ALONE,
    "laprop",
    "lapropw",
    "lapropw_authors",
    "laprop_printed",
    "amsprop",
    "centered",
    "centered_amsprop",
    "laprop_agc",
    "laprop_cautious",
)


@dataclass
class Case:
    """Members' hyper-parameters (B,), lr (T, B), first theta (B, d), gradients (T, B, d)."""

    theta: np.ndarray
    gradients: np.ndarray
    lr: np.ndarray
    mu: np.ndarray
    nu: np.ndarray
    epsilon: np.ndarray
    weight_decay: np.ndarray = field(default_factory=lambda: np.zeros(1))
    agc: np.ndarray = field(default_factory=lambda: np.ones(1))  # of "laprop_agc"
    centered_warmup: int = 10
    eps_in_sqrt: bool = False


def _average(values: list[np.ndarray], beta: np.ndarray) -> np.ndarray:
    """(1 - beta) sum_s beta^(t-s) values_s."""
    t = len(values)
    return (1 - beta) * sum(beta ** (t - s) * x for s, x in enumerate(values, start=1))


def path(name: str, case: Case, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Theta after each step, (T, B, d), and its scale."""
    mu, nu, epsilon, w = (
        np.broadcast_to(x, case.theta.shape[:1]).astype(dtype)[:, None]
        for x in (case.mu, case.nu, case.epsilon, case.weight_decay)
    )
    theta = case.theta.astype(dtype)
    scale = np.abs(theta)
    moved = np.zeros_like(theta)
    gs: list[np.ndarray] = []
    us: list[np.ndarray] = []  # what LaProp averages
    sizes: list[np.ndarray] = []  # |u|, times the loss of digits in n - nbar^2
    lrs: list[np.ndarray] = []
    n_max = np.zeros_like(theta)
    thetas, scales = [], []
    for t, g in enumerate(case.gradients.astype(dtype), start=1):
        lr = np.broadcast_to(case.lr[t - 1], case.theta.shape[:1]).astype(dtype)[:, None]
        if name == "laprop_agc":  # norms of the d coordinates together
            agc = np.broadcast_to(case.agc, theta.shape[:1]).astype(dtype)[:, None]
            norm, size = (np.sqrt((x * x).sum(1, keepdims=True)) for x in (g, theta))
            limit = agc * np.maximum(size, dtype(1e-3))
            with np.errstate(divide="ignore", invalid="ignore"):
                g = g * np.where(norm > limit, limit / norm, 1)
        gs.append(g)
        lrs.append(lr)
        c_m, c_n = 1 - mu**t, 1 - nu**t
        if name == "rmsprop":
            c_n = 1.0

        n = _average([x * x for x in gs], nu)
        lost = np.ones_like(n)
        warm = not name.startswith("centered") or t > case.centered_warmup
        if name.startswith("centered") and warm:
            centered = np.maximum(n - _average(gs, nu) ** 2, 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                lost = np.where(centered > 0, n / centered, 1)
            n = centered
        if name in ("amsgrad", "amsprop", "centered_amsprop") and warm:
            n = n_max = np.maximum(n_max, n)
        in_root = case.eps_in_sqrt or name == "laprop_printed"
        root = np.sqrt(n / c_n + epsilon) if in_root else np.sqrt(n / c_n) + epsilon

        us.append(np.sign(g) if name == "signsgd" else g / root)
        sizes.append(np.abs(us[-1]) * lost)
        if name == "rmsprop":
            move, size = lr * us[-1], lr * sizes[-1]
        elif name == "sgd":
            move = lr * sum(mu ** (t - s) * x for s, x in enumerate(gs, start=1))
            size = lr * sum(mu ** (t - s) * np.abs(x) for s, x in enumerate(gs, start=1))
        elif name == "momentum":
            move = lr * _average(gs, mu) / c_m
            size = lr * _average([np.abs(x) for x in gs], mu) / c_m
        elif name == "signum":
            m, added = _average(gs, mu), _average([np.abs(x) for x in gs], mu)
            move = lr * np.sign(m)
            size = lr * added / np.where(m != 0, np.abs(m), np.inf)
        elif name in ("adam", "amsgrad"):
            move = lr * _average(gs, mu) / c_m / root
            size = lr * _average([np.abs(x) for x in gs], mu) / c_m / root
        elif name in ("lapropw", "laprop_printed"):
            move = _average([a * u for a, u in zip(lrs, us, strict=True)], mu) / c_m
            size = _average([a * u for a, u in zip(lrs, sizes, strict=True)], mu) / c_m
        elif name == "lapropw_authors":
            m = _average([a * u for a, u in zip(lrs, us, strict=True)], mu)
            mean_lr = _average(lrs, mu)
            bias = np.where(lr != 0, mean_lr, 1)
            # theirs moves weights at lr = 0, ours must not
            move = np.where(lr != 0, m * lr / bias, 0)
            size = _average([a * u for a, u in zip(lrs, sizes, strict=True)], mu) * lr / bias
        else:  # laprop, signsgd, amsprop and the centered ones
            move = lr * _average(us, mu) / c_m
            size = lr * _average(sizes, mu) / c_m
        if name == "laprop_cautious":
            agrees = move * g > 0
            factor = agrees / np.maximum(agrees.mean(1, keepdims=True), dtype(1e-3))
            move, size = move * factor, size * factor
        theta = (theta - move) * (1 - w)
        moved = moved + size
        scale = np.maximum(scale, np.abs(theta))
        thetas.append(theta)
        scales.append(scale + moved)
    return np.stack(thetas), np.stack(scales)


def ulp(result: np.ndarray, theta: np.ndarray, scale: np.ndarray, dtype: type) -> float:
    """Largest error, in units of the last place that the scale has in ``dtype``."""
    unit = np.finfo(dtype).eps * np.maximum(scale, np.finfo(dtype).tiny)
    return float(np.max(np.abs(result.astype(theta.dtype) - theta) / unit))


def random_case(rng: np.random.Generator, members: int, steps: int, dtype: type) -> Case:
    """Draw hyper-parameters, also extreme ones, and gradients over 48 orders of magnitude."""
    d = 3

    def pick(values: list[float]) -> np.ndarray:
        return rng.choice(np.array(values), members)

    size = 10.0 ** rng.uniform(-30, 18, (1, members, 1)) * 10.0 ** rng.uniform(
        -2, 0, (steps, members, d)
    )
    ordinary = rng.random((1, members, 1)) < 0.6
    gradients = rng.standard_normal((steps, members, d)) * np.where(ordinary, 1.0, size)
    gradients[rng.random(gradients.shape) < 0.1] = 0.0
    theta = rng.standard_normal((members, d)) * pick([0.0, 1e-3, 1.0, 1e3])[:, None]
    return Case(
        theta=theta.astype(dtype),
        gradients=gradients.astype(dtype),
        lr=pick([1e-6, 4e-4, 1e-2, 1.0]) * rng.choice([0.0, 0.1, 1.0, 1.0], (steps, members)),
        mu=pick([0.0, 0.5, 0.8, 0.9, 0.99, 0.9999]),
        nu=pick([0.0, 0.1, 0.7, 0.9, 0.999, 0.99999]),
        epsilon=pick([1e-15, 1e-8, 1e-6, 1e-3]),
        weight_decay=pick([0.0, 0.0, 1e-4, 0.1]),
        agc=pick([1e-3, 0.1, 10.0]),
        eps_in_sqrt=bool(rng.random() < 0.3),
    )
