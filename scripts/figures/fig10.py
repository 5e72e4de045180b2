"""Figure 10: RoBERTa at three nu, without and with warmup of the rate."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts import make_authors
from scripts.figures.fig05 import AUTHORS, SIGMA, legend, note, own, panel

NUS = (0.9, 0.98, 0.999)


def draw(results: Results | None) -> Figure:
    """A column for each nu; above the authors' runs, below ours, at the paper's scale in one."""
    below = results is not None and results.scale != "paper"
    size = (8.2, 5.6 if below else 3.2)
    figure, rows = plt.subplots(1 + below, 3, figsize=size, sharey="row", squeeze=False)
    theirs = make_authors.load("roberta")
    for nu, column in zip(NUS, rows.T, strict=True):
        panel(column[0], theirs[theirs.nu == nu])
        column[0].set(title=f"ν = {nu:g}", xlabel="updates")
        if results is not None:
            sigma = SIGMA if below else make_authors.SIGMA["roberta"]
            own(column[-1], results.curves[results.curves.nu == nu], sigma)
            column[-1].set_xlabel("updates")
    rows[0, 0].set_ylabel(f"training loss, bits\n{AUTHORS}")
    if below:
        rows[1, 0].set_ylabel("training loss, bits\nours, reduced scale")
    legend(figure)
    note(figure, [results])
    return figure
