"""Write the ledger of disagreements: ``python -m scripts.make_discrepancies``.

``results/DISCREPANCIES.md`` is made from ``scripts/discrepancies.yaml`` and the committed results.
``--check`` writes nothing, and exits with 1 if the page is stale.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from experiments.common.records import RESULTS, load
from experiments.common.terminal import as_command
from scripts import discrepancies
from scripts.generated import only_checks, settle

LEDGER = Path(__file__).with_name("discrepancies.yaml")
PAGE = RESULTS / "DISCREPANCIES.md"
KEYS = ("group", "where", "paper", "code", "ours", "option", "measured")
NOT_RUN = "not run"
TEXTUAL = "textual"
INTRODUCTION = """\
# Where paper, code and logs disagree

Written by `python -m scripts.make_discrepancies`. P is the paper, R the authors' repository
(Z-T-WANG/LaProp-Optimizer). **here** is what we do by default, **otherwise** the option that gives
the other reading. **not run**: nothing has measured it yet. **textual**: two texts or a log
disagree, and there is nothing to measure. What the table says about logs is taken from the authors'
files; it is not a measurement of ours. Intervals are 95 %.

How the rows about the optimizer are measured: two copies of a small ReLU net on MNIST start alike
and see the same minibatches, one with our default and one with the other reading, under five
schedules of lr. The table gives the distance between their weights after 100 and after 1,000
updates, in per cent of the distance of the default copy from its start. It takes the schedule with
the largest distance and names it in brackets ([all schedules](figures/discrepancies.png)). After
"loss" follows how much the final training loss changes under that schedule, after 100 and after
1,000 updates. Two controls run the default twice:

{controls}"""


def ledger() -> dict[str, dict[str, Any]]:
    """The rows of ``discrepancies.yaml`` by name."""
    return dict(yaml.safe_load(LEDGER.read_text()))


def measured(where: str, arguments: dict[str, Any] | None = None) -> str:
    """The result of a row's ``<figure>.<function>``, or "not run" if the figure has no results."""
    if where == TEXTUAL:
        return TEXTUAL
    figure, _, function = where.partition(".")
    results = None if where == NOT_RUN else load(figure)
    if results is None:
        return NOT_RUN
    text = getattr(discrepancies, function)(results, **(arguments or {}))
    return text if results.scale == "paper" else f"{text} ({results.label})"


def rows() -> list[dict[str, Any]]:
    """The rows of the ledger, with measurements instead of the functions' names."""
    return [
        row | {"name": name, "measured": measured(row["measured"], row.get("with"))}
        for name, row in ledger().items()
    ]


def page(table: list[dict[str, Any]]) -> str:
    """The text of ``results/DISCREPANCIES.md``."""
    lines = [INTRODUCTION.format(controls=measured("discrepancies.controls"))]
    for group, members in groupby(table, key=lambda row: row["group"]):
        lines += [
            "",
            f"## {group[0].upper()}{group[1:]}",
            "",
            "| row | where | paper | code and logs | here | otherwise | measured |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        columns = ("name", *KEYS[1:])
        lines += ["| " + " | ".join(row[c] for c in columns) + " |" for row in members]
    return "\n".join(lines) + "\n"


def files(table: list[dict[str, Any]]) -> dict[Path, bytes]:
    """The page with its present text."""
    return {PAGE: page(table).encode()}


def main() -> int:
    """Write, or check."""
    check = only_checks(__doc__)
    table = rows()
    for row in table:
        print(f"{row['name']:24} {row['measured']}")
    return settle(files(table), check)


if __name__ == "__main__":
    as_command(main)
