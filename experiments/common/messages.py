"""Errors of input as one line each, which names the key, its value and what is allowed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class ConfigError(Exception):
    """Bad input: its text is the one line that the user sees."""


def checked(schema: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Validate one dataclass; pydantic's errors become ``key=value: what is allowed``."""
    adapter = TypeAdapter(schema)
    try:
        result = adapter.validate_python(values)
    except ValidationError as error:
        nodes = adapter.json_schema().get("properties", {})
        raise ConfigError("; ".join(_problem(e, nodes, prefix) for e in error.errors())) from None
    for name, value in values.items():  # pydantic takes true for 1
        if isinstance(value, bool) and not isinstance(getattr(result, name), bool):
            words = _in_words(adapter.json_schema()["properties"][name])
            raise ConfigError(f"{prefix}{name}={shown(value)}: must be {words}")
    return result


def _problem(error: Any, nodes: Mapping[str, Any], prefix: str) -> str:
    """One of pydantic's errors as a line; ``nodes``: the JSON schema of each field."""
    name = str(error["loc"][0]) if error["loc"] else ""
    key, value = prefix + name, shown(error["input"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return str(unknown(key, value, name, [node for node in nodes if node != "name"]))
    if error["type"] in ("value_error", "assertion_error"):  # of a check that the task wrote itself
        return f"{key}={value}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return f"{key}: missing; must be {_in_words(nodes[name])}"
    if error["type"] == "too_short":
        return f"{key}={value}: must not be empty"
    if error["type"] == "finite_number":
        return f"{key}={value}: must be finite"
    words = _in_words(nodes[name])
    if prefix == "optimizer.":  # null stands for a hyper-parameter that an optimizer does not have
        words = words.removesuffix(", or null")
    return f"{key}={value}: must be {words}{near(value, nodes[name].get('enum', ()))}"


def _in_words(node: Mapping[str, Any]) -> str:
    """What a JSON schema lets in, in words."""
    if "description" in node:
        return str(node["description"])
    if "enum" in node:
        return "one of " + ", ".join(map(shown, node["enum"]))
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        # An Axis is `x or a list of x`: whether the task takes the list, its AXES say.
        return ", or ".join(_in_words(o) for o in options if o.get("items") not in options)
    kind = node.get("type")
    if kind == "array":
        if "prefixItems" in node:
            return f"a list of {len(node['prefixItems'])} values"
        return f"a list, each {_in_words(node.get('items', {}))}"
    words = {
        "integer": "an integer",
        "number": "a number",
        "boolean": "true or false",
        "null": "null",
        "string": "text",
    }
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "greater than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "multipleOf": "a multiple of",
    }
    limits = " and ".join(f"{word} {node[key]}" for key, word in bounds.items() if key in node)
    noun = words.get(str(kind), str(kind)) if node.get("format") != "path" else "a path"
    return f"{noun}, {limits}" if limits else noun


def unknown(key: str, value: str, name: str, allowed: Sequence[str]) -> ConfigError:
    """The error for a name that is none of the allowed ones."""
    return ConfigError(
        f"{key}={value}: unknown{near(name, allowed)}; allowed are {', '.join(allowed)}"
    )


def near(name: str, allowed: Sequence[str]) -> str:
    """A hint at the allowed name that looks like this one, or nothing."""
    matches = difflib.get_close_matches(name, allowed, 1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def shown(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return str(value) if not isinstance(value, bool | None) else json.dumps(value)


def one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors, which span lines, as one."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
