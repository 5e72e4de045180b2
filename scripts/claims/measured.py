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
