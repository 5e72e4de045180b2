"""The verdict on every claim, from the committed results: ``python -m scripts.check_claims``.

Writes ``results/CLAIMS.md`` and the verdict table of the README. A failed claim is a result and
fails nothing; with ``--check`` nothing is written and a stale table gives exit status 1.
"""

import argparse
import importlib
import sys
from pathlib import Path

import yaml

from experiments.common import ROOT
from experiments.common.records import RESULTS
from scripts.claims.measured import Measured
from scripts.make_figures import results_of

HERE = Path(__file__).parent / "claims"
README = ROOT / "README.md"
LOGS = "authors' logs"
BEGIN, END = "<!-- verdicts: written by make claims -->", "<!-- end of verdicts -->"


def verdict(measured: Measured, scale: str) -> str:
    """One of the words of the legend; a reduced scale or a log never says reproduced."""
    if scale == "paper":
        return {True: "reproduced", False: "not reproduced", None: "underpowered"}[measured.held]
    short = {True: "held", False: "did not hold", None: "undecided"}[measured.held]
    return f"{scale if scale == LOGS else 'reduced scale'}: {short}"


def rows() -> list[dict[str, str]]:
    """One row per claim of ``claims.yaml``, in its order.

    Raises:
        SystemExit: for a claim whose figure has results but which no function checks.
    """
    table = []
    for name, claim in yaml.safe_load((HERE / "claims.yaml").read_text()).items():
        figure, results = claim["figure"], results_of(claim["figure"])
        row = {"claim": claim["says"], "figure": figure, "section": claim["section"]}
        logs = claim.get("logs", False)
        if results is None and not logs:
            table.append(row | {"verdict": "not run", "measured": "", "where": ""})
            continue
        file, _, function = claim.get("decided_by", f"{figure}.{name}").partition(".")
        decide = getattr(importlib.import_module(f"scripts.claims.{file}"), function, None)
        if decide is None:
            raise SystemExit(f"error: scripts/claims/{file}.py has no function {function}")
        if logs:
            measured, scale, where = decide(), LOGS, LOGS
        else:
            measured, scale, where = decide(results), results.scale, results.label
        word = verdict(measured, scale)
        table.append(row | {"verdict": word, "measured": measured.text, "where": where})
    return table


def claims_page(table: list[dict[str, str]]) -> str:
    """``results/CLAIMS.md``."""
    lines = [
        "# Claims",
        "",
        "Written by `make claims` from the committed results. **reproduced** and",
        "**not reproduced** are said of results at the paper's scale only; **underpowered**: the",
        "interval decides neither way; **reduced scale**: what a smaller run showed; **authors'",
        "logs**: what their own runs say, one of each; **not run**: no results yet.",
        "What counts as holding stands in `scripts/claims/`, fixed beside the measurement.",
        "Intervals are 95 %.",
        "",
        "| figure | paper | claim | verdict | measured | scale |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['figure']} | {r['section']} | {r['claim']} | **{r['verdict']}** | {r['measured']} "
        f"| {r['where']} |"
        for r in table
    ]
    return "\n".join(lines) + "\n"


def readme(text: str, table: list[dict[str, str]]) -> str:
    """The README with its verdict table renewed; what was not run comes last."""
    lines = ["| figure | claim | verdict |", "| --- | --- | --- |"]
    ordered = sorted(table, key=lambda row: row["verdict"] == "not run")
    lines += [f"| {r['figure']} | {r['claim']} | **{r['verdict']}** |" for r in ordered]
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    arguments = parser.parse_args()
    table = rows()
    files = {
        RESULTS / "CLAIMS.md": claims_page(table),
        README: readme(README.read_text(), table),
    }
    stale = [path for path, new in files.items() if not path.exists() or path.read_text() != new]
    for row in table:
        print(f"{row['figure']:16} {row['verdict']:28} {row['claim']}")
    if arguments.check:
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)}; run make claims", file=sys.stderr)
        return bool(stale)
    for path in stale:
        path.write_text(files[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
