"""Figure 10, section 5.4 and appendix C.5: RoBERTa at three nu, without and with warmup."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, every_above, paired
from scripts import make_authors
from scripts.effects import difference
from scripts.figures.fig05 import AUTHORS, SIGMA, legend, note, own, panel
from scripts.paper import REDUCED, Measured

NUS = (0.9, 0.98, 0.999)
# Updates; until then a warmup of 10,000 keeps the rate below a twentieth of its peak.
WARMING_UP = 500


def finding(results: Results | None) -> str:
    """The title."""
    table = make_authors.load("apart")
    pairs = table[table.task == "roberta"]
    below = int((pairs.share_below == 1).sum())
    smooth = make_authors.SIGMA["iwslt"]
    of = (
        f"the authors' {len(pairs)}"
        if below == len(pairs)
        else f"{below} of the authors' {len(pairs)}"
    )
    text = (
        f"RoBERTa: LaProp's loss, smoothed by {smooth} updates, stays below Adam's in {of} "
        "pairs of runs"
    )
    if results is None:
        return text
    parts: list[str] = []
    for column, what in (("mean_loss", "mean loss"), ("final_loss", "final loss")):
        found = gains(results, column).values()
        lower, higher = sum(gain.low > 0 for gain in found), sum(gain.high < 0 for gain in found)
        counts = {"lower": lower, "higher": higher, "undecided": len(found) - lower - higher}
        words = [
            f"{word} at " + (f"all {n}" if n == len(found) else f"{n}")
            for word, n in counts.items()
            if n
        ]
        if not parts:
            words[0] += f" of {len(found)} settings" if len(words) > 1 else " settings"
        parts.append(f"{what} {', '.join(words)}")
    scale = REDUCED.get(results.scale, "ours: ").lower()
    return f"{text}; {scale}{'; '.join(parts)}"


def draw(results: Results | None) -> Figure:
    """A column for each nu; the authors' runs above, ours below or in the same panel."""
    below = results is not None and results.scale != "paper"
    size = (9.4, 5.6 if below else 3.2)
    figure, rows = plt.subplots(1 + below, 3, figsize=size, sharey="row", squeeze=False)
    theirs = make_authors.load("roberta")
    for nu, column in zip(NUS, rows.T, strict=True):
        panel(column[0], theirs[theirs.nu == nu])
        column[0].set(title=f"ν {nu:g}", xlabel="updates")
        if "adam" not in set(theirs.optimizer[theirs.nu == nu]):
            column[0].text(0.95, 0.9, "no run of Adam published", ha="right", fontsize=7.5,
                           transform=column[0].transAxes, color="#666666")  # fmt: skip
        if results is not None:
            sigma = SIGMA if below else make_authors.SIGMA["roberta"]
            own(column[-1], results.curves[results.curves.nu == nu], sigma)
            column[-1].set_xlabel("updates")
    rows[0, 0].set_ylabel(f"training loss, bits\n{AUTHORS}")
    if below:
        rows[1, 0].set_ylabel("training loss, bits\nours")
    legend(figure)
    note(figure, [results], "6")
    return figure


# Claims -------------------------------------------------------------------------------------------


def gains(results: Results, column: str) -> dict[tuple[float, int], Estimate]:
    """Adam's loss minus LaProp's, paired by seed, in bits, for each nu and warmup.

    Args:
        results: of fig10.
        column: of its runs, ``mean_loss`` or ``final_loss``.
    """
    table = results.runs.pivot(
        index="seed", columns=["nu", "warmup", "optimizer"], values=column
    ).sort_index(axis=1)
    cells = dict.fromkeys((nu, warmup) for nu, warmup, _ in table)
    return {cell: paired(table[*cell, "adam"], table[*cell, "laprop"]) for cell in cells}


def told(cells: dict[tuple[float, int], Estimate]) -> str:
    """The gains in one line of text."""
    return "; ".join(
        f"ν {nu:g}{', warmup' if warmup else ''} {gain:+.3f}"
        for (nu, warmup), gain in cells.items()
    )


def roberta_lower(results: Results, column: str) -> Measured:
    """Whether LaProp's loss is lower in every cell."""
    cells = gains(results, column)
    what = {"mean_loss": "mean training loss", "final_loss": "final training loss"}[column]
    won = sum(gain.centre > 0 for gain in cells.values())
    sure = sum(gain.low > 0 for gain in cells.values())
    return Measured(f"{what}, Adam minus LaProp, bits: {told(cells)}", every_above(cells.values()),
                    f"LaProp's is lower at {won} of {len(cells)} settings, by the whole interval "
                    f"at {sure}; the claim needs all",
                    [difference(gain, "+.3f") for gain in cells.values()])  # fmt: skip


def roberta_logs_lower() -> Measured:
    """Whether LaProp's smoothed loss is below Adam's at every update of the authors' runs."""
    table = make_authors.load("apart")
    pairs = table[table.task == "roberta"]
    text = "; ".join(
        f"ν {row.nu:g}{', warmup' if row.warmup else ''}: at {row.share_below:.0%} of the "
        f"updates, by {-row.mean_gap:.3f} bits on average"
        for row in pairs.itertuples()
    )
    everywhere = int((pairs.share_below == 1).sum())
    return Measured(f"LaProp's smoothed loss is below Adam's, {text}", everywhere == len(pairs),
                    f"LaProp's is lower at every update in {everywhere} of {len(pairs)} "
                    "pairs")  # fmt: skip


def roberta_logs_nu() -> Measured:
    """Whether the nu of LaProp's lowest smoothed loss rises after the update WARMING_UP."""
    text, orders, rises = [], [], set()
    for sigma, lead in make_authors.load("lead").groupby("sigma"):
        later = lead[lead["update"].shift(-1, fill_value=20_000) > WARMING_UP]
        cells = [f"{row.nu:g} from update {row.update:,}" for row in later.itertuples()]
        text.append(f"smoothed by {sigma} updates ν {', '.join(cells)}")
        orders.append(", ".join(f"{nu:g}" for nu in later.nu))
        rises.add(bool(later.nu.is_monotonic_increasing and later.nu.nunique() > 1))
    return Measured(
        f"lowest loss: {'; '.join(text)}",
        rises.pop() if len(rises) == 1 else None,
        f"the lowest is ν {' or '.join(dict.fromkeys(orders))} in turn; the paper has 0.9, 0.98, "
        "0.999",
    )


# Discrepancies ------------------------------------------------------------------------------------


def roberta_faster(results: Results) -> str:
    """Mean loss over all updates at the two nu for which the authors' logs have both optimizers."""
    cells = {cell: gain for cell, gain in gains(results, "mean_loss").items() if cell[0] != 0.9}
    return f"mean loss, Adam minus LaProp, bits: {told(cells)}"


def roberta_nu(results: Results) -> str:
    """Gain of LaProp's final loss in each cell of the grid."""
    return f"final loss, Adam minus LaProp, bits: {told(gains(results, 'final_loss'))}"
