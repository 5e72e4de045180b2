"""``schedule.lr``, ``.mu`` and ``.nu``: their values, in classes and in batches, and refusals."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, Maker
from torch.optim import lr_scheduler

from experiments.common.config import expand
from experiments.common.execution import execute
from experiments.common.launch import labels
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.schedules import BetaSchedule, Course, LrSchedule, Schedule
from experiments.common.settings import Settings
from experiments.common.tables import described, rows, varying
from laprop import LaProp
from laprop.schedules import CosineBeta, LinearBeta, RaiseBeta, StepBeta

TOTAL = 40
DOCS = (ROOT / "docs" / "extend.md").read_text()


@pytest.fixture
def start() -> Iterator:
    """``start(settings)``: a run as ``execute`` makes it, closed at the end of the test."""
    runs = []

    def make(settings: Settings) -> Run:
        settings.folder.mkdir(parents=True, exist_ok=True)
        runs.append(Run(settings))
        return runs[-1]

    yield make
    for run in runs:
        run.close(completed=False)


def optimizer() -> LaProp:
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    return LaProp([param], lr=0.5, betas=(0.8, 0.9))


def updates_of(reference: Callable[[LaProp], Any]) -> Iterator[tuple[int, Any]]:
    """The number of each update of a training, and the scheduler before it."""
    theirs = optimizer()
    scheduler = reference(theirs)
    for update in range(TOTAL):
        yield update, scheduler
        theirs.step()
        scheduler.step()


# The curves are those of torch's schedulers and of laprop.schedules -------------------------------

TORCH = {
    "warmup": (
        LrSchedule(warmup=8),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 8, total_iters=7),
    ),
    "linear": (
        LrSchedule(shape="linear", over=20, end=0.2),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=20),
    ),
    "cosine to the end": (
        LrSchedule(shape="cosine", end=0.1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.05),
    ),
    "warmup and cosine": (
        LrSchedule(shape="cosine", warmup=5),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, start_factor=1 / 5, total_iters=4),
                lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL - 5),
            ],
            milestones=[5],
        ),
    ),
    "steps": (
        LrSchedule(shape="steps", milestones=(10, 25), factor=0.3),
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[10, 25], gamma=0.3),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_factors_are_those_of_torchs_schedulers(name: str):
    schedule, reference = TORCH[name]
    course = Course(Schedule(lr=schedule), Schedule(), TOTAL)
    for update, scheduler in updates_of(reference):
        (expected,) = scheduler.get_last_lr()
        assert course.at(update, {"lr": 0.5})["lr"] == pytest.approx(expected, rel=1e-9)


BETAS = {
    "linear": (
        BetaSchedule(shape="linear", over=20, end=0.99),
        lambda o: LinearBeta(o, "nu", end=0.99, total_iters=20),
    ),
    "cosine": (
        BetaSchedule(shape="cosine", end=0.99),
        lambda o: CosineBeta(o, "nu", end=0.99, total_iters=TOTAL),
    ),
    "raise": (
        BetaSchedule(shape="raise", begin=10, over=20, end=0.999),
        lambda o: RaiseBeta(o, "nu", end=0.999, milestone=10, total_iters=20),
    ),
    "jump": (
        BetaSchedule(shape="raise", begin=10, over=0, end=0.999),
        lambda o: RaiseBeta(o, "nu", end=0.999, milestone=10),
    ),
    "steps": (
        BetaSchedule(shape="steps", milestones=(10, 25), values=(0.99, 0.5)),
        lambda o: StepBeta(o, "nu", milestones=[10, 25], values=[0.99, 0.5]),
    ),
}


@pytest.mark.parametrize("name", BETAS)
def test_values_are_those_of_laprops_schedules_also_for_a_batch(name: str):
    schedule, reference = BETAS[name]
    course = Course(Schedule(nu=schedule), Schedule(), TOTAL)
    batch = torch.tensor([0.9, 0.5, 0.9], dtype=torch.float64)
    for update, scheduler in updates_of(reference):
        (expected,) = scheduler.get_last_beta()
        assert course.at(update, {"nu": 0.9})["nu"] == pytest.approx(expected, rel=1e-12)
        values = torch.as_tensor(course.at(update, {"nu": batch})["nu"], dtype=torch.float64)
        values = values.broadcast_to(3)
        assert values[0].item() == pytest.approx(expected, rel=1e-12)
        assert values[1].item() == course.at(update, {"nu": 0.5})["nu"]


# In a run -----------------------------------------------------------------------------------------


def test_a_member_of_a_scheduled_batch_is_what_it_is_alone(make: Maker):
    common = (
        "task=rosenbrock", "task.updates=400", "task.mean_over=100", "schedule.lr.shape=cosine",
        "schedule.lr.warmup=50", "schedule.nu.shape=raise", "schedule.nu.end=0.999",
        "schedule.nu.begin=100", "schedule.mu.shape=linear", "schedule.mu.end=0.5",
    )  # fmt: skip
    numbers = {}
    for nu in ("[0.5,0.9]", "0.5", "0.9"):
        settings = make(*common, f"optimizer.nu={nu}", "optimizer.lr=0.05")
        assert execute(settings) == "finished"
        numbers[nu] = json.loads((settings.folder / "summary.json").read_text())["x_mean"]
    assert numbers["[0.5,0.9]"] == numbers["0.5"] + numbers["0.9"]
    assert numbers["0.5"] != numbers["0.9"]


def test_the_nu_of_the_figure_is_a_schedule_of_steps(make: Maker, start):
    small = ("task=mnist_divergence", "scale=smoke", "optimizer.nu=[0.5,0.9]")
    figure = start(make(*small, "task.later_nu=0.999", "task.later_from=50"))
    general = start(
        make(
            *small, "schedule.nu.shape=steps", "schedule.nu.milestones=[50]",
            "schedule.nu.values=[0.999]",
        )
    )  # fmt: skip
    for update in (0, 49):
        assert figure.hyper(update)["nu"].tolist() == [0.5, 0.9]
        assert general.hyper(update)["nu"].tolist() == [0.5, 0.9]
    for update in (50, 99):
        assert figure.hyper(update)["nu"] == general.hyper(update)["nu"] == 0.999


SCHEDULE = {
    "lr": {"shape": "cosine", "warmup": 4, "over": 20, "end": 0.1},
    "nu": {"shape": "raise", "begin": 3, "over": 10, "end": 0.999},
    "mu": {"shape": "linear", "over": 12, "end": 0.5},
}


def schedule() -> Schedule:
    return Schedule(
        lr=LrSchedule(**SCHEDULE["lr"]),
        mu=BetaSchedule(**SCHEDULE["mu"]),
        nu=BetaSchedule(**SCHEDULE["nu"]),
    )


def test_a_torch_optimizer_follows_also_after_a_resume(toy: Maker, start, monkeypatch):
    from experiments import toy as module

    monkeypatch.setattr(module, "updates", lambda cfg: cfg.steps, raising=False)
    param = torch.nn.Parameter(torch.ones(2))

    def follow(run: Run, until: int) -> list[tuple[float, float, float]]:
        optimizer = run.optimizer([param], weight_decay=1e-4)
        run.track(optimizer=optimizer)
        values = []
        for step in run.steps(12):
            if step == until:
                run.checkpoint()
                break
            (group,) = optimizer.param_groups
            values.append((group["lr"], *group["betas"], group["weight_decay"]))
            param.grad = torch.ones(2)
            optimizer.step()
        return values

    settings = toy(_schedule=schedule())
    whole = follow(start(settings), 99)
    course = Course(schedule(), Schedule(), 12)
    first = {"lr": 0.01, "mu": 0.9, "nu": 0.99}
    for update, (lr, mu, nu, decay) in enumerate(whole):
        expected = course.at(update, first)
        assert (lr, mu, nu) == (expected["lr"], expected["mu"], expected["nu"])
        assert decay == 1e-4 * course.factor(update)
    assert len(set(whole)) == 12
    interrupted = toy(_schedule=schedule(), _seed=1)
    before = follow(start(interrupted), 7)
    assert before + follow(start(interrupted), 99) == whole


def test_momentum_of_another_name_and_another_decay(make: Maker, start):
    common = ("task=rainbow", "optimizer.lr=0.5")
    nu = ("schedule.mu.shape=steps", "schedule.mu.milestones=[1]", "schedule.mu.values=[0.25]")
    run = start(make(*common, "optimizer=sgd", *nu))
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    sgd = run.optimizer([{"params": [param], "momentum": 0.75}])
    assert sgd.param_groups[0]["momentum"] == 0.75
    sgd.step()
    assert sgd.param_groups[0]["momentum"] == 0.25
    decay = ("optimizer.weight_decay=1e-3", "optimizer.decay_by_lr=true", "schedule.lr.warmup=4")
    for name in ("adamw", "laprop"):  # their own product with lr has the factor already
        run = start(make(*common, f"optimizer={name}", *decay))
        (group,) = run.optimizer([param]).param_groups
        assert (group["lr"], group["weight_decay"]) == (0.125, 1e-3)


def test_a_schedule_that_a_task_ignores_fails_the_run(make: Maker, start):
    run = start(make("task=rosenbrock", "schedule.lr.shape=cosine"))
    with pytest.raises(RuntimeError, match=r"^schedule: rosenbrock did not use it; .*run.hyper"):
        run.finish()


# Keys and refusals --------------------------------------------------------------------------------


def test_a_schedule_is_part_of_the_key_and_its_default_is_not(make: Maker):
    plain = make("task=rosenbrock")
    assert "schedule" not in plain.decisive()
    assert make("task=rosenbrock", "schedule.lr.shape=constant").key == plain.key
    keys = {plain.key}
    for end in ("0.99", "0.999"):
        settings = make("task=rosenbrock", "schedule.nu.shape=raise", f"schedule.nu.end={end}")
        assert settings.decisive()["schedule"] == {"nu": {"shape": "raise", "end": float(end)}}
        keys.add(settings.key)
    assert len(keys) == 3


def test_tables_and_labels_have_columns_for_options_and_schedules():
    every = expand(
        [
            "task=rosenbrock", "optimizer.centered=true,false", "schedule.nu.shape=raise",
            "schedule.nu.end=0.99,0.999",
        ]
    )  # fmt: skip
    axes = varying([described(settings) for settings in every])
    assert {"centered": "optimizer.centered", "nu_end": "schedule.nu.end"}.items() <= axes.items()
    frame = pd.concat([rows(described(settings), axes) for settings in every])
    assert frame.nu_end.tolist() == [0.99, 0.999, 0.99, 0.999]
    assert [str(value).lower() for value in frame.centered] == ["true", "true", "false", "false"]
    assert len(set(labels(every))) == 4
    assert all("nu_end 0.99" in label for label in labels(every))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("schedule.nu=raise", "schedule.nu=raise: give its shape as schedule.nu.shape"),
        ("schedule.nux.shape=raise", "schedule.nux: unknown; allowed are lr, mu, nu"),
        ("schedule.nu.shape=rise", r"schedule.nu.shape=rise: .* \(did you mean raise\?\)"),
        ("schedule.nu.until=5", "schedule.nu.until=5: unknown; allowed are shape, begin, over, e"),
        ("schedule.nu.shape=raise", "schedule.nu.end: must be given, a number from 0 to below 1"),
        ("schedule.nu.shape=raise schedule.nu.end=1", "schedule.nu.end=1: must be .*less than 1"),
        ("schedule.lr.shape=raise", "schedule.lr.shape=raise: must be .*linear"),
        ("schedule.lr.end=0.1", "schedule.lr.end=0.1: is for schedule.lr.shape=linear, cosine; it"),
        ("schedule.lr.warmup=-3", "schedule.lr.warmup=-3: must be .* 0"),
        ("schedule.lr.shape=steps", r"schedule.lr.milestones=\[\]: must be numbers of updates in "),
        ("schedule.lr.shape=steps schedule.lr.milestones=[9,3]", r"schedule.lr.milestones=\[9,3\]"),
        (
            "schedule.nu.shape=steps schedule.nu.milestones=[3]",
            r"schedule.nu.values=\[\]: must be as many as milestones, 1",
        ),
        (
            "optimizer=sgd schedule.nu.shape=linear schedule.nu.end=0.5",
            "schedule.nu.shape=linear: sgd has no nu; it has lr, mu",
        ),
        (
            "task=limits schedule.lr.warmup=3",
            "schedule.lr.warmup=3: limits does not follow schedule",
        ),
        (
            "task=style_transfer optimizer=lbfgs schedule.lr.warmup=3",
            "schedule.lr.warmup=3: style_transfer does not follow schedule.* with lbfgs",
        ),
        ("task=rainbow schedule.lr.shape=cosine", "schedule.lr.over: must be given, a number of u"),
    ],
)
def test_a_bad_schedule_is_refused_in_one_line(make: Maker, overrides: str, line: str):
    with pytest.raises(ConfigError, match=f"^{line}"):
        make("task=cifar10", *overrides.split())


def test_the_commands_of_the_docs_compose():
    lines = re.findall(r"^python -m experiments (.+?)(?: +#.*)?$", DOCS, re.MULTILINE)
    known = [line for line in lines if not re.search("mine|adamax|softmax", line)]
    assert any("schedule." in line for line in known)
    for line in known:
        words = shlex.split(line)
        runs = expand([word for word in words if word != "-m"])
        assert (len(runs) > 1) == ("-m" in words)
        for settings in runs:
            assert (settings.schedule != Schedule()) == ("schedule." in line)
