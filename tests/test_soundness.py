"""Changes that users make to parameters, gradients, state and groups between or during steps.

Each test is about a kind of fault that some optimizer had; test_fuzz.py combines the changes.
"""

import copy
import gc
import math
import threading
import time
import warnings
import weakref
from fractions import Fraction

import fused
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Parameter

from laprop import LaProp, schedules
from laprop.kernels.rows import SCALARS

KINDS = [{"foreach": False}, {"foreach": True}, {"fused": True}]
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@pytest.mark.parametrize("what", ["gradient", "state", "group"])
def test_another_thread_drops_what_a_step_works_on(what, kind):
    param = Parameter(torch.zeros(2_000_000))
    optimizer = LaProp([param], lr=0.125, **kind)
    param.grad = torch.ones_like(param)
    optimizer.step()

    def drop():
        time.sleep(0.001)
        if what == "gradient":
            param.grad = None
        elif what == "state":
            optimizer.state.clear()
        else:
            optimizer.param_groups[0]["params"] = []

    for _ in range(8):
        optimizer.param_groups[0]["params"] = [param]
        param.grad = torch.ones_like(param)
        thread = threading.Thread(target=drop)
        thread.start()
        optimizer.step()
        thread.join()
    # A gradient of 1 moves each weight by lr. Only whole steps were made or left out.
    steps = -param.detach() / 0.125
    assert 1 <= steps[0].round() <= 9
    torch.testing.assert_close(steps, steps[0].round().expand_as(steps), rtol=1e-5, atol=0)


@each_kind
@pytest.mark.parametrize("convert", ["double", "bfloat16", "half"])
@pytest.mark.parametrize("swap", [True, False])
def test_a_converted_module_goes_on(swap, convert, kind):
    """torch sets a parameter's data, or swaps the parameter, which nobody else may hold then.

    The steps are those of a twin in float64, whose weights are rounded as the module's are.
    """
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        module = torch.nn.Linear(4, 4)
        for param in module.parameters():
            torch.nn.init.ones_(param)
        twin = copy.deepcopy(module).double()
        optimizer, other = (LaProp(m.parameters(), lr=0.1, **kind) for m in (module, twin))
        for t in range(3):
            for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
                ours.grad = torch.full_like(ours, 1.0 + t)
                theirs.grad = ours.grad.double()
            optimizer.step()
            other.step()
            optimizer.zero_grad()
            for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
                eps = torch.finfo(ours.dtype).eps
                torch.testing.assert_close(ours.double(), theirs.double(), rtol=eps, atol=1e-6)
                assert (theirs < 1 - 0.09 * (t + 1)).all()
            getattr(module, convert)()
            with torch.no_grad():
                for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
                    theirs.copy_(ours)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@each_kind
def test_what_is_taken_away_is_let_go(kind):
    """The optimizer keeps no parameter, gradient or state alive that was removed from it."""
    first, second = Parameter(torch.zeros(3)), Parameter(torch.zeros(1000))
    optimizer = LaProp([{"params": [first]}, {"params": [second]}], **kind)
    first.grad, second.grad = torch.ones(3), torch.ones(1000)
    optimizer.step()
    gone = [weakref.ref(second), weakref.ref(second.grad), weakref.ref(first.grad)]
    gone += [weakref.ref(entry) for entry in optimizer.state[second].values()]
    del optimizer.param_groups[1]
    del optimizer.state[second]
    del second
    first.grad = None
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


@each_kind
def test_lazy_negation_of_everything(kind):
    paths = []
    for negate in (False, True):
        param = Parameter(torch.linspace(-1, 1, 6))
        optimizer = LaProp([param], lr=0.1, **kind)
        for t in range(6):
            grad = torch.linspace(1, 2, 6) * (-1) ** t
            param.grad = torch._neg_view(-grad) if negate and t else grad
            if negate and t == 3:
                param.data = torch._neg_view(-param.data)
            if negate and t == 4:
                for entry in optimizer.state[param].values():
                    entry.data = torch._neg_view(-entry.data)
            optimizer.step()
        paths.append(param.detach().clone())
    torch.testing.assert_close(*paths, rtol=1e-6, atol=1e-6)


@each_kind
def test_lazy_negation_of_a_scalar_that_is_0(kind):
    """Its value does not show the negation; ``exp_avg_weight`` is 0 as long as lr is."""
    param = Parameter(torch.zeros(3))
    optimizer = LaProp([param], lr=0.0, **kind)
    for lr in (0.0, 0.125, 0.125):
        weight = optimizer.state[param].get("exp_avg_weight", torch.zeros(()))
        if weight == 0:
            weight.data = torch._neg_view(-weight.data)
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.ones(3)
        optimizer.step()
    assert float(optimizer.state[param]["exp_avg_weight"]) == pytest.approx(0.125 * (1 - 0.9**2))
    torch.testing.assert_close(param.detach(), torch.full((3,), -0.25))


@each_kind
def test_a_change_of_shape_without_a_new_state_is_refused(kind):
    param = Parameter(torch.ones(4, 3))
    optimizer = LaProp([param], **kind)
    param.grad = torch.ones(4, 3)
    optimizer.step()
    before = param.data = torch.ones(3, 4)
    param.grad = torch.ones(3, 4)
    with pytest.raises(RuntimeError, match=r"shape \(3, 4\) and state\['exp_avg'\] \(4, 3\)"):
        optimizer.step()
    assert torch.equal(before, torch.ones(3, 4))
    optimizer.state.pop(param)
    optimizer.step()


@each_kind
@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"step": 5}, r"state\['step'\].*is a int"),
        ({"step": None}, r"state\['step'\].*is a NoneType"),
        ({"step": torch.ones(2)}, r"state\['step'\].*has 2 elements"),
        ({"exp_avg": torch.zeros(3)}, "has exp_avg but not exp_avg_weight"),
        ({"exp_avg_sq": torch.zeros(3)}, "has exp_avg_sq but not exp_avg_sq_weight"),
        ({"exp_avg_sq": [0.0], "exp_avg_sq_weight": torch.zeros(())}, "'exp_avg_sq'.*is a list"),
    ],
)
def test_a_state_made_by_hand_is_checked(state, line, kind):
    param = Parameter(torch.ones(3))
    optimizer = LaProp([param], **kind)
    param.grad = torch.ones(3)
    optimizer.state[param] = state
    with pytest.raises(ValueError, match=line):
        optimizer.step()


def test_keys_of_other_programs_are_kept_and_misspelt_options_refused():
    others = {"lr_scale": 0.5, "no_weight_decay": True, "layer": 3, "fix_step": False}
    others |= dict.fromkeys(("lr0", "lr1", "lrs", "lr_", "min_momentum", "esp"), 0.1)
    param = Parameter(torch.ones(2))
    optimizer = LaProp([{"params": [param], **others}])
    other = LaProp([param])
    other.load_state_dict(optimizer.state_dict())
    for one in (optimizer, other):
        assert {key: one.param_groups[0][key] for key in others} == others
    misspelt = {"weight_deccay": "weight_decay", "beta1": "betas", "centred": "centered"}
    misspelt |= {"eps_in_sqr": "eps_in_sqrt", "Weight_decay": "weight_decay"}
    misspelt |= {"lr_in_momentun": "lr_in_momentum"}
    for key, option in misspelt.items():
        group = {"params": [Parameter(torch.ones(2))], key: 0.5}
        for refuse in (optimizer.add_param_group, lambda group: LaProp([group])):
            with pytest.raises(ValueError, match=f"{key} .did you mean {option}"):
                refuse(group)
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match="beta1"):
        LaProp([param], beta1=0.9)


@each_kind
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e5m2])
def test_frozen_parameters_of_any_dtype(dtype, kind):
    frozen = Parameter(torch.zeros(3).to(dtype), requires_grad=False)
    param = Parameter(torch.ones(3))
    optimizer = LaProp([frozen, param], **kind)
    param.grad = torch.ones(3)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert param[0] < 1


@each_kind
@pytest.mark.parametrize("option", ["lr_in_momentum", "lr_weighted_correction"])
def test_what_the_momentum_is_an_average_of_stays(option, kind):
    """With another unit of the state a step would be several lr long, or hardly any."""
    param = Parameter(torch.ones(3))
    optimizer = LaProp([param], **kind)
    group = optimizer.param_groups[0]
    group[option] = False  # before the first step
    param.grad = torch.ones(3)
    optimizer.step()
    other = LaProp([param], **kind)
    other.load_state_dict(optimizer.state_dict())  # with its options
    other.step()
    for one in (optimizer, other, copy.deepcopy(optimizer)):
        kept = param.detach().clone()
        one.param_groups[0][option] = True
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{option}=True: cannot be changed after a step"):
                one.step()
            one.param_groups[0] = {**one.param_groups[0]}  # another dict changes nothing
        assert torch.equal(param, kept)
    one.param_groups[0][option] = False
    one.step()


@each_kind
def test_a_correction_that_has_no_effect_may_be_changed(kind):
    paths = []
    for changes in (False, True):
        param = Parameter(torch.ones(3))
        optimizer = LaProp([param], lr=0.01, lr_in_momentum=False, **kind)
        for t in range(6):
            optimizer.param_groups[0].update(
                lr=0.01 * (1 + t), lr_weighted_correction=t % 2 == 0 if changes else True
            )
            param.grad = torch.full((3,), 1.0 + t)
            optimizer.step()
        paths.append(param.detach())
    assert torch.equal(*paths)


@each_kind
@pytest.mark.parametrize("how", ["eager", "loaded", "copied", "compiled"])
def test_centering_that_was_off_for_a_while_begins_anew(how, kind):
    """With the old average gradient n minus its square would be 0, and the step without bound."""
    torch._dynamo.reset()
    param = Parameter(torch.zeros(3))
    options = {"lr": 0.01, "centered": True, "centered_warmup": 0, "betas": (0.9, 0.9), **kind}
    optimizer = LaProp([param], **options)
    step = torch.compile(optimizer.step, backend="eager") if how == "compiled" else optimizer.step
    for centered, size in ((True, 1.0), (False, 1e-3), (True, 1e-3)):
        optimizer.param_groups[0]["centered"] = centered
        if how == "loaded":  # before a step has seen the change
            optimizer.load_state_dict(optimizer.state_dict())
        elif how == "copied":
            optimizer = copy.deepcopy(optimizer)
            (param,) = optimizer.param_groups[0]["params"]
            step = optimizer.step
        for t in range(60):
            before = param.detach().clone()
            param.grad = torch.full((3,), size * (1.2 if t % 2 else 0.8))
            step()
            assert (param - before).abs().max() < 0.1, (centered, size)


def loaded(optimizer):
    other = LaProp(copy.deepcopy(optimizer.param_groups[0]["params"]))
    other.load_state_dict(optimizer.state_dict())
    return other


def with_a_new_group(optimizer):
    optimizer.param_groups.clear()
    optimizer.add_param_group({"params": [*optimizer.state], "centered": False})
    return optimizer


@each_kind
@pytest.mark.parametrize("after", [loaded, copy.deepcopy, with_a_new_group])
def test_the_first_step_without_centering_drops_the_average_gradient(after, kind):
    """Also if the kernel takes all parameters, for which nothing else has to be completed."""
    first = LaProp([Parameter(torch.zeros(3))], centered=True, **kind)
    first.param_groups[0]["params"][0].grad = torch.ones(3)
    first.step()
    optimizer = after(first)
    (group,) = optimizer.param_groups
    (param,) = group["params"]
    group["centered"] = False
    param.grad = torch.ones(3)
    assert "exp_avg_grad" in optimizer.state[param]
    assert fused.taken_by_the_kernel(optimizer) == ("fused" in kind)
    assert "exp_avg_grad" not in optimizer.state[param]


@each_kind
def test_a_group_is_not_taken_for_an_earlier_one_with_its_first_parameter(kind):
    """The id of a parameter that is gone may be that of a new one, here it is the same one."""
    params = [Parameter(torch.zeros(3)) for _ in range(3)]
    optimizer = LaProp([{"params": params[:1]}, {"params": params[1:], "centered": True}], **kind)
    for param in params:
        param.grad = torch.ones(3)
    optimizer.step()
    average = optimizer.state[params[2]]["exp_avg_grad"]
    del optimizer.param_groups[0]
    optimizer.param_groups[0]["params"][0] = params[0]
    optimizer.step()
    assert optimizer.state[params[2]]["exp_avg_grad"] is average


def test_copies_with_and_without_centering_train_alike_with_kernel_and_loop():
    paths = []
    for kind in ({"fused": True}, {"foreach": False}):
        generator = torch.Generator().manual_seed(0)
        optimizer = LaProp([Parameter(torch.ones(5))], lr=0.01, eps=1e-3, centered=True, **kind)
        for centered, steps in ((True, 20), (False, 50), (True, 30)):
            optimizer.param_groups[0]["centered"] = centered
            optimizer = copy.deepcopy(optimizer)
            (param,) = optimizer.param_groups[0]["params"]
            for _ in range(steps):
                param.grad = 1 + 0.5 * torch.randn(5, generator=generator)
                optimizer.step()
        paths.append(param.detach())
    torch.testing.assert_close(*paths, rtol=1e-4, atol=1e-5)


@each_kind
@pytest.mark.parametrize("lr", [1e-3, torch.tensor(1e-3)])
@pytest.mark.parametrize("agc", [None, 0.1])
def test_a_number_is_trained_as_a_vector_of_one(agc, lr, kind):
    """Of two 0-dimensional tensors torch promotes to the wider one's dtype."""
    number, vector = Parameter(torch.tensor(0.3)), Parameter(torch.tensor([0.3]))
    both = [LaProp([p], lr=lr, eps=0.0, agc=agc, **kind) for p in (number, vector)]
    for size in (1e-25, 0.7, -0.2):
        number.grad, vector.grad = torch.tensor(size), torch.tensor([size])
        for optimizer in both:
            optimizer.step()
        assert number.item() == vector.item()


@each_kind
def test_clipping_does_not_hide_a_weight_that_is_nan(kind):
    param = Parameter(torch.tensor([1.0, math.nan, 1.0]))
    optimizer = LaProp([param], agc=0.1, **kind)
    param.grad = torch.ones(3)
    optimizer.step()
    assert param.isnan().all()


@each_kind
def test_a_step_that_is_refused_changes_nothing(kind):
    params = [Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = LaProp(params, **kind)
    for _ in range(2):
        for param in params:
            param.grad = torch.ones(3)
        optimizer.step()
    params[1].grad = torch.ones(3).to_sparse()
    kept = [param.detach().clone() for param in params]
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert all(map(torch.equal, params, kept))
    assert [int(optimizer.state[param]["step"]) for param in params] == [2, 2]


@each_kind
def test_numbers_of_numpy_and_others(kind):
    param = Parameter(torch.ones(2))
    optimizer = LaProp(
        [param], lr=np.float32(1e-3), betas=[np.float64(0.5), Fraction(1, 2)], eps=np.float64(1e-8),
        weight_decay=0, centered=True, centered_warmup=np.int64(3), agc=np.float16(0.5), **kind,
    )  # fmt: skip
    group = optimizer.param_groups[0]
    assert {type(group[key]) for key in ("lr", "eps", "weight_decay", "agc")} == {float}
    param.grad = torch.ones(2)
    for other in ({}, {"eps": 1e-9}):  # lr alone is changed, then another option too
        before = param.detach().clone()
        group.update(lr=np.float64(0.01), **other)
        optimizer.step()
        assert type(group["lr"]) is float  # otherwise weights_only=True would refuse a saved state
        assert param[0] < before[0]
    kept = param.detach().clone()
    group["lr"] = np.float32(-1e-20)  # by a scheduler's rounding
    saved = optimizer.state_dict()
    optimizer.step()
    assert torch.equal(param, kept)
    optimizer.load_state_dict(saved)
    assert group["lr"] == optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True}, {"centered": True, "centered_warmup": 0}, {"eps_in_sqrt": True}]
    + [{"lr_in_momentum": False}, {"maximize": True, "weight_decay": 0.0005}]
    + [{"agc": 0.1}, {"cautious": True}, {"agc": 0.1, "cautious": True}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_meta_gradients_are_finite_where_gradients_are_0(options, dtype):
    """Gradients are all 0 in the first step; later some are, in some steps or in all of them."""
    w = torch.tensor([1.0, 2.0, 3.0, -1.0], dtype=dtype, requires_grad=True)
    param = torch.ones(4, dtype=dtype, requires_grad=True).clone()
    optimizer = LaProp([param], lr=0.1, differentiable=True, eps=1e-8, **options)
    for mask in ([0.0] * 4, [1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        param.grad = w * torch.tensor(mask, dtype=dtype)
        optimizer.step()
    (gradient,) = torch.autograd.grad(param.sum(), w)
    assert gradient.isfinite().all()


@each_kind
def test_one_cycle_with_tensors(kind):
    """torch's scheduler replaces the first beta alone, by a float; a state saved then is loaded."""
    paths = []
    for wrap in (float, torch.tensor):
        param = Parameter(torch.ones(3))
        options = {"lr": wrap(0.125), "betas": (wrap(0.5), wrap(0.75)), **kind}
        optimizer = LaProp([param], **options)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.125, total_steps=8)
        for t in range(7):
            param.grad = torch.linspace(-1, 1, 3) + t
            optimizer.step()
            scheduler.step()
            other = LaProp([Parameter(torch.ones(3))], **options)
            other.load_state_dict(optimizer.state_dict())
        assert other.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]
        paths.append(param.detach())
    torch.testing.assert_close(*paths)
    mixed = (torch.tensor(0.9), 0.99)
    with pytest.raises(ValueError, match="betas must be either both floats or both Tensors"):
        LaProp([param], betas=mixed)
    with pytest.raises(ValueError, match="betas must be either both floats or both Tensors"):
        optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "betas": mixed})


@each_kind
def test_a_loaded_state_has_the_layout_of_its_parameter(kind):
    """Otherwise no kernel would take the parameter for the rest of the training."""
    contiguous = torch.nn.Conv2d(4, 6, 3)
    last = copy.deepcopy(contiguous).to(memory_format=torch.channels_last)
    optimizers = []
    for module in (contiguous, last):
        optimizers.append(LaProp(module.parameters(), amsgrad=True, **kind))
        if optimizers[1:]:
            optimizers[1].load_state_dict(optimizers[0].state_dict())
        for param in module.parameters():
            param.grad = torch.empty_like(param).copy_(
                torch.linspace(-1, 1, param.numel()).view_as(param)
            )
        assert fused.taken_by_the_kernel(optimizers[-1]) == 2 * ("fused" in kind)
    contiguous_state, state = (
        o.state[m.weight] for o, m in zip(optimizers, (contiguous, last), strict=True)
    )
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert state[key].stride() == last.weight.stride() != contiguous_state[key].stride()
    optimizers[0].step()
    torch.testing.assert_close(contiguous_state["exp_avg_sq"], state["exp_avg_sq"])


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scalars_that_were_converted_are_exact_again(dtype, kind):
    """In bfloat16 a count of steps would stay at 256."""
    param = Parameter(torch.zeros(2))
    optimizer = LaProp([param], lr=1e-3, **kind)
    for t in range(400):
        param.grad = torch.ones(2)
        optimizer.step()
        if t == 10:
            state = optimizer.state[param]
            state.update({key: value.to(dtype) for key, value in state.items()})
    assert state["step"] == 400
    assert float(state["exp_avg_sq_weight"]) == pytest.approx(1 - 0.999**400, rel=0.01)
    assert {key: value.dtype for key, value in state.items()} == {
        "exp_avg": torch.float32, "exp_avg_sq": torch.float32, "step": torch.float32,
        "exp_avg_weight": torch.float64, "exp_avg_sq_weight": torch.float64,
    }  # fmt: skip


@each_kind
def test_scalars_of_one_element_become_scalars_without_dimensions(kind):
    param = Parameter(torch.zeros(2))
    optimizer = LaProp([param], lr=1e-3, **kind)
    for t in range(3):
        param.grad = torch.ones(2)
        assert fused.taken_by_the_kernel(optimizer) == ("fused" in kind)
        scalars = [optimizer.state[param][key] for key in SCALARS]
        assert [tuple(scalar.shape) for scalar in scalars] == [(), (), ()]
        if t < 2:
            scalars[t].data = scalars[t].data.view(1)
    assert optimizer.state[param]["step"] == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedules.ConstantBeta(o, "nu", value=0.5, total_iters=1),
        lambda o: schedules.StepBeta(o, "nu", milestones=[1], values=[0.7]),
        lambda o: schedules.LinearBeta(o, "mu", end=0.5, total_iters=2),
        lambda o: schedules.CosineBeta(o, "mu", end=0.5, total_iters=2),
        lambda o: schedules.RaiseBeta(o, "nu", end=0.999, milestone=1),
    ],
)
def test_schedules_take_up_a_late_group(make):
    optimizer = LaProp([Parameter(torch.ones(2))])
    schedule = make(optimizer)
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "betas": (0.3, 0.6)})
    for _ in range(3):
        schedule.step()
    assert optimizer.param_groups[1]["initial_betas"] == (0.3, 0.6)
    one, late = schedule.get_last_beta()
    assert 0 <= late < 1
    constant = isinstance(schedule, schedules.ConstantBeta)
    assert (one == late) == (not constant)


def test_a_decay_that_shrinks_the_weights_is_warned_of():
    """AdamW's usual values at the lr of DreamerV3 and at ours are; those of the paper are not."""
    params = [Parameter(torch.ones(2))]
    usual = [(4e-5, decay) for decay in (1e-4, 1e-3, 1e-2, 0.1)]
    usual += [(4e-4, decay) for decay in (1e-3, 1e-2, 0.1)]
    line = "which does not scale.*give a value meant for AdamW together with decay_by_lr=True"
    for lr, decay in usual:
        for wrap in (float, torch.tensor):
            with pytest.warns(UserWarning, match=f"weight_decay={decay:g}, {line}") as seen:
                optimizer = LaProp(params, lr=wrap(lr), weight_decay=decay)
            assert len(seen) == 1
            assert seen[0].filename == __file__
            assert "\n" not in str(seen[0].message)
    group = {"params": [Parameter(torch.ones(2))], "weight_decay": 0.02}
    with pytest.warns(UserWarning, match="weight_decay=0.02, which does not scale") as seen:
        optimizer.add_param_group(group)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="lr=0.5 times weight_decay=0.1"):
        LaProp(params, lr=0.5, weight_decay=0.1, decay_by_lr=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LaProp(params, lr=1e-3, weight_decay=0.05, decay_by_lr=True)
        for lr, decay in usual:
            LaProp(params, lr=lr, weight_decay=decay, decay_by_lr=True)
        LaProp(params, lr=1e-3, weight_decay=1e-4)  # the paper's for CIFAR-10
        LaProp(params, lr=0.0, weight_decay=1e-4)  # a warmup may begin so


# Averages in bfloat16 ----------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}])
def test_averages_in_16_bits_are_right_in_the_mean(options, dtype, kind):
    """The mean over many copies of one coordinate is the path with averages in float32."""
    count = 40_000
    results = []
    for state_dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        param = Parameter(torch.zeros(count, dtype=dtype))
        optimizer = LaProp(
            [param], lr=0.01, betas=(0.9, 0.99), state_dtype=state_dtype, **options, **kind
        )
        for t in range(60):
            param.grad = torch.full_like(param, math.sin(t) + 0.5)
            taken = fused.taken_by_the_kernel(optimizer)
            assert taken == ("fused" in kind)
        state = optimizer.state[param]
        results.append([param.detach().double(), state["exp_avg_sq"].double()])
        wanted = state_dtype or torch.float32
        assert {v.dtype for k, v in state.items() if "exp" in k and "weight" not in k} == {wanted}
    (wide, n), (narrow, narrow_n) = results
    assert narrow.unique().numel() > 2  # each copy was rounded on its own
    assert abs(float((narrow.mean() - wide.mean()) / wide.mean())) < 0.01
    assert abs(float(narrow_n.mean() / n.mean()) - 1) < 0.005


def test_bfloat16_training_takes_as_many_bytes_as_asked():
    for options, expected in (
        ({}, 12),
        ({"state_dtype": torch.bfloat16}, 8),
        ({"state_dtype": torch.bfloat16, "low_precision": "stochastic"}, 4),
    ):
        param = Parameter(torch.ones(1000, dtype=torch.bfloat16))
        param.grad = torch.ones_like(param)
        optimizer = LaProp([param], **options)
        optimizer.step()
        found = sum(entry.nbytes for entry in optimizer.state[param].values() if entry.dim())
        assert found == expected * 1000


@each_kind
def test_averages_in_16_bits_are_saved_as_they_are(kind):
    param = Parameter(torch.ones(50))
    optimizer = LaProp([param], state_dtype=torch.bfloat16, **kind)
    param.grad = torch.linspace(-1, 1, 50)
    optimizer.step()
    other = LaProp([Parameter(param.detach().clone())], state_dtype=torch.bfloat16, **kind)
    other.load_state_dict(optimizer.state_dict())
    for key, entry in optimizer.state[param].items():
        loaded = other.state[other.param_groups[0]["params"][0]][key]
        assert loaded.dtype == entry.dtype
        assert torch.equal(loaded, entry)


@pytest.mark.parametrize("how", [{"full_state_dict": True}, {"cpu_offload": True}])
def test_averages_in_16_bits_pass_through_torchs_checkpoints(how):
    """They take no dtype in a group, so the group keeps its name."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        models = [torch.nn.Linear(3, 2) for _ in range(2)]
        one, other = (LaProp(model.parameters(), state_dtype="bfloat16") for model in models)
        models[0](torch.ones(3)).sum().backward()
        one.step()
        options = StateDictOptions(**how)
        saved = get_optimizer_state_dict(models[0], one, options=options)
        set_optimizer_state_dict(models[1], other, saved, options=options)
    finally:
        dist.destroy_process_group()
    for param, loaded in zip(models[0].parameters(), models[1].parameters(), strict=True):
        state = other.state[loaded]
        assert state["exp_avg"].dtype == torch.bfloat16
        assert torch.equal(state["exp_avg"], one.state[param]["exp_avg"])
    assert other.param_groups[0]["state_dtype"] == "bfloat16"


def test_averages_in_16_bits_are_for_narrow_parameters():
    for dtype in (torch.float64, torch.complex64):
        with pytest.raises(TypeError, match=rf"{dtype} with state_dtype=bfloat16"):
            LaProp([Parameter(torch.ones(2, dtype=dtype))], state_dtype=torch.bfloat16)


# Clipping ----------------------------------------------------------------------------------------


def test_clipping_does_not_depend_on_threads():
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            torch.manual_seed(0)
            params = [Parameter(torch.randn(size)) for size in (50_001, 7, 200_000)]
            optimizer = LaProp(params, agc=0.01, cautious=True, fused=True)
            for _ in range(3):
                for param in params:
                    param.grad = torch.randn_like(param)
                assert fused.taken_by_the_kernel(optimizer) == 3
        finally:
            torch.set_num_threads(before)
        results.append([param.detach() for param in params])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
