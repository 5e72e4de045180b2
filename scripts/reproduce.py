"""Run the quick figures, redraw all, check the claims: ``make reproduce``.

The runs go to ``outputs/``, where a second call finds them finished. Their tables and the pictures
go to ``outputs/reproduce/`` and are compared with the committed ones, which stay as they are.
"""

import subprocess
import sys
import time

from experiments.common import ROOT, data
from experiments.common.collect import collect
from experiments.common.records import Results, compare, load

TABLES = ROOT / "outputs" / "reproduce"
# Figure 1 has fewer seeds and one learning rate; the other figures are complete.
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
    """Run ``python -m`` with these arguments and show its output; exit where it fails."""
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True)


def reproduced(figure: str, changes: list[str]) -> Results:
    """Run a figure's grid with two processes at a time, and collect it."""
    overrides = [f"figure={figure}", *changes]
    run("experiments", *overrides, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=1")
    return collect(overrides, TABLES / figure / "paper")


def main() -> None:
    """Do all of it, and say at the end what to look at."""
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
