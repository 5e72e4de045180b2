"""Building blocks of settings: dataclasses that refuse unknown keys, and numbers with limits."""

from __future__ import annotations

from typing import Annotated, TypeVar, dataclass_transform

from annotated_types import Ge, Interval, MinLen
from pydantic import ConfigDict, Discriminator, Tag
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that refuses unknown keys and values out of range."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return dataclass(frozen=True, config=config)(cls)  # type: ignore[return-value]


Axis = Annotated[
    Annotated[T, Tag("value")] | Annotated[list[T], MinLen(1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "value"),
]
"""One value, or a list of values that a vectorised task trains as one batch: ``Axis[float]``."""

Nonnegative = Annotated[float, Ge(0)]
Unit = Annotated[float, Interval(ge=0, lt=1)]
