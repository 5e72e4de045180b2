"""What the functions of the claims share: what they return, how an interval decides, names."""

from dataclasses import dataclass

NAMES = {"adam": "Adam", "amsgrad": "AMSGrad", "laprop": "LaProp", "amsprop": "AmsProp"}


@dataclass(frozen=True)
class Measured:
    """The measurement behind a verdict.

    Attributes:
        text: what was measured, with its interval; Markdown without line breaks.
        held: whether the claim held; None where the interval decides neither way.
    """

    text: str
    held: bool | None


def decided(low: float, high: float, least: float = 0.0) -> bool | None:
    """Whether an interval is above ``least``; None where it holds it."""
    return True if low > least else False if high < least else None


def every(verdicts: list[bool | None]) -> bool | None:
    """False where one is false, else None where one is open, else true."""
    return False if False in verdicts else None if None in verdicts else True
