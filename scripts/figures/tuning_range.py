"""3.2 and 4: how wide a range of lr, mu and nu works, for each optimizer the same grid."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import every_above, every_below, log_ratio, paired
from scripts.effects import difference, ratio
from scripts.figures import style
from scripts.paper import NAMES, OPTIMIZERS, Measured

WITHIN = 1.05
WIDE = 1.5  # shown beside it
SETTING = ["lr", "mu", "nu"]
REGIONS = {"µ > √ν": "mu > nu ** 0.5", "µ at most √ν": "mu <= nu ** 0.5"}  # of Table 1


def finding(results: Results) -> str:
    """The title."""
    text: list[str] = []
    for within in (WITHIN, WIDE):
        share = shares(results, within).mean()
        of = ", ".join(f"{NAMES[o]} {100 * share[o]:.0f} %" for o in OPTIMIZERS if o in share)
        best = " of the best setting's loss" * (not text)
        text.append(f"within {100 * (within - 1):.0f} %{best}: {of}")
    return f"Runs {'; '.join(text)}"


def draw(results: Results) -> Figure:
    """The share of the runs within a factor of the lowest mean loss, against that factor."""
    table = means(results)
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for optimizer, losses in results.runs.groupby("optimizer").final_loss:
        factor = (losses / table.min(axis=None)).sort_values()
        share = [(i + 1) / len(factor) for i in range(len(factor))]
        axis.step(factor, share, where="post", **style.line(str(optimizer)))
    for factor in (WITHIN, WIDE):
        axis.axvline(factor, color="#999999", linestyle=":", linewidth=1)
    axis.set(xscale="log", xlim=(1, 4), ylim=(0, 1), ylabel="share of the runs",
             xlabel="final loss / lowest mean loss of any setting")  # fmt: skip
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
    style.legend(figure, axis, 3)
    note = (
        f"{len(table)} settings of lr, µ and ν for each optimizer; dotted: 5 % and 50 % above the "
        "lowest mean"
    )
    style.provenance(figure, results, note)
    return figure


# Claims -------------------------------------------------------------------------------------------


def means(results: Results) -> pd.DataFrame:
    """Mean final loss over seeds: a row per setting, a column per optimizer.

    It is infinite where a seed diverged.
    """
    runs = results.runs.fillna({"final_loss": np.inf})
    return runs.groupby([*SETTING, "optimizer"]).final_loss.mean().unstack("optimizer")


def shares(results: Results, within: float = WITHIN, chosen: str = "mu >= 0") -> pd.DataFrame:
    """Per seed the share of the settings within a factor of the best: a column per optimizer.

    Args:
        within: the factor.
        chosen: condition that selects settings.
    """
    runs = results.runs.query(chosen)
    works = runs.final_loss <= within * means(results).min(axis=None)
    return works.groupby([runs.seed, runs.optimizer]).mean().unstack("optimizer")


def range_wider(results: Results) -> Measured:
    """More settings work for LaProp than for Adam."""
    share = shares(results)
    gap, wide = (
        paired(100 * table["laprop"], 100 * table["adam"])
        for table in (share, shares(results, WIDE))
    )
    settings = results.runs[results.runs.optimizer == "laprop"].drop_duplicates(SETTING)
    effects, parts = [difference(gap, "+.1f"), difference(wide, "+.1f")], []
    for region, chosen in REGIONS.items():
        if number := len(settings.query(chosen)):
            table = 100 * shares(results, WIDE, chosen)
            effects.append(difference(paired(table["laprop"], table["adam"]), "+.1f"))
            parts.append(f"{effects[-1]} at the {number} settings with {region}")
    text = ", ".join(f"{NAMES[o]} {share[o].mean():.1%}" for o in share)
    return Measured(
        f"share of {len(means(results))} settings within 5 % of the lowest mean loss: {text}; "
        f"LaProp minus Adam {difference(gap, '+.1f')} points, and {wide:+.1f} points within "
        f"{WIDE - 1:.0%}: {', '.join(parts)}",
        every_above([gap]),
        f"{gap.centre:+.1f} points between LaProp's share and Adam's; the claim needs more than 0",
        effects,
    )


def adam_settings_work(results: Results) -> Measured:
    """At each setting that is good for Adam, LaProp's loss is at most WITHIN times Adam's."""
    adam = means(results)["adam"]
    good = adam.index[adam <= WITHIN * adam.min()]
    loss = results.runs.pivot(index="seed", columns=["optimizer", *SETTING], values="final_loss")
    loss = loss.fillna(np.inf)
    logs = {at: log_ratio(loss["laprop"][at], loss["adam"][at]) for at in good}
    lr, mu, nu = worst = max(logs, key=lambda at: logs[at].centre)
    least, most = (math.exp(f(log.centre for log in logs.values())) for f in (min, max))
    found = ratio(logs[worst])
    return Measured(
        f"LaProp's final loss over Adam's at the {len(good)} settings within 5 % of Adam's best: "
        f"{least:.3f} to {most:.3f}, the largest at lr {lr:g}, µ {mu:g}, ν {nu:g}: {found}",
        every_below(logs.values(), math.log(WITHIN)),
        f"LaProp's loss is at most {most:.3f} times Adam's; the claim allows {WITHIN:g}",
        [found],
    )
