"""Claims about Figure 5a, IWSLT14."""

from experiments.common.records import Results
from experiments.common.stats import interval, paired_difference
from scripts.claims.measured import Measured

MARGIN = 0.5  # bits below what knowing the frequencies of the words alone gives


def iwslt_no_warmup(results: Results) -> Measured:
    """Without warmup Adam's final loss stays within MARGIN of the words' frequencies, LaProp's not.

    Held where the intervals over seeds of both lie on their sides of that line; not where either
    lies on the other. The line is the loss of a decoder that knows how frequent each token is and
    nothing else: that low, every one gets at once.
    """
    runs = results.runs[results.runs.warmup == 0].set_index("seed")
    line = runs.unigram_loss.mean() - MARGIN
    loss = {o: runs[runs.optimizer == o].final_loss for o in ("adam", "laprop")}
    # A run that diverged has learnt nothing: it stays at the line.
    ends = {o: values.fillna(line + MARGIN) for o, values in loss.items()}
    (adam, a_low, a_high), (laprop, l_low, l_high) = (interval(v) for v in ends.values())
    centre, low, high = paired_difference(ends["laprop"], ends["adam"])
    text = (
        f"final loss without warmup: Adam {adam:.2f} [{a_low:.2f}, {a_high:.2f}], LaProp "
        f"{laprop:.2f} [{l_low:.2f}, {l_high:.2f}] bits, LaProp minus Adam {centre:+.2f} "
        f"[{low:+.2f}, {high:+.2f}]; stuck is above {line:.2f}, {MARGIN:g} below the loss "
        "that the words' frequencies alone give"
    )
    if a_low > line and l_high < line:
        return Measured(text, True)
    return Measured(text, False if a_high < line or l_low > line else None)
