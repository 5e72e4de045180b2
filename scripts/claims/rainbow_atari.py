"""Claims about Rainbow's training curves on Atari itself, compared as those of Figure 11."""

from experiments.common.records import Results
from scripts.claims import fig11
from scripts.claims.measured import Measured


def rainbow_earlier_atari(results: Results) -> Measured:
    """As fig11's, on these games: each with its own epsilon."""
    return fig11.rainbow_earlier(results)


def rainbow_earlier_equal_atari(results: Results) -> Measured:
    """As fig11's, on these games: at either epsilon."""
    return fig11.rainbow_earlier_equal(results)
