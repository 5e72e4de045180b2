"""An optimizer is one file in ``configs/optimizer``: what it makes, what it refuses, its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Maker
from torch import Tensor

from experiments.common.messages import ConfigError
from experiments.common.optimizers import OPTIMIZERS, rule, torch_optimizer
from laprop import LaProp
from laprop.functional import ALGORITHMS

STEPS = 12
torch.manual_seed(0)
START = torch.randn(5, 3, dtype=torch.float64)
GRADIENTS = torch.randn(STEPS, 5, 3, dtype=torch.float64)


def by_class(make: Maker, *overrides: str) -> Tensor:
    """Where the class of an optimizer goes with the gradients."""
    param = torch.nn.Parameter(START.clone())
    optimizer = torch_optimizer(make("task=rainbow", *overrides).optimizer, [param])
    for g in GRADIENTS:
        param.grad = g.clone()
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n in ALGORITHMS and n != "signum"])
def test_class_and_rule_of_a_name_make_the_same_steps(make: Maker, name: str):
    settings = make("task=rainbow", f"optimizer={name}")
    algorithm, rest = rule(settings.optimizer, lr_changes=False)
    names = ("lr", "mu", "nu", "epsilon")
    hyper = {k: v for k in names if (v := getattr(settings.optimizer, k)) is not None}
    theta, state = START, algorithm.init(START)
    for g in GRADIENTS:
        theta, state = algorithm.step(theta, g, state, **hyper, **rest)
    found = by_class(make, f"optimizer={name}")
    torch.testing.assert_close(found, theta, rtol=1e-9, atol=1e-12)
    assert (found - START).abs().min() > 0


VARIANTS = [
    ("amsgrad=true",),
    ("centered=true", "centered_warmup=4"),
    ("agc=0.01",),
    ("cautious=true",),
    ("eps_in_sqrt=true", "epsilon=0.01"),
    ("lr_in_momentum=false",),
    ("lr_weighted_correction=false",),
    ("amsgrad=true", "agc=0.01", "cautious=true", "weight_decay=0.001"),
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("lr_changes", [False, True])
def test_options_mean_the_same_to_the_class_and_to_the_rule(
    make: Maker, options: tuple[str, ...], lr_changes: bool
):
    overrides = [f"optimizer.{option}" for option in ("nu=0.5", *options)]
    of = make("task=rosenbrock", *overrides).optimizer
    algorithm, rest = rule(of, lr_changes)
    rates = [of.lr * (0.5**i if lr_changes else 1) for i in range(STEPS)]
    param = torch.nn.Parameter(START.clone())
    optimizer = torch_optimizer(of, [param])
    theta, state = START, algorithm.init(START)
    hyper = {"mu": of.mu, "nu": of.nu, "epsilon": of.epsilon, "weight_decay": of.weight_decay}
    for lr, g in zip(rates, GRADIENTS, strict=True):
        theta, state = algorithm.step(theta, g, state, lr=lr, **hyper, **rest)
        optimizer.param_groups[0]["lr"] = lr
        param.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(param.detach(), theta, rtol=1e-9, atol=1e-12)
    if lr_changes or options[0].split("=")[0] not in ("lr_in_momentum", "lr_weighted_correction"):
        plain = torch.nn.Parameter(START.clone())
        optimizer = LaProp([plain], lr=of.lr, betas=(of.mu, of.nu), eps=1e-8)
        for lr, g in zip(rates, GRADIENTS, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            plain.grad = g.clone()
            optimizer.step()
        assert (plain.detach() - theta).abs().max() > 1e-7, "the option made no difference"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((f, True) for f in ("amsgrad", "centered", "cautious", "decay_by_lr", "eps_in_sqrt")),
        *((f, True) for f in ("maximize", "foreach", "capturable", "differentiable")),
        ("fused", False), ("lr_in_momentum", False), ("lr_weighted_correction", False),
        ("centered_warmup", 3), ("agc", 0.3), ("low_precision", "stochastic"),
        ("state_dtype", "bfloat16"),
    ],
)  # fmt: skip
def test_each_option_of_laprop_reaches_it(make: Maker, option: str, value: object):
    text = "bfloat16" if value is torch.bfloat16 else json.dumps(value)
    settings = make("task=cifar10", f"optimizer.{option}={text}")
    optimizer = torch_optimizer(settings.optimizer, [torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, LaProp)
    assert optimizer.param_groups[0][option] == value
    assert settings.key != make("task=cifar10").key


# The published equations of those that have no rule -----------------------------------------------


def adamw(t, g, s, lr, mu, nu, epsilon, w):
    s["m"] = mu * s.get("m", 0) + (1 - mu) * g
    s["n"] = nu * s.get("n", 0) + (1 - nu) * g**2
    step = s["m"] / (1 - mu**t) / ((s["n"] / (1 - nu**t)).sqrt() + epsilon)
    return lambda theta: theta - lr * (step + w * theta)


def nadam(t, g, s, lr, mu, nu, epsilon, w):
    def at(t):
        return mu * (1 - 0.5 * 0.96 ** (t * 0.004))

    s["product"] = s.get("product", 1.0) * at(t)
    s["m"] = mu * s.get("m", 0) + (1 - mu) * g
    s["n"] = nu * s.get("n", 0) + (1 - nu) * g**2
    mean = at(t + 1) * s["m"] / (1 - s["product"] * at(t + 1)) + (1 - at(t)) * g / (
        1 - s["product"]
    )
    step = mean / ((s["n"] / (1 - nu**t)).sqrt() + epsilon)
    return lambda theta: theta * (1 - lr * w) - lr * step


def radam(t, g, s, lr, mu, nu, epsilon, w):
    s["m"] = mu * s.get("m", 0) + (1 - mu) * g
    s["n"] = nu * s.get("n", 0) + (1 - nu) * g**2
    longest = 2 / (1 - nu) - 1
    length = longest - 2 * t * nu**t / (1 - nu**t)
    step = s["m"] / (1 - mu**t)
    if length > 5:
        ratio = (length - 4) * (length - 2) * longest / (longest - 4) / (longest - 2) / length
        step = step * (1 - nu**t) ** 0.5 / (s["n"].sqrt() + epsilon) * ratio**0.5
    return lambda theta: theta * (1 - lr * w) - lr * step


def adabelief(t, g, s, lr, mu, nu, epsilon, w):
    s["m"] = mu * s.get("m", 0) + (1 - mu) * g
    s["n"] = nu * s.get("n", 0) + (1 - nu) * (g - s["m"]) ** 2 + epsilon
    step = s["m"] / (1 - mu**t) / ((s["n"] / (1 - nu**t)).sqrt() + epsilon)
    return lambda theta: theta * (1 - lr * w) - lr * step


def lion(t, g, s, lr, mu, nu, epsilon, w, beta1=0.9):
    m = s.get("m", torch.zeros_like(g))
    step = (beta1 * m + (1 - beta1) * g).sign()
    s["m"] = mu * m + (1 - mu) * g
    return lambda theta: theta * (1 - lr * w) - lr * step


@pytest.mark.parametrize("equation", [adamw, nadam, radam, adabelief, lion])
def test_the_steps_are_those_of_the_published_equations(make: Maker, equation):
    name = equation.__name__
    decay = ("optimizer.weight_decay=0.1", "optimizer.decay_by_lr=true")
    overrides = (f"optimizer={name}", "optimizer.mu=0.8", *decay)
    of = make("task=rainbow", *overrides).optimizer
    theta, state = START, {}
    for t, g in enumerate(GRADIENTS, 1):
        theta = equation(t, g, state, of.lr, of.mu, of.nu, of.epsilon, 0.1)(theta)
    torch.testing.assert_close(by_class(make, *overrides), theta, rtol=1e-7, atol=1e-10)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("optimizer=nadam optimizer.momentum_decay=no", "optimizer.momentum_decay=no: must be "),
        ("optimizer=radam optimizer.rectify=1", "optimizer.rectify=1: unknown.* nu, epsilon, wei"),
        ("optimizer=lion optimizer.beta1=1.5", "optimizer.beta1=1.5: .*1.5"),
        ("optimizer=lion optimizer.nu=0.5", "optimizer.nu=0.5: lion has no nu; it has lr, mu"),
        ("optimizer.agc=-1", "optimizer.agc=-1.0: .* 0 < agc < inf"),
        ("optimizer.centered={a:1}", r"optimizer.centered=\{'a': 1\}: must be true or false$"),
        ("optimizer.agc={a:1}", r"optimizer.agc=\{'a': 1\}: must be a number$"),
        ("optimizer.weight_decay={a:1}", r"optimizer.weight_decay=\{'a': 1\}: must be a num"),
        ("optimizer.lr={a:1}", "optimizer.lr.a=1: lr is a single value and has no keys$"),
        ("optimizer.centered=maybe", "optimizer.centered=maybe: must be "),
        ("optimizer.state_dtype=int8", "optimizer.state_dtype=int8: .*allowed: None, bfloat16"),
        ("optimizer.state_dtype=abc", "optimizer.state_dtype=abc: must be a dtype of torch, "),
        ("optimizer.low_precision=up", "optimizer.low_precision=up: must be .*stoch"),
        ("optimizer.centred=true", r"optimizer.centred=true: unknown \(did you mean centered\?\)"),
        ("optimizer=signum", "optimizer=signum: is not for rainbow, which takes adabelief, "),
        ("optimizer=adam optimizer.weight_decay=0.1", "optimizer.decay_by_lr=false: torch.optim"),
        ("optimizer=sgd optimizer.weight_decay=0.1", "optimizer.weight_decay=0.1: must be 0; sgd "),
        ("optimizer=sgd optimizer.decay_by_lr=true", "optimizer.decay_by_lr=true: must be false"),
        ("optimizer.mu=null", "optimizer.mu=null: must be a number$"),
        ("optimizer.epsilon=null", "optimizer.epsilon=null: must be a number$"),
        ("optimizer.weight_decay=1.5", "optimizer.weight_decay=1.5: .*weight_decay <= 1"),
        ("optimizer._target_=torch.optim.SGD", "optimizer._target_=torch.optim.SGD: can only be "),
    ],
)  # fmt: skip
def test_what_a_class_does_not_take_is_refused_before_anything_runs(
    make: Maker, overrides: str, line: str
):
    with pytest.raises(ConfigError, match=f"^{line}"):
        make("task=rainbow", *overrides.split())


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("optimizer=adamw", "optimizer=adamw: is not for rosenbrock, which is vectorised and take"),
        ("optimizer.foreach=true", "optimizer.foreach=true: rosenbrock is vectorised and laprop's"),
        ("optimizer=signum optimizer.centered=true", "optimizer.centered=true: unknown; allowed"),
        ("optimizer=sgd optimizer.nesterov=true", "optimizer.nesterov=true: .*has none of its op"),
    ],
)
def test_a_vectorised_task_takes_what_has_a_rule(make: Maker, overrides: str, line: str):
    with pytest.raises(ConfigError, match=f"^{line}"):
        make("task=rosenbrock", *overrides.split())


def test_an_option_at_its_default_is_the_same_run(make: Maker):
    assert make("task=cifar10", "optimizer.centered=false").key == make("task=cifar10").key
    amsprop = make("task=cifar10", "optimizer=amsprop").key
    assert make("task=cifar10", "optimizer=amsprop", "optimizer.amsgrad=true").key == amsprop
    assert make("task=cifar10", "optimizer=amsprop", "optimizer.amsgrad=false").key != amsprop


# Files of one's own -------------------------------------------------------------------------------

MINE = {
    "adamax": "name: adamax\n_target_: torch.optim.Adamax\nlr: 0.002\nmu: 0.9\nnu: 0.99\n",
    "asgd": "name: asgd\n_target_: torch.optim.ASGD\nlr: 0.01\nlambd: 0.02\n",
    "gone": "name: gone\n_target_: nowhere.Gone\nlr: 0.01\n",
    "wrong": "name: wrong\n_target_: torch.optim.SGD\nnames: {mu: momentun}\nlr: 0.01\nmu: 0.9\n",
    "pi": "name: pi\n_target_: math.pi\nlr: 0.01\n",
    "listed": "name: listed\n_target_: torch.optim.SGD\nnames: [mu]\nlr: 0.01\n",
    "mute": "name: mute\n_target_: torch.optim.SGD\nlr: 0.01\nmu: 0.9\n",
    "none": "lr: 0.01\nname: none\n",
    "tenth": "name: tenth\n_target_: torch.optim.Adam\nnames: {mu: 'betas[9]'}\nlr: 1\nmu: 0\n",
    "first": "name: first\n_target_: torch.optim.Adam\nnames: {mu: 'lr[0]'}\nlr: 1\nmu: 0\n",
    "keys": "name: keys\n_target_: own.keys\nlr: 0.01\n",
    "broken": "name: broken\n_target_: own.Broken\nlr: 0.01\n",
    "linear": "name: linear\n_target_: own.linear\nlr: 0.01\n",
    "still": "name: still\n_target_: torch.optim.Adam\nmu: 0.9\n",
    "null_": "name: null_\n_target_: null\nlr: 0.01\n",
    "typo": "name: typo\n_target_: torch.optim.SGD\nnames: {wd: null}\nlr: 0.01\n",
}
OWN = """
import torch
class Broken(torch.optim.SGD):
    def __init__(self, params, lr=1.0):
        super().__init__(params, lr=lr)
        self.rate
def keys(params, **options): ...
def linear(params, lr=1.0): return params
"""
PROGRAM = """
import sys
from experiments.common.config import compose_settings
from experiments.common.messages import ConfigError
from experiments.common.optimizers import torch_optimizer
import torch
for name in sys.argv[1:]:
    try:
        of = compose_settings(["task=rainbow", "optimizer=" + name]).optimizer
        optimizer = torch_optimizer(of, [torch.nn.Parameter(torch.zeros(2))])
        (group,) = optimizer.param_groups
        shown = {k: group[k] for k in ("lr", "betas", "lambd") if k in group}
        print(type(optimizer).__name__, shown, of.definition)
    except ConfigError as error:
        print(error)
"""


def printed(program: str, copy: Path, *arguments: str) -> list[str]:
    """The lines that a program prints which runs in the copy."""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert result.stderr == ""  # such as what Hydra logs
    return result.stdout.splitlines()


@pytest.mark.slow
def test_a_file_of_ones_own_is_all_that_an_optimizer_needs(copy: Path):
    def lines(**files: str) -> list[str]:
        for name, text in files.items():
            (copy / "configs" / "optimizer" / f"{name}.yaml").write_text(text)
        return printed(PROGRAM, copy, *files)

    (copy / "own.py").write_text(OWN)
    (copy / "configs" / "optimizer" / "empty.yaml").write_text("")  # nothing else may name it
    said = lines(**MINE)
    adamax, asgd, gone, wrong, pi, listed, mute, none, tenth, first, keys, broken, linear = said[
        :13
    ]
    still, null, typo = said[13:]
    definition = "{'_target_': 'torch.optim.Adamax'}"  # lr and nu are the task's
    assert adamax == f"Adamax {{'lr': 6.25e-05, 'betas': (0.9, 0.999)}} {definition}"
    assert asgd.startswith("ASGD {'lr': 6.25e-05, 'lambd': 0.02}")
    place = "configs/optimizer/gone.yaml: _target_=nowhere.Gone"
    assert gone == f"{place}: cannot be imported (No module named 'nowhere')"
    assert "names: mu=momentun: torch.optim.SGD has lr=0.001, momentum=0, " in wrong
    assert pi.startswith("configs/optimizer/pi.yaml: _target_=math.pi: cannot be imported (3.14")
    assert listed.startswith("configs/optimizer/listed.yaml: names=[mu]: must be such as {mu: mom")
    assert "mute.yaml: mu: torch.optim.SGD has no betas[0]; say in names what" in mute
    assert none.startswith("configs/optimizer/none.yaml: _target_: missing; must be a class such")
    has = "names: mu=betas[9]: torch.optim.Adam has betas=(0.9, 0.999)"
    assert tenth == f"configs/optimizer/tenth.yaml: {has}"
    assert first.startswith(
        "configs/optimizer/first.yaml: names: mu=lr[0]: torch.optim.Adam has lr="
    )
    assert keys == "configs/optimizer/keys.yaml: lr: own.keys has no lr; it names no arguments"
    place = "configs/optimizer/broken.yaml: _target_=own.Broken"
    assert broken == f"{place}: AttributeError: 'Broken' object has no attribute 'rate'"
    assert linear.startswith(
        "configs/optimizer/linear.yaml: _target_=own.linear: must make a torch."
    )
    assert still.startswith("configs/optimizer/still.yaml: lr: missing; must be a number; a task's")
    assert null.startswith("optimizer=null_: is not for rainbow, which takes adabelief, adam, ")
    assert typo == (
        "configs/optimizer/typo.yaml: names.wd=null: unknown; allowed are lr, mu, nu, epsilon, "
        "weight_decay"
    )
    # A copy whose name was forgotten would train the one that it was copied from.
    (copied,) = lines(forgotten=(ROOT / "configs/optimizer/laprop.yaml").read_text())
    assert copied == "configs/optimizer/forgotten.yaml: name=laprop: must be forgotten"


EDITS = """
import importlib
from pathlib import Path
from experiments.common import versions
from experiments.common.config import compose_settings
from experiments.common.messages import ConfigError

def said(*overrides):
    try:
        return compose_settings(["task=gpt", *overrides]).key
    except ConfigError as error:
        return error

mine, helper = Path("mine.py"), Path("helper.py")
helper.write_text("STEP = 1.0")
base = "import torch\\nfrom helper import STEP\\nclass Mine(torch.optim.Adam):\\n    SCALE = "
Path("experiments/own.py").write_text("import helper")
for scale, step in ("1", "1.0"), ("1  # a comment", "1.0"), ("2", "1.0"), ("2", "3.0"):
    mine.write_text(base + scale)
    helper.write_text(f"STEP = {step}")
    importlib.invalidate_caches()
    versions.program_behind.cache_clear()
    versions.program.cache_clear()
    print(said("optimizer=mine"), versions.program("own"))
for decay in "0", "0.1":
    print(said("optimizer=mine", f"optimizer.weight_decay={decay}"))
print(said("optimizer=mine", "optimizer.decay_by_lr=true"))
print(said("optimizer=other", "optimizer.weight_decay=0.1", "optimizer.decay_by_lr=true"))
print(said("optimizer=typo"))
"""


def test_the_program_of_ones_own_class_is_part_of_the_key_and_its_decay_is_declared(copy: Path):
    folder = copy / "configs" / "optimizer"
    rest = "lr: 0.001\nmu: 0.9\nnu: 0.999\nepsilon: 1.0e-8\n"
    (folder / "mine.yaml").write_text(f"name: mine\n_target_: mine.Mine\n{rest}")
    for name, decay in ("other", "by_lr"), ("typo", "by_rate"):
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\n_target_: torch.optim.Adam\ndecay: {decay}\n{rest}"
        )
    lines = printed(EDITS, copy)
    keys, programs = zip(*(line.split() for line in lines[:4]), strict=True)
    assert keys[0] == keys[1]  # a comment is no edit
    assert len(set(keys)) == 3
    assert programs[0] == programs[1] == programs[2] != programs[3]  # the task imports helper.py
    assert lines[4] == keys[3]
    assert lines[5] == (
        "optimizer.weight_decay=0.1: must be 0; if the weight decay of mine.Mine is decoupled and "
        "scaled by lr, put decay: by_lr into mine.yaml"
    )
    assert lines[6] == "optimizer.decay_by_lr=true: must be false; mine has no decay that lr scales"
    assert len(lines[7]) == 16
    assert lines[8] == "configs/optimizer/typo.yaml: decay=by_rate: must be by_lr"
