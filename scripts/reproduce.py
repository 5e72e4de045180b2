"""Run the quick figures again and compare them with the committed results: ``make reproduce``.

The runs are written to ``outputs/``, where a second call finds them finished. Tables, pictures and
the output of the runs (``log.txt``) are written to ``outputs/reproduce/``. The committed results
are not changed.
"""

import argparse
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial

import pandas as pd
from pandas.api.types import is_numeric_dtype

from experiments.common import ROOT, data
from experiments.common.collect import collect
from experiments.common.records import Results, load
from experiments.common.stats import median
from experiments.common.terminal import as_command, end_with_parent, say
from scripts import check_claims
from scripts.paper import drawn, figures

TABLES = ROOT / "outputs" / "reproduce"
PROCESSES = 2
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
ROUNDING = 1e-6  # largest relative difference of equal numbers, since tables hold seven digits


@dataclass(frozen=True)
class Compared:
    """The comparison of a figure's runs with the committed ones.

    Attributes:
        text: the result in one line.
        same: whether all verdicts are the same and all medians are in their intervals.
        equal: the share of numbers that are equal to the last digit of the tables.
    """

    text: str
    same: bool
    equal: float


def compared(ours: Results, committed: Results, whole: bool) -> Compared:
    """Compare verdicts, medians over seeds, and single numbers.

    A cell is a combination of the axes other than the seed. Its median has to lie in the 95 %
    interval of the committed median. If there is no interval (fewer than six seeds, or not the same
    seeds), it has to lie between the lowest and the highest committed seed.

    Args:
        ours: the results of the runs here.
        committed: the figure's committed results.
        whole: whether ours is the whole grid, so that verdicts can be compared.
    """
    numbers = [
        name
        for name in committed.manifest["summary"]
        if name in ours.runs
        and is_numeric_dtype(committed.runs[name])
        and is_numeric_dtype(ours.runs[name])
    ]
    constants = ours.manifest["settings"]  # an axis of the committed runs may be constant here
    shared = {
        name: constants[key]
        for name, key in committed.manifest["axes"].items()
        if name not in ours.runs and key in constants
    }
    mine = ours.runs.assign(**shared)
    keys = [name for name in committed.manifest["axes"] if name != "seed"]
    both = mine.merge(committed.runs, on=[*keys, "seed"], suffixes=("", " committed"))
    if both.empty:
        return Compared("no run in common with the committed results", False, math.nan)
    equal = pd.concat([_equal(both[name], both[f"{name} committed"]) for name in numbers]).mean()

    inside = cells = 0
    theirs = committed.runs.groupby(keys, dropna=False)
    for cell, own in mine.groupby(keys, dropna=False):
        known = theirs.get_group(cell)
        for name in numbers:
            cells += 1
            inside += _inside(own[name], known[name], whole)
    same = inside == cells
    text = f"{inside:,} of {cells:,} medians inside the committed ones' intervals"
    if whole:
        verdicts = [
            [row["verdict"] for row in check_claims.rows(ours.figure, results)]
            for results in (ours, committed)
        ]
        agree = sum(a == b for a, b in zip(*verdicts, strict=True))
        if verdicts[0]:  # a figure may have no claims
            text = f"same verdicts: {agree} of {len(verdicts[0])}; {text}"
        same &= agree == len(verdicts[0])
    else:
        text += f"; {ours.seeds}, too few for a verdict"
    return Compared(text, same, float(equal))


def _equal(a: pd.Series, b: pd.Series) -> pd.Series:
    near = (a - b).abs() <= ROUNDING * b.abs()
    return near | (a == b) | (a.isna() & b.isna())


def _inside(own: pd.Series, committed: pd.Series, whole: bool) -> bool:
    """Whether the median of our seeds lies in the committed interval; NaN counts as infinite."""
    middle = median(own)[0]
    _, low, high = median(committed)
    if not whole or math.isnan(low):
        filled = committed.fillna(math.inf)
        low, high = filled.min(), filled.max()
    slack = ROUNDING * abs(middle) if math.isfinite(middle) else 0.0
    return bool(low - slack <= middle <= high + slack)


def minutes(committed: Results | None, changes: list[str]) -> str:
    """The approximate time of a figure, from the time that the committed runs took."""
    if committed is None or changes:
        return "a few minutes"
    seconds = sum(run["wall_time_s"] for run in committed.manifest["runs"]) / PROCESSES
    return f"about {max(seconds / 60, 1):.0f} min"


def run(log: str, *arguments: str) -> None:
    """Run ``python -m`` with these arguments, and append its output to a file.

    Ctrl-C reaches this process alone, which passes it on and waits, since runs end after a step.

    Raises:
        SystemExit: it failed; the message has its last lines.
    """
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    with (
        (TABLES / log).open("a") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        ) as process,
    ):
        try:
            code = process.wait()
        except KeyboardInterrupt:
            if arguments[0] != "scripts.make_figures":  # it has no steps
                say("ending after the present step of each run, within a minute", sys.stderr)
            process.send_signal(signal.SIGINT)
            process.wait()
            say("ended; call it again, and it goes on from here", sys.stderr)
            raise
    if code:
        last = "\n".join((TABLES / log).read_text().splitlines()[-15:])
        raise SystemExit(f"failed: {' '.join(arguments)}\n{last}")


def main() -> int:
    """Run and compare all quick figures, and print whether the results were reproduced."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.reproduce",
        description="Run seven quick figures anew and compare them with the committed results.",
        epilog="It downloads MNIST (55 MB unpacked) once, and needs no GPU; two processes of up to "
        "2.4 GB of memory run at a time.",
    )
    parser.parse_args()
    TABLES.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        data.fetch("mnist")
    except data.DataError as error:
        say(f"error: {error}", sys.stderr)
        return 1
    found: dict[str, Compared] = {}
    for place, (figure, changes) in enumerate(QUICK.items(), 1):
        committed = load(figure)
        print(
            f"{place} of {len(QUICK)}  {figure}: {figures()[figure]['shows']}; "
            f"{minutes(committed, changes)}",
            flush=True,
        )
        overrides = [f"figure={figure}", *changes]
        launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={PROCESSES}", "threads=1"]
        run("log.txt", "experiments", *overrides, *launcher)
        ours = collect(overrides, TABLES / figure / "paper")
        if committed is None:
            found[figure] = Compared("no committed results to compare with", False, math.nan)
        else:
            found[figure] = compared(ours, committed, not changes)
        print(f"        {found[figure].text}", flush=True)
    whole = [figure for figure, changes in QUICK.items() if not changes]
    print(
        f"pictures: {', '.join(whole)} from these runs, the others from the committed results; "
        "about 1 min",
        flush=True,
    )
    own = [f"--from={TABLES / figure / 'paper'}" for figure in whole]
    try:
        run("log.txt", "scripts.make_figures", *drawn(), *own, "--to", str(TABLES / "figures"))
    except SystemExit as error:  # the comparison is worth more than the pictures
        say(f"error: {error}", sys.stderr)
    return told(found, (time.monotonic() - start) / 60)


def told(found: dict[str, Compared], duration: float) -> int:
    """Print the summary at the end.

    Args:
        found: the comparison of each figure.
        duration: minutes that it took.

    Returns:
        exit status: 0 if everything was reproduced, else 1.
    """
    width = max(map(len, found))
    print("\nThese runs beside the committed results:")
    for figure, one in found.items():
        print(f"  {'✓' if one.same else '✗'} {figure:{width}}  {one.text}")
    if any(one.equal < 1 for one in found.values()):
        share = {name: f"{one.equal:.1%} of {name}'s" for name, one in found.items()}
        different = ", ".join(share[name] for name, one in found.items() if one.equal < 1)
        print(
            "Single numbers can differ, because processors round differently and small differences "
            f"grow along a path ({different} are equal);\nmedians and verdicts should agree."
        )
    failed = [figure for figure, one in found.items() if not one.same]
    part = ", ".join(figure for figure in found if QUICK.get(figure))
    all_of_it = f"all of it (of {part} the part that was run)" if part else "all of it"
    print(f"\nNot reproduced: {', '.join(failed)}." if failed else f"\nReproduced: {all_of_it}.")
    print(
        f"It took {duration:.0f} minutes. Verdicts: results/CLAIMS.md. Pictures: "
        "results/FIGURES.md. These runs and their pictures: outputs/reproduce/."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    as_command(main)
