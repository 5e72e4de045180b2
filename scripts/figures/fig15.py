"""Figure 15: test curves of ResNet-20 on CIFAR-10 over mu and nu."""

from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import style
from scripts.figures.fig12 import OPTIMIZERS, outcomes
from scripts.figures.fig14 import curves


def finding(results: Results) -> str:
    """The title."""
    runs = outcomes(results)
    stable = runs[~runs.diverged].groupby("optimizer").test_loss.min()
    return "Lowest final test loss of the grid: " + ", ".join(
        f"{style.NAME[o]} {stable[o]:.3g}" for o in OPTIMIZERS
    )


def draw(results: Results) -> Figure:
    """Test loss of every run."""
    return curves(results, "test_loss", "test loss")
