"""Claims about Figure 5a, IWSLT14, and about the map of learning rates and depths around it."""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import interval, paired_difference
from scripts.claims.measured import Measured

MARGIN = 0.5  # bits below what knowing the frequencies of the words alone gives


def outcome(runs: pd.DataFrame) -> tuple[str, str]:
    """Who got stuck at one learning rate and depth, and the numbers.

    Stuck is a final loss within MARGIN of that of a decoder that knows how frequent each token is
    and nothing else: as low as that, every one gets at once. A run that diverged is stuck.

    Args:
        runs: of both optimizers, one row per seed.

    Returns:
        ``adam``, ``laprop``, ``both`` or ``neither``; ``open`` where an interval over seeds
        reaches over the line.
    """
    line = runs.unigram_loss.mean() - MARGIN
    sides, numbers = {}, []
    for optimizer in ("adam", "laprop"):
        arm = runs[runs.optimizer == optimizer]
        centre, low, high = interval(arm.final_loss.fillna(line + MARGIN))
        sides[optimizer] = True if low > line else False if high < line else None
        bleu = f" (BLEU {arm.bleu.mean():.1f})" if arm.bleu.notna().any() else ""
        numbers.append(f"{optimizer} {centre:.2f} [{low:.2f}, {high:.2f}]{bleu}")
    loss = runs.pivot(index="seed", columns="optimizer", values="final_loss").dropna()
    if len(loss):
        gap, low, high = paired_difference(loss.laprop, loss.adam)
        numbers.append(f"difference {gap:+.2f} [{low:+.2f}, {high:+.2f}]")
    text = f"{', '.join(numbers)}, line {line:.2f}"
    if None in sides.values():
        return "open", text
    stuck = [optimizer for optimizer, side in sides.items() if side]
    return ("both" if len(stuck) == 2 else "neither" if not stuck else stuck[0]), text


def iwslt_no_warmup(results: Results) -> Measured:
    """Held where in some cell Adam alone is stuck without warmup, in none LaProp alone.

    A cell is a learning rate and a depth. Not held where in none Adam alone is, and none is open,
    unless both are stuck with warmup too: then the runs are too short to tell.
    """
    warm = results.runs[results.runs.warmup > 0] if "warmup" in results.runs else None
    runs = results.runs if warm is None else results.runs.drop(warm.index)
    axes = [axis for axis in ("lr", "layers") if axis in runs]
    text, verdicts = [], set()
    for cell, rows in runs.groupby(axes) if axes else [((), runs)]:
        who, numbers = outcome(rows)
        where = [f"{axis} {value:g}" for axis, value in zip(axes, cell, strict=True)]
        text.append(", ".join([*where, numbers, f"stuck: {who}"]))
        verdicts.add(who)
    held = None
    if "adam" in verdicts and "laprop" not in verdicts:
        held = True
    elif not verdicts & {"adam", "open"}:
        held = False
    if warm is not None:
        who, numbers = outcome(warm)
        text.append(f"with warmup: {numbers}, stuck: {who}")
        if held is False and verdicts == {"both"} and who == "both":
            held = None
    return Measured(f"final loss in bits, without warmup: {'; '.join(text)}", held)
