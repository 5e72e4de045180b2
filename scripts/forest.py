"""The effects of claims: the intervals that stand in what was measured, ready to be drawn.

Effects have different units, so each claim has a scale of its own: its line is at 0 for a
difference and at 1 for a ratio, which is drawn logarithmically, and the furthest end of its
intervals touches the frame; the frame of a ratio is never narrower than from 1 / 1.1 to 1.1. A
share goes from 0 to 100 %.
"""

import math
import re
from dataclasses import dataclass

NUMBER = r"[+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?"
INTERVAL = re.compile(rf"\[({NUMBER})(%?), ({NUMBER})%?\]")
RATIO = re.compile(r"\bover (that|those|fastest|LaProp's|Adam's)\b|\] of LaProp's")
KINDS = ("difference", "ratio", "share")


@dataclass(frozen=True)
class Effect:
    """A number with its interval, as printed, and where they are drawn.

    Attributes:
        text: as it stands in the measurement.
        kind: one of KINDS.
        centre, low, high: in the unit that is printed.
        places: of low, centre and high from the left edge, 0, to the right edge, 1.
    """

    text: str
    kind: str
    centre: float
    low: float
    high: float
    places: tuple[float, float, float] = (0.0, 0.5, 1.0)


def effects(measured: str) -> list[Effect]:
    """The effects in a measurement that have an interval; all of one kind, on one scale.

    An interval without a line to be compared with, as that of a loss, is none.
    """
    found, before = [], 0
    for match in INTERVAL.finditer(measured):
        low, percent, high = match.groups()
        pattern = rf"({NUMBER}){percent}(?![\d.,]*\d)"
        centres = re.findall(pattern, measured[before : match.start()])
        before = match.end()
        if not centres:
            continue
        signed = low[0] in "+-" and high[0] in "+-"
        text = f"{centres[-1]}{percent} {match[0]}"
        ratio = RATIO.search(measured) and not percent
        kind = "difference" if signed else "share" if percent else "ratio" if ratio else ""
        if kind:
            numbers = [float(x.replace(",", "")) for x in (centres[-1], low, high)]
            found.append(Effect(text, kind, *numbers))
    kinds = [effect.kind for effect in found]
    chosen = max(KINDS, key=kinds.count)
    return _placed([effect for effect in found if effect.kind == chosen])


def _placed(found: list[Effect]) -> list[Effect]:
    """The effects with their places on a common scale."""
    if not found:
        return []
    kind = found[0].kind
    level = math.log if kind == "ratio" else float
    ends = [[level(x) for x in (e.low, e.centre, e.high)] for e in found]
    least = math.log(1.1) if kind == "ratio" else 1e-12
    furthest = max(least, *(abs(x) for row in ends for x in row))
    reach = 100.0 if kind == "share" else 2 * furthest
    line = 0.0 if kind == "share" else 0.5
    return [
        Effect(e.text, e.kind, e.centre, e.low, e.high, tuple(line + x / reach for x in row))
        for e, row in zip(found, ends, strict=True)
    ]
