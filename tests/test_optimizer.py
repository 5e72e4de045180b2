"""LaProp against the oracle and `laprop.functional`, and its implementations against each other."""

import dataclasses
import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_report import KINDS as KINDS_OF_STEP
from oracle_report import WIDE, optimizer_case, optimizer_path
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from training import (
    KINDS,
    NARROW,
    OPTIONS,
    allow_capturable,
    assert_close,
    assert_same,
    give_gradients,
    make,
    states,
    train,
)

from laprop import LaProp
from laprop.functional import ALGORITHMS
from laprop.precision import stochastic_rounding

ULP = 30.0  # the limit after 40 steps, explained in test_functional.py


# --- what it computes -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS_OF_STEP)
@pytest.mark.parametrize("name", oracle.NAMES[len(oracle.RULES_ALONE) :])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_oracle(name, kind, dtype, seed):
    case = oracle.random_case(np.random.default_rng(seed), 6, 40, dtype)
    case = optimizer_case(name, case)
    theta, scale = oracle.path(name, case, WIDE[dtype])
    assert oracle.ulp(optimizer_path(name, case, **KINDS_OF_STEP[kind]), theta, scale, dtype) < ULP


FLAGS = ("amsgrad", "centered", "eps_in_sqrt", "cautious", "decay_by_lr")


@pytest.mark.parametrize("kind", KINDS_OF_STEP)
@pytest.mark.parametrize(
    "inside", [{"lr_in_momentum": False}, {}, {"lr_weighted_correction": False}]
)
@pytest.mark.parametrize("agc", [None, 0.3])
def test_functional(agc, inside, kind):
    """Every combination of the flags is the rule of `laprop.functional` with the same flags."""
    for values in itertools.product([False, True], repeat=len(FLAGS)):
        flags = dict(zip(FLAGS, values, strict=True))
        decay_by_lr = flags["decay_by_lr"]
        shared = {key: value for key, value in flags.items() if key != "decay_by_lr"}
        default = {"lr_in_momentum": True, "lr_weighted_correction": True}
        rule = dataclasses.replace(ALGORITHMS["laprop"], **shared, **default | inside)
        theta = torch.linspace(-1, 1, 7, dtype=torch.float64)
        param = Parameter(theta.clone())
        options = {"eps": 1e-8, "weight_decay": 0.01, "agc": agc}
        optimizer = LaProp([param], **options, **flags, **inside, **KINDS_OF_STEP[kind])
        state = rule.init(theta)
        for t in range(14):  # centered begins after ten steps
            give_gradients([param], t)
            lr = optimizer.param_groups[0]["lr"] = 0.01 * (1 + t % 7)
            optimizer.step()
            decay = 0.01 * (lr if decay_by_lr else 1)
            hyper = {"lr": lr, "epsilon": 1e-8, "weight_decay": decay, "agc": agc}
            theta, state = rule.step(theta, param.grad, state, **hyper)
        assert_close([param.detach()], [theta], ulp=20)


def test_printed_and_authors_correction_differ_under_a_schedule():
    """The authors' form follows a drop of lr at once, the printed one over 1 / (1 - mu) steps."""
    drop = []
    for weighted in (True, False):
        params = make()
        optimizer = LaProp(params, lr_weighted_correction=weighted)
        drop.append(train(params, optimizer, 30, lr=lambda t: 0.1 if t < 20 else 0.01))
    assert max((a - b).abs().max() for a, b in zip(*drop, strict=True)) > 0.01
    with pytest.raises(AssertionError):
        assert_close(*drop, ulp=1000)


@pytest.mark.parametrize("foreach", [False, True])
def test_scheduled_betas_keep_the_bias_corrections_exact(foreach):
    theta = torch.linspace(-1, 1, 7, dtype=torch.float64)
    param = Parameter(theta.clone())
    optimizer = LaProp([param], lr=0.01, foreach=foreach)
    state = ALGORITHMS["laprop"].init(theta)
    for t in range(30):
        give_gradients([param], t)
        mu, nu = optimizer.param_groups[0]["betas"] = (0.5 + 0.01 * t, 0.3 + 0.02 * t)
        optimizer.step()
        theta, state = ALGORITHMS["laprop"].step(theta, param.grad, state, lr=0.01, mu=mu, nu=nu)
    assert_close([param.detach()], [theta], ulp=20)


@pytest.mark.parametrize("kind", KINDS_OF_STEP)
def test_nu_0_is_signed_sgd_with_momentum(kind):
    """Only signs count: sizes of 1e-6 and of 1 give the same weights."""
    paths = []
    for size in (1.0, 1e-6):
        param = Parameter(torch.ones(50))
        optimizer = LaProp([param], lr=0.01, betas=(0.9, 0.0), **KINDS_OF_STEP[kind])
        for t in range(20):
            generator = torch.Generator().manual_seed(t)
            signs = torch.randint(-1, 2, (50,), generator=generator)
            param.grad = signs * size * (1 + torch.rand(50, generator=generator))
            if size == 1.0:
                param.grad = signs.float()
            optimizer.step()
        paths.append(param.detach())
    # The kernel's root is correctly rounded; torch's is not always.
    assert_close([paths[0]], [paths[1]], ulp=0 if KINDS_OF_STEP[kind].get("fused") else 20)


@pytest.mark.parametrize("kind", KINDS_OF_STEP)
def test_the_share_that_cautious_divides_by_counts_as_at_least_a_thousandth(kind):
    """One of 5000 updates agrees with its gradient, and then none."""
    size, lr = 5000, 1e-3
    param = Parameter(torch.zeros(size, dtype=torch.float64))
    optimizer = LaProp([param], lr=lr, cautious=True, **KINDS_OF_STEP[kind])
    rule = dataclasses.replace(ALGORITHMS["laprop"], cautious=True)
    theta, state = param.detach().clone(), rule.init(param.detach())
    against = torch.full((size,), -1e-3, dtype=torch.float64)
    one = against.clone()
    one[7] = 1.0
    for t, g in enumerate((torch.ones_like(one), one, against)):
        before, param.grad = param.detach().clone(), g.clone()
        optimizer.step()
        theta, state = rule.step(theta, g, state, lr=lr)
        expected = torch.ones_like(one)  # by how much the update is multiplied
        if t:
            expected.zero_()[7] = 1000.0 if t == 1 else 0.0
        torch.testing.assert_close(
            before - param.detach(), lr * optimizer.state[param]["exp_avg"] * expected
        )
        assert_close([param.detach()], [theta], ulp=20)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_extreme_gradients_stay_with_their_coordinate(foreach, bad):
    paths = []
    for value in (None, bad):
        params = make()
        optimizer = LaProp(params, amsgrad=True, foreach=foreach)
        for t in range(15):
            give_gradients(params, t)
            if value is not None and t == 4:
                params[0].grad[1, 1] = value
            optimizer.step()
        paths.append(params)
    assert math.isfinite(bad) == bool(paths[1][0].isfinite().all())
    for clean, dirty in zip(*paths, strict=True):
        clean, dirty = clean.detach().clone(), dirty.detach().clone()
        if clean.shape == (4, 3):
            clean[1, 1] = dirty[1, 1] = 0
        assert torch.equal(clean, dirty)


# --- its implementations against each other -------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("options", [*OPTIONS, {"agc": 0.05, "cautious": True}])
def test_foreach_is_the_for_loop(options, dtype):
    """Weights and state are equal to the last bit on a CPU, and gradients are left as they were."""
    results = []
    for kind in ({"foreach": False}, {"foreach": True}):
        params, given = make(dtype), make(dtype)
        optimizer = LaProp(params, **options, **kind)
        results.append((train(params, optimizer, 12), states(params, optimizer)))
        give_gradients(given, 11)  # the gradients of the last step
        assert_same([param.grad for param in params], [param.grad for param in given])
    assert_same(*results)


@pytest.mark.parametrize("agc", [None, 0.3])
def test_operations_that_foreach_makes_for_each_parameter(agc, monkeypatch):
    """Those on the scalars of the state, and on norms, are made once for all parameters."""
    allow_capturable(monkeypatch)
    counts = []
    for count in (1, 11):
        params = make(shapes=[(3,)] * count)
        optimizer = LaProp(params, lr=torch.tensor(0.1), foreach=True, capturable=True, agc=agc)
        give_gradients(params, 0)
        optimizer.step()
        with Counted() as counted:
            optimizer.step()
        counts.append(counted.operations)
    assert counts[1] - counts[0] <= 2 * 10  # torch.where, and the scalar that it takes


def test_foreach_clips_what_is_0_or_empty_as_the_loop_does():
    results = []
    for foreach in (False, True):
        params = [p for dtype in KINDS for p in make(dtype, [(3,), (3,), (0,), (2, 3), ()])]
        optimizer = LaProp(params, agc=0.05, foreach=foreach)
        for t in range(3):
            give_gradients(params, t)
            with torch.no_grad():
                for zero in params[::5]:
                    zero.zero_()
            for param in params[1::5]:
                param.grad.zero_()
            optimizer.step()
        results.append((params, states(params, optimizer)))
        assert all(param.isfinite().all() for param in params)
    assert_same(*results)


class Counted(TorchDispatchMode):
    """Count the operations on tensors; one on a list counts once."""

    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [{"foreach": False}, {"foreach": True}])
@pytest.mark.parametrize("capturable", [False, True])
def test_scalars_of_one_element_are_scalars(capturable, kind, monkeypatch):
    allow_capturable(monkeypatch)
    params, others = make(), make()
    for weights in (params, others):
        optimizer = LaProp(weights, capturable=capturable, **kind)
        train(weights, optimizer, 2)
        if weights is others:
            for state in optimizer.state.values():
                state.update({key: x[None] for key, x in state.items() if x.dtype == torch.float64})
        train(weights, optimizer, 2)
    assert_same(params, others)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", [*OPTIONS[:-1], {"agc": 0.05, "cautious": True}])
@pytest.mark.parametrize("capturable", [False, True])
def test_tensor_options_are_floats(capturable, options, foreach, dtype, monkeypatch):
    """Also where the scalars of the state are tensors that nothing reads."""
    allow_capturable(monkeypatch)
    results = []
    for wrap in (float, lambda x: torch.tensor(x, dtype=torch.float64)):
        params = make(dtype)
        tensors = {"lr": wrap(0.01), "betas": (wrap(0.8), wrap(0.95))}
        device = {"capturable": capturable and wrap is not float, "foreach": foreach}
        results.append(train(params, LaProp(params, **tensors, **device, **options)))
    to_real = (torch.view_as_real(x.detach()) if x.is_complex() else x for r in results for x in r)
    both = list(to_real)
    assert_close(both[: len(both) // 2], both[len(both) // 2 :], ulp=20)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_late_parameter_has_its_own_step_count(options, foreach):
    together, early, late = make(), make()[:2], make()[2:]
    optimizer = LaProp(together, lr=0.01, foreach=foreach, **options)
    alone = [LaProp(params, lr=0.01, foreach=foreach, **options) for params in (early, late)]
    for t in range(15):
        give_gradients(together, t)
        for a, b in zip(together, early + late, strict=True):
            b.grad = a.grad
        if t < 7:
            for param in together[2:]:
                param.grad = None
        optimizer.step()
        alone[0].step()
        if t >= 7:
            alone[1].step()
    assert_same(together, early + late)
    assert [float(optimizer.state[p]["step"]) for p in together] == [15, 15, 8, 8]


# --- 16 bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("foreach", [False, True])
def test_master_is_the_rounded_float32_run(dtype, foreach):
    narrow, wide = make(dtype), [Parameter(param.float()) for param in make(dtype)]
    optimizers = [LaProp(params, foreach=foreach, amsgrad=True) for params in (narrow, wide)]
    for t in range(30):
        give_gradients(narrow, t)
        for a, b in zip(narrow, wide, strict=True):
            b.grad = a.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    assert_same([param.detach() for param in narrow], [param.detach().to(dtype) for param in wide])
    for i, state in enumerate(states(narrow, optimizers[0])):
        assert_same(state.pop("master_param"), wide[i].detach())
        assert_same(state, dict(optimizers[1].state[wide[i]]))


@pytest.mark.skipif(
    not hasattr(torch.Tensor, "grad_dtype"), reason="this version of torch has no grad_dtype"
)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", [{}, {"foreach": False}, {"foreach": True}])
def test_16_bit_weights_may_have_float32_gradients(kind, dtype):
    """Torch gives them where grad_dtype is set so. No bit of such a gradient is lost."""
    param, other = (Parameter(torch.ones(3, dtype=dtype)) for _ in range(2))
    param.grad_dtype = torch.float32
    wide = Parameter(torch.ones(3))
    optimizer, reference = LaProp([param, other], **kind), LaProp([wide], **kind)
    for t in range(3):
        factor = torch.linspace(-1, 1 + t, 3) / 3
        param.grad = other.grad = None
        (param.float() * factor + other).sum().backward()
        wide.grad = factor.clone()
        assert param.grad.dtype == torch.float32
        optimizer.step()
        reference.step()
        torch.testing.assert_close(
            optimizer.state[param]["exp_avg_sq"], reference.state[wide]["exp_avg_sq"]
        )
    assert torch.equal(param.detach(), wide.detach().to(dtype))
    assert optimizer.state[other]["step"] == 3
    wide.grad_dtype = None
    wide.grad = torch.ones(3, dtype=dtype)
    with pytest.raises(RuntimeError, match="needs a new gradient"):  # all others are refused
        reference.step()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    ("low_precision", "stalls"), [("master", False), ("stochastic", False), ("nearest", True)]
)
def test_16_bit_weights_do_not_stall(dtype, low_precision, stalls):
    """Steps of 1e-3 from a weight of 8, where the next 16-bit number is 2**-7 or 2**-4 away."""
    param = Parameter(torch.full((4000,), 8.0, dtype=dtype))
    optimizer = LaProp([param], lr=1e-3, low_precision=low_precision)
    torch.manual_seed(0)
    for _ in range(200):
        param.grad = torch.ones_like(param)
        optimizer.step()
    moved = 8 - float(param.detach().float().mean())
    assert moved == 0 if stalls else abs(moved - 0.2) < 0.04
    assert ("master_param" in optimizer.state[param]) == (low_precision == "master")


IMPLEMENTATIONS = [{"foreach": False}, {"foreach": True}, {"fused": True}]


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "options",
    [{}, {"low_precision": "nearest"}, {"low_precision": "stochastic"}]
    + [{"state_dtype": torch.bfloat16}],
)
def test_16_bit_weights_that_share_memory_take_each_others_steps(options, dtype, kind):
    """As in float32, where the implementations work on the weights themselves."""
    piece = torch.zeros(8, dtype=dtype)
    first, same, over = (Parameter(torch.empty(n, dtype=dtype)) for n in (4, 4, 3))
    first.data, same.data, over.data = piece[:4], piece[:4], piece[3:6]
    apart = Parameter(torch.zeros(2, dtype=dtype))
    optimizer = LaProp([first, apart, same, over], lr=1.0, **options, **kind)
    for _ in range(3):
        first.grad, apart.grad = torch.ones_like(first), torch.ones_like(apart)
        same.grad, over.grad = torch.zeros_like(same), torch.ones_like(over)
        optimizer.step()
    expected = torch.tensor([-3.0, -3, -3, -6, -3, -3, 0, 0])
    torch.testing.assert_close(piece.float(), expected, rtol=0.01, atol=0)
    torch.testing.assert_close(apart.detach().float(), expected[:2], rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_is_listed_twice_makes_two_steps(kind):
    for options in ({}, {"state_dtype": torch.bfloat16}):
        param = Parameter(torch.zeros(3))
        optimizer = LaProp([param, param], lr=0.5, **options, **kind)
        param.grad = torch.ones(3)
        optimizer.step()
        torch.testing.assert_close(param.detach(), torch.full((3,), -1.0), rtol=0.01, atol=0)
        assert optimizer.state[param]["step"] == 2


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("low_precision", ["master", "stochastic", "nearest"])
def test_centered_steps_of_16_bit_weights_are_bounded(low_precision, dtype, kind):
    """Their averages are float32. With averages of 16 bits a step could have the length g / eps."""
    param = Parameter(torch.zeros(100, dtype=dtype))
    options = {"centered": True, "low_precision": low_precision, **kind}
    optimizer = LaProp([param], lr=1e-3, betas=(0.9, 0.9), **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        param.grad = (1 + 0.5 * torch.randn(100, generator=generator)).to(dtype)
        before = param.detach().clone()
        optimizer.step()
        assert (param - before).abs().max() < 0.05


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
def test_the_sizes_that_the_documentation_names(kind):
    """In float32 and with the default epsilon, at both sides of each limit."""

    def moved(*gradients, **options):
        param = Parameter(torch.zeros(1))
        optimizer = LaProp([param], lr=1.0, **options, **kind)
        path = [0.0]
        for g in gradients:
            param.grad = torch.tensor([g])
            optimizer.step()
            path.append(-param.item())
        return [b - a for a, b in itertools.pairwise(path)]

    def below(x):
        return float(np.nextafter(np.float32(x), np.float32(0)))

    # nu = 0: signs from 2**-25 on, to the last bit with the kernel.
    signs = {"betas": (0.0, 0.0)}
    exponents = torch.rand(10**6, generator=torch.Generator().manual_seed(0)) * 89 - 25
    param = Parameter(torch.zeros(10**6))
    param.grad = (2.0**exponents).clamp(2.0**-25, 1.8e19)
    param.grad[:4] = torch.tensor([2.0**-25, below(2.0**-24), 2.0**-24, 1.8e19])
    LaProp([param], lr=1.0, **signs, **kind).step()
    assert (param + 1).abs().max() <= (0 if kind.get("fused") else 2.0**-23)
    assert moved(below(2.0**-25), **signs)[0] < 1
    assert moved(1.8e19, **signs) == [1.0]
    # n overflows: at nu = 0 the weight becomes NaN in the step after it, else gradients count as 0.
    assert moved(1.9e19, **signs) == [0.0]
    assert math.isnan(moved(1.9e19, 1.0, **signs)[1])
    for size, length in ((5.8e20, 1.0), (5.9e20, 0.0)):
        assert moved(size) == [pytest.approx(length)]
    assert moved(5.9e20, 1.0, 1.0) == [0.0, 0.0, 0.0]
    centered = {"centered": True, "centered_warmup": 0, "eps": 1e-3}  # mean^2 overflows, too
    assert moved(1e23, 1.0, 1.0, **centered) == [0.0, 0.0, 0.0]
    # The default eps does not change a root of 3e-8.
    size = 3e-8
    assert moved(size, size / 3, size) == moved(size, size / 3, size, eps=0.0)


@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
def test_where_n_stops_growing_with_a_nu_close_to_1(kind):
    """The numbers that the documentation names, for a gradient of 1 in float32."""

    def changes(n, nu, g=1.0):
        param = Parameter(torch.zeros(16))
        optimizer = LaProp([param], betas=(0.9, nu), **kind)
        for size in (1.0, g):  # the first step makes the state
            param.grad = torch.full((16,), size)
            if param in optimizer.state:
                optimizer.state[param]["exp_avg_sq"].fill_(n)
            optimizer.step()
        return bool((optimizer.state[param]["exp_avg_sq"] != torch.tensor(n)).all())

    for nu, last in ((1 - 1e-6, 0.971), (1 - 1e-7, 0.75), (1 - 1e-8, 0.25)):
        assert changes(0.999 * last, nu)
        assert not changes(1.001 * last, nu)
    assert changes(2.0, 1 - 1e-7, g=0.0)
    assert not changes(2.0, 1 - 1e-8, g=0.0)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_the_steps_that_rounding_to_the_nearest_loses(dtype, bits):
    def is_lost(weight, ratio):
        param = Parameter(torch.tensor([weight], dtype=dtype))
        optimizer = LaProp([param], lr=weight / ratio, low_precision="nearest", maximize=True)
        param.grad = torch.ones_like(param)
        optimizer.step()
        return param.item() == weight

    weights = [1 + i / 2 ** (bits - 1) for i in range(2 ** (bits - 1))]
    lost = {ratio: [is_lost(w, ratio) for w in weights[::5]] for ratio in (0.99, 1, 1.5, 2)}
    lost = {ratio: [is_lost(w, ratio * 2**bits) for w in weights[::5]] for ratio in lost}
    assert not any(lost[0.99])
    assert any(lost[1])
    assert any(lost[1.5])
    assert not all(lost[1.5])
    assert all(lost[2])


@pytest.mark.parametrize("dtype", NARROW)
@given(value=st.floats(-6e4, 6e4, width=32) | st.floats(-(2.0**-12), 2.0**-12, width=32))
@settings(max_examples=50, deadline=None)
def test_stochastic_rounding(dtype, value):
    source = torch.full((20_000,), value)
    torch.manual_seed(0)
    error = stochastic_rounding(source, dtype).double() - float(source[0])
    digits, least = (10, -14) if dtype == torch.float16 else (7, -126)
    gap = 2.0 ** (max(math.frexp(value)[1] - 1, least) - digits)
    assert error.abs().max() <= gap  # the result is one of the two neighbours
    assert abs(float(error.mean())) <= 6 * gap / 2 / math.sqrt(20_000) + gap * 2**-12
    # Numbers of the dtype, infinities and NaN stay as they are.
    exact = torch.full((100,), value).to(dtype)
    assert torch.equal(stochastic_rounding(exact.float(), dtype), exact)
    special = torch.tensor([math.inf, -math.inf, math.nan])
    kept = stochastic_rounding(special, dtype)
    assert kept[0] == math.inf
    assert kept[1] == -math.inf
    assert kept[2].isnan()


@pytest.mark.parametrize("foreach", [False, True])
def test_master_takes_over_what_is_changed_from_outside(foreach):
    param = Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = LaProp([param], lr=1e-4, foreach=foreach)
    param.grad = torch.ones_like(param)
    optimizer.step()
    with torch.no_grad():
        param[1] = 5.0
    optimizer.step()
    assert param[1] == 5.0
    master = optimizer.state[param]["master_param"]
    assert torch.allclose(master, torch.tensor([1 - 2e-4, 5 - 1e-4, 1 - 2e-4]), atol=1e-6)


def test_complex_is_two_reals():
    """As in torch.optim.Adam, the real and the imaginary part have a second moment each."""
    both = make(torch.complex64, [(4, 3)])
    real = [Parameter(torch.view_as_real(both[0].detach()).clone())]
    optimizers = [LaProp(params, amsgrad=True, centered=True) for params in (both, real)]
    for t in range(15):
        give_gradients(both, t)
        if t % 2:  # autograd may hand over a gradient with a lazy conjugate
            both[0].grad = both[0].grad.conj()
        real[0].grad = torch.view_as_real(both[0].grad.resolve_conj()).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.view_as_real(both[0].detach()), real[0].detach())
