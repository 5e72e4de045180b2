"""A step of LaProp in a graph of torch.compile, and as a part of a differentiable program."""

import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn import Parameter
from training import OPTIONS, allow_capturable, assert_close, give_gradients, make, train

from laprop import LaProp

SHAPES = [(4, 3), (5,)]
traced = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="before torch 2.14 a step is not traced",
)


CLIPPED = [{"agc": 0.05}, {"cautious": True}]
CLIPPED += [{"agc": 0.05, "cautious": True, "lr_in_momentum": False}]


@pytest.mark.parametrize(
    ("options", "foreach"),
    [*itertools.product(OPTIONS[:-1] + CLIPPED, [True])]
    + [*itertools.product(OPTIONS[3:-1] + CLIPPED[2:], [False])],
)
def test_compiled_is_eager(options, foreach):
    assert_compiled_is_eager(options, foreach, "eager")


@pytest.mark.parametrize(
    ("options", "dtype", "atol"),
    [
        ({"agc": 0.05}, torch.complex64, 1e-6),
        ({}, torch.bfloat16, 0.0),
        # Averages are rounded at random: each step may differ by 2**-8 of its length.
        ({"state_dtype": torch.bfloat16}, torch.float32, 0.002),
    ],
)
def test_compiled_is_eager_in_other_dtypes(options, dtype, atol):
    params, compiled = after_compiled_and_eager_steps(options, True, "eager", dtype)
    for one, other in zip(params, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("how", ["compiled", "differentiable", "capturable"])
def test_second_moments_overflow_where_eager_ones_do(how, foreach, monkeypatch):
    """docs/optimizer.md names the size; a square before its factor 1 - nu overflows earlier."""
    torch._dynamo.reset()
    options = {"foreach": foreach and how != "differentiable"}
    if how != "compiled":
        options |= {how: True, "betas": (torch.tensor(0.9), torch.tensor(0.999))}
        allow_capturable(monkeypatch)
    for size, moves in ((5.8e20, 1.0), (5.9e20, 0.0)):
        param = torch.zeros(2, requires_grad=True)
        param = param.clone() if how == "differentiable" else param
        optimizer = LaProp([param], lr=1.0, **options)
        step = torch.compile(optimizer.step, backend="eager") if how == "compiled" else None
        param.grad = torch.full((2,), size)
        (step or optimizer.step)()
        assert param.tolist() == [pytest.approx(-moves)] * 2


@pytest.mark.slow
def test_compiled_to_machine_code_is_eager():
    options = {"amsgrad": True, "centered": True, "centered_warmup": 3}
    assert_compiled_is_eager(options, True, "inductor")


def assert_compiled_is_eager(options, foreach, backend):
    assert_close(*after_compiled_and_eager_steps(options, foreach, backend), ulp=20)


def after_compiled_and_eager_steps(options, foreach, backend, dtype=torch.float32):
    torch._dynamo.reset()
    params, compiled = make(dtype, SHAPES), make(dtype, SHAPES)
    train(params, LaProp(params, **options))
    # With a tensor a changed lr needs no other graph.
    optimizer = LaProp(compiled, lr=torch.tensor(0.01), foreach=foreach, **options)
    step = torch.compile(optimizer.step, backend=backend)
    for t in range(12):
        give_gradients(compiled, t)
        optimizer.param_groups[0]["lr"].fill_(0.01 * (1 + 0.3 * (t % 5)))
        step()
    assert not any(torch.equal(a, b) for a, b in zip(params, make(dtype, SHAPES), strict=True))
    return params, compiled


@pytest.mark.parametrize("foreach", [False, True])
def test_compiled_16_bit_weights_that_share_memory_take_each_others_steps(foreach):
    torch._dynamo.reset()
    one, other = (Parameter(torch.zeros(3, dtype=torch.bfloat16)) for _ in range(2))
    other.data = one.data
    optimizer = LaProp([one, other], lr=torch.tensor(1.0), foreach=foreach)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        one.grad, other.grad = torch.ones_like(one), torch.zeros_like(one)
        step()
    torch.testing.assert_close(one.detach().float(), torch.full((3,), -3.0), rtol=0.01, atol=0)


@traced
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    ("wrap", "dynamic", "graphs"), [(float, None, 2), (float, True, 1), (torch.tensor, None, 1)]
)
def test_compiled_once_while_everything_is_scheduled(wrap, dynamic, graphs, foreach):
    """With lr as a tensor there is one graph; for a float Dynamo traces one more at a change."""
    torch._dynamo.reset()
    counter = CompileCounter()
    params = make(shapes=SHAPES)
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


@traced
@pytest.mark.parametrize("key", ["lr", "betas", "eps", "weight_decay"])
@pytest.mark.parametrize("foreach", [False, True])
def test_a_backend_compiles_a_float_that_changes_as_often_as_adamw(key, foreach):
    """Twice: AOTAutograd, which Inductor needs, makes floats constant if a step is careless."""
    graphs = []
    for kind in (LaProp, torch.optim.AdamW):
        torch._dynamo.reset()
        counters.clear()
        params = make(shapes=SHAPES[:1])
        optimizer = kind(params, lr=0.01, weight_decay=0.01, foreach=foreach)
        step = torch.compile(optimizer.step, backend="aot_eager")
        for t in range(10):
            give_gradients(params, t)
            value = 0.01 + 0.001 * t
            optimizer.param_groups[0][key] = (1 - value, 0.99) if key == "betas" else value
            step()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] <= graphs[1]
    assert graphs[0] == 2


@traced
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("wrap", "graphs"), [(torch.tensor, 2), (float, 3)])
def test_a_compiled_training_step(wrap, graphs, foreach):
    """A training step compiles to one graph of the network and one of the optimizer's step.

    The breaks between them are those that torch makes with Adam too: in backward and where a step
    begins. With lr as a float there is one graph more, as above.
    """
    results = {}
    for kind in (LaProp, torch.optim.Adam, "eager"):
        torch._dynamo.reset()
        counters.clear()
        counter = CompileCounter()
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        # Adam refuses a tensor lr with foreach outside CUDA.
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


@pytest.mark.parametrize("options", [*OPTIONS[:-1], {"agc": 0.3}, {"agc": 0.3, "cautious": True}])
def test_differentiable(options):
    """The weights after five steps have right gradients in lr, betas and the first weights."""
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_differentiable_in_16_bits(dtype):
    """A master copy and rounding at random have no derivative, so rounding to nearest is needed."""

    def derivative(dtype):
        first = torch.tensor([1.0, 2.0], requires_grad=True)
        param = first.to(dtype, copy=True)
        optimizer = LaProp([param], lr=0.1, differentiable=True, low_precision="nearest")
        for t in range(4):
            param.grad = param.clone() ** 3 / (1 + t)
            optimizer.step()
        return torch.autograd.grad((param.float() * torch.tensor([1.0, 3.0])).sum(), first)[0]

    torch.testing.assert_close(derivative(dtype), derivative(torch.float32), rtol=0.02, atol=0.02)
    options = {"differentiable": True, "low_precision": "nearest"}
    for kind in ("master", "stochastic"):
        line = rf"Invalid low_precision: '{kind}' with differentiable.*{dtype} .allowed: 'nearest'"
        param, other = torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype, requires_grad=True)
        optimizer = LaProp([param], **options)
        group = {"params": [other], "low_precision": kind}
        with pytest.raises(ValueError, match=line):
            LaProp([group], **options)
        with pytest.raises(ValueError, match=line):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 1
        saved = LaProp([other], **options).state_dict()
        saved["param_groups"][0]["low_precision"] = kind
        with pytest.raises(ValueError, match=line):
            LaProp([other], **options).load_state_dict(saved)
        optimizer.param_groups[0]["low_precision"] = kind
        param.grad = torch.ones_like(param)
        with pytest.raises(ValueError, match=line):
            optimizer.step()
        assert torch.equal(param, torch.ones_like(param))


def test_capturable_is_refused_on_a_cpu():
    params = make()
    optimizer = LaProp(params, capturable=True)
    give_gradients(params, 0)
    with pytest.raises(RuntimeError, match=r"capturable=True.*supported devices: cuda"):
        optimizer.step()
