"""Run the quick figures, redraw all, check the claims: ``make reproduce``.

Its own runs go to ``outputs/``, where a second call finds them finished; their tables and the
redrawn pictures go to ``outputs/reproduce/``. The committed results are compared, not touched.
"""

import subprocess
import sys
import time

from experiments.common import ROOT, data
from experiments.common.collect import collect
from experiments.common.records import Results, compare, load

TABLES = ROOT / "outputs" / "reproduce"
# Figure 1 is the paper's scale with fewer seeds and one learning rate; the others are whole.
QUICK = {
    "fig02": [],
    "fig08": [],
    "rosenbrock_bias": [],
    "table1": [],
    "propositions": [],
    "theorem1": [],
    "fig01": ["optimizer.lr=0.001", "seed=[0,1]"],
}


def run(*arguments: str) -> None:
    """``python -m`` with its output shown; stops the whole at the first failure."""
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True)


def reproduced(figure: str, changes: list[str]) -> Results:
    """Run a figure's grid, two processes at a time, and collect it."""
    overrides = [f"figure={figure}", *changes]
    run("experiments", *overrides, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=1")
    return collect(overrides, TABLES / figure / "paper")


def main() -> None:
    """All of it, with what to look at in the end."""
    start = time.monotonic()
    data.fetch("mnist")
    lines = []
    for figure, changes in QUICK.items():
        committed = load(figure)
        ours = reproduced(figure, changes)
        lines.append(
            f"{figure}: no committed results" if committed is None else compare(ours, committed)
        )
    run("scripts.make_figures", "--to", str(TABLES / "figures"))
    run("scripts.check_claims", "--check")
    print("\nOur runs against the committed results:")
    print("\n".join(f"  {line}" for line in lines))
    print(
        f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Look at results/CLAIMS.md for "
        "the verdicts,\nresults/FIGURES.md for the figures, outputs/reproduce/ for these runs."
    )


if __name__ == "__main__":
    main()
