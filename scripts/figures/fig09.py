"""Figure 9: neural style transfer at other learning rates."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.claims.fig03 import FIRST
from scripts.figures import style
from scripts.figures.fig03 import note, regret


def draw(results: Results) -> Figure:
    """Per learning rate the regret against nu, and the first updates at the best nu of each."""
    rates = sorted(results.runs.lr.unique())
    figure, axes = plt.subplots(2, len(rates), figsize=(2.9 * len(rates) + 0.8, 5.4), squeeze=False)
    black = results.curves[results.curves.seed == 0]
    for column, rate in enumerate(rates):
        runs = results.runs[results.runs.lr == rate]
        regret(axes[0, column], runs)
        axes[0, column].set_title(f"lr {rate:g}")
        axis = axes[1, column]
        for optimizer, cell in runs[runs.seed == 0].groupby("optimizer"):
            best = cell.loc[cell.regret.idxmin()]
            curve = black[
                (black.optimizer == optimizer)
                & (black.lr == rate)
                & (black.nu == best.nu)
                & (black.step <= FIRST)
            ]
            look = style.line(str(optimizer)) | {"label": f"{best.nu:g}", "linewidth": 1}
            axis.plot(curve.step, curve.loss, **look)
        axis.set(yscale="log", xlabel="update", xlim=(0, FIRST))
        style.digits(axis)
        axis.legend(title="best ν", fontsize=7, title_fontsize=7)
    axes[0, 0].set_ylabel("mean loss of all updates, R(T)/T")
    axes[1, 0].set_ylabel("loss at the nu of the lowest regret")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    style.provenance(figure, results, note(results, "µ 0.9"))
    return figure
