"""Figure 15: test curves of ResNet-20 on CIFAR-10 over mu and nu."""

from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures.fig14 import curves


def draw(results: Results) -> Figure:
    """Test loss of every run."""
    return curves(results, "test_loss", "test loss")
