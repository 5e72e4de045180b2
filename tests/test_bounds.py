"""laprop.bounds against the algorithms: no run exceeds a proven bound, and suprema are attained."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laprop import bounds
from laprop.functional import ALGORITHMS

MUS = (0.0, 0.3, 0.5, 0.9, 0.99)
NUS = (0.0, 0.1, 0.5, 0.9, 0.99, 0.999)
decay = st.one_of(st.sampled_from(MUS + NUS), st.floats(0, 0.999))


def updates(name: str, gradients: Tensor, mu: float, nu: float) -> list[float]:
    """Size of each update at lr 1 and epsilon 0."""
    algorithm = ALGORITHMS[name]
    origin = torch.zeros((), dtype=torch.float64)
    state, sizes = algorithm.init(origin), []
    for g in gradients:
        theta, state = algorithm.step(origin, g, state, lr=1.0, mu=mu, nu=nu, epsilon=0.0)
        sizes.append(abs(float(theta)))
    return sizes


@st.composite
def gradient_sequences(draw: st.DrawFn) -> Tensor:
    """Up to 30 gradients whose sizes wander over 60 decades, with signs and zeros."""
    size = draw(st.integers(1, 30))
    exponents = draw(st.lists(st.floats(-30, 30), min_size=size, max_size=size))
    signs = draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 1.0]), min_size=size, max_size=size))
    return torch.tensor(signs, dtype=torch.float64) * 10.0 ** torch.tensor(exponents).double()


@settings(max_examples=150, deadline=None)
@given(gradient_sequences(), decay, decay)
def test_laprop_update_stays_below_its_supremum(g: Tensor, mu: float, nu: float) -> None:
    for name in ("laprop", "amsprop"):
        for t, size in enumerate(updates(name, g, mu, nu), 1):
            supremum = bounds.proposition1_supremum(mu, nu, t)
            assert size <= supremum * (1 + 1e-12)
            assert supremum <= bounds.proposition1(nu) * (1 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(gradient_sequences(), decay, decay)
def test_adam_update_stays_below_its_supremum(g: Tensor, mu: float, nu: float) -> None:
    if g[0] == 0:
        g[0] = 1.0  # zeros at the start would raise t and leave the updates as they are
    for t, size in enumerate(updates("adam", g, mu, nu), 1):
        assert size <= bounds.proposition2_supremum(mu, nu, t) * (1 + 1e-9)


@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("nu", NUS)
def test_suprema_are_attained(mu: float, nu: float) -> None:
    steps = 30
    rising = 10.0 ** (6.0 * torch.arange(steps, dtype=torch.float64) - 100)
    expected = bounds.proposition1_supremum(mu, nu, steps)
    assert updates("laprop", rising, mu, nu)[-1] == pytest.approx(expected, rel=1e-6)
    if nu > 0:
        ratio = nu / mu if mu > 0 else 1e6
        worst = ratio ** (torch.arange(steps, dtype=torch.float64) - 15)
        for t, size in enumerate(updates("adam", worst, mu, nu), 1):
            assert size == pytest.approx(bounds.proposition2_supremum(mu, nu, t), rel=1e-9)


@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("nu", NUS)
def test_proved_bound_of_adam_covers_every_step(mu: float, nu: float) -> None:
    proved = bounds.proposition2(mu, nu)
    assert math.isinf(proved) == (mu > 0 and mu >= math.sqrt(nu))
    for t in (1, 2, 3, 10, 100, 10_000, math.inf):
        assert bounds.proposition2_supremum(mu, nu, t) <= proved * (1 + 1e-12)
    if math.isfinite(proved):
        assert bounds.proposition2_supremum(mu, nu, 1e7) == pytest.approx(
            bounds.proposition2_supremum(mu, nu), rel=1e-9
        )


def test_printed_bound_of_adam_is_passed() -> None:
    for mu, nu in ((0.0, 0.5), (0.5, 0.99), (0.9, 0.9999)):
        assert bounds.proposition2_supremum(mu, nu) > bounds.proposition2_printed(mu, nu)


def test_adam_has_no_bound_from_sqrt_nu_on() -> None:
    root = [bounds.proposition2_supremum(0.5, 0.25, t) for t in (100, 400)]
    assert root[1] / root[0] == pytest.approx(2, rel=1e-6)  # at mu = sqrt(nu) it grows as sqrt(t)
    power = [bounds.proposition2_supremum(0.9, 0.5, t) for t in (100, 101)]
    assert power[1] / power[0] == pytest.approx(0.9 / math.sqrt(0.5), rel=1e-4)
    assert math.isinf(bounds.proposition2_supremum(0.9, 0.5))
    assert math.isinf(bounds.proposition2_supremum(0.9, 0.0, 2))


def after_one_gradient(mu: float, nu: float, size: float) -> float:
    """LaProp's update at lr 1 after infinitely many gradients of 1 and then one of -size."""
    algorithm, one = ALGORITHMS["laprop"], torch.ones((), dtype=torch.float64)
    # After infinitely many gradients of 1 all averages and their corrections are 1.
    state = dict.fromkeys(("m", "n", "c_m", "c_n"), one)
    rates = {"lr": 1.0, "mu": mu, "nu": nu, "epsilon": 0.0}
    return -float(algorithm.step(one * 0, -size * one, state, **rates)[0])


@settings(max_examples=150, deadline=None)
@given(decay, decay, st.floats(1, 1e100))
def test_one_gradient_moves_laprop_at_most_to_the_closed_form(
    mu: float, nu: float, size: float
) -> None:
    closed = bounds.steady_direction(mu, nu)
    assert after_one_gradient(mu, nu, 1e100) == pytest.approx(closed, rel=1e-9, abs=1e-12)
    assert after_one_gradient(mu, nu, size) >= closed - 1e-9
    last = bounds.steady_direction_nu(mu)
    if abs(nu - last) > 1e-9:
        assert (closed > 0) == (nu < last)


def test_one_gradient_turns_laprop_at_the_recommended_nu() -> None:
    turned = [after_one_gradient(0.9, nu, 1e10) for nu in (0.9, 0.99, 0.999)]
    assert turned == pytest.approx([0.5838, -0.1, -2.2623], abs=1e-4)
    assert bounds.steady_direction_nu(0.9) == pytest.approx(0.98765, abs=1e-5)


def test_factors_of_equation_9() -> None:
    def quotient(nu: float) -> float:
        return bounds.theorem1_factor(nu) / bounds.amsgrad_factor(0.9, nu)

    assert [quotient(nu) for nu in (0.99, 0.999)] == pytest.approx([0.955, 9.955], abs=1e-3)
    assert bounds.amsgrad_factor(0.5, 0.25) == math.inf  # mu = sqrt(nu)
    assert quotient(0.5) == 0
    assert bounds.amsgrad_factor(0.0, 0.9) == 1
    assert bounds.amsgrad_factor(0.3, 0.36) == pytest.approx(1 / (0.7 * 0.5))


def play(
    name: str, coefficients: Tensor, lr: float, mu: float, nu: float, zeta: float
) -> dict[str, float]:
    """Play f_t(x) = c_t x on [-1, 1]^d; return the regret and the sums that the bounds take.

    Args:
        coefficients: c, shape (T, d).
    """
    algorithm = ALGORITHMS[name]
    theta = torch.zeros(coefficients.shape[1], dtype=torch.float64)
    state, previous = algorithm.init(theta), torch.zeros_like(theta)
    sums = dict.fromkeys(("loss", "growth", "mixing", "stepping", "scaled_mixing"), 0.0)
    for t, c in enumerate(coefficients, 1):
        sums["loss"] += float(c @ theta)
        mu_t = mu * zeta ** (t - 1)
        step = {"lr": lr / math.sqrt(t), "mu": mu_t, "nu": nu, "epsilon": 0.0}
        theta, state = algorithm.step(theta, c, state, **step)
        theta = theta.clamp(-1, 1)
        root = (state["n_max" if algorithm.amsgrad else "n"] / state["c_n"]).sqrt()
        scaled = root * math.sqrt(t)
        sums["growth"] += float((scaled - previous).clamp(min=0).sum())
        sums["mixing"] += mu_t * float(root.sum())
        sums["scaled_mixing"] += mu_t * float(scaled.sum())
        sums["stepping"] += float(root.sum()) / math.sqrt(t)
        previous = scaled
    sums["regret"] = sums.pop("loss") + float(coefficients.sum(0).abs().sum())
    sums["last"] = float(previous.sum())
    return sums


games = st.tuples(
    st.integers(0, 2**32),
    st.floats(0.01, 3),
    st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99]),
    st.sampled_from([0.0, 0.5, 0.9, 0.999]),
    st.sampled_from([0.0, 1.0, 3.0]),
)


def heavy(seed: int, spread: float) -> Tensor:
    """80 gradients of 2 coordinates, with a drift, random signs and log-normal sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(80, 2, generator=generator).double().mul(spread).exp()
    return sizes * (torch.randn(80, 2, generator=generator).double() + 0.3).sign()


@settings(max_examples=60, deadline=None)
@given(games)
def test_no_run_passes_theorem1(game: tuple[int, float, float, float, float, float]) -> None:
    seed, lr, mu, nu, zeta, spread = game
    c = heavy(seed, spread)
    for name in ("laprop", "amsprop"):
        sums = play(name, c, lr, mu, nu, zeta)
        parts = {key: sums[key] for key in ("mixing", "stepping")}
        bound = bounds.theorem1(lr=lr, nu=nu, diameter=2.0, growth=sums["growth"], **parts)
        assert sums["regret"] <= bound
        if name == "amsprop":  # sqrt(t n_t) never falls, so the sum of its growth is its last value
            assert sums["growth"] == pytest.approx(sums["last"], rel=1e-9)
            assert bound <= (1 + 1e-9) * bounds.theorem1_uniform(
                steps=len(c), lr=lr, mu=mu, nu=nu, zeta=zeta, diameter=2.0,
                gradient=float(c.abs().max()), dimension=2,
            )  # fmt: skip


def test_constant_gradients_nearly_reach_the_uniform_bound() -> None:
    sums = play("laprop", torch.full((50, 3), 2.0, dtype=torch.float64), 0.1, 0.9, 0.99, 0.5)
    uniform = {"steps": 50, "mu": 0.9, "zeta": 0.5, "dimension": 3, "gradient": 2.0}
    along = bounds.theorem1(
        lr=0.1, nu=0.99, diameter=2.0, **{k: sums[k] for k in ("growth", "mixing", "stepping")}
    )
    before = bounds.theorem1_uniform(lr=0.1, nu=0.99, diameter=2.0, **uniform)
    assert 0.85 * before < along < before


def test_laprop_passes_a_root_t_bound_where_rare_gradients_are_forgotten() -> None:
    c = torch.full((600, 1), -1.0, dtype=torch.float64)
    c[::3] = 12.0
    shared = {"lr": 1.0, "mu": 0.0, "nu": 0.0, "zeta": 0.0}
    # valid only where root(n)/lr never falls, which AmsProp alone guarantees
    bound = bounds.theorem1_uniform(steps=600, diameter=2.0, gradient=12.0, dimension=1, **shared)
    assert play("laprop", c, *shared.values())["regret"] > 2 * bound
    assert play("amsprop", c, *shared.values())["regret"] < bound


@settings(max_examples=40, deadline=None)
@given(games)
def test_amsgrad_stays_below_its_bound(game: tuple[int, float, float, float, float, float]) -> None:
    seed, lr, mu, nu, zeta, spread = game
    c = heavy(seed, spread)
    sums = play("amsgrad", c, lr, mu, nu, zeta)
    steps, shared = len(c), {"lr": lr, "mu": mu, "nu": nu, "diameter": 2.0}
    along = bounds.amsgrad_regret(
        steps=steps,
        root=sums["last"] / math.sqrt(steps),
        mixing=sums["scaled_mixing"],
        gradient_norm=float(c.norm(dim=0).sum()),
        **shared,
    )
    before = bounds.amsgrad_regret_uniform(
        steps=steps, zeta=zeta, gradient=float(c.abs().max()), dimension=2, **shared
    )
    assert sums["regret"] <= along <= before * (1 + 1e-9)
    assert math.isinf(along) == (mu > 0 and mu >= math.sqrt(nu))


def test_amsgrad_regret_by_hand() -> None:
    value = bounds.amsgrad_regret(
        steps=1, lr=2.0, mu=0.5, nu=0.75, diameter=3.0, root=5.0, mixing=4.0, gradient_norm=7.0
    )
    gamma = 0.5 / math.sqrt(0.75)
    by_hand = 9 / (2 * 0.5) * 5 + 9 / (2 * 2 * 0.5) * 4 + 2 / (0.25 * (1 - gamma) * 0.5) * 7
    assert value == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("bound", [bounds.theorem1_uniform, bounds.amsgrad_regret_uniform])
@pytest.mark.parametrize(
    ("changed", "limit"),
    [
        ({}, math.inf),
        ({"gradient": 0.0}, 0.0),
        ({"diameter": 0.0}, math.inf),
        ({"diameter": 0.0, "gradient": 0.0}, 0.0),
    ],
)
def test_a_uniform_bound_for_infinitely_many_steps_is_its_limit(
    bound: Callable[..., float], changed: dict[str, float], limit: float
) -> None:
    given = {"lr": 0.1, "mu": 0.0, "nu": 0.9, "zeta": 0.5, "diameter": 1.0, "gradient": 1.0}
    given |= {"dimension": 1} | changed
    assert bound(steps=math.inf, **given) == limit
    if limit == 0:
        assert bound(steps=10**9, **given) == 0
    else:
        assert bound(steps=10**9, **given) > 1000


def test_a_bound_that_no_float_holds_is_infinite() -> None:
    given = {"nu": 0.5, "lr": 0.1, "mixing": 0.0, "diameter": 1e200}
    assert math.isinf(bounds.theorem1(growth=1.0, stepping=1.0, **given))
    assert math.isinf(bounds.amsgrad_regret(steps=9, mu=0.5, root=1.0, gradient_norm=1.0, **given))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: bounds.proposition1(1.0), "nu = 1.0: must lie in [0, 1)"),
        (lambda: bounds.proposition1("a"), "nu = 'a': must lie in [0, 1)"),  # type: ignore[arg-type]
        (lambda: bounds.proposition2(-0.1, 0.5), "mu = -0.1: must lie in [0, 1)"),
        (lambda: bounds.proposition2(math.nan, 0.5), "mu = nan: must lie in [0, 1)"),
        (
            lambda: bounds.proposition1_supremum(0.9, 0.9, 0),
            "t = 0: must be a whole number of at least 1, or inf",
        ),
        (
            lambda: bounds.theorem1(
                lr=0.0, nu=0.5, diameter=1.0, growth=1.0, mixing=1.0, stepping=1.0
            ),
            "lr = 0.0: must be above 0",
        ),
        (
            lambda: bounds.theorem1(
                lr=1.0, nu=0.5, diameter=-1.0, growth=1.0, mixing=1.0, stepping=1.0
            ),
            "diameter = -1.0: must be at least 0",
        ),
    ],
)
def test_bad_input_gets_one_line(call: Callable[[], float], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == line
