"""Where paper, code and logs disagree, and the measured effect of each discrepancy.

``discrepancies.yaml`` has the discrepancies in words, and what was checked without finding one, in
the group ``no disagreement found``. Under ``measured`` it names a figure and a
function of the figure's script, which takes the results of the figure, and the arguments under
``with``. It returns one line of Markdown. ``python -m scripts.build claims`` writes
``results/DISCREPANCIES.md``. If the script has a function ``row_changes``, with the same arguments,
it returns how far a row changes a result.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from experiments.common import RESULTS
from experiments.common.records import load
from scripts import words
from scripts.effects import Change
from scripts.paper import script

LABELS = {  # keys of a discrepancy that a reader sees, and what the page calls them
    "paper": "paper",
    "code": "code and logs",
    "ours": "our default",
    "option": "to get the other reading",
    "measured": "measured",
}
NOT_MEASURED = "not measured"
NOTHING = "nothing to measure"
INTRODUCTION = """\
# Where paper, code and logs disagree

Written by `make claims`. P is the paper, R the authors' repository (Z-T-WANG/LaProp-Optimizer).
Statements about logs come from the authors' files; they are not measurements of ours. Intervals are
95 %. **not measured**: a run could show the difference, and we have made none. **nothing to
measure**: a run cannot tell, because only texts or logs differ. The last section has what we
checked without finding a disagreement.

## Which rows change a result

These rows clearly change the training loss, or the area under Rainbow's training curve: the whole
interval is on one side of 0. A change says how the result moves if we take the other reading
instead of our default. The schedule of lr is in brackets. Losses are those after 1,000 updates.
Two more rows change a comparison. The [width of the noise](#{noise}) decides which optimizers
converge on the Rosenbrock function at lr 0.01. The [two epsilons](#{epsilon}) explain a part of
LaProp's lead in Rainbow: with Adam's epsilon LaProp's area is smaller. No other row that we
measured clearly changes one of these numbers.

{changes}

## How the rows about the optimizer are measured

Two copies of a small ReLU net on MNIST start alike and see the same minibatches, one with our
default and one with the other reading, under five schedules of lr, for 100 and for 1,000 updates.

- **distance** is that between the weights of the two copies at the end, in per cent of the distance
  of the default copy from its start.
- **loss** is the change of the final training loss.
- The brackets after a number name the schedule under which it is largest, on average over the seeds
  ([all schedules](figures/discrepancies.png)). The intervals hold for all five schedules together
  (Bonferroni).
- **not above the control**: the distance is not clearly larger than that of two runs whose starts
  differ in the last bit.

Two controls run the default twice:

{controls}"""


def entries() -> dict[str, dict[str, Any]]:
    """The discrepancies of ``discrepancies.yaml`` by name."""
    return dict(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))


def measured(where: str, arguments: dict[str, Any] | None = None) -> str:
    """The result of ``<figure>.<function>``, or "not measured" if the figure has no results."""
    if where in (NOTHING, NOT_MEASURED):
        return where
    figure, _, function = where.partition(".")
    results = load(figure)
    if results is None:
        return NOT_MEASURED
    text = words.greek(getattr(script(figure), function)(results, **(arguments or {})))
    if results.scale == "paper":
        return text
    return f"{text} (scale: {results.scale}, as {figure} in FIGURES.md; {results.seeds})"


def rows() -> list[dict[str, Any]]:
    """All discrepancies with their ``name`` and their measurements."""
    return [
        row | {"name": name, "measured": measured(row["measured"], row.get("with"))}
        for name, row in entries().items()
    ]


def changes() -> dict[str, list[Change]]:
    """For each row that changes a loss or an area clearly, by how much; the largest change first.

    A row has a change for each of its comparisons that is clear.
    """
    found = {}
    for name, row in entries().items():
        figure = row["measured"].partition(".")[0]
        results = load(figure)
        measure = getattr(script(figure), "row_changes", None) if results else None
        every = measure(results, **row.get("with", {})) if measure else []
        if clear := [change for change in every if change.clear]:
            found[name] = clear
    return dict(sorted(found.items(), key=lambda item: -max(abs(c.centre) for c in item[1])))


def introduction(anchor: Callable[[str], str]) -> str:
    """The beginning of the page, with the rows that change most and what the controls measured.

    Args:
        anchor: the anchor of a row, from its name.
    """
    rows = [
        f"| [{entries()[name]['title']}](#{anchor(name)}) | {'; '.join(map(str, of_row))} |"
        for name, of_row in changes().items()
    ]
    return INTRODUCTION.format(
        noise=anchor("rosenbrock_sigma"),
        epsilon=anchor("rainbow_eps"),
        changes="\n".join(["| row | change |", "| --- | --- |", *rows]),
        controls=measured("discrepancies.controls"),
    )


def heading(row: dict[str, Any]) -> str:
    """The heading of a row on the page."""
    return f"{row['title']} ({row['where']})"


def _anchor(name: str) -> str:
    """The anchor of a row's heading."""
    return words.slug(heading(entries()[name]))


def page(table: list[dict[str, Any]]) -> str:
    """The text of ``results/DISCREPANCIES.md``."""
    parts = [introduction(_anchor)]
    for group, members in groupby(table, key=lambda row: row["group"]):
        parts.append(f"## {group[0].upper()}{group[1:]}")
        for row in members:
            parts.append(f"### {heading(row)}")
            parts.append("\n".join(f"- {label}: {row[key]}" for key, label in LABELS.items()))
    return "\n\n".join(parts) + "\n"


def files(table: list[dict[str, Any]]) -> dict[Path, bytes]:
    """The page with its present text."""
    return {RESULTS / "DISCREPANCIES.md": page(table).encode()}
