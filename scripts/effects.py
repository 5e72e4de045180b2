"""The effects that claims measure: numbers with an interval, which a claim prints and a page draws.

Effects have different units, so each claim has its own scale. The vertical line is at 0 for a
difference, and at 1 for a ratio, whose scale is logarithmic. The frame reaches to the furthest end
of the intervals, but for a ratio at least from 1 / 1.1 to 1.1. The scale of a share goes from 0 to
100 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from experiments.common.stats import Estimate, interval, proportion

KINDS = ("difference", "ratio", "share")


@dataclass(frozen=True)
class Effect:
    """A number with its interval; as a string it is the text in the measurement.

    Attributes:
        text: the number and its interval, as printed.
        kind: one of KINDS.
        centre, low, high: the number and the ends of its interval, which are NaN if there is none.
            A ratio is given as itself, not as its logarithm, and a share is from 0 to 1.
    """

    text: str
    kind: str
    centre: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Change:
    """How far the other reading of a discrepancy changes a result, in per cent, with an interval.

    Attributes:
        number: the result, in words.
        centre, low, high: the change and the ends of its 95 % interval.
    """

    number: str
    centre: float
    low: float
    high: float

    @classmethod
    def of(cls, number: str, change: Estimate) -> Self:
        """The change of a number as it was estimated."""
        return cls(number, change.centre, change.low, change.high)

    @property
    def clear(self) -> bool:
        """Whether the whole interval is on one side of 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.number} {self.centre:+.2g} {interval(self.low, self.high, '+.2g')} %"


def difference(gap: Estimate, spec: str = "+.2f") -> Effect:
    """A difference, with 0 for none, as ``+0.12 [+0.05, +0.19]``."""
    return Effect(f"{gap:{spec}}", "difference", gap.centre, gap.low, gap.high)


def percent(log: Estimate) -> tuple[float, float, float]:
    """The logarithm of a ratio, and the ends of its interval, as changes in per cent."""
    return 100 * math.expm1(log.centre), 100 * math.expm1(log.low), 100 * math.expm1(log.high)


def percentage(gap: Estimate) -> Effect:
    """The logarithm of a ratio as a change in per cent, ``+5.7% [+3.3%, +8.2%]``."""
    centre, low, high = (change / 100 for change in percent(gap))
    return Effect(f"{centre:+.1%} {interval(low, high, '+.1%')}", "difference", centre, low, high)


def ratio(log: Estimate, spec: str = ".3f") -> Effect:
    """The logarithm of a ratio as the ratio, with 1 for none, ``0.973 [0.951, 0.995]``."""
    centre, low, high = (math.exp(end) for end in (log.centre, log.low, log.high))
    return Effect(f"{centre:{spec}} {interval(low, high, spec)}", "ratio", centre, low, high)


def share(successes: int, trials: int) -> Effect:
    """A share with Wilson's interval, ``67% [44%, 84%]``."""
    centre, low, high = (float(end) for end in proportion(successes, trials))
    return Effect(f"{centre:.0%} [{low:.0%}, {high:.0%}]", "share", centre, low, high)


def mean_share(of: Estimate) -> Effect:
    """A mean of shares, ``13.3% [0.0%, 27.8%]``; its interval ends at 0 and at 1."""
    low, high = max(of.low, 0.0), min(of.high, 1.0)
    return Effect(f"{of.centre:.1%} {interval(low, high, '.1%')}", "share", of.centre, low, high)


def magnitude(centre: float, low: float, high: float) -> tuple[float, float, float]:
    """A number without its sign, and its interval turned with it: for "lower by 5 [3, 7]"."""
    return (centre, low, high) if centre >= 0 else (-centre, -high, -low)


def placed(effects: Sequence[Effect]) -> list[tuple[Effect, tuple[float, float, float]]]:
    """The effects of a claim that can be drawn together, each with its positions.

    Only effects of the most frequent kind, with an interval, are drawn.

    Returns:
        each effect with the positions of low, centre and high, from 0 at the left edge to 1 at the
        right edge.
    """
    found = [effect for effect in effects if math.isfinite(effect.low + effect.high)]
    if not found:
        return []
    kinds = [effect.kind for effect in found]
    kind = max(KINDS, key=kinds.count)
    found = [effect for effect in found if effect.kind == kind]
    level = math.log if kind == "ratio" else float
    ends = [[level(x) for x in (e.low, e.centre, e.high)] for e in found]
    least = math.log(1.1) if kind == "ratio" else 1e-12
    furthest = max(least, *(abs(x) for row in ends for x in row))
    line, reach = (0.0, 1.0) if kind == "share" else (0.5, 2 * furthest)
    places = [(line + a / reach, line + b / reach, line + c / reach) for a, b, c in ends]
    return list(zip(found, places, strict=True))
