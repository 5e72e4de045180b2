"""Tables of the authors' own runs, from their raw logs: ``python -m scripts.make_authors``.

It writes ``results/authors/``, with at most 40 points of each curve after the paper's smoothing.
The raw logs are not committed; ``data.fetch("authors_logs")`` gets them. ``--check`` writes
nothing, and exits with 1 if a table is stale.
"""

import argparse
import lzma
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from experiments.common import RESULTS, data
from experiments.common.terminal import as_command
from scripts.generated import settle

FOLDER = RESULTS / "authors"
POINTS = 40  # largest number of points of a curve
SIGMA = {"iwslt": 70, "roberta": 6}  # updates; the smoothing of the paper's figures
LAST = 1000  # updates over which the loss at the end of a training is averaged
WINDOW, UNTIL = 100, 2000  # number of updates in a mean, and the last update of such means
BIN, WITHIN = 400_000, 12_000_000  # steps of the agent in a bin, and at the end of the shorter log
README = """\
# The authors' own runs

Written by `python -m scripts.make_authors` from the raw logs that the paper's authors published:
Z-T-WANG/LaProp-Optimizer, commit a419916, MIT ([LICENSE](LICENSE)). These are facts about **their**
runs, one run a curve, no seeds; nothing here was run by us. The logs themselves are not here:
`python -m scripts.fetch_data authors_logs`.

| table | what it holds |
| --- | --- |
| `iwslt.csv` | Figure 5a: training loss (base 2, label smoothing included) at 40 updates, the log of 60,000 smoothed by a Gaussian of sigma 70 |
| `roberta.csv` | Figures 5b and 10: the same, 20,000 updates, sigma 6 |
| `ends.csv` | of each of those logs: the mean loss of all updates and of the last 1,000 |
| `apart.csv` | LaProp's log beside Adam's of the same setting, both smoothed by sigma 70: share of the updates at which it is lower, mean of the gap (LaProp less Adam), the lowest that Adam gets, the update from which on LaProp is below that |
| `starts.csv` | IWSLT14, not smoothed: the mean loss of each 100 updates, by the last of them, up to update 2,000 |
| `lead.csv` | RoBERTa with warmup: which nu of LaProp has the lowest loss, smoothed by sigma 6 and by 70, from which update on |
| `rainbow.csv` | Figure 6: Breakout score of a trained agent, by steps of the agent; mean over the `evaluations` of 20 games each that fall into a bin, with the standard error that the games make |
| `rainbow_best.csv` | the best single evaluation, within the 12M steps that both logs hold and within the whole log |
"""  # noqa: E501


def load(name: str) -> pd.DataFrame:
    """A committed table by its name, which is one of those in its README."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def of_file(name: str) -> dict[str, object]:
    """Optimizer, nu and warmup, read from the name of a log.

    IWSLT's names mention a warmup, RoBERTa's mention that there is none.
    """
    (nu,) = re.findall(r"\d\.\d+", name)
    warmup = "no_warmup" not in name if name.startswith("ROBERTA") else "warmup" in name
    length = 10_000 if name.startswith("ROBERTA") else 2_000  # paper C.5
    return {
        "optimizer": "laprop" if "laprop" in name else "adam",
        "nu": float(nu),
        "warmup": length if warmup else 0,
    }


def smoothed(loss: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS updates, denser at the beginning, and the smoothed loss there.

    Args:
        loss: the loss of every update.
        sigma: standard deviation of the Gaussian, in updates; at the ends the curve is reflected,
            which is scipy's default.
    """
    share = np.arange(1, POINTS + 1) / POINTS
    updates = np.ceil(len(loss) * share**2).astype(int)
    return updates, gaussian_filter1d(loss, sigma)[updates - 1]


def read(logs: Path, task: str) -> list[tuple[dict[str, object], np.ndarray]]:
    """Read the logs of one task: for each optimizer, nu and warmup the loss of every update."""
    found = []
    for path in sorted((logs / task).glob("*.txt.xz")):
        with lzma.open(path, "rt") as log:
            found.append((of_file(path.name), np.loadtxt(log, usecols=0)))
    return found


def trainings(logs: Path, task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The points of each curve of one task, and its means."""
    curves, ends = [], []
    for name, loss in read(logs, task):
        updates, values = smoothed(loss, SIGMA[task])
        curves.append(pd.DataFrame(name | {"update": updates, "loss": values}))
        last = {"updates": len(loss), "mean_loss": loss.mean(), "last_loss": loss[-LAST:].mean()}
        ends.append(pd.DataFrame([{"task": task} | name | last]))
    return pd.concat(curves), pd.concat(ends)


def apart(logs: Path, task: str) -> pd.DataFrame:
    """Compare LaProp's log with Adam's: a row for each setting that has both."""
    by_setting: dict[tuple[object, object], dict[object, np.ndarray]] = {}
    for name, loss in read(logs, task):
        by_setting.setdefault((name["nu"], name["warmup"]), {})[name["optimizer"]] = loss
    rows = []
    for (nu, warmup), pair in by_setting.items():
        if len(pair) < 2:
            continue
        adam, laprop = (gaussian_filter1d(pair[o], SIGMA["iwslt"]) for o in ("adam", "laprop"))
        not_below = np.flatnonzero(laprop >= adam.min())
        row = {"task": task, "nu": nu, "warmup": warmup, "share_below": (laprop < adam).mean()}
        row |= {"mean_gap": (laprop - adam).mean(), "adam_lowest": adam.min()}
        row["below_best_from"] = not_below[-1] + 2 if len(not_below) else 1  # counted from 1
        rows.append(row)
    return pd.DataFrame(rows)


def starts(logs: Path) -> pd.DataFrame:
    """The loss of IWSLT14's first updates in means of WINDOW, by the last update of each."""
    tables = []
    for name, loss in read(logs, "iwslt"):
        means = loss[:UNTIL].reshape(-1, WINDOW).mean(axis=1)
        updates = range(WINDOW, UNTIL + 1, WINDOW)
        tables.append(pd.DataFrame(name | {"update": updates, "loss": means}))
    return pd.concat(tables)


def lead(logs: Path) -> pd.DataFrame:
    """Which nu of LaProp, with warmup, has the lowest loss on RoBERTa, and from which update on."""
    runs = {
        float(str(name["nu"])): loss
        for name, loss in read(logs, "roberta")
        if name["optimizer"] == "laprop" and name["warmup"]
    }
    tables = []
    for sigma in sorted(SIGMA.values()):
        losses = [gaussian_filter1d(loss, sigma) for loss in runs.values()]
        lowest = np.array(list(runs))[np.argmin(losses, axis=0)]
        starts = np.flatnonzero(np.diff(lowest, prepend=np.nan) != 0)
        tables.append(pd.DataFrame({"sigma": sigma, "nu": lowest[starts], "update": starts + 1}))
    return pd.concat(tables)


def rainbow(logs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluations on Breakout in bins, and the best of them.

    The agent_steps of a bin are the mean over its evaluations. After the end of LaProp's log, where
    only Adam's continues, bins are four and a half times as long.
    """
    bins, best = [], []
    for path in sorted((logs / "rainbow").glob("*.txt")):
        log = pd.read_csv(path, sep="\t", names=["agent_steps", "mean", "standard_error"])
        steps = log.agent_steps
        late = WITHIN + ((steps - WITHIN - 1) // 1_800_000) * 1_800_000
        groups = log.groupby(np.where(steps > WITHIN, late, (steps - 1) // BIN * BIN))
        table = groups.agg(
            agent_steps=("agent_steps", "mean"),
            mean=("mean", "mean"),
            standard_error=("standard_error", lambda e: np.sqrt((e**2).sum()) / len(e)),
            evaluations=("mean", "size"),
        )
        table.insert(0, "optimizer", path.stem)
        bins.append(table)
        for name, part in {"both logs": log[steps <= WITHIN], "whole log": log}.items():
            row = part.loc[part["mean"].idxmax()]
            best.append({"optimizer": path.stem, "within": name, **row})
    return pd.concat(bins), pd.DataFrame(best)


def files() -> dict[Path, bytes]:
    """All files of ``results/authors`` with their present content.

    Raises:
        DataError: the logs cannot be fetched.
    """
    logs = data.fetch("authors_logs")
    iwslt, iwslt_ends = trainings(logs, "iwslt")
    roberta, roberta_ends = trainings(logs, "roberta")
    scores, best = rainbow(logs)
    tables = {
        "iwslt": iwslt,
        "roberta": roberta,
        "ends": pd.concat([iwslt_ends, roberta_ends]),
        "apart": pd.concat([apart(logs, "iwslt"), apart(logs, "roberta")]),
        "starts": starts(logs),
        "lead": lead(logs),
        "rainbow": scores,
        "rainbow_best": best,
    }
    texts = {
        FOLDER / f"{name}.csv": table.to_csv(index=False, float_format="%.6g").encode()
        for name, table in tables.items()
    }
    return texts | {
        FOLDER / "README.md": README.encode(),
        FOLDER / "LICENSE": (logs / "LICENSE").read_bytes(),
    }


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    check = parser.parse_args().check
    try:
        new = files()
    except data.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return settle(new, check)


if __name__ == "__main__":
    as_command(main)
