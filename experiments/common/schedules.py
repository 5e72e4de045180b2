"""How lr, mu and nu change in the course of a training: ``schedule.lr``, ``.mu``, ``.nu``.

All times are numbers of updates, that is of steps of the optimizer. An update's values depend on
its number alone, so that a resumed run and one member of a batch get those of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from annotated_types import Ge

from experiments.common.messages import ConfigError, checked, shown
from experiments.common.optimizers import (
    Optimizer,
    by_rule,
    hyperparameters,
    slots,
    vectorised,
)
from experiments.common.schema import Nonnegative, Unit, settings
from laprop.functional import Hyper
from laprop.schedules import cosine, linear, raised

Count = Annotated[int, Ge(0)]
TO_END = ("begin", "over", "end")
USES = {
    "constant": (),
    "linear": TO_END,
    "cosine": TO_END,
    "raise": TO_END,
    "steps": ("milestones", "factor", "values"),
}
"""What each shape takes; a learning rate's takes ``warmup`` besides."""


@settings
class LrSchedule:
    """A factor of ``optimizer.lr``: it begins at 1, or rises to 1 in a warm-up.

    A weight decay that the settings do not scale by lr is multiplied by the same factor (B.3).

    Attributes:
        shape: ``linear`` and ``cosine`` change from 1 to ``end``, ``steps`` at each milestone.
        warmup: updates over which the factor rises in a line, to 1 in the last of them.
        begin: updates before the change begins; it begins after the warm-up at the earliest.
        over: updates that it takes; null: all that are left.
        end: the last factor.
        milestones: of ``steps``: numbers of updates after which the factor is multiplied.
        factor: of ``steps``: by what.
    """

    shape: Literal["constant", "linear", "cosine", "steps"] = "constant"
    warmup: Count = 0
    begin: Count = 0
    over: Count | None = None
    end: Nonnegative = 0.0
    milestones: tuple[Count, ...] = ()
    factor: Nonnegative = 0.1

    def at(self, update: int, total: int | None) -> float:
        """The factor of an update, counted from 0; ``total``: updates of the whole training."""
        if update < self.warmup:
            return (update + 1) / self.warmup
        if self.shape == "constant":
            return 1.0
        if self.shape == "steps":
            return self.factor ** sum(update >= milestone for milestone in self.milestones)
        way = progress(update, max(self.begin, self.warmup), self.over, total)
        if way == 1.0:  # to the last bit
            return self.end
        return {"linear": linear, "cosine": cosine}[self.shape](1.0, self.end, way)


@settings
class BetaSchedule:
    """mu or nu from the optimizer's own value to others.

    Attributes:
        shape: ``linear`` and ``cosine`` change the value itself; ``raise`` changes 1 - value by
            equal factors in equal times, as suits values near 1; ``steps`` jumps.
        begin: updates before the change begins.
        over: updates that it takes, 0 for a jump; null: all that are left.
        end: the last value.
        milestones: of ``steps``: numbers of updates after which the value is another one.
        values: of ``steps``: those values, one for each milestone.
    """

    shape: Literal["constant", "linear", "cosine", "raise", "steps"] = "constant"
    begin: Count = 0
    over: Count | None = None
    end: Unit | None = None
    milestones: tuple[Count, ...] = ()
    values: tuple[Unit, ...] = ()

    def at(self, initial: Hyper, update: int, total: int | None) -> Hyper:
        """The value of an update, counted from 0, whose first value is ``initial``."""
        if self.shape == "constant":
            return initial
        if self.shape == "steps":
            passed = sum(update >= milestone for milestone in self.milestones)
            return self.values[passed - 1] if passed else initial
        assert self.end is not None
        way = progress(update, self.begin, self.over, total)
        if way in (0.0, 1.0):  # to the last bit
            return self.end if way else initial
        shapes = {"linear": linear, "cosine": cosine, "raise": raised}
        return shapes[self.shape](initial, self.end, way)


@settings
class Schedule:
    """What becomes of lr, mu and nu; by default they are constant."""

    lr: LrSchedule = LrSchedule()
    mu: BetaSchedule = BetaSchedule()
    nu: BetaSchedule = BetaSchedule()


def progress(update: int, begin: int, over: int | None, total: int | None) -> float:
    """How much of a change has been made before an update: 0 before it begins, 1 after its end."""
    if over is None:
        assert total is not None
        over = total - begin
    if update < begin:
        return 0.0
    return min((update - begin) / over, 1.0) if over > 0 else 1.0


class Course:
    """The values of each update, by a schedule.

    Args:
        schedule: of the settings.
        own: the task's, for what the settings leave constant.
        total: updates of the whole training, where it is known.
    """

    def __init__(self, schedule: Schedule, own: Schedule, total: int | None) -> None:
        self._total = total
        constant = Schedule()
        parts = {
            name: getattr(own if getattr(schedule, name) == still else schedule, name)
            for name, still in ((f.name, getattr(constant, f.name)) for f in fields(Schedule))
        }
        self.changing = {
            name: part for name, part in parts.items() if part != getattr(constant, name)
        }

    def factor(self, update: int) -> float:
        """What lr, and a weight decay that does not scale with lr, are multiplied by."""
        return self.changing["lr"].at(update, self._total) if "lr" in self.changing else 1.0

    def at(self, update: int, start: Mapping[str, Any]) -> dict[str, Any]:
        """lr, mu and nu of an update, counted from 0.

        Args:
            update: its number.
            start: their first values, each a float or a tensor over the members of a batch.
        """
        values = dict(start)
        for name in self.changing.keys() & start.keys():
            if name == "lr":
                values[name] = start[name] * self.factor(update)
            else:
                values[name] = self.changing[name].at(start[name], update, self._total)
        return values


class Follower:
    """Sets the values of a torch optimizer's next update, at first and after each of its steps.

    Args:
        optimizer: whose param groups begin with their own values.
        settings: its settings.
        course: to follow.

    Attributes:
        update: steps that the optimizer has made; set it, then :meth:`apply`, to resume.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: Optimizer, course: Course
    ) -> None:
        self.update = 0
        self._optimizer, self._course, self._slots = optimizer, course, slots(settings.name)
        self._start = [
            {name: self._get(group, name) for name in course.changing}
            for group in optimizer.param_groups
        ]
        # A class that has the option decay_by_lr makes the paper's decay where it is off.
        unscaled = "decay_by_lr" in optimizer.defaults and not settings.decay_by_lr
        self._decays = [
            group["weight_decay"] if unscaled else None for group in optimizer.param_groups
        ]
        optimizer.register_step_post_hook(self._advance)
        self.apply()

    def _advance(self, *_: Any) -> None:
        self.update += 1
        self.apply()

    def apply(self) -> None:
        """Set the values of update number ``update``, counted from 0."""
        groups = zip(self._optimizer.param_groups, self._start, self._decays, strict=True)
        for group, start, decay in groups:
            for name, value in self._course.at(self.update, start).items():
                self._set(group, name, value)
            if decay is not None:
                group["weight_decay"] = decay * self._course.factor(self.update)

    def _get(self, group: dict[str, Any], name: str) -> float:
        key, index = self._slots[name]
        return float(group[key] if index is None else group[key][index])

    def _set(self, group: dict[str, Any], name: str, value: float) -> None:
        key, index = self._slots[name]
        if index is None:
            group[key] = value
        else:
            group[key] = tuple(value if i == index else v for i, v in enumerate(group[key]))


# Checks -------------------------------------------------------------------------------------------


def checked_schedule(
    plain: Mapping[str, Any], task: ModuleType, task_name: str, cfg: Any, optimizer: str
) -> Schedule:
    """The settings of ``schedule``, checked before anything runs.

    Args:
        plain: what was composed for it.
        task: module of the task that is to follow it.
        task_name: its name.
        cfg: its settings.
        optimizer: name of the optimizer.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    kinds = {"lr": LrSchedule, "mu": BetaSchedule, "nu": BetaSchedule}
    if not isinstance(plain, Mapping):
        raise ConfigError(f"schedule={shown(plain)}: give a shape as schedule.lr.shape")
    for name in plain.keys() - kinds.keys():
        raise ConfigError(f"schedule.{name}: unknown; allowed are lr, mu, nu")
    parts = {}
    for name, kind in kinds.items():
        values = plain.get(name) or {}
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"schedule.{name}={shown(values)}: give its shape as schedule.{name}.shape"
            )
        parts[name] = checked(kind, values, f"schedule.{name}.")
        _refuse_unused(name, parts[name])
    schedule = Schedule(**parts)
    total = updates(task, cfg)
    for name in Course(schedule, Schedule(), total).changing:
        part = parts[name]
        setting = (
            f"schedule.{name}.shape={part.shape}"
            if part.shape != "constant"
            else (f"schedule.{name}.warmup={part.warmup}")
        )
        if not getattr(task, "SCHEDULED", True) or (vectorised(task) and total is None):
            raise ConfigError(
                f"{setting}: {task_name} does not follow schedule.*; its hyper-parameters are "
                "constant or have a schedule of their own"
            )
        if vectorised(task) and not by_rule(optimizer, task):
            raise ConfigError(f"{setting}: {task_name} does not follow schedule.* with {optimizer}")
        if name not in (known := hyperparameters(optimizer)):
            raise ConfigError(f"{setting}: {optimizer} has {', '.join(known)} alone")
        if "over" in USES[part.shape] and part.over is None and total is None:
            raise ConfigError(
                f"schedule.{name}.over: must be given, a number of updates: {task_name} does not "
                "say how many it makes"
            )
    return schedule


def updates(task: ModuleType, cfg: Any) -> int | None:
    """How many updates a training makes, where its task says so."""
    return task.updates(cfg) if hasattr(task, "updates") else None


def own_schedule(task: ModuleType, cfg: Any) -> Schedule:
    """The schedule that a task has by its own settings."""
    return task.schedule(cfg) if hasattr(task, "schedule") else Schedule()


def _refuse_unused(name: str, part: LrSchedule | BetaSchedule) -> None:
    """Refuse what a shape does not use, and ask for what it needs."""
    default = type(part)()
    own = ("shape", "warmup", *USES[part.shape])
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name not in own and value != getattr(default, field.name):
            own = get_args(get_type_hints(type(part))["shape"])
            shapes = ", ".join(s for s in own if field.name in USES[s])
            raise ConfigError(
                f"schedule.{name}.{field.name}={shown(value)}: is for schedule.{name}.shape="
                f"{shapes}; it is {part.shape}"
            )
    if part.shape == "steps":
        rising = all(a < b for a, b in zip(part.milestones, part.milestones[1:], strict=False))
        if not part.milestones or not rising:
            raise ConfigError(
                f"schedule.{name}.milestones={shown(part.milestones)}: must be numbers of updates "
                "in rising order"
            )
        if isinstance(part, BetaSchedule) and len(part.values) != len(part.milestones):
            raise ConfigError(
                f"schedule.{name}.values={shown(part.values)}: must be as many as milestones, "
                f"{len(part.milestones)}"
            )
    elif "end" in own and part.end is None:
        raise ConfigError(f"schedule.{name}.end: must be given, a number from 0 to below 1")
