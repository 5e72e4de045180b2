"""What a user of torch.optim.Adam relies on: arguments, groups, hooks, schedulers, refusals."""

import copy
import dataclasses
import inspect
import math
import warnings
from fractions import Fraction

import numpy as np
import omegaconf
import pytest
import torch
from torch.nn import Parameter
from torch.testing._internal import common_optimizers
from training import OPTIONS, assert_same, give_gradients, make, train

from laprop import LaProp
from laprop import options as checks
from laprop.functional import ALGORITHMS

# --- the interface of torch.optim -----------------------------------------------------------------


def test_arguments_have_the_places_of_adamws():
    """Those of AdamW that may be given by their place have the same place here."""

    def positional(cls):
        arguments = inspect.signature(cls).parameters.values()
        return [x.name for x in arguments if x.kind is x.POSITIONAL_OR_KEYWORD]

    assert positional(LaProp) == positional(torch.optim.AdamW)
    names = inspect.signature(torch.optim.AdamW).parameters.keys()
    assert names <= inspect.signature(LaProp).parameters.keys()


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


@pytest.mark.parametrize("foreach", [None, False, True])
def test_a_closure_that_raises_leaves_everything_as_it_was(foreach):
    params = make()
    optimizer = LaProp(params, foreach=foreach)
    train(params, optimizer, 2)
    before = copy.deepcopy([params, optimizer.state_dict()])

    def closure():
        raise KeyError("no data")

    with pytest.raises(KeyError, match="no data"):
        optimizer.step(closure)
    assert_same([params, optimizer.state_dict()], before)


@pytest.mark.parametrize("foreach", [None, False, True])
def test_torchs_lr_schedulers_and_grad_scaler(foreach):
    """The weights are those of the rule with the scheduler's lr and mu and unscaled gradients."""
    params = make()
    optimizer = LaProp(params, lr=0.1, foreach=foreach)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    rule = dataclasses.replace(ALGORITHMS["lapropw"], lr_weighted_correction=True)
    path = [(x, rule.init(x)) for x in (param.detach().double() for param in params)]
    for _ in range(19):
        group = optimizer.param_groups[0]
        hyper = dict(zip(("lr", "mu", "nu"), (group["lr"], *group["betas"]), strict=True))
        path = [
            rule.step(theta, 2 * param.detach().double(), state, **hyper)
            for param, (theta, state) in zip(params, path, strict=True)
        ]
        optimizer.zero_grad()
        scaler.scale(sum((param**2).sum() for param in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    for param, (theta, _) in zip(params, path, strict=True):
        torch.testing.assert_close(param.detach(), theta.float(), rtol=1e-5, atol=1e-5)
    LaProp(copy.deepcopy(params)).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torchs_error_inputs(dtype):
    """Wrong input from torch's own tests of Adam gets Adam's error.

    LaProp accepts what Adam refuses in one case: tensor lr and betas with foreach, not capturable.
    """
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
    """With each of torch's configurations of Adam the loss of torch's small regression falls."""
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


# --- refused input --------------------------------------------------------------------------------


def test_every_argument_is_checked():
    assert ("params", *checks.OPTIONS) == tuple(inspect.signature(LaProp).parameters)


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"lr": -1e-3}, ValueError, "Invalid learning rate: -0.001 (allowed: 0 <= lr < inf)"),
        ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
        ({"lr": math.inf}, ValueError, "Invalid learning rate: inf"),
        ({"lr": "fast"}, TypeError, "Invalid learning rate: 'fast' (allowed: a number, 0 <= lr"),
        ({"lr": 10**400}, ValueError, "Invalid learning rate: inf (allowed: 0 <= lr < inf)"),
        ({"eps": Fraction(-(10**400))}, ValueError, "Invalid epsilon value: -inf"),
        ({"lr": torch.tensor(1j)}, TypeError, "Invalid learning rate: torch.complex64"),
        (
            {"lr": torch.tensor(True)},
            TypeError,
            "Invalid learning rate: torch.bool (allowed: a real",
        ),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element, but its shape is (2,)"),
        (
            {"betas": (1.0, 0.9)},
            ValueError,
            "Invalid beta parameter at index 0: 1.0 (allowed: 0 <=",
        ),
        ({"betas": (0.9, -0.1)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
        ({"betas": (0.9, math.nan)}, ValueError, "Invalid beta parameter at index 1: nan"),
        ({"betas": (0.9, Fraction(10**30 - 1, 10**30))}, ValueError, "at index 1: 1.0 (allowed"),
        ({"betas": 0.9}, ValueError, "Invalid betas: 0.9 (allowed: two values, (mu, nu))"),
        ({"betas": "09"}, ValueError, "Invalid betas: '09' (allowed: two values, (mu, nu))"),
        ({"betas": [0.9, 0.99, 0.9]}, ValueError, "Invalid betas: [0.9, 0.99, 0.9] (allowed: two"),
        ({"betas": torch.ones(())}, ValueError, "Invalid betas: tensor(1.) (allowed: two values"),
        ({"eps": -1e-8}, ValueError, "Invalid epsilon value: -1e-08 (allowed: 0 <= eps < inf)"),
        ({"weight_decay": "0.1"}, TypeError, "Invalid weight_decay value: '0.1'"),
        ({"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
        ({"weight_decay": 1.5}, ValueError, "weight_decay <= 1 with decay_by_lr=False"),
        ({"centered_warmup": -1}, ValueError, "Invalid centered_warmup: -1"),
        ({"centered_warmup": 2.5}, ValueError, "Invalid centered_warmup: 2.5"),
        (
            {"centered_warmup": 2**24},
            ValueError,
            "(allowed: an integer, 0 <= centered_warmup < 2**24)",
        ),
        ({"agc": 0}, ValueError, "Invalid agc: 0 (allowed: 0 < agc < inf, or None)"),
        ({"eps": torch.tensor(1e-8)}, TypeError, "Invalid epsilon value: tensor(1.0000e-08)"),
        ({"state_dtype": torch.half}, ValueError, "torch.float16 (allowed: None, torch.bfloat16, "),
        ({"fused": 1}, TypeError, "Invalid fused: 1 (allowed: True, False or None)"),
        ({"low_precision": np.array(["master"] * 2)}, ValueError, "(allowed: master, stochastic"),
        ({"low_precision": "no"}, ValueError, "'no' (allowed: master, stochastic, nearest)"),
        ({"amsgrad": 1}, TypeError, "Invalid amsgrad: 1 (allowed: True or False)"),
        ({"foreach": True, "fused": True}, RuntimeError, "cannot be `True` together"),
        ({"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support"),
        ({"foreach": True, "differentiable": True}, RuntimeError, "`foreach` does not support"),
        (
            {"state_dtype": torch.bfloat16, "differentiable": True},
            ValueError,
            "Invalid state_dtype: torch.bfloat16 with differentiable=True (allowed: None, because",
        ),
        (
            {"state_dtype": torch.bfloat16, "centered": True},
            ValueError,
            "Invalid state_dtype: torch.bfloat16 with centered=True (allowed: None, because two",
        ),
    ],
)
def test_bad_options_get_a_clear_line(options, error, line):
    """The same line, wherever the option comes from; what is refused changes nothing."""

    def refused(do):
        with pytest.raises(error) as caught:
            do()
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(lambda: LaProp(make(), **options))
    refused(lambda: LaProp([{"params": make(), **options}]))
    params = make()
    optimizer = LaProp([{"params": params[:1]}, {"params": params[1:]}])
    train(params, optimizer, 2)
    weights, kept = copy.deepcopy((params, optimizer.state_dict()))
    saved = copy.deepcopy(kept)
    saved["param_groups"][1].update(options)
    refused(lambda: optimizer.load_state_dict(saved))
    assert_same(optimizer.state_dict(), kept)
    optimizer.param_groups[1].update(options)
    for _ in range(2):
        refused(optimizer.step)
    assert_same([params, optimizer.state_dict()["state"]], [weights, kept["state"]])


@pytest.mark.parametrize(
    "betas",
    [
        omegaconf.OmegaConf.create([0.5, 0.75]),
        np.array([0.5, 0.75], dtype=np.float32),
        torch.tensor([0.5, 0.75]),
        [0.5, 0.75],
    ],
)
def test_betas_of_every_kind_of_list(betas):
    params = make()
    optimizer = LaProp(params, betas=betas)
    optimizer.add_param_group({"params": make(), "betas": betas})
    for group in optimizer.param_groups:
        assert isinstance(group["betas"], tuple)
        assert [*map(float, group["betas"])] == [0.5, 0.75]
    optimizer.param_groups[0]["betas"] = betas
    train(params, optimizer, 2)
    expected = make()
    train(expected, LaProp(expected, betas=(0.5, 0.75)), 2)
    assert_same(params, expected)


def test_differentiable_is_for_all_groups():
    """torch's optimizers switch gradients on for a whole step."""
    for default in (False, True):
        optimizer = LaProp(make(), differentiable=default)
        line = f"Invalid differentiable: {not default} in a param group"
        with pytest.raises(ValueError, match=line):
            optimizer.add_param_group({"params": make(), "differentiable": not default})
        with pytest.raises(ValueError, match=line):
            LaProp([{"params": make(), "differentiable": not default}], differentiable=default)
        assert len(optimizer.param_groups) == 1
        optimizer.add_param_group({"params": make(), "differentiable": default})
        params = [param.detach().clone() for param in make()]
        optimizer = LaProp(params, differentiable=default)
        give_gradients(params, 0)
        optimizer.step()
        weights, kept = copy.deepcopy((params, optimizer.state_dict()))
        saved = copy.deepcopy(kept)
        saved["param_groups"][0]["differentiable"] = not default
        with pytest.raises(ValueError, match=line):
            optimizer.load_state_dict(saved)
        assert_same(optimizer.state_dict(), kept)
        optimizer.param_groups[0]["differentiable"] = not default
        for _ in range(2):
            with pytest.raises(ValueError, match=line):
                optimizer.step()
        assert_same([params, optimizer.state_dict()["state"]], [weights, kept["state"]])


@pytest.mark.slow
def test_a_closure_has_the_type_of_its_loss(tmp_path):
    """Training programs return the loss as a tensor, for torch's own annotations say float."""
    api = pytest.importorskip("mypy.api")
    program = """
from laprop import LaProp
from torch import Tensor, ones
def tensor() -> Tensor: return ones(1)
def number() -> float: return 1.0
optimizer = LaProp([ones(1)])
a: Tensor = optimizer.step(tensor)
b: float = optimizer.step(number)
optimizer.step()
"""
    (tmp_path / "program.py").write_text(program)
    said, errors, code = api.run(["--strict", str(tmp_path / "program.py")])
    assert code == 0, said + errors


def test_betas_in_a_state_of_adam_are_checked():
    params = make()
    adam = torch.optim.Adam(params)
    train(params, adam, 1)
    saved = adam.state_dict()
    saved["param_groups"][0]["betas"] = (0.9, 1.5)
    with pytest.raises(ValueError, match=r"Invalid beta parameter at index 1: 1.5"):
        LaProp(params).load_state_dict(saved)


def test_a_saved_group_may_lack_newer_options_and_hold_other_keys():
    params = make()
    optimizer = LaProp(params, lr=0.1)
    train(params, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    group = saved["param_groups"][0]
    del group["cautious"], group["agc"]
    group.update(initial_lr=0.1, lr_scale=0.5)
    other = LaProp(make(), agc=0.3)
    other.load_state_dict(saved)
    loaded = other.param_groups[0]
    wanted = {"agc": 0.3, "cautious": False, "lr": group["lr"], "initial_lr": 0.1, "lr_scale": 0.5}
    assert {key: loaded[key] for key in wanted} == wanted
    group["precision"] = "bf16"  # which a program may have put there after the first step
    other.load_state_dict(saved)
    assert other.param_groups[0]["precision"] == "bf16"
    with pytest.raises(ValueError, match=r"weigth_decay .did you mean weight_decay"):
        other.add_param_group({"params": make(), "weigth_decay": 0.1})


def test_options_are_compared_without_reading_tensors():
    """Reading would wait for a device and forbid a capture. A meta tensor cannot be read."""
    optimizer = LaProp(make(), lr=torch.tensor(0.1))
    group = optimizer.param_groups[0]
    lr, mu, nu = (torch.tensor(x, device="meta") for x in (0.2, 0.5, 0.6))
    group.update(lr=lr, betas=[mu, nu])
    for _ in range(2):  # with changes, and without
        optimizer._follow_changes(group)
    assert isinstance(group["betas"], tuple)
    for read in (bool, float, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(lr)


def test_a_tensor_without_a_value_is_named():
    lr = torch.tensor(0.1, device="meta")
    line = "Invalid learning rate: a tensor without a value, on meta .allowed: 0 <= lr < inf"
    for make_it in (lambda: LaProp(make(), lr=lr), lambda: LaProp([{"params": make(), "lr": lr}])):
        with pytest.raises(ValueError, match=line):
            make_it()


@pytest.mark.parametrize("option", ["lr", "eps", "centered"])
def test_an_option_that_a_group_has_lost_is_named(option):
    params = make()
    optimizer = LaProp(params)
    train(params, optimizer, 1)
    del optimizer.param_groups[0][option]
    with pytest.raises(ValueError, match=f"a param group has lost its option '{option}'"):
        optimizer.step()


def test_a_warning_that_is_an_error_adds_no_group():
    optimizer = LaProp(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"weight_decay=0.5"):
            optimizer.add_param_group({"params": make(), "weight_decay": 0.5})
    assert len(optimizer.param_groups) == 1


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
