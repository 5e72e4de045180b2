"""IMDB without label noise: error over the learning rate, the same grid for every optimizer."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import interval
from scripts.claims.imdb_tuned import tuned
from scripts.figures import style
from scripts.figures.fig07 import line


def draw(results: Results) -> Figure:
    """Held out error by lr, a panel per nu; then the test error at the chosen lr and nu."""
    runs = results.runs
    nus = sorted(runs.nu.unique())
    figure, axes = plt.subplots(1, len(nus) + 1, figsize=(2.1 * (len(nus) + 1), 2.9), sharey=True)
    for axis, nu in zip(axes, nus, strict=False):
        for optimizer in ("adam", "amsgrad", "laprop"):
            cell = runs[(runs.optimizer == optimizer) & (runs.nu == nu)]
            line(
                axis, optimizer, 100 * cell.pivot(index="seed", columns="lr", values="valid_error")
            )
        axis.set_title(f"ν {nu:g}")
        axis.set_xlabel("learning rate")
    axes[0].set_ylabel("error, %")
    axes[0].legend()
    last = axes[-1]
    names = []
    for place, (optimizer, ((lr, nu), errors)) in enumerate(sorted(tuned(results).items())):
        centre, low, high = interval(errors)
        last.errorbar(
            place,
            centre,
            yerr=[[centre - low], [high - centre]],
            color=style.COLOUR[optimizer],
            marker="o",
            markersize=4,
            capsize=3,
        )
        names.append(f"{style.NAME[optimizer]}\nlr {lr:g}\nν {nu:g}")
    last.set_xticks(range(len(names)), names, fontsize=6.5)
    last.set_xlim(-0.6, len(names) - 0.4)
    last.set_title("test reviews, as chosen")
    style.provenance(
        figure, results, "µ 0.9; held out reviews, and where lr and ν were chosen by them; 95 %"
    )
    return figure
