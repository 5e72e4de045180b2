"""Figure 15: test curves of ResNet-20 on CIFAR-10 over mu and nu."""

from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import paired
from scripts.figures.fig12 import common
from scripts.figures.fig14 import curves


def finding(results: Results) -> str:
    """The title."""
    losses = common(results).groupby(["optimizer", "seed"]).test_loss.mean()
    gap = paired(losses["laprop"], losses["adam"])
    return f"Final test loss where both are stable: LaProp's differs from Adam's by {gap:+.3f}"


def draw(results: Results) -> Figure:
    """Test loss of every run."""
    return curves(results, "test_loss", "test loss")
