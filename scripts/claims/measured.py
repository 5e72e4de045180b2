"""What a claim's function returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """The measurement behind a verdict.

    Attributes:
        text: what was measured, with its interval; Markdown without line breaks.
        held: whether the claim held; None where the interval decides neither way.
    """

    text: str
    held: bool | None


def decided(low: float, high: float) -> bool | None:
    """Whether an interval is above 0; None where it holds 0."""
    return True if low > 0 else False if high < 0 else None


def every(verdicts: list[bool | None]) -> bool | None:
    """False where one is false, else None where one is open, else true."""
    return False if False in verdicts else None if None in verdicts else True
