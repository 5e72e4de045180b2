"""Claims about Figure 5a, IWSLT14."""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import interval
from scripts.claims.measured import Measured

LR = "optimizer.lr"
MARGIN = 0.5  # bits below what knowing the frequencies of the words alone gives


def outcome(runs: pd.DataFrame) -> tuple[str, str]:
    """Who got stuck at one learning rate, and the numbers.

    Stuck is a final loss within MARGIN of that of a decoder that knows how frequent each token is
    and nothing else: as low as that, every one gets at once. A run that diverged is stuck.

    Args:
        runs: of both optimizers without warmup, one row per seed.

    Returns:
        ``adam``, ``laprop``, ``both`` or ``neither``; ``open`` where an interval over seeds
        reaches over the line.
    """
    line = runs.unigram_loss.mean() - MARGIN
    sides, numbers = {}, []
    for optimizer in ("adam", "laprop"):
        loss = runs[runs.optimizer == optimizer].final_loss.fillna(line + MARGIN)
        centre, low, high = interval(loss)
        sides[optimizer] = True if low > line else False if high < line else None
        numbers.append(f"{optimizer} {centre:.2f} [{low:.2f}, {high:.2f}]")
    text = f"{', '.join(numbers)}, line {line:.2f}"
    if None in sides.values():
        return "open", text
    stuck = [optimizer for optimizer, side in sides.items() if side]
    return ("both" if len(stuck) == 2 else "neither" if not stuck else stuck[0]), text


def iwslt_no_warmup(results: Results) -> Measured:
    """Held where at some learning rate Adam alone is stuck without warmup, at none LaProp alone.

    Not held where at none Adam alone is, and none is open.
    """
    runs = results.runs[results.runs.warmup == 0]
    rates = runs.groupby("lr") if "lr" in runs else [(results.manifest["settings"][LR], runs)]
    found = {lr: outcome(cell) for lr, cell in rates}
    text = "; ".join(f"lr {lr:g}: {numbers}, stuck: {who}" for lr, (who, numbers) in found.items())
    who = {verdict for verdict, _ in found.values()}
    held = None
    if "adam" in who and "laprop" not in who:
        held = True
    elif not who & {"adam", "open"}:
        held = False
    return Measured(f"final loss without warmup, bits: {text}", held)
