"""LaProp against the oracle and `laprop.functional`, and its implementations against each other.

And all that a user of torch.optim.Adam relies on, and each error found in other implementations.
"""

import copy
import dataclasses
import io
import itertools
import math
import pickle

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_report import KINDS as KINDS_OF_STEP
from oracle_report import WIDE, optimizer_case, optimizer_path
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn import Parameter
from torch.testing._internal import common_optimizers

from laprop import LaProp
from laprop.arithmetic import stochastic_rounding
from laprop.functional import ALGORITHMS

ULP = 30.0  # after 40 steps, see test_functional.py
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
OPTIONS = [
    {},
    {"amsgrad": True, "weight_decay": 0.01},
    {"centered": True, "centered_warmup": 3},
    {"centered": True, "centered_warmup": 3, "amsgrad": True, "eps_in_sqrt": True},
    {"lr_weighted_correction": False, "eps_in_sqrt": True, "weight_decay": 0.01},
    {"weight_decay": 0.1, "decay_by_lr": True, "maximize": True},
    {"eps": 0.0, "betas": (0.0, 0.0)},
]


def make(dtype=torch.float32, shapes=((4, 3), (5,), (), (2, 1, 3)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [
        Parameter(torch.randn(shape, generator=generator, dtype=wide).to(dtype)) for shape in shapes
    ]


def give_gradients(params, t):
    for i, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * t + i)
        wide = torch.complex128 if param.is_complex() else torch.float64
        grad = torch.randn(param.shape, generator=generator, dtype=wide)
        param.grad = grad.to(param.dtype)


def train(params, optimizer, steps=12, start=0, lr=lambda t: 0.01 * (1 + 0.3 * (t % 5))):
    for t in range(start, start + steps):
        give_gradients(params, t)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr(t))
            else:
                group["lr"] = lr(t)
        optimizer.step()
    return params


def assert_same(a, b):
    """Equal to the last bit, values and dtypes, through lists and dicts."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b


def states(params, optimizer):
    return [dict(optimizer.state[param]) for param in params]


def assert_close(a, b, ulp):
    for x, y in zip(a, b, strict=True):
        unit = torch.finfo(x.dtype).eps * (1 + x.abs())
        assert ((x - y).abs() <= ulp * unit).all()


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


@pytest.mark.parametrize("kind", [{"foreach": False}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("lr", [{"lr_in_momentum": False}, {}, {"lr_weighted_correction": False}])
@pytest.mark.parametrize("decay_by_lr", [False, True])
@pytest.mark.parametrize(
    ("amsgrad", "centered", "eps_in_sqrt", "cautious", "agc"),
    [*itertools.product([False, True], [False, True], [False, True], [False, True], [None, 0.3])],
)
def test_functional(amsgrad, centered, eps_in_sqrt, cautious, agc, decay_by_lr, lr, kind):
    """Under the same names, whatever is combined."""
    shared = {"amsgrad": amsgrad, "centered": centered, "eps_in_sqrt": eps_in_sqrt}
    shared |= {"cautious": cautious}
    inside = {"lr_in_momentum": True, "lr_weighted_correction": True} | lr
    rule = dataclasses.replace(ALGORITHMS["laprop"], **shared, **inside)
    theta = torch.linspace(-1, 1, 7, dtype=torch.float64)
    param = Parameter(theta.clone())
    optimizer = LaProp(
        [param],
        eps=1e-8,
        weight_decay=0.01,
        decay_by_lr=decay_by_lr,
        agc=agc,
        **shared,
        **lr,
        **kind,
    )
    state = rule.init(theta)
    for t in range(20):
        give_gradients([param], t)
        lr_now = optimizer.param_groups[0]["lr"] = 0.01 * (1 + t % 7)
        optimizer.step()
        decay = 0.01 * (lr_now if decay_by_lr else 1)
        hyper = {"lr": lr_now, "epsilon": 1e-8, "weight_decay": decay, "agc": agc}
        theta, state = rule.step(theta, param.grad, state, **hyper)
    assert_close([param.detach()], [theta], ulp=20)


def test_printed_and_authors_correction_differ_under_a_schedule():
    """A tenfold drop of lr is felt at once, or over 1 / (1 - mu) steps."""
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


@pytest.mark.parametrize("foreach", [False, True])
def test_nu_0_is_signed_sgd_with_momentum(foreach):
    """To the last bit, with |g| about 1e-6 and zeros: the sign is what counts, not the size."""
    paths = []
    for size in (1.0, 1e-6):
        param = Parameter(torch.ones(50))
        optimizer = LaProp([param], lr=0.01, betas=(0.9, 0.0), foreach=foreach)
        for t in range(20):
            generator = torch.Generator().manual_seed(t)
            signs = torch.randint(-1, 2, (50,), generator=generator)
            param.grad = signs * size * (1 + torch.rand(50, generator=generator))
            if size == 1.0:
                param.grad = signs.float()
            optimizer.step()
        paths.append(param.detach())
    assert torch.equal(*paths)


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
@pytest.mark.parametrize("options", OPTIONS)
def test_foreach_is_the_for_loop(options, dtype):
    """To the last bit on a CPU, weights and state."""
    results = []
    for kind in ({"foreach": False}, {"foreach": True}):
        params = make(dtype)
        optimizer = LaProp(params, **options, **kind)
        results.append((train(params, optimizer), states(params, optimizer)))
    assert_same(*results)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", OPTIONS[:-1])
def test_tensor_options_are_floats(options, foreach, dtype):
    results = []
    for wrap in (float, lambda x: torch.tensor(x, dtype=torch.float64)):
        params = make(dtype)
        betas = (wrap(0.8), wrap(0.95))
        optimizer = LaProp(params, lr=wrap(0.01), betas=betas, foreach=foreach, **options)
        results.append(train(params, optimizer))
    to_real = (torch.view_as_real(x.detach()) if x.is_complex() else x for r in results for x in r)
    both = list(to_real)
    assert_close(both[: len(both) // 2], both[len(both) // 2 :], ulp=20)


@pytest.mark.parametrize(
    ("options", "foreach", "backend"),
    [
        *itertools.product(OPTIONS[:-1], [False, True], ["eager"]),
        ({"amsgrad": True, "centered": True, "centered_warmup": 3}, True, "inductor"),
    ],
)
def test_compiled_is_eager(options, foreach, backend):
    torch._dynamo.reset()
    shapes = [(4, 3), (5,)]
    params, compiled = make(shapes=shapes), make(shapes=shapes)
    train(params, LaProp(params, **options))
    optimizer = LaProp(compiled, foreach=foreach, **options)
    step = torch.compile(optimizer.step, backend=backend)
    for t in range(12):
        give_gradients(compiled, t)
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + 0.3 * (t % 5))
        step()
    assert_close(params, compiled, ulp=20)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    ("wrap", "dynamic", "graphs"), [(float, None, 2), (float, True, 1), (torch.tensor, None, 1)]
)
def test_compiled_once_while_everything_is_scheduled(wrap, dynamic, graphs, foreach):
    """A tensor lr: one graph. A float: at its first change torch makes a second, for all values."""
    torch._dynamo.reset()
    counter = CompileCounter()
    params = make()
    optimizer = LaProp(params, lr=wrap(0.01), foreach=foreach, weight_decay=0.01)
    step = torch.compile(optimizer.step, backend=counter, dynamic=dynamic)
    for t in range(10):
        give_gradients(params, t)
        group = optimizer.param_groups[0]
        if wrap is float:
            group.update(lr=0.01 + 0.001 * t, eps=1e-6 * (1 + t), weight_decay=0.01 * (1 + t))
        else:
            group["lr"].fill_(0.01 + 0.001 * t)
        step()
    assert counter.frame_count == graphs


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("wrap", "graphs"), [(torch.tensor, 2), (float, 3)])
def test_a_compiled_training_step(wrap, graphs, foreach):
    """A graph of the network and one of the step: breaks are those that torch makes with Adam.

    It makes them in backward and where a step begins; a float lr is a second graph, as above.
    """
    results = {}
    for kind in (LaProp, torch.optim.Adam, "eager"):
        torch._dynamo.reset()
        counters.clear()
        counter = CompileCounter()
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        # Adam takes a tensor lr with foreach in a graph of CUDA only.
        options = {"foreach": foreach and not (kind is torch.optim.Adam and wrap is not float)}
        optimizer = (LaProp if kind == "eager" else kind)(
            net.parameters(), lr=wrap(0.01), **options
        )

        def training_step(x, net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        if kind != "eager":
            training_step = torch.compile(training_step, backend=counter)
        for t in range(8):
            lr = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = (
                lr.fill_(0.01 + 0.001 * t) if wrap is torch.tensor else 0.01 + 0.001 * t
            )
            training_step(torch.randn(5, 4, generator=torch.Generator().manual_seed(t)))
        breaks = counters["graph_break"]
        parameters = [param.detach() for param in net.parameters()]
        results[kind] = (counter.frame_count, len(breaks), sum(breaks.values()), parameters)
    assert results[LaProp][:3] == results[torch.optim.Adam][:3]
    assert results[LaProp][0] == graphs
    assert_close(results[LaProp][3], results["eager"][3], ulp=20)


@pytest.mark.parametrize("options", OPTIONS[:-1])
def test_differentiable(options):
    """Gradients of the weights after three steps with regard to lr, betas and first weights."""
    gradients = torch.randn(5, 6, dtype=torch.float64)

    def after(lr, mu, nu, first):
        param = first.clone()
        optimizer = LaProp([param], lr=lr, betas=(mu, nu), differentiable=True, **options)
        for g in gradients:
            param.grad = g * first
            optimizer.step()
        return param

    values = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.1, 0.8, 0.7)]
    first = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(after, [*values, first])


def test_capturable_is_refused_on_a_cpu():
    params = make()
    optimizer = LaProp(params, capturable=True)
    give_gradients(params, 0)
    with pytest.raises(RuntimeError, match=r"capturable=True.*supported devices: cuda"):
        optimizer.step()


# --- lr = 0 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("low_precision", ["master", "stochastic", "nearest"])
@pytest.mark.parametrize("options", OPTIONS)
def test_lr_0_moves_nothing(options, foreach, tensor, dtype, low_precision):
    """From the start and after other learning rates, whatever the decay."""
    lr = torch.tensor(0.0) if tensor else 0.0
    params = make(dtype)
    optimizer = LaProp(params, lr=lr, foreach=foreach, low_precision=low_precision, **options)
    for _ in range(2):
        before = copy.deepcopy(params)
        assert_same(train(params, optimizer, 3, lr=lambda t: 0.0), before)
        train(params, optimizer, 3, lr=lambda t: 0.01)
        assert any(not torch.equal(a, b) for a, b in zip(params, before, strict=True))


@pytest.mark.parametrize("zeros", [1, 500, 8000])
def test_lr_comes_back_from_0(zeros):
    """However long it was away, the momentum is the one that lr = 0 left behind, or a new one."""
    param = Parameter(torch.zeros(3))
    optimizer = LaProp([param], lr=0.01)
    g = torch.tensor([1.0, -1.0, 0.5])
    for t in range(20 + zeros + 20):
        optimizer.param_groups[0]["lr"] = 0.0 if 20 <= t < 20 + zeros else 0.01
        param.grad = g
        optimizer.step()
    assert torch.allclose(param, -0.01 * 40 * g.sign(), rtol=1e-4)


# --- 16 bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("low_precision", "stalls"), [("master", False), ("stochastic", False), ("nearest", True)]
)
def test_16_bit_weights_do_not_stall(dtype, low_precision, stalls):
    """Steps of 1e-3 from a weight of 8, whose neighbours are 2**-7 or 2**-4 away."""
    param = Parameter(torch.full((4000,), 8.0, dtype=dtype))
    optimizer = LaProp([param], lr=1e-3, low_precision=low_precision)
    torch.manual_seed(0)
    for _ in range(200):
        param.grad = torch.ones_like(param)
        optimizer.step()
    moved = 8 - float(param.detach().float().mean())
    assert moved == 0 if stalls else abs(moved - 0.2) < 0.04
    assert ("master_param" in optimizer.state[param]) == (low_precision == "master")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(value=st.floats(-6e4, 6e4, width=32) | st.floats(-(2.0**-12), 2.0**-12, width=32))
@settings(max_examples=50, deadline=None)
def test_stochastic_rounding(dtype, value):
    source = torch.full((20_000,), value)
    torch.manual_seed(0)
    error = stochastic_rounding(source, dtype).double() - float(source[0])
    digits, least = (10, -14) if dtype == torch.float16 else (7, -126)
    gap = 2.0 ** (max(math.frexp(value)[1] - 1, least) - digits)
    assert error.abs().max() <= gap  # one of the two neighbours; float64 may round up to the gap
    assert abs(float(error.mean())) <= 6 * gap / 2 / math.sqrt(20_000) + gap * 2**-12
    # A number of the dtype stays, and so does what is no number.
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
    """As in torch.optim.Adam: real and imaginary part have a second moment each."""
    both = make(torch.complex64, [(4, 3)])
    real = [Parameter(torch.view_as_real(both[0].detach()).clone())]
    optimizers = [LaProp(params, amsgrad=True, centered=True) for params in (both, real)]
    for t in range(15):
        give_gradients(both, t)
        if t % 2:  # as autograd may hand it over
            both[0].grad = both[0].grad.conj()
        real[0].grad = torch.view_as_real(both[0].grad.resolve_conj()).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.view_as_real(both[0].detach()), real[0].detach())


# --- errors of other implementations --------------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_left_as_they_were(options, foreach, dtype):
    params = make(dtype)
    optimizer = LaProp(params, foreach=foreach, **options)
    for t in range(5):
        give_gradients(params, t)
        before = [param.grad.clone() for param in params]
        optimizer.step()
        assert_same([param.grad for param in params], before)


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


@pytest.mark.parametrize("foreach", [False, True])
def test_the_papers_decay_does_not_scale_with_lr(foreach):
    for decay_by_lr, factor in ((False, 0.9), (True, 1 - 0.001 * 0.1)):
        param = Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = LaProp(
            [param], lr=0.001, weight_decay=0.1, decay_by_lr=decay_by_lr, foreach=foreach
        )
        param.grad = torch.zeros_like(param)
        optimizer.step()
        assert torch.allclose(param, torch.full_like(param, factor), rtol=1e-15)


@pytest.mark.parametrize("eps_in_sqrt", [False, True])
def test_eps_acts_once_and_outside_the_root_by_default(eps_in_sqrt):
    param = Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = LaProp([param], lr=1.0, eps=3.0, eps_in_sqrt=eps_in_sqrt)
    param.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()
    assert float(param.detach()) == pytest.approx(-1 / 2 if eps_in_sqrt else -1 / 4, rel=1e-14)


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="beta1"):
        LaProp(make(), beta1=0.9)
    with pytest.raises(ValueError, match=r"Unknown key in param group: beta1.*betas"):
        LaProp([{"params": make(), "beta1": 0.9}])
    optimizer = LaProp([{"params": make()[:1], "name": "first"}])
    with pytest.raises(ValueError, match=r"Unknown key in param group: weigth_decay.*weight_decay"):
        optimizer.add_param_group({"params": make()[1:], "weigth_decay": 0.1})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"lr": -1e-3}, ValueError, "Invalid learning rate: -0.001 (allowed: 0 <= lr < inf)"),
        ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
        ({"lr": math.inf}, ValueError, "Invalid learning rate: inf"),
        ({"lr": "fast"}, TypeError, "Invalid learning rate: 'fast' (allowed: a number, 0 <= lr"),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element, but its shape is (2,)"),
        (
            {"betas": (1.0, 0.9)},
            ValueError,
            "Invalid beta parameter at index 0: 1.0 (allowed: 0 <=",
        ),
        ({"betas": (0.9, -0.1)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
        ({"betas": (0.9, math.nan)}, ValueError, "Invalid beta parameter at index 1: nan"),
        ({"betas": 0.9}, ValueError, "Invalid betas: 0.9 (allowed: two values, (mu, nu))"),
        ({"betas": (0.9, torch.tensor(0.9))}, ValueError, "either both floats or both Tensors"),
        ({"eps": -1e-8}, ValueError, "Invalid epsilon value: -1e-08 (allowed: 0 <= eps < inf)"),
        ({"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
        ({"weight_decay": 1.5}, ValueError, "weight_decay <= 1 with decay_by_lr=False"),
        ({"centered_warmup": -1}, ValueError, "Invalid centered_warmup: -1"),
        ({"centered_warmup": 2.5}, ValueError, "Invalid centered_warmup: 2.5"),
        ({"low_precision": "no"}, ValueError, "'no' (allowed: master, stochastic, nearest)"),
        ({"amsgrad": 1}, TypeError, "Invalid amsgrad: 1 (allowed: True or False)"),
        ({"foreach": True, "fused": True}, RuntimeError, "cannot be `True` together"),
        ({"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support"),
    ],
)
def test_bad_options_get_a_clear_line(options, error, line):
    with pytest.raises(error) as caught:
        LaProp(make(), **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(error):
        LaProp([{"params": make(), **options}])


def test_bad_parameters_get_a_clear_line():
    narrow = torch.zeros(3).to(torch.float8_e4m3fn)
    with pytest.raises(
        TypeError, match=r"float8_e4m3fn \(allowed: float32, float64, bfloat16, float16"
    ):
        LaProp([narrow.requires_grad_()])
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = LaProp(embedding.parameters())
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients.*shape \(4, 3\)"):
        optimizer.step()


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_state_dict_round_trip(options, foreach, dtype):
    """Through a file, bit for bit, dtypes kept: the run goes on as if it had not stopped."""
    params = make(dtype)
    optimizer = LaProp(params, foreach=foreach, **options)
    train(params, optimizer, 12)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)

    resumed = copy.deepcopy(params)
    other = LaProp(resumed, lr=0.5, betas=(0.1, 0.1))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(states(resumed, other), states(params, optimizer))
    for state in states(resumed, other):
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        assert {x.dtype for k, x in state.items() if k.startswith(("exp_avg", "max", "master"))
                if not k.endswith("weight")} == {wide}  # fmt: skip
    assert_same(train(resumed, other, 8, start=12), train(params, optimizer, 8, start=12))
    assert_same(states(resumed, other), states(params, optimizer))


def test_a_loaded_state_is_a_copy():
    params = make()
    optimizer = LaProp(params)
    train(params, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    other = LaProp(resumed := copy.deepcopy(params))
    other.load_state_dict(saved)
    before = copy.deepcopy(saved)
    train(resumed, other, 3)
    assert_same(saved["state"], before["state"])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("options", OPTIONS)
def test_pickle_and_deepcopy(clone, options):
    params = make()
    optimizer = LaProp(params, **options)
    train(params, optimizer, 5)
    other = clone(optimizer)
    copied = other.param_groups[0]["params"]
    assert_same(train(copied, other, 5, start=5), train(params, optimizer, 5, start=5))


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", KINDS)
def test_adams_state_dict(cls, amsgrad, dtype):
    """step, exp_avg_sq and its maximum are taken; momentum and options are this optimizer's."""
    params = make(dtype)
    adam = cls(params, lr=0.1, betas=(0.7, 0.9), eps=1e-3, amsgrad=amsgrad)
    train(params, adam, 6)
    optimizer = LaProp(params, lr=0.02, amsgrad=amsgrad)
    optimizer.load_state_dict(copy.deepcopy(adam.state_dict()))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.9, 0.999), 1e-15)
    assert group.keys() == LaProp(make()).param_groups[0].keys()
    for param in params:
        ours, theirs = optimizer.state[param], adam.state[param]
        assert "exp_avg" not in ours
        assert ours["step"] == theirs["step"] == 6
        assert float(ours["exp_avg_sq_weight"]) == pytest.approx(1 - 0.9**6, rel=1e-15)
        assert torch.equal(ours["exp_avg_sq"], theirs["exp_avg_sq"].to(ours["exp_avg_sq"].dtype))
        assert ("max_exp_avg_sq" in ours) == amsgrad
    # The first step is bias-corrected: lr g / sqrt(n / c_n), as long as a step of lr.
    before = [param.detach().clone() for param in params]
    give_gradients(params, 6)
    optimizer.step()
    for param, old in zip(params, before, strict=True):
        if dtype in (torch.float32, torch.float64) and not amsgrad:
            n = 0.999 * adam.state[param]["exp_avg_sq"] + 0.001 * param.grad**2
            c_n = 0.999 * (1 - 0.9**6) + 0.001
            expected = old - 0.02 * param.grad / (n / c_n).sqrt()
            assert torch.allclose(param, expected, rtol=1e-5)
        assert not torch.equal(param, old)


def test_other_state_dicts_are_refused():
    params = make()
    for other in (torch.optim.RMSprop(params), torch.optim.SGD(params, momentum=0.9),
                  torch.optim.Adamax(params)):  # fmt: skip
        train(params, other, 1)
        with pytest.raises(ValueError, match=r"neither LaProp's nor Adam's"):
            LaProp(params).load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        LaProp([{"params": params[:2]}, {"params": params[2:]}]).load_state_dict(
            torch.optim.Adam(params).state_dict()
        )


def test_load_hooks_run_around_the_load():
    params = make()
    optimizer = LaProp(params)
    train(params, optimizer, 3)
    calls = []
    other = LaProp(make())
    other.register_load_state_dict_pre_hook(lambda opt, d: calls.append(type(d["state"][0])))
    other.register_load_state_dict_post_hook(lambda opt: calls.append(len(opt.state)))
    other.load_state_dict(optimizer.state_dict())
    assert calls == [dict, len(params)]
    assert len(other._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize("foreach", [False, True])
def test_options_switched_on_later(foreach):
    params = make()
    optimizer = LaProp(params, foreach=foreach)
    train(params, optimizer, 12)
    optimizer.param_groups[0].update(amsgrad=True, centered=True)
    train(params, optimizer, 5, start=12)
    assert {"max_exp_avg_sq", "exp_avg_grad"} <= optimizer.state[params[0]].keys()
    assert all(param.isfinite().all() for param in params)


# --- the rest of the torch.optim interface --------------------------------------------------------


@pytest.mark.parametrize("foreach", [None, False, True])
def test_groups_have_each_their_options(foreach):
    together, alone = make(shapes=[(3,)] * len(OPTIONS)), make(shapes=[(3,)] * len(OPTIONS))
    one = LaProp(
        [{"params": [p], **o} for p, o in zip(together[:3], OPTIONS[:3], strict=True)],
        foreach=foreach,
    )
    for param, options in zip(together[3:], OPTIONS[3:], strict=True):
        one.add_param_group({"params": [param], **options})
    many = [LaProp([p], **o, foreach=foreach) for p, o in zip(alone, OPTIONS, strict=True)]
    train(together, one)
    for t in range(12):
        give_gradients(alone, t)
        for optimizer in many:
            optimizer.param_groups[0]["lr"] = 0.01 * (1 + 0.3 * (t % 5))
            optimizer.step()
    assert_same(together, alone)


def test_closure_and_hooks():
    param = Parameter(torch.ones(2))
    optimizer = LaProp([("weight", param)], lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))

    def closure():
        calls.append("closure")
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0
    assert calls == ["pre", "closure", "post"]
    assert torch.allclose(param, torch.full((2,), 0.9))
    assert optimizer.param_groups[0]["param_names"] == ["weight"]


def test_torchs_lr_schedulers_and_grad_scaler():
    params = make()
    optimizer = LaProp(params, lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(19):
        optimizer.zero_grad()
        scaler.scale(sum((param**2).sum() for param in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert all(param.isfinite().all() for param in params)
    LaProp(copy.deepcopy(params)).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torchs_error_inputs(dtype):
    """Every wrong input of torch's own tests of Adam gets Adam's error, but for what LaProp can do:
    tensor lr and betas with foreach and without capturable."""
    for case in common_optimizers.optim_error_inputs_func_adam("cpu", dtype):
        wrong = case.optimizer_error_input
        params = wrong.params if wrong.params is not None else make(dtype)
        if "not supported for capturable=False and foreach=True" in case.error_regex:
            train(params, LaProp(params, **wrong.kwargs), 2)
        elif case.error_type is UserWarning:
            with pytest.warns(UserWarning, match=case.error_regex):
                LaProp(params, **wrong.kwargs)
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                LaProp(params, **wrong.kwargs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("foreach", [False, True])
def test_torchs_inputs_go_the_right_direction(foreach, dtype):
    """torch's configurations of Adam, on its little regression problem, contiguous or not."""
    for config in common_optimizers.optim_inputs_func_adam("cpu"):
        kwargs = {"lr": 0.01, **config.kwargs, "decay_by_lr": True, "foreach": foreach}
        torch.manual_seed(0)
        weight = Parameter(torch.randn(5, 10, dtype=dtype).T.contiguous().T)
        bias = Parameter(torch.randn(10, 2, dtype=dtype)[:, 0].clone()[:5])
        x = torch.randn(10, dtype=dtype)
        optimizer = LaProp([weight, bias], **kwargs)

        def loss(weight=weight, bias=bias, x=x):
            return ((weight @ x + bias).abs() ** 2).float().sum()

        first = float(loss().detach())
        for _ in range(40):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        assert (float(loss()) > first) == config.kwargs.get("maximize", False)


def test_torchs_empty_and_missing_gradients():
    empty = Parameter(torch.empty(0))
    without = Parameter(torch.ones(2))
    optimizer = LaProp([empty, without])
    empty.grad = torch.empty(0)
    optimizer.step()
    assert without not in optimizer.state
    LaProp([without]).step()
    with pytest.raises(ValueError, match="empty parameter list"):
        LaProp([])
    with pytest.raises(ValueError, match="non-leaf"):
        LaProp([without * 2])
