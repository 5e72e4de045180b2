"""Overrides of the command line, such as ``optimizer.nu=0.9``, parsed by Hydra's grammar."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException

from experiments.common import CONFIGS
from experiments.common.messages import ConfigError, unknown
from experiments.common.optimizers import HYPERPARAMETERS
from experiments.common.settings import Settings

# Hydra's settings that launchers use, besides those of the launcher itself.
OF_HYDRA = ("hydra/launcher", "hydra.sweep.dir", "hydra.job.env_set", "hydra.job.env_copy")
GROUPS = ("task", "optimizer", "figure", "tracking")  # folders of CONFIGS


def options(group: str) -> list[str]:
    """The names of the files in a folder of ``configs``, which are the only registry."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


@cache
def parsed(text: str) -> Override:
    """The parsed override, after a check of its grammar and of its top-level key."""
    override = _in_grammar(text)
    key = override.key_or_group
    first = re.split("[./]", key)[0]
    known = [field.name for field in fields(Settings) if field.name != "task_name"]
    value = text.partition("=")[2]
    if first in HYPERPARAMETERS:
        raise ConfigError(f"{text}: unknown (did you mean optimizer.{text}?)")
    if first not in (*known, "hydra"):
        raise unknown(key, value, first, known)
    if first != "hydra" and ("/" in key or override.package is not None):
        dotted = key.replace("/", ".")
        raise ConfigError(f"{text}: unknown (did you mean {dotted}={value}?)")
    named = override.is_sweep_override() or isinstance(override.value(), str)
    if key in ("hydra", "hydra.launcher") or (key == "hydra/launcher" and not named):
        raise ConfigError(f"{text}: unknown; a launcher is chosen by hydra/launcher=NAME")
    if first == "hydra" and not (key in OF_HYDRA or key.startswith("hydra.launcher.")):
        allowed = ", ".join((*OF_HYDRA, "hydra.launcher.KEY"))
        raise ConfigError(f"{text}: has no effect here; of Hydra's settings allowed are {allowed}")
    if override.is_delete():
        raise ConfigError(f"{text}: a setting cannot be removed; give it another value")
    if key in GROUPS and not named:
        several = override.value()
        hint = ""
        if isinstance(several, list):
            names = ",".join(map(str, several))
            hint = f'; several are a sweep, {key}={names}, or in a grid {key}: "{names}"'
        raise ConfigError(f"{text}: must be one of {', '.join(options(key))}{hint}")
    if key in [f"{group}.name" for group in GROUPS]:
        raise ConfigError(f"{key}={value}: is chosen by {key.removesuffix('.name')}={value}")
    return override


def _in_grammar(text: str) -> Override:
    """The override parsed by Hydra's grammar, which allows letters beyond ASCII only in quotes.

    A value with such letters that the grammar cannot parse is quoted first. An output folder is
    taken as it is typed, unless the user quotes it.
    """
    parse = OverridesParser.create().parse_overrides
    key, equals, value = text.partition("=")
    if key == "output" and equals and not (value[:1] in "'\"" and value[:1] == value[-1:]):
        return replace(parse(["output=x"])[0], _value=literal(value), input_line=text)
    try:
        return parse([text])[0]
    except OverrideParseException as error:
        if equals and key.isascii() and not value.isascii():
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            with suppress(OverrideParseException):
                return parse([f"{key}='{quoted}'"])[0]
        if not key or not equals:
            why = "must be key=value, without a space beside ="
        elif value.endswith(","):
            why = "a value is missing after the last comma"
        else:
            why = (
                f"not key=value in Hydra's grammar ({str(error).splitlines()[0]}); quote a value "
                "that has = , or brackets in it"
            )
        raise ConfigError(f"{text}: {why}") from None


def literal(text: str) -> str:
    """A text in which OmegaConf takes no ``${`` for a reference."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def choices(text: str) -> list[str]:
    """An override with one value as it is, or a sweep as one override for each value.

    Raises:
        ConfigError: the sweep has no list of values.
    """
    override = parsed(text)
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [text]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        names = override.value().filter(options(override.key_or_group))  # type: ignore[union-attr]
        return _some(text, [f"{key}={name}" for name in names])
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{text}: an interval has no list of values; allowed are a,b,c and range()"
        )
    try:
        return _some(text, [f"{key}={value}" for value in override.sweep_string_iterator()])
    except ValueError as error:  # such as a range whose step is 0
        raise ConfigError(f"{text}: {error}") from None


def _some(text: str, found: list[str]) -> list[str]:
    """These overrides, after a check that there is at least one."""
    if not found:
        raise ConfigError(f"{text}: the sweep has no values")
    return found


def decides(override: str) -> bool:
    """Whether an override changes which runs there are, beyond naming the figure and the scale."""
    return re.split("[./=]", parsed(override).key_or_group)[0] in (
        *("task", "optimizer", "schedule", "seed"),
    )


def names_a_file(override: str) -> bool:
    """Whether an override chooses a file of ``configs``, or the scale, which is a block of one."""
    return parsed(override).key_or_group in (*GROUPS, "scale")


def of_hydra(override: str) -> bool:
    """Whether an override is a setting of Hydra itself, ``hydra/launcher=joblib``."""
    return parsed(override).key_or_group.startswith("hydra")
