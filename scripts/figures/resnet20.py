"""ResNet-20 on CIFAR-10 by the whole recipe, beside what the literature has for SGD."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import style
from scripts.paper import NAMES

HE = 0.9125  # He et al. 2016, table 6


def finding(results: Results) -> str:
    """The title."""
    last = results.runs.set_index("optimizer").test_accuracy
    return "Test accuracy by the whole recipe: " + ", ".join(
        f"{NAMES[optimizer]} {100 * value:.2f} %" for optimizer, value in last.items()
    )


def draw(results: Results) -> Figure:
    """Test accuracy by epoch."""
    figure, axis = plt.subplots(figsize=(5, 3.2))
    for optimizer, run in results.curves.groupby("optimizer"):
        axis.plot(run.step, 100 * run.test_accuracy, **style.line(str(optimizer)))
    axis.axhline(100 * HE, color="#999999", linewidth=0.8, linestyle=":", label="SGD, He et al.")
    axis.set(xlabel="epochs", ylabel="test accuracy, %")
    axis.legend()
    style.provenance(figure, results, "µ 0.9, ν 0.999")
    return figure
