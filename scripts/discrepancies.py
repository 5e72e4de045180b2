"""Where paper, code and logs disagree, and the measured effect of each discrepancy.

``discrepancies.yaml`` has the discrepancies in words, and what was checked without finding one, in
the group ``no disagreement found``. Under ``measured`` it names a figure and a
function of the figure's script, which takes the results of the figure, and the arguments under
``with``. It returns one line of Markdown. ``python -m scripts.build claims`` writes
``results/DISCREPANCIES.md``.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from experiments.common import RESULTS
from experiments.common.records import load
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
**not measured**: nothing has measured the difference yet. **nothing to measure**: two texts or a
log disagree, and no run can show a difference. What is said about logs is taken from the authors'
files; it is not a measurement of ours. Intervals are 95 %. The last section has what we checked
without finding a disagreement.

How the discrepancies of the optimizer are measured: two copies of a small ReLU net on MNIST start
alike and see the same minibatches, one with our default and one with the other reading, under five
schedules of lr. **distance** is that between their weights after 100 and after 1,000 updates, in
per cent of the distance of the default copy from its start. **loss** is the change of the final
training loss after as many updates. Each is given for the schedule with the largest mean over
seeds, which the brackets name ([all schedules](figures/discrepancies.png)). Because the largest of
five means is chosen, the intervals are simultaneous: with probability 95 % those of all five
schedules contain their means (Bonferroni). **not above the control**: by the intervals, the
distance is at no schedule larger than that of two runs whose starts differ in the last bit, the
second control, after as many updates. Two controls run the default twice:

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
    text = getattr(script(figure), function)(results, **(arguments or {}))
    return text if results.scale == "paper" else f"{text} ({results.label})"


def rows() -> list[dict[str, Any]]:
    """All discrepancies with their ``name`` and their measurements."""
    return [
        row | {"name": name, "measured": measured(row["measured"], row.get("with"))}
        for name, row in entries().items()
    ]


def introduction() -> str:
    """The beginning of the page, with what the two controls have measured."""
    return INTRODUCTION.format(controls=measured("discrepancies.controls"))


def page(table: list[dict[str, Any]]) -> str:
    """The text of ``results/DISCREPANCIES.md``."""
    parts = [introduction()]
    for group, members in groupby(table, key=lambda row: row["group"]):
        parts.append(f"## {group[0].upper()}{group[1:]}")
        for row in members:
            parts.append(f"### {row['title']} ({row['where']})")
            parts.append("\n".join(f"- {label}: {row[key]}" for key, label in LABELS.items()))
    return "\n\n".join(parts) + "\n"


def files(table: list[dict[str, Any]]) -> dict[Path, bytes]:
    """The page with its present text."""
    return {RESULTS / "DISCREPANCIES.md": page(table).encode()}
