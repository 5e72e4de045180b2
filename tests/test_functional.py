"""The update rules against the oracle, against torch.optim, and by their properties."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_report import WIDE, algorithm, constant_lr, functional_path, no_ties
from torch.autograd import forward_ad

from laprop.functional import ALGORITHMS, exact_sqrt

# The limit after 40 steps. Of 4,700 random cases the median is 8 and the largest is 33.
ULP = 45.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", oracle.NAMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_oracle(name, dtype, seed):
    case = no_ties(name, oracle.random_case(np.random.default_rng(seed), 30, 40, dtype))
    theta, scale = oracle.path(name, case, WIDE[dtype])
    assert oracle.ulp(functional_path(name, case), theta, scale, dtype) < ULP


@pytest.mark.parametrize("name", oracle.NAMES)
def test_the_oracle_comparison_sees_an_error(name):
    """A relative error of 1e-5 in one hyper-parameter is far outside the tolerance."""
    case = no_ties(
        name, constant_lr(oracle.random_case(np.random.default_rng(0), 30, 40, np.float32))
    )
    theta, scale = oracle.path(name, case)
    wrong = dataclasses.replace(case, lr=case.lr * (1 + 1e-5))
    assert oracle.ulp(functional_path(name, wrong), theta, scale, np.float32) > ULP


@pytest.mark.parametrize("variant", ["agc", "cautious"])
def test_members_that_differ_in_the_weight_decay_alone_are_not_mixed(variant):
    """``agc`` and ``cautious`` reduce over all dimensions but the members'."""
    rule = dataclasses.replace(ALGORITHMS["laprop"], cautious=variant == "cautious")
    hyper = {"lr": 0.1, "agc": 0.1 if variant == "agc" else None}
    theta = torch.tensor([[1.0, 1.0], [100.0, 100.0]], dtype=torch.float64)
    gradients = torch.tensor([[[5.0, 5.0], [5.0, -5.0]], [[-0.05, 5.0], [5.0, -5.0]]]).double()
    decay = torch.tensor([0.0, 0.1], dtype=torch.float64)
    batch, _ = run(rule, theta, gradients, weight_decay=decay, **hyper)
    for i in range(2):
        alone, _ = run(rule, theta[i], gradients[:, i], weight_decay=float(decay[i]), **hyper)
        assert torch.equal(batch[i], alone)


def run(rule, theta, gradients, **hyper):
    state = rule.init(theta)
    for g in gradients:
        theta, state = rule.step(theta, g, state, **hyper)
    return theta, state


def same(a, b):
    return a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("name", oracle.NAMES)
@given(seed=st.integers(0, 2**32 - 1), double=st.booleans(), transposed=st.booleans())
@settings(max_examples=8, deadline=None)
def test_a_member_alone_is_the_member_in_a_batch(name, seed, double, transposed):
    """Equal to the last bit, for hyper-parameters as floats or tensors, and any memory layout."""
    generator = torch.Generator().manual_seed(seed)
    rule, dtype = algorithm(name), torch.float64 if double else torch.float32
    members, d, steps = 37, 5, 15

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    theta, gradients = draw(members, d), draw(steps, members, d)
    uniform = torch.rand(4, members, generator=generator, dtype=torch.float64)
    hyper = {
        "lr": uniform[0] * 1e-2,
        "mu": uniform[1] * 0.999,
        "nu": uniform[2] * 0.9999,
        "epsilon": uniform[3] * 1e-6,
        "weight_decay": uniform[0] * 1e-3,
    }
    hyper["nu"][0] = hyper["mu"][1] = 0.0
    batch = theta.T.contiguous().T if transposed else theta
    together, _ = run(rule, batch, gradients, **hyper)
    for i in range(0, members, 6):
        floats = {key: float(value[i]) for key, value in hyper.items()}
        alone, _ = run(rule, theta[i], gradients[:, i], **floats)
        assert same(alone, together[i])
        one, _ = run(
            rule, theta[i : i + 1], gradients[:, i : i + 1], **{k: v[i] for k, v in hyper.items()}
        )
        assert same(one[0], together[i])


@pytest.mark.parametrize("name", oracle.NAMES)
def test_step_changes_none_of_its_arguments(name):
    rule = algorithm(name)
    theta, g = torch.randn(4, 3), torch.randn(4, 3)
    state = rule.init(theta)
    for _ in range(12):
        before = [x.clone() for x in (theta, g, *state.values())]
        new_theta, new_state = rule.step(theta, g, state, lr=0.1, weight_decay=0.1)
        assert all(map(torch.equal, before, (theta, g, *state.values())))
        assert new_state.keys() == state.keys()
        theta, state = new_theta, new_state


@pytest.mark.parametrize("name", oracle.NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, -1e25])
def test_extreme_gradients_stay_with_their_coordinate(name, bad):
    """They reach no other coordinate; where g is finite and g^2 is not, theta stays finite."""
    rule = algorithm(name)
    theta, g = torch.ones(3), torch.randn(20, 3)
    clean, _ = run(rule, theta, g, lr=1e-3)
    g[7, 1] = bad
    dirty, _ = run(rule, theta, g, lr=1e-3)
    if name != "laprop_cautious":  # its steps depend on all coordinates
        assert same(dirty[[0, 2]], clean[[0, 2]])
    if math.isfinite(bad) and name not in ("sgd", "centered", "centered_amsprop"):
        assert dirty.isfinite().all()


@pytest.mark.parametrize("name", oracle.NAMES)
@pytest.mark.parametrize("epsilon", [0.0, 1e-15])
@pytest.mark.parametrize("nu", [0.0, 0.9])
def test_zero_gradients_move_nothing(name, epsilon, nu):
    theta, _ = run(
        algorithm(name), torch.ones(3), torch.zeros(15, 3), lr=0.1, nu=nu, epsilon=epsilon
    )
    assert torch.equal(theta, torch.ones(3))


@given(
    exponent=st.floats(-7, 18),
    mu=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_nu_0_is_signed_sgd_with_momentum(exponent, mu, seed):
    """Equal to the last bit in float32, with zeros among the gradients and the default epsilon."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(-1, 2, (25, 40), generator=generator)
    size = 1 + torch.rand(25, 40, generator=generator)
    gradients = signs * size * 10.0**exponent
    laprop, _ = run(ALGORITHMS["laprop"], torch.ones(40), gradients, lr=1e-2, mu=mu, nu=0.0)
    ssg, _ = run(ALGORITHMS["signsgd"], torch.ones(40), gradients, lr=1e-2, mu=mu)
    assert torch.equal(laprop, ssg)


@pytest.mark.parametrize("size", [1e-16, 1e-19, 1e-22, 1e-30, 1e-37])
def test_underflow_of_g_squared_cannot_be_seen(size):
    """At nu = 0 the update is g / (|g| + epsilon), also where g^2 is denormal or 0."""
    g = torch.full((1,), size)
    theta, _ = run(ALGORITHMS["laprop"], torch.zeros(1), [g], lr=1.0, mu=0.0, nu=0.0)
    exact = float(g) / (float(g) + 1e-15)
    assert abs(-float(theta) - exact) <= 2 * exact * 2**-23


@pytest.mark.parametrize("size", [1e-12, 1e-18, 1e-30, 1e-37])
@pytest.mark.parametrize("nu", [0.0, 0.5, 0.999])
def test_epsilon_0_stays_within_the_bound(size, nu):
    """Proposition 1, |update| <= 1 / sqrt(1 - nu), holds at epsilon 0, even if g^2 underflows."""
    gradients = size * torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    theta, _ = run(ALGORITHMS["laprop"], torch.zeros(3), gradients, lr=1.0, nu=nu, epsilon=0.0)
    assert theta.abs().max() <= 2.01 / math.sqrt(1 - nu)
    assert theta[2] == 0


TORCH_ULP = 20.0


def torch_path(optimizer, param, gradients, before_step=lambda t: None):
    for t, g in enumerate(gradients, start=1):
        param.grad = g.clone()
        before_step(t)
        optimizer.step()
    return param.detach()


def error_in_ulp(a, b, scale):
    return float(((a - b).abs() / (torch.finfo(a.dtype).eps * scale)).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    seed=st.integers(0, 2**32 - 1),
    lr=st.sampled_from([1e-4, 1e-2]),
    mu=st.sampled_from([0.0, 0.8, 0.9]),
    nu=st.sampled_from([0.0, 0.9, 0.999]),
    epsilon=st.sampled_from([1e-8, 1e-3]),
    amsgrad=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_adam_and_amsgrad_are_torchs(dtype, seed, lr, mu, nu, epsilon, amsgrad):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(30, 50, generator=generator, dtype=dtype)
    rule = ALGORITHMS["amsgrad" if amsgrad else "adam"]
    ours, _ = run(
        rule, torch.ones(50, dtype=dtype), gradients, lr=lr, mu=mu, nu=nu, epsilon=epsilon
    )
    param = torch.nn.Parameter(torch.ones(50, dtype=dtype))
    adam = torch.optim.Adam([param], lr=lr, betas=(mu, nu), eps=epsilon, amsgrad=amsgrad)
    theirs = torch_path(adam, param, gradients)
    # At nu = 0 Adam's update has no bound, so the error is compared with how far theta came.
    travelled = 1 + 30 * (ours - 1).abs().max()
    assert error_in_ulp(ours, theirs, travelled) < TORCH_ULP


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nu", [0.0, 0.9, 0.99])
def test_rmsprop_is_torchs(dtype, nu):
    gradients = torch.randn(30, 50, dtype=dtype)
    hyper = {"lr": 1e-3, "nu": nu, "epsilon": 1e-8}
    ours, _ = run(ALGORITHMS["rmsprop"], torch.ones(50, dtype=dtype), gradients, **hyper)
    param = torch.nn.Parameter(torch.ones(50, dtype=dtype))
    rmsprop = torch.optim.RMSprop([param], lr=1e-3, alpha=nu, eps=1e-8)
    assert error_in_ulp(ours, torch_path(rmsprop, param, gradients), 1.0) < TORCH_ULP


@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_sgd_is_torchs(mu):
    gradients = torch.randn(30, 50, dtype=torch.float64)
    ours, _ = run(ALGORITHMS["sgd"], torch.ones(50).double(), gradients, lr=1e-2, mu=mu)
    param = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
    sgd = torch.optim.SGD([param], lr=1e-2, momentum=mu)
    assert error_in_ulp(ours, torch_path(sgd, param, gradients), 1.0) < TORCH_ULP


@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_momentum_is_torchs_sgd_with_bias_correction(mu):
    gradients = torch.randn(30, 50, dtype=torch.float64)
    ours, _ = run(ALGORITHMS["momentum"], torch.ones(50).double(), gradients, lr=1e-2, mu=mu)
    param = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
    # torch sums the gradients; our average is (1 - mu) times that
    sgd = torch.optim.SGD([param], lr=1e-2, momentum=mu)

    def correct(t):
        sgd.param_groups[0]["lr"] = 1e-2 * (1 - mu) / (1 - mu**t)

    assert error_in_ulp(ours, torch_path(sgd, param, gradients, correct), 1.0) < TORCH_ULP


def test_adam_and_laprop_are_one_rule_without_momentum():
    """Table 1: at mu = 0 both are RMSProp with bias correction."""
    gradients = torch.randn(20, 30, dtype=torch.float64)
    paths = [
        run(ALGORITHMS[name], torch.ones(30).double(), gradients, lr=1e-2, mu=0.0, nu=0.7)[0]
        for name in ("adam", "laprop", "lapropw")
    ]
    for path in paths[1:]:
        assert error_in_ulp(path, paths[0], 1.0) < 4


def test_hyper_gradients():
    """Rules are differentiable in the first theta, the gradients and every hyper-parameter."""
    gradients = torch.randn(4, 3, dtype=torch.float64)

    def loss(lr, mu, nu, epsilon, scale):
        rule = ALGORITHMS["laprop"]
        start = scale.expand(3)
        theta, _ = run(rule, start, scale * gradients, lr=lr, mu=mu, nu=nu, epsilon=epsilon)
        return theta

    values = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (0.1, 0.9, 0.7, 0.1, [2.0])
    ]
    assert torch.autograd.gradcheck(loss, values)


@pytest.mark.parametrize("key", ["lr", "mu", "nu", "epsilon", "weight_decay"])
def test_a_wrong_shape_is_named(key):
    rule, theta = ALGORITHMS["laprop"], torch.zeros(4, 2)
    hyper = {"lr": 1e-2, key: torch.full((2,), 0.5)}
    with pytest.raises(ValueError, match=rf"{key} has shape \(2,\).*\(4, 2\)"):
        rule.step(theta, theta, rule.init(theta), **hyper)
    hyper[key] = torch.full((4, 2, 1), 0.5)
    with pytest.raises(ValueError, match=rf"{key} has shape \(4, 2, 1\)"):
        rule.step(theta, theta, rule.init(theta), **hyper)


@pytest.mark.parametrize(
    ("hyper", "line"),
    [
        ({"lr": -1}, "Invalid lr: -1 (allowed: 0 <= lr < inf)"),
        ({"lr": math.nan}, "Invalid lr: nan (allowed: 0 <= lr < inf)"),
        ({"lr": math.inf}, "Invalid lr: inf (allowed: 0 <= lr < inf)"),
        ({"mu": 2}, "Invalid mu: 2 (allowed: 0 <= mu < 1)"),
        ({"nu": 1.5}, "Invalid nu: 1.5 (allowed: 0 <= nu < 1)"),
        ({"nu": -0.1}, "Invalid nu: -0.1 (allowed: 0 <= nu < 1)"),
        ({"epsilon": -1e-8}, "Invalid epsilon: -1e-08 (allowed: 0 <= epsilon < inf)"),
        ({"weight_decay": -1}, "Invalid weight_decay: -1 (allowed: 0 <= weight_decay <= 1)"),
        ({"weight_decay": 1.5}, "Invalid weight_decay: 1.5 (allowed: 0 <= weight_decay <= 1)"),
        ({"agc": 0}, "Invalid agc: 0 (allowed: 0 < agc < inf)"),
        ({"centered_warmup": -1}, "Invalid centered_warmup: -1 (allowed: an integer >= 0)"),
        ({"centered_warmup": 2.5}, "Invalid centered_warmup: 2.5 (allowed: an integer >= 0)"),
    ],
)
def test_a_float_out_of_its_range_is_refused(hyper, line):
    rule, theta = ALGORITHMS["laprop"], torch.zeros(3)
    with pytest.raises(ValueError) as caught:
        rule.step(theta, theta, rule.init(theta), **{"lr": 0.1} | hyper)
    assert str(caught.value) == line


@pytest.mark.parametrize("value", ["a", "0.1", None, [0.1, 0.2]])
@pytest.mark.parametrize("key", ["lr", "nu", "weight_decay"])
def test_what_is_no_number_is_named(key, value):
    rule, theta = ALGORITHMS["laprop"], torch.zeros(3)
    with pytest.raises(TypeError) as caught:
        rule.step(theta, theta, rule.init(theta), **{"lr": 0.1, key: value})
    assert f"Invalid {key}: {value!r} (allowed: a number or a tensor, 0 <= {key}" in str(
        caught.value
    )


@pytest.mark.parametrize("g", [torch.ones(2, 3), torch.tensor(2.0), torch.ones(3).double()])
def test_a_gradient_of_another_shape_or_dtype_is_refused(g):
    rule, theta = ALGORITHMS["laprop"], torch.zeros(3)
    with pytest.raises(ValueError) as caught:
        rule.step(theta, g, rule.init(theta), lr=0.1)
    line = (
        f"g has shape {tuple(g.shape)} and dtype {g.dtype}; it must have those of theta, (3,) and"
    )
    assert str(caught.value) == f"{line} torch.float32"


def test_the_default_device_makes_no_difference():
    rule, theta = algorithm("centered_amsprop"), torch.ones(3)
    torch.set_default_device("meta")
    try:
        found, _ = run(rule, theta, [theta] * 12, lr=0.1)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, run(rule, theta, [theta] * 12, lr=0.1)[0])


def test_dtypes_are_named():
    with pytest.raises(TypeError, match=r"bfloat16.*float32 or float64"):
        ALGORITHMS["laprop"].init(torch.zeros(2, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", oracle.NAMES)
def test_gradients_of_every_shape(name):
    rule = algorithm(name)
    for shape in [(), (1,), (0,), (2, 0, 3), (2, 3, 4, 5)]:
        theta, _ = run(rule, torch.zeros(shape), torch.ones(12, *shape), lr=0.1, nu=0.5)
        assert theta.shape == shape
        assert (theta < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_root_is_correctly_rounded(dtype):
    """In exact arithmetic the root lies within half a unit in the last place of the result."""
    bits = 24 if dtype == torch.float32 else 53
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(4000, generator=generator, dtype=torch.float64).to(dtype) + 0.5
    for x, root in zip(numbers.tolist(), exact_sqrt(numbers).tolist(), strict=True):
        square, unit = Fraction(x), Fraction(2) ** (math.frexp(root)[1] - bits)
        below, above = Fraction(root) - unit / 2, Fraction(root) + unit / 2
        assert below**2 <= square <= above**2


def test_the_root_keeps_layout_and_lets_gradients_through():
    x = torch.rand(3, 5).T
    assert exact_sqrt(x).stride() == x.stride()
    assert exact_sqrt(torch.tensor(4.0)).shape == ()
    assert exact_sqrt(torch.tensor([-1.0])).isnan().all()
    leaf = torch.tensor([4.0], requires_grad=True)
    exact_sqrt(leaf).sum().backward()
    assert leaf.grad == 0.25


@pytest.mark.parametrize("name", oracle.NAMES)
@pytest.mark.parametrize("agc", [None, 0.1])
@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
def test_derivatives_where_gradients_are_0(name, agc, epsilon):
    """They are those of the difference quotient; one gradient is always 0, and all are at first."""
    rule = algorithm(name)
    theta = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    lr = torch.tensor(0.01, dtype=torch.float64)
    masks = torch.tensor([[0.0, 0, 0], [2, 0, 1], [0, 0, 3], [1, 0, 1.5]], dtype=torch.float64)

    def after(lr):
        now, state = theta, rule.init(theta)
        for mask in masks:
            now, state = rule.step(
                now, now * mask, state, lr=lr, nu=0.7, epsilon=epsilon, agc=agc, centered_warmup=1
            )
        return (now**2).sum()

    size = 1e-7
    slope = (after(lr + size) - after(lr - size)) / (2 * size)
    leaf = lr.clone().requires_grad_()
    (found,) = torch.autograd.grad(after(leaf), leaf)
    with forward_ad.dual_level():
        forward = forward_ad.unpack_dual(
            after(forward_ad.make_dual(lr, torch.ones_like(lr)))
        ).tangent
    for derivative in (found, forward, torch.func.grad(after)(lr)):
        torch.testing.assert_close(derivative, slope, rtol=1e-5, atol=1e-6)


def test_the_transforms_of_torch_go_through_a_step():
    """Derivatives by every kind of autograd are those of the difference quotient."""
    rule, theta = ALGORITHMS["laprop"], torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    lr = torch.tensor(0.1, dtype=torch.float64)

    def after(lr, theta=theta):
        theta, _ = run(rule, theta, [theta * c for c in (2, -1, 3)], lr=lr)
        return (theta**2).sum()

    size = 1e-6
    slope = (after(lr + size) - after(lr - size)) / (2 * size)
    assert abs(slope) > 1
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(lr, torch.ones_like(lr))
        forward = forward_ad.unpack_dual(after(dual)).tangent
    _, jvp = torch.func.jvp(after, (lr,), (torch.ones_like(lr),))
    for found in (forward, jvp, torch.func.grad(after)(lr)):
        torch.testing.assert_close(found, slope, rtol=1e-6, atol=0)
    rates = torch.tensor([0.1, 0.2], dtype=torch.float64)
    together = torch.func.vmap(after)(rates)
    torch.testing.assert_close(together, torch.stack([*map(after, rates)]), rtol=1e-14, atol=0)
