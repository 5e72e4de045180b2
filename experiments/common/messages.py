"""Errors of input, each as one line that names the key, its value and what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ValidationError

T = TypeVar("T")
KINDS = {  # what a value must be, by the first word of pydantic's type of error
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, such as [1,2]",
    "tuple": "a list, such as [1,2]",
    "string": "a text (quote what looks like a number: 'key=\"1\"')",
}


class ConfigError(Exception):
    """Bad input; the message is one line, which the user sees."""


def checked(schema: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """An instance of a settings class from values.

    Raises:
        ConfigError: pydantic refused a value; the message is ``key=value: what is allowed``.
    """
    try:
        result = schema(**values)
    except ValidationError as error:
        errors: dict[Any, list[str]] = {}  # by value; `int | float` gives one for each alternative
        for e in error.errors():
            missing = e["loc"][-1:] * (e["type"] == "missing")  # the place is where it would be
            place = *_place(e["loc"], values), *missing
            errors.setdefault(place, []).append(_problem(e, schema, prefix))
        # For `int | list`, a list with one wrong member fails both alternatives. Only the error
        # inside the list is kept.
        wrong = [
            problems
            for place, problems in errors.items()
            if not any(other != place and other[: len(place)] == place for other in errors)
        ]
        raise ConfigError("; ".join(map(_either, wrong))) from None
    for name, value in values.items():  # pydantic takes true for 1
        pairs = zip(_several(value), _several(getattr(result, name)), strict=False)
        if any(isinstance(given, bool) and not isinstance(taken, bool) for given, taken in pairs):
            raise ConfigError(f"{prefix}{name}={shown(value)}: must be a number, not true or false")
    return result


def _place(loc: Sequence[Any], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The keys and indices of an error's place, without pydantic's names of alternatives."""
    place, value = [], values
    for part in loc:
        inside = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if inside or (isinstance(value, Mapping) and part in value):
            place.append(part)
            value = value[part]
    return tuple(place) or tuple(loc[:1])


def _either(problems: list[str]) -> str:
    """The errors of one value as one: it must fulfil one of them. A whole number is a number."""
    if any(problem.endswith(f"must be {KINDS['float']}") for problem in problems):
        problems = [problem for problem in problems if not problem.endswith(KINDS["int"])]
    first, *others = dict.fromkeys(problems)
    return " or ".join([first, *(text.partition(": must be ")[2] or text for text in others)])


def _several(value: Any) -> Sequence[Any]:
    """The values of a list, or one value as a list."""
    return value if isinstance(value, list | tuple) else [value]


def _problem(error: Any, schema: Any, prefix: str) -> str:
    """One of pydantic's errors as a line."""
    name = str(error["loc"][0]) if error["loc"] else ""
    key, value = prefix + name, shown(error["input"])
    if error["type"] == "unexpected_keyword_argument":
        return str(unknown(key, value, name, [f.name for f in fields(schema) if f.name != "name"]))
    if error["type"] in ("value_error", "assertion_error"):  # from a check in the task's own class
        return f"{key}={value}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    kind, _, wrong = error["type"].partition("_")  # such as int_parsing
    if kind in KINDS and wrong in ("type", "parsing", "from_float"):
        return f"{key}={value}: must be {KINDS[kind]}"
    what = str(error["msg"]).replace("Input should be", "must be")
    if error["type"] == "too_short":
        return f"{key}={value}: must not be empty"
    if error["type"] == "missing":
        *above, last = error["loc"]
        if isinstance(last, int):
            return f"{key}={value}: is too short"
        return f"{key}.{last}: missing" if above else f"{key}: missing"
    allowed = re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))
    return f"{key}={value}: {what}{near(value, allowed)}"


def unknown(key: str, value: str, name: str, allowed: Sequence[str]) -> ConfigError:
    """The error for a name that is not one of the allowed names."""
    return ConfigError(
        f"{key}={value}: unknown{near(name, allowed)}; allowed are {', '.join(allowed)}"
    )


def near(name: str, allowed: Sequence[str]) -> str:
    """A hint at the allowed name that is most similar, or an empty text.

    Zeros before a number do not count: ``fig2`` means ``fig02`` rather than ``fig12``.
    """
    same = [other for other in allowed if _numbers_cut(other) == _numbers_cut(name)]
    matches = same or difflib.get_close_matches(name, allowed, 1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _numbers_cut(name: str) -> str:
    """A name without the zeros before its numbers."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def shown(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return str(value) if not isinstance(value, bool | None) else json.dumps(value)


def named(error: BaseException) -> str:
    """The type of an error and its text, as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors, which span lines, as one."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
