"""The paper's bounds: Propositions 1 and 2, Theorem 1, and AMSGrad's bound beside it.

Symbols are the paper's: `lr` is λ, `mu` is μ, `nu` is ν; γ = μ/√ν; ``n̂_t = n_t/(1 - ν^t)`` is the
second moment that the update divides by, and ``m̂_t`` the bias-corrected momentum. Every bound is
per coordinate and holds for epsilon = 0 and above (epsilon only makes an update smaller).

The two propositions bound one update; the theorem bounds the regret

    R(T) = Σ_t f_t(θ_t) - min_θ Σ_t f_t(θ)

of an online convex problem on a box whose sides are at most `diameter` (D), run with the learning
rate λ/√t, the momentum μ_t = μ ζ^(t-1) and clipping to the box after each step. Each bound on the
regret has two forms: one along a run, from sums over its second moments, and a uniform one, from
the largest gradient G alone.

Theorem 1 is not transcribed from the paper but derived here from Algorithm 1. Write
``s_t = g_t/√n̂_t``. As ``m̂_t = μ̃_t m̂_{t-1} + (1-μ̃_t) s_t`` with μ̃_t ≤ μ_t and μ̃_1 = 0,

    s_t = m̂_t + μ̃_t (s_t - m̂_{t-1}),

and so, with x_t = θ_t - θ* and |x_{t+1}| ≤ |x_t - λ_t m̂_t|,

    g_t x_t ≤ √n̂_t/(2 λ_t) (x_t² - x_{t+1}²) + λ_t/2 √n̂_t m̂_t² + μ_t √n̂_t |s_t - m̂_{t-1}| |x_t|.

The sum over t of the first term telescopes; Proposition 1 bounds |m̂_t| and |s_t| in the others.
No factor 1/(1-μ), and no condition on γ, is left: that is what separates it from AMSGrad's bound.
"""

import math
from collections.abc import Callable

__all__ = [
    "amsgrad_factor",
    "amsgrad_regret",
    "amsgrad_regret_uniform",
    "proposition1",
    "proposition1_supremum",
    "proposition2",
    "proposition2_printed",
    "proposition2_supremum",
    "steady_direction",
    "steady_direction_nu",
    "theorem1",
    "theorem1_factor",
    "theorem1_uniform",
]


def _check(holds: Callable[[float], bool], must: str, values: dict[str, float]) -> None:
    """Raises unless each value is a number for which `holds` is true."""
    for name, value in values.items():
        try:
            good = holds(value)
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} = {value!r}: must {must}")


def _unit(**values: float) -> None:
    """Raises unless each value lies in [0, 1)."""
    _check(lambda x: 0.0 <= x < 1.0, "lie in [0, 1)", values)


def _not_negative(**values: float) -> None:
    """Raises if any value is negative or NaN."""
    _check(lambda x: x >= 0.0, "be at least 0", values)


def _positive(**values: float) -> None:
    """Raises unless each value is above 0."""
    _check(lambda x: x > 0.0, "be above 0", values)


def _step(**values: float) -> None:
    """Raises unless each value can count steps: a whole number from 1, or infinity."""
    whole = "be a whole number of at least 1, or inf"
    _check(lambda x: x >= 1 and (math.isinf(x) or x == math.floor(x)), whole, values)


def _square(x: float) -> float:
    """Return x^2, infinity where a float cannot hold it."""
    try:
        return float(x) ** 2
    except OverflowError:
        return math.inf


def _gamma(mu: float, nu: float) -> float:
    """Return γ = μ/√ν; 0/0 counts as 0, since without momentum the bounds hold for every ν."""
    return 0.0 if mu == 0.0 else math.inf if nu == 0.0 else mu / math.sqrt(nu)


def _ema_weight(beta: float, t: float) -> float:
    """Return 1 - β^t, the bias correction of an average over t steps, without cancellation."""
    return 1.0 if beta == 0.0 else -math.expm1(t * math.log(beta))


def _geometric_sum(ratio: float, terms: float) -> float:
    """Return 1 + r + ... + r^(terms-1); the ratio r and terms may be infinite."""
    if terms == 1.0 or ratio == 0.0:
        return 1.0
    if ratio == 1.0 or math.isinf(ratio):
        return terms if ratio == 1.0 else math.inf
    exponent = terms * math.log(ratio)
    return math.expm1(exponent) / (ratio - 1.0) if exponent < 700.0 else math.inf


def _product(a: float, b: float) -> float:
    """Return a b, and 0 if one is 0: a bound that is 0 for every T is 0 for T = infinity too."""
    return a * b if a != 0.0 and b != 0.0 else 0.0


def proposition1(nu: float) -> float:
    """Bound on LaProp's update: |m_t/c_m| ≤ 1/√(1-ν) (Proposition 1, section 4).

    It holds for every gradient sequence, step and μ, because n_t ≥ (1-ν) g_t². No smaller bound
    holds for all of them, see :func:`proposition1_supremum`.

    Args:
        nu: decay of the second moment, in [0, 1).

    Returns:
        The bound, in units of the learning rate.

    Raises:
        ValueError: if `nu` is out of range.
    """
    _unit(nu=nu)
    return 1.0 / math.sqrt(1.0 - nu)


def proposition1_supremum(mu: float, nu: float, t: int) -> float:
    """Largest |m_t/c_m| that LaProp can reach at step `t` (derived here).

    The update approaches it when each gradient is much larger than the one before, g_j = r^j with
    r → ∞. Then n_j → (1-ν) g_j², each normalised gradient tends to its own bound
    √((1-ν^j)/(1-ν)), and the update tends to the average of these bounds with the weights
    (1-μ) μ^(t-j) / (1-μ^t). As t → ∞ the supremum tends to the bound of Proposition 1, which
    therefore cannot be improved.

    Args:
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).
        t: step, from 1.

    Returns:
        The supremum, in units of the learning rate.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu, nu=nu)
    _step(t=t)
    if math.isinf(t):
        return proposition1(nu)
    terms = (mu ** (t - j) * math.sqrt(_ema_weight(nu, j)) for j in range(1, int(t) + 1))
    return proposition1(nu) * math.fsum(terms) * (1.0 - mu) / _ema_weight(mu, t)


def proposition2(mu: float, nu: float) -> float:
    """Bound on Adam's update for μ < √ν that appendix A.2 proves: 1/((1-γ)√(1-ν)).

    It holds for every gradient sequence and step. The condition is μ < √ν; "μ > √ν" in the text of
    section 4 is a misprint, because for μ ≥ √ν there is no bound.

    Args:
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).

    Returns:
        The bound, in units of the learning rate; infinity if μ ≥ √ν.

    Raises:
        ValueError: if an argument is out of range.
    """
    return proposition2_printed(mu, nu) * proposition1(nu)


def proposition2_printed(mu: float, nu: float) -> float:
    """The bound on Adam's update as section 4 prints Proposition 2: 1/(1-γ).

    It lacks the factor 1/√(1-ν) of the proof in A.2, see :func:`proposition2`, and is not a bound:
    for μ = 0 it is 1, but a gradient that follows much smaller ones gives the update 1/√(1-ν).

    Args:
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).

    Returns:
        The printed value, in units of the learning rate; infinity if μ ≥ √ν.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu, nu=nu)
    gamma = _gamma(mu, nu)
    return 1.0 / (1.0 - gamma) if gamma < 1.0 else math.inf


def proposition2_supremum(mu: float, nu: float, t: float = math.inf) -> float:
    """Largest |m̂_t/√n̂_t| that Adam can reach at step `t` (derived here).

    The numerator weights g_{t-k} by μ^k, the denominator weights g_{t-k}² by ν^k. Hence, by
    Cauchy-Schwarz,

        |m̂_t|/√n̂_t ≤ (1-μ)/(1-μ^t) · √((1-ν^t)/(1-ν)) · √(1 + γ² + ... + γ^(2t-2)),

    with equality for g_j ∝ (ν/μ)^j. For μ < √ν the right side tends to (1-μ)/√((1-ν)(1-γ²)), which
    is at most :func:`proposition2`; for μ = √ν it grows as √t, for μ > √ν as γ^t.

    Args:
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).
        t: step, from 1; infinity (the default) for the limit.

    Returns:
        The supremum, in units of the learning rate; infinity where updates are unbounded.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu, nu=nu)
    _step(t=t)
    gamma = _gamma(mu, nu)
    root = math.sqrt(_geometric_sum(gamma * gamma, t))
    scale = (1.0 - mu) / _ema_weight(mu, t)
    return scale * proposition1(nu) * math.sqrt(_ema_weight(nu, t)) * root


def steady_direction(mu: float, nu: float) -> float:
    """LaProp's update when -G follows a steady gradient of +1, as G → ∞ (section 2.3).

    Before the gradient -G the update is 1. This gradient, divided by the root of its own share of
    n, counts as -1/√(1-ν) however large it is (Proposition 1). The update becomes
    μ - (1-μ)/√(1-ν): its size is bounded, but its sign changes if ν is near 1, see
    :func:`steady_direction_nu`.

    Args:
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).

    Returns:
        The update, in units of the learning rate; negative where its direction has changed.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu)
    return mu - (1.0 - mu) * proposition1(nu)


def steady_direction_nu(mu: float) -> float:
    """The ν below which one gradient cannot turn LaProp's steady direction: 1 - ((1-μ)/μ)².

    At this ν, :func:`steady_direction` is 0. For μ = 0.9 it is 0.9877.

    Args:
        mu: decay of the momentum, in [0, 1).

    Returns:
        This ν; 0 for μ ≤ 1/2, where one gradient can turn the direction at every ν.

    Raises:
        ValueError: if `mu` is out of range.
    """
    _unit(mu=mu)
    return 1.0 - ((1.0 - mu) / mu) ** 2 if mu > 0.5 else 0.0


def theorem1(
    *,
    lr: float,
    nu: float,
    diameter: float,
    growth: float,
    mixing: float,
    stepping: float,
) -> float:
    """Bound on LaProp's regret along a run (Theorem 1, section 4; derived here, see the module).

        R(T) ≤ D²/(2λ) · growth + 2D/√(1-ν) · mixing + λ/(2(1-ν)) · stepping

    with the sums, over coordinates i and steps t = 1 ... T, of

        growth:   max(0, √(t n̂_{t,i}) - √((t-1) n̂_{t-1,i})),
        mixing:   μ_t √n̂_{t,i},
        stepping: √(n̂_{t,i}/t).

    It holds for every run. A bound that grows as √T follows only if √n̂_t/λ_t never decreases: then
    `growth` is √T Σ_i √n̂_{T,i}. AmsProp ensures this (and the bound holds for AmsProp, with its
    own n̂). LaProp with constant ν does not, and on the problems of Reddi et al. (2018, section 3)
    its regret is linear in T.

    Args:
        lr: λ, above 0.
        nu: decay of the second moment, in [0, 1).
        diameter: D, the longest side of the box.
        growth: the first of these sums, at least 0.
        mixing: the second of these sums, at least 0.
        stepping: the third of these sums, at least 0.

    Returns:
        The bound on R(T), in units of the loss.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(nu=nu)
    _positive(lr=lr)
    _not_negative(diameter=diameter, growth=growth, mixing=mixing, stepping=stepping)
    return (
        _product(_square(diameter) / (2.0 * lr), growth)
        + _product(2.0 * diameter * proposition1(nu), mixing)
        + _product(lr / (2.0 * (1.0 - nu)), stepping)
    )


def theorem1_uniform(
    *,
    steps: int,
    lr: float,
    mu: float,
    nu: float,
    zeta: float,
    diameter: float,
    gradient: float,
    dimension: int,
) -> float:
    """Bound on LaProp's regret from the largest gradient alone (Theorem 1, section 4).

        R(T) ≤ d G [ D² √T/(2λ) + 2 μ D (1-ζ^T)/((1-ζ)√(1-ν)) + λ √T/(1-ν) ]

    It is derived here: it follows from :func:`theorem1` and n̂_t ≤ G², *if* √n̂_t/λ_t never
    decreases. The condition is necessary: without it the bound is false for LaProp with constant ν,
    as it is for Adam.

    Args:
        steps: T, from 1.
        lr: λ of the learning rate λ/√t, above 0.
        mu: μ of the momentum μ ζ^(t-1), in [0, 1).
        nu: decay of the second moment, in [0, 1).
        zeta: ζ, in [0, 1).
        diameter: D, the longest side of the box.
        gradient: G, the largest |g_{t,i}|.
        dimension: d, the number of coordinates, from 1.

    Returns:
        The bound on R(T), in units of the loss.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu, zeta=zeta)
    _step(steps=steps, dimension=dimension)
    _not_negative(gradient=gradient)
    size = dimension * gradient
    return theorem1(
        lr=lr,
        nu=nu,
        diameter=diameter,
        growth=_product(size, math.sqrt(steps)),
        mixing=size * mu * _geometric_sum(zeta, steps),
        stepping=_product(size * 2.0, math.sqrt(steps)),
    )


def theorem1_factor(nu: float) -> float:
    """The factor 1/(1-ν) of the term in Theorem 1 that is proportional to λ (equation 9).

    The paper calls its bound smaller than AMSGrad's, whose factor is :func:`amsgrad_factor`.
    At μ = 0.9 this factor divided by AMSGrad's is 0.95 for ν = 0.99, but 9.95 for ν = 0.999.

    Args:
        nu: decay of the second moment, in [0, 1).

    Returns:
        The factor.

    Raises:
        ValueError: if `nu` is out of range.
    """
    _unit(nu=nu)
    return 1.0 / (1.0 - nu)


def amsgrad_factor(mu: float, nu: float) -> float:
    """AMSGrad's counterpart of :func:`theorem1_factor` (equation 9): 1/((1-μ)(1-γ)).

    Args:
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).

    Returns:
        The factor; infinity if μ ≥ √ν, where that bound says nothing.

    Raises:
        ValueError: if an argument is out of range.
    """
    return proposition2_printed(mu, nu) / (1.0 - mu)


def amsgrad_regret(
    *,
    steps: int,
    lr: float,
    mu: float,
    nu: float,
    diameter: float,
    root: float,
    mixing: float,
    gradient_norm: float,
) -> float:
    """Bound on AMSGrad's regret along a run (Reddi et al. 2018, Theorem 4).

        R(T) ≤ D² √T/(λ(1-μ)) · root + D²/(2λ(1-μ)) · mixing
               + λ √(1 + ln T)/((1-μ)² (1-γ) √(1-ν)) · gradient_norm

    with `root` = Σ_i √v̂_{T,i}, `mixing` = Σ_t Σ_i μ_t √(t v̂_{t,i}) and
    `gradient_norm` = Σ_i (Σ_t g_{t,i}²)^½, for μ_t ≤ μ and the learning rate λ/√t.

    Args:
        steps: T, from 1.
        lr: λ, above 0.
        mu: μ, the largest momentum, in [0, 1).
        nu: decay of the second moment, in [0, 1).
        diameter: D, the longest side of the box.
        root: the first of these sums, at least 0.
        mixing: the second of these sums, at least 0.
        gradient_norm: the third of these sums, at least 0.

    Returns:
        The bound on R(T), in units of the loss; infinity if μ ≥ √ν, where the theorem says nothing.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu, nu=nu)
    _step(steps=steps)
    _positive(lr=lr)
    _not_negative(diameter=diameter, root=root, mixing=mixing, gradient_norm=gradient_norm)
    if _gamma(mu, nu) >= 1.0:
        return math.inf
    stepping = lr * math.sqrt(1.0 + math.log(steps)) * proposition2(mu, nu) / (1.0 - mu) ** 2
    distances = _product(math.sqrt(steps), root) + mixing / 2.0
    moving = _product(_square(diameter) / (lr * (1.0 - mu)), distances)
    return moving + _product(stepping, gradient_norm)


def amsgrad_regret_uniform(
    *,
    steps: int,
    lr: float,
    mu: float,
    nu: float,
    zeta: float,
    diameter: float,
    gradient: float,
    dimension: int,
) -> float:
    """Bound on AMSGrad's regret from the largest gradient alone (Reddi et al. 2018, Corollary 1).

    It is :func:`amsgrad_regret` with v̂ ≤ G², Σ_t g_{t,i}² ≤ T G² and, for the momentum μ ζ^(t-1),
    Σ_t μ_t √t ≤ μ/(1-ζ)². Unlike the printed corollary it keeps the dimension d and the factor 1/λ
    in the momentum's term.

    Args:
        steps: T, from 1.
        lr: λ of the learning rate λ/√t, above 0.
        mu: μ of the momentum μ ζ^(t-1), in [0, 1).
        nu: decay of the second moment, in [0, 1).
        zeta: ζ, in [0, 1).
        diameter: D, the longest side of the box.
        gradient: G, the largest |g_{t,i}|.
        dimension: d, the number of coordinates, from 1.

    Returns:
        The bound on R(T), in units of the loss; infinity if μ ≥ √ν.

    Raises:
        ValueError: if an argument is out of range.
    """
    _unit(mu=mu, zeta=zeta)
    _step(steps=steps, dimension=dimension)
    _not_negative(gradient=gradient)
    size = dimension * gradient
    return amsgrad_regret(
        steps=steps,
        lr=lr,
        mu=mu,
        nu=nu,
        diameter=diameter,
        root=size,
        mixing=size * mu / (1.0 - zeta) ** 2,
        gradient_norm=_product(size, math.sqrt(steps)),
    )
