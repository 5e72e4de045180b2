"""Schedules of lr, mu and nu in a training: ``schedule.lr``, ``schedule.mu``, ``schedule.nu``.

All times are numbers of updates, that is, of steps of the optimizer. The values of an update depend
on its number alone, so a resumed run gets the same values as an undisturbed one, and a member of a
batch the same as a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
"""The settings that each shape uses; a schedule of lr uses ``warmup`` too."""


@settings
class LrSchedule:
    """A factor of ``optimizer.lr``: it begins at 1, or rises to 1 in a warm-up.

    If the settings do not scale the weight decay by lr, this factor multiplies it too (B.3).

    Attributes:
        shape: ``linear`` and ``cosine`` change the factor from 1 to ``end``, ``steps`` multiplies
            it at each milestone.
        warmup: number of first updates in which the factor rises linearly; it is 1 in the last.
        begin: number of updates before the change begins; it never begins before the warm-up ends.
        over: number of updates that the change takes; null: all updates that are left.
        end: the last factor.
        milestones: for ``steps``, the numbers of updates after which the factor is multiplied.
        factor: for ``steps``, the number that it is multiplied by.
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
        if way == 1.0:  # exactly the end, without rounding errors
            return self.end
        return {"linear": linear, "cosine": cosine}[self.shape](1.0, self.end, way)


@settings
class BetaSchedule:
    """A schedule of mu or nu, which begins at the optimizer's own value.

    Attributes:
        shape: ``linear`` and ``cosine`` change the value itself; ``raise`` multiplies 1 - value by
            the same factor in each update, which suits values near 1; ``steps`` sets new values at
            milestones.
        begin: number of updates before the change begins.
        over: number of updates that the change takes, 0 for a jump; null: all that are left.
        end: the last value.
        milestones: for ``steps``, the numbers of updates after which the value changes.
        values: for ``steps``, the new value for each milestone.
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
        if way in (0.0, 1.0):  # exactly either end, without rounding errors
            return self.end if way else initial
        shapes: dict[str, Callable[..., Hyper]]
        shapes = {"linear": linear, "cosine": cosine, "raise": raised}
        return shapes[self.shape](initial, self.end, way)


@settings
class Schedule:
    """The schedules of lr, mu and nu; by default they are constant."""

    lr: LrSchedule = LrSchedule()
    mu: BetaSchedule = BetaSchedule()
    nu: BetaSchedule = BetaSchedule()


def progress(update: int, begin: int, over: int | None, total: int | None) -> float:
    """The share of a change that has been made before an update: 0 at first, 1 after its end."""
    if over is None:
        assert total is not None
        over = total - begin
    if update < begin:
        return 0.0
    return min((update - begin) / over, 1.0) if over > 0 else 1.0


class Course:
    """The values of lr, mu and nu in each update.

    Args:
        schedule: the schedule of the settings.
        own: the task's own schedule, for what the settings leave constant.
        total: number of updates of the whole training, or None if it is not known.
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
            update: number of the update.
            start: the first values, each a float or a tensor over the members of a batch.
        """
        values = dict(start)
        for name in self.changing.keys() & start.keys():
            if name == "lr":
                values[name] = start[name] * self.factor(update)
            else:
                values[name] = self.changing[name].at(start[name], update, self._total)
        return values


class Follower:
    """Sets the scheduled values of a torch optimizer, at first and after each of its steps.

    Args:
        optimizer: a new optimizer, whose param groups have their first values.
        settings: the settings of the optimizer.
        course: the values to set.

    Attributes:
        update: number of steps that the optimizer has made. To resume, set it and call
            :meth:`apply`.
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
        # A class with the option decay_by_lr makes the paper's decay if this option is off. That
        # decay does not scale with lr, so it is scheduled here.
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
        plain: the composed values of ``schedule``.
        task: module of the task that will follow the schedule.
        task_name: name of the task.
        cfg: settings of the task.
        optimizer: name of the optimizer.

    Raises:
        ConfigError: the message names the setting, its value and what is allowed.
    """
    kinds = {"lr": LrSchedule, "mu": BetaSchedule, "nu": BetaSchedule}
    if not isinstance(plain, Mapping):
        raise ConfigError(f"schedule={shown(plain)}: give a shape as schedule.lr.shape")
    for name in plain.keys() - kinds.keys():
        raise ConfigError(f"schedule.{name}: unknown; allowed are lr, mu, nu")
    parts: dict[str, Any] = {}
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
            raise ConfigError(f"{setting}: {optimizer} has no {name}; it has {', '.join(known)}")
        if "over" in USES[part.shape] and part.over is None and total is None:
            raise ConfigError(
                f"schedule.{name}.over: must be given, a number of updates: {task_name} does not "
                "say how many it makes"
            )
        if total is not None:
            _refuse_late(name, part, total)
    for name in Course(Schedule(), own_schedule(task, cfg), total).changing:
        if name not in (known := hyperparameters(optimizer)):
            raise ConfigError(
                f"optimizer={optimizer}: has no {name}, which the settings of task={task_name} "
                f"change; it has {', '.join(known)}"
            )
    return schedule


def _refuse_late(name: str, part: LrSchedule | BetaSchedule, total: int) -> None:
    """Refuse a schedule that would begin after the last update, or be in its warm-up until then."""
    for field in ("warmup", "begin", "milestones"):
        value = getattr(part, field, 0)
        first = min(value, default=0) if isinstance(value, tuple) else value
        if first and first >= total:
            which = "the first must" if isinstance(value, tuple) else "must"
            raise ConfigError(
                f"schedule.{name}.{field}={shown(value)}: {which} be below {total}, the number of "
                "updates of the run"
            )


def updates(task: ModuleType, cfg: Any) -> int | None:
    """The number of updates of a training, or None if its task does not tell."""
    return task.updates(cfg) if hasattr(task, "updates") else None


def own_schedule(task: ModuleType, cfg: Any) -> Schedule:
    """The schedule that a task makes of its own settings, or a constant one."""
    return task.schedule(cfg) if hasattr(task, "schedule") else Schedule()


def _refuse_unused(name: str, part: LrSchedule | BetaSchedule) -> None:
    """Refuse settings that a shape does not use, and ask for those that it needs."""
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
