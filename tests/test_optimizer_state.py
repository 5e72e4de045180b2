"""The state of LaProp: saved, loaded (Adam's too), copied, and completed for options set later."""

import copy
import dataclasses
import io
import math
import pickle

import pytest
import torch
from conftest import documented
from torch.nn import Parameter
from training import (
    KINDS,
    NARROW,
    OPTIONS,
    assert_close,
    assert_same,
    give_gradients,
    make,
    states,
    train,
)

from laprop import LaProp
from laprop.functional import ALGORITHMS


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_state_dict_round_trip(options, dtype):
    """A state from a file is the same bit for bit, and so is the training that goes on with it."""
    params = make(dtype)
    optimizer = LaProp(params, **options)
    train(params, optimizer, 12)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)

    resumed = copy.deepcopy(params)
    other = LaProp(resumed, lr=0.5, betas=(0.1, 0.1))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(states(resumed, other), states(params, optimizer))
    for state in states(resumed, other):
        wide = torch.float32 if dtype in NARROW else dtype
        assert {x.dtype for k, x in state.items() if k.startswith(("exp_avg", "max", "master"))
                if not k.endswith("weight")} == {wide}  # fmt: skip
    assert_same(train(resumed, other, 8, start=12), train(params, optimizer, 8, start=12))
    assert_same(states(resumed, other), states(params, optimizer))


def test_a_parameter_that_became_float64_cannot_go_on_with_16_bit_averages():
    """The kernel has no code for it, and would write beyond the averages."""
    net = torch.nn.Linear(3, 2)
    optimizer = LaProp(net.parameters(), state_dtype=torch.bfloat16)
    for convert in net.float, net.double:
        convert()
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        before = [param.detach().clone() for param in net.parameters()]
        if convert == net.float:
            optimizer.step()
    with pytest.raises(TypeError, match=r"dtype torch\.float64 with state_dtype=bfloat16"):
        optimizer.step()
    assert all(map(torch.equal, before, net.parameters()))


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


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("dtype", KINDS[:-1])
def test_a_state_goes_on_with_parameters_of_another_dtype(dtype, foreach):
    """It takes the same steps as a copy whose state always had the dtypes of the new parameters."""
    params = [Parameter(param.bfloat16().float()) for param in make()]  # exact in the other dtypes
    params[0].data.mul_(0.5)
    optimizer = LaProp(params, amsgrad=True, foreach=foreach)
    train(params, optimizer, 4)
    converted = [Parameter(param.detach().to(dtype)) for param in params]
    other = LaProp(converted, foreach=foreach)
    other.load_state_dict(optimizer.state_dict())
    wide = [Parameter(param.detach().double()) for param in converted]
    reference = LaProp(wide, foreach=foreach)
    reference.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(wide)
    for t in range(4, 7):
        give_gradients(converted, t)
        for a, b in zip(converted, wide, strict=True):
            b.grad = a.grad.double()
        other.step()
        reference.step()
    for a, b, old in zip(converted, wide, before, strict=True):
        state = other.state[a]
        averages = torch.float32 if dtype in NARROW else dtype
        assert {state[key].dtype for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")} == {
            averages
        }
        torch.testing.assert_close(state["exp_avg"].double(), reference.state[b]["exp_avg"],
                                   rtol=1e-5, atol=1e-6)  # fmt: skip
        torch.testing.assert_close(a.double(), b, rtol=torch.finfo(dtype).eps, atol=1e-6)
        assert not torch.equal(b, old)


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", KINDS)
def test_adams_state_dict(cls, amsgrad, dtype):
    """From Adam's state come step, exp_avg_sq and its maximum; momentum and options start anew."""
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
    # The first step is bias-corrected, lr g / sqrt(n / c_n), so that it has full length.
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


def by_the_authors_rule(param, state, lr, mu=0.9, nu=0.99, eps=1e-15):
    """Make a step as the authors' laprop.py does; the state is kept as it keeps it."""
    if not state:
        state |= {"step": 0, "exp_avg_lr_1": 0.0, "exp_avg_lr_2": 0.0}
        keys = ("exp_avg", "exp_avg_sq", "exp_mean_avg_sq", "max_exp_avg_sq")
        state |= {key: torch.zeros_like(param) for key in keys}
    state["step"] += 1
    state["exp_avg_sq"] = nu * state["exp_avg_sq"] + (1 - nu) * param.grad**2
    state["exp_avg_lr_1"] = state["exp_avg_lr_1"] * mu + (1 - mu) * lr
    state["exp_avg_lr_2"] = state["exp_avg_lr_2"] * nu + (1 - nu)
    state["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], state["exp_avg_sq"])
    u = param.grad / ((state["max_exp_avg_sq"] / state["exp_avg_lr_2"]).sqrt() + eps)
    state["exp_avg"] = mu * state["exp_avg"] + (1 - mu) * lr * u
    if lr:
        with torch.no_grad():
            param -= lr / state["exp_avg_lr_1"] * state["exp_avg"]


@pytest.mark.parametrize("before", [[0.01, 0.02, 0.0, 0.03], [0.0, 0.0]])
def test_a_state_of_the_authors_goes_on(before):
    """Also if lr was 0 in all steps so far, where the bias correction of the momentum is 0."""
    theirs, theirs_state = make(torch.float64), [{} for _ in make()]
    for t, lr in enumerate([*before, "load", 0.02, 0.0, 0.01, 0.03]):
        if lr == "load":
            ours = copy.deepcopy(theirs)
            optimizer = LaProp(ours, lr=0.5, betas=(0.9, 0.99), amsgrad=True)
            saved = {0: {}, **dict(enumerate(theirs_state))}
            group = {"lr": 0.01, "betas": (0.1, 0.1), "params": [*range(len(theirs))]}
            saved = {"state": copy.deepcopy(saved), "param_groups": [group]}
            optimizer.load_state_dict(saved)
            assert optimizer.param_groups[0]["lr"] == 0.5
            continue
        give_gradients(theirs, t)
        for param, state in zip(theirs, theirs_state, strict=True):
            by_the_authors_rule(param, state, lr)
        if t > len(before):
            for a, b in zip(ours, theirs, strict=True):
                a.grad = b.grad.clone()
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            assert_close([x.detach() for x in ours], [x.detach() for x in theirs], ulp=20)
    assert optimizer.state[ours[0]]["step"] == len(before) + 4


def test_the_average_gradient_of_the_authors_is_taken():
    """Their last version keeps it, for ``centered``, under a name of its own."""
    params = make(shapes=[(3,)])
    state = {key: torch.ones(3) for key in ("exp_avg", "exp_avg_sq")}
    state |= {"step": 12, "exp_avg_lr_1": 0.1, "exp_avg_lr_2": 0.2}
    state["exp_mean_avg_beta2"] = torch.full((3,), 0.5)
    saved = {"state": {0: state}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    for centered in (False, True):
        optimizer = LaProp(params, centered=centered)
        optimizer.load_state_dict(saved)
        kept = optimizer.state[params[0]].get("exp_avg_grad")
        assert_same(kept, state["exp_mean_avg_beta2"] if centered else None)


def test_a_state_of_timms_goes_on(tmp_path, monkeypatch):
    """Loaded by the lines of docs/optimizer.md."""
    timm = pytest.importorskip("timm.optim.laprop")
    theirs = make()
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1}
    other = timm.LaProp(theirs, lr=0.01, **options)
    train(theirs, other, 5)
    ours = copy.deepcopy(theirs)
    monkeypatch.chdir(tmp_path)
    torch.save(other.state_dict(), "theirs.pt")
    names = {"LaProp": LaProp, "torch": torch, "params": ours}
    exec(documented("theirs.pt"), names)
    optimizer = names["optimizer"]
    optimizer.param_groups[0].update(options, decay_by_lr=True)
    for t in range(5, 15):
        train(theirs, other, 1, start=t)
        train(ours, optimizer, 1, start=t)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_state_of_the_authors_that_does_not_fit_is_refused():
    params = make(shapes=[(3,)])
    state = {key: torch.ones(3) for key in ("exp_avg", "exp_avg_sq")}
    state |= {"step": 2, "exp_avg_lr_1": 0.1, "exp_avg_lr_2": 0.2}
    group = {"lr": 0.01, "params": [0]}

    def refused(state, line, **options):
        optimizer = LaProp(params, **options)
        with pytest.raises(ValueError) as caught:
            optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
        assert line in str(caught.value)
        assert not optimizer.state

    for option in ("lr_in_momentum", "lr_weighted_correction"):
        refused(state, "needs lr_in_momentum=True and lr_weighted_corr", **{option: False})
    refused({**state, "momentum": 1}, "neither LaProp's nor Adam's, it holds exp_avg, ")
    refused({key: x for key, x in state.items() if key != "step"}, "neither LaProp's nor Adam's")
    refused({**state, "exp_avg": None}, "state['exp_avg'] is a NoneType (allowed: a tensor)")
    refused({**state, "exp_avg_lr_1": None}, "state['exp_avg_lr_1'] is None (allowed: one")


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


NUMBER = "(allowed: one finite number >= 0)"


@pytest.mark.parametrize("of_adam", [False, True])
@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"step": None}, f"state['step'] is None {NUMBER}"),
        ({"step": torch.ones(2)}, f"state['step'] is of shape (2,) {NUMBER}"),
        ({"step": "five"}, f"state['step'] is 'five' {NUMBER}"),
        ({"step": torch.tensor(-1.0)}, f"state['step'] is tensor(-1.) {NUMBER}"),
        ({"step": math.inf}, f"state['step'] is inf {NUMBER}"),
        ({"exp_avg_sq": [1.0]}, "state['exp_avg_sq'] is a list (allowed: a tensor)"),
        ({"exp_avg_sq": None}, "state['exp_avg_sq'] is a NoneType (allowed: a tensor)"),
        ({"exp_avg_weight": 1j}, f"state['exp_avg_weight'] is 1j {NUMBER}"),
        ({"exp_avg_weight": math.nan}, f"state['exp_avg_weight'] is nan {NUMBER}"),
    ],
)
def test_a_bad_entry_is_refused_and_nothing_changes(entry, line, of_adam):
    """Also if it belongs to the last parameter."""
    params, others = make(), make()
    other = (torch.optim.Adam if of_adam else LaProp)(others, lr=0.5)
    train(others, other, 2)
    saved = copy.deepcopy(other.state_dict())
    saved["state"][len(params) - 1].update(entry)
    if of_adam and "exp_avg_weight" in entry:
        line = "neither LaProp's nor Adam's"
    optimizer = LaProp(params)
    train(params, optimizer, 3)
    before = copy.deepcopy([params, optimizer.state_dict()])
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(saved)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_same([params, optimizer.state_dict()], before)
    train(params, optimizer, 1)


def test_an_empty_state_is_that_of_a_parameter_without_steps():
    params, others = make(), make()
    for other in (torch.optim.Adam(others), LaProp(others)):
        others[1].grad = None
        others[0].grad = torch.ones_like(others[0])
        other.step()
        assert other.state[others[1]] == {}
        optimizer = LaProp(params)
        optimizer.load_state_dict(other.state_dict())
        assert optimizer.state[params[0]]["step"] == 1
        assert not optimizer.state.get(params[1])
        train(params, optimizer, 2)
    for key in ("step", "exp_avg_sq"):
        saved = copy.deepcopy(torch.optim.Adam(others).state_dict())
        saved["state"] = {0: {"step": 1.0, "exp_avg": others[0], "exp_avg_sq": others[0]}}
        del saved["state"][0][key]
        with pytest.raises(ValueError, match="neither LaProp's nor Adam's, it holds exp_avg, "):
            LaProp(params).load_state_dict(saved)


def test_a_float32_parameter_needs_no_master_copy():
    narrow, wide = make(torch.bfloat16), make()
    optimizer, other = LaProp(narrow), LaProp(wide)
    train(narrow, optimizer, 2)
    other.load_state_dict(optimizer.state_dict())
    for param, loaded in zip(narrow, wide, strict=True):
        assert optimizer.state[param].keys() - other.state[loaded].keys() == {"master_param"}
    train(wide, other, 1)


def pickled(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def saved_and_loaded(optimizer):
    other = LaProp(copy.deepcopy(optimizer.param_groups[0]["params"]))
    other.load_state_dict(optimizer.state_dict())
    return other


@pytest.mark.parametrize("clone", [copy.deepcopy, pickled, saved_and_loaded])
@pytest.mark.parametrize("option", ["lr_in_momentum", "lr_weighted_correction"])
def test_a_copy_too_knows_what_its_momentum_is_an_average_of(option, clone):
    """Without a word its first steps would be several lr long, or hardly any."""
    (param,) = params = make(shapes=[(3,)])
    optimizer = LaProp(params)
    train(params, optimizer, 2)
    edited = copy.deepcopy(optimizer.state_dict())
    edited["param_groups"][0][option] = False
    line = f"{option}=False: cannot be changed after a step"
    kept = copy.deepcopy([params, optimizer.state_dict()])
    with pytest.raises(ValueError, match=line):
        optimizer.load_state_dict(edited)
    assert_same([params, optimizer.state_dict()], kept)

    def step_of_a_copy():
        other = clone(optimizer)
        other.param_groups[0]["params"][0].grad = param.grad
        other.step()

    optimizer.param_groups[0][option] = False  # and no step sees it before the copy
    with pytest.raises(ValueError, match=line):
        step_of_a_copy()
    del edited["param_groups"][0]["momentum_of"]  # saved before this key was there
    fresh = LaProp(make(shapes=[(3,)]))
    fresh.load_state_dict(edited)
    train(fresh.param_groups[0]["params"], fresh, 1)


def test_what_the_momentum_averages_may_change_until_a_step_was_made():
    """A first step that is refused leaves a state of 0 steps."""
    params = make(shapes=[(3,), (2,)])
    optimizer = LaProp(params)
    give_gradients(params, 0)
    params[1].grad = params[1].grad.to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    optimizer.param_groups[0]["lr_in_momentum"] = False
    train(params, optimizer, 1)


def sparse_gradient(params, optimizer):
    params[1].grad = params[1].grad.to_sparse()


def state_of_another_shape(params, optimizer):
    optimizer.state[params[1]]["exp_avg_sq"] = torch.ones(2)


def capturable(params, optimizer):
    optimizer.param_groups[1]["capturable"] = True


def step_that_is_no_tensor(params, optimizer):
    optimizer.state[params[1]]["step"] = 3


@pytest.mark.parametrize("kind", [{}, {"foreach": False}, {"foreach": True}])
@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (sparse_gradient, "does not support sparse gradients"),
        (state_of_another_shape, r"shape \(3,\) and state\['exp_avg_sq'\] \(2,\)"),
        (capturable, "If capturable=True, params and state_steps must be on supported devices"),
        (step_that_is_no_tensor, r"state\['step'\] of a parameter of shape \(3,\) is a int"),
    ],
)
def test_an_error_in_a_later_group_leaves_the_first_as_it_was(spoil, line, kind):
    """Otherwise another try would step it twice."""
    params = make(shapes=[(3,), (3,)])
    optimizer = LaProp([{"params": [param]} for param in params], **kind)
    train(params, optimizer, 2)
    give_gradients(params, 2)
    spoil(params, optimizer)
    kept = copy.deepcopy([params, states(params[:1], optimizer)])
    for _ in range(2):
        with pytest.raises((RuntimeError, ValueError), match=line):
            optimizer.step()
    assert_same([params, states(params[:1], optimizer)], kept)


def test_a_negative_correction_is_named():
    for kind in ({}, {"foreach": False}, {"foreach": True}):
        params = make(shapes=[(3,)])
        optimizer = LaProp(params, **kind)
        train(params, optimizer, 1)
        optimizer.state[params[0]]["exp_avg_sq_weight"].fill_(-1.0)
        with pytest.raises(ValueError, match=r"'exp_avg_sq_weight'\] is -1.0 .allowed: at least 0"):
            optimizer.step()


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


@pytest.mark.parametrize("foreach", [None, False, True])
def test_options_switched_on_later(foreach):
    """Second moments go on, and what the new options need of the state begins at 0."""
    params = make(torch.float64)
    optimizer = LaProp(params, foreach=foreach)
    rule = dataclasses.replace(ALGORITHMS["lapropw"], lr_weighted_correction=True)
    path = [(param.detach().clone(), rule.init(param.detach())) for param in params]
    for t in range(17):
        if t == 12:
            optimizer.param_groups[0].update(amsgrad=True, centered=True)
            rule = dataclasses.replace(rule, amsgrad=True, centered=True)
            path = [
                (theta, {**rule.init(theta), "t": torch.tensor(12), **state})
                for theta, state in path
            ]
        lr = optimizer.param_groups[0]["lr"] = 0.01 * (1 + t % 5)
        give_gradients(params, t)
        optimizer.step()
        path = [
            rule.step(theta, param.grad, state, lr=lr)
            for param, (theta, state) in zip(params, path, strict=True)
        ]
    assert {"max_exp_avg_sq", "exp_avg_grad"} <= optimizer.state[params[0]].keys()
    assert_close([param.detach() for param in params], [theta for theta, _ in path], ulp=50)


def test_a_pickled_optimizer_may_lack_newer_options():
    """As those of torch, it gets their default values."""
    params = make()
    optimizer = LaProp(params, lr=0.1)
    train(params, optimizer, 2)
    saved = copy.deepcopy(optimizer).__getstate__()
    for options in (saved["defaults"], *saved["param_groups"]):
        del options["agc"], options["fused"]
    other = LaProp.__new__(LaProp)
    other.__setstate__(saved)
    assert (
        other.param_groups[0].items() >= {"agc": None, "fused": None, "betas": (0.9, 0.999)}.items()
    )
    other.add_param_group({"params": make()})
    assert other.param_groups[1]["agc"] is None
    copied = other.param_groups[0]["params"]
    del other.param_groups[1]
    assert_same(train(copied, other, 3, start=2), train(params, optimizer, 3, start=2))
