"""Figure 13: final training and test loss of ResNet-20 on CIFAR-10 over mu and nu."""

from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures.fig12 import maps


def draw(results: Results) -> Figure:
    """Training loss above, test loss below; a map for each optimizer."""
    columns = {"train_loss": "training loss", "test_loss": "test loss"}
    return maps(results, columns, 1, "{:.3g}", "cividis_r")
