"""Figure 8: steps to converge on the noisy Rosenbrock function against nu, per learning rate."""

from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures.fig02 import panels


def draw(results: Results) -> Figure:
    """Two readings of sigma, five learning rates each."""
    return panels(results, "lr", "lr = {:g}", "noisy Rosenbrock, σ 0.10, µ 0.9")
