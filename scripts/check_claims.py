"""The verdict on every claim, from the committed results: ``python -m scripts.build claims``.

It is written to ``results/CLAIMS.md``; ``readme`` writes the summary in the README. A claim that
does not hold is a result, not an error.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.common import RESULTS
from experiments.common.messages import ConfigError
from experiments.common.records import Results, begun
from scripts import words
from scripts.paper import (
    Measured,
    by_experiment,
    claims,
    figures,
    label,
    results_of,
    script,
    smaller,
)

OF = {"paper": "Claims of the paper", "ours": "Variants and questions of ours"}
SHORT, SMALL = "cut short", "small model"
LOGS = "authors' logs"
OWN = "own task"
NOT_RUN = "not run"
# For each kind of verdict the word if the claim held, did not hold, cannot be decided. At the
# paper's scale the kind is the claim's `of`, so that no claim of ours can be reproduced.
WORDS: dict[str, dict[bool | str | None, str]] = {
    "paper": {True: "reproduced", False: "not reproduced", None: "undecided"},
    "ours": {True: "held", False: "not held", None: "undecided"},
    SHORT: {True: "supports", False: "contradicts", None: "undecided"},
    SMALL: {True: "seen", False: "not seen", None: "undecided"},
    LOGS: {True: "seen", False: "not seen", None: "undecided"},
    OWN: {True: "held", False: "not held", None: "undecided"},
    NOT_RUN: {NOT_RUN: NOT_RUN},
}
BEFORE = {kind: f"{kind}: " * (kind not in (*OF, NOT_RUN)) for kind in WORDS}  # before the word
VERDICTS = list(
    dict.fromkeys(BEFORE[kind] + word for kind in WORDS for word in WORDS[kind].values())
)
LEGEND = (  # verdicts, and what they mean
    (
        "**reproduced**, **not reproduced**, **undecided**",
        "a claim of the paper at the paper's scale, in a setting of ours where the paper has a "
        "statement and no experiment, or as mathematics that we check numerically: it held, it did "
        "not hold, or the measurement allows both",
    ),
    (
        "**held**, **not held**, **undecided**",
        "the same for a claim of ours, so that no claim of ours counts as reproduced",
    ),
    (
        "**cut short: supports**, **contradicts**, **undecided**",
        "a claim of the paper or of ours in the paper's own setting cut short (`scale=short`): "
        "fewer updates, less data, fewer settings or seeds, and a smaller network or input where "
        "the paper names no size; style transfer has the original weights of VGG19",
    ),
    (
        "**small model: seen**, **not seen**, **undecided**",
        "whether the effect exists in a smaller model (`scale=small`): a smaller network, less or "
        "smaller data, and in places other hyper-parameters or simpler games, as its label says; "
        "this decides nothing about the paper's setting",
    ),
    (
        "**authors' logs: seen**, **not seen**, **undecided**",
        "what happened in the runs whose logs the authors published, one run for each setting",
    ),
    (
        "**not run**",
        "no run that the claim needs is among the committed results; where we made such runs and "
        "removed them, the figure says so",
    ),
)
LEGEND_OWN = (
    "**own task: held**, **not held**, **undecided**",
    "a claim about a task that is not the paper's, whose default scale is called paper, too",
)
INTRODUCTION = """\
# Claims

Written by `make claims` from the committed results and `scripts/paper.yaml`.

- **Rule.** {before} of the {all} rules were written before their runs and not changed after them.
  {mathematics} of these are about mathematics, where the answer can be known without a run; the
  other {trainings} are about trainings. For {changed} claims the rule, its grid or
  whose claim it is was changed after results were known; each says what was changed. The rest were
  written when results of the scales `paper` and `small` were already known, so they do not predict
  those results.
- **By its interval** means that the whole 95 % interval fulfils the condition. It is Student's t
  interval over seeds unless the rule names another, and is paired where both optimizers have the
  same seeds.
  `tests/test_stats.py` shows by simulation that the intervals cover 95 %.
- **Holm.** Where a claim rests on several comparisons, one of them refutes it only after Holm's
  correction for their number.
- **Whose.** A claim is either the paper's or ours. Ours are variants and questions that the paper
  leaves open.
- **Distance.** How far the measurement is from what the paper reports, or from the limit of the
  rule.
- **Cell.** One combination of settings. The runs of a cell differ only in the seed.
- **Scale.** The brackets say how a scale differs from the paper's setting or, where the paper does
  not say, from our grid for it. Where the paper names no size or learning rate (fig01), they are
  ours also at scale `paper`.
- **3 of 6 seeds**, or other numbers. The other seeds are still to come. The verdict is an interim
  one and may change. Its interval covers 95 % if the results are looked at once, not if they are
  looked at several times."""
FIRST = """\
## First runs of larger scales

These runs decide no claim yet, because no seed has all its runs. We list every one, so that nothing
is selected."""
SMALLER = """\
## Smaller scales beside larger ones

The verdicts below are those of the largest scale of a figure. These are the verdicts of the smaller
scales that are committed too."""


def legend(table: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Verdicts in Markdown, and what they mean; those of a user's own task only if there is one."""
    own = any(row["kind"] == OWN for row in table)
    return [*LEGEND, *[LEGEND_OWN] * own]


def decidable(
    measured: Measured, claim: dict[str, Any], figure: dict[str, Any], results: Results
) -> Measured:
    """A measurement whose verdict is withdrawn where the results cannot give one.

    That is so with one seed, unless the figure has no randomness and says so in ``one_run``; and at
    scale short for a claim that has ``not_at_short``.

    Args:
        measured: what the claim's own function returned.
        claim: the claim's entry in ``paper.yaml``.
        figure: the figure's row in ``paper.yaml``.
        results: the results that were measured.
    """
    if measured.held is None:
        return measured
    if results.scale == "short" and "not_at_short" in claim:
        return replace(measured, held=None)
    if results.manifest["seeds"] > 1 or "one_run" in figure:
        return measured
    return replace(measured, text=f"{measured.text}; one seed decides nothing", held=None)


def rows(figure: str | None = None, judged: Results | None = None) -> list[dict[str, Any]]:
    """A row for each claim of ``paper.yaml``, in its order, with what was measured.

    A row has the claim's entry and ``claim`` (its name), ``kind`` and ``held`` (keys of
    :data:`WORDS`), ``verdict`` (these two in words), ``measured``, ``apart``, ``effects`` and
    ``where`` (the scale). The last four are empty if nothing was run.

    Args:
        figure: the figure whose claims are wanted; by default all.
        judged: results to use in place of the committed ones.

    Raises:
        ConfigError: a claim has results, but no function that decides it.
    """
    table = []
    for name, claim in claims().items():
        if figure not in (None, claim["figure"]):
            continue
        row = {"claim": name, "kind": NOT_RUN, "held": NOT_RUN, "verdict": NOT_RUN}
        row |= {"measured": "", "apart": "", "effects": (), "where": ""} | claim
        table.append(row)
        results = judged or results_of(claim["figure"])
        logs = claim.get("logs", False)
        if results is None and not logs:
            continue
        file, _, function = claim.get("decided_by", name).rpartition(".")
        file = file or claim["figure"]
        decide = getattr(script(file), function, None)
        if decide is None:
            raise ConfigError(f"scripts/figures/{file}.py has no function {function}")
        measured = decide(*([] if logs else [results]), **claim.get("with", {}))
        if measured is None:
            continue
        entry = figures()[claim["figure"]]
        kind = where = LOGS
        if results is not None and not logs:
            measured = decidable(measured, claim, entry, results)
            kind = {"paper": claim["of"], "short": SHORT, "small": SMALL}[results.scale]
            if entry["section"] == "-":  # a user's own task, which has no setting in the paper
                kind = OWN
            where = label(results)
        row |= {"kind": kind, "held": measured.held, "effects": measured.effects, "where": where}
        row |= {"verdict": BEFORE[kind] + WORDS[kind][measured.held]}
        row |= {"measured": words.greek(measured.text), "apart": words.greek(measured.apart)}
    return table


def first_runs(figure: str) -> dict[str, list[str]]:
    """What the first runs of a larger scale show: lines by the scale, of which no seed is complete.

    A figure's script may have a function ``first_runs``, which makes the lines from the results.
    """
    found = begun(figure)
    if not found:
        return {}
    told = getattr(script(figure), "first_runs", None)
    lines = told(found) if told else [f"{len(found.every_run)} rows in runs.csv"]
    return {found.scale: [words.greek(line) for line in lines]}


def smaller_scales() -> list[str]:
    """The verdicts of committed scales that are smaller than those shown: a list in Markdown."""
    lines = []
    for figure in figures():
        for results in smaller(figure):
            lines.append(f"- {figure}, {results.label}:")
            lines += [
                f"  - [{row['claim']}](#{row['claim']}) `{row['verdict']}`: {row['measured']}"
                for row in rows(figure, results)
                if row["measured"] and row["where"] != LOGS
            ]
    return lines


def by_verdict(table: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The paper's claims, and ours, by their verdicts, in the order of :data:`VERDICTS`."""
    ordered = sorted(table, key=lambda row: VERDICTS.index(row["verdict"]))
    found: dict[str, dict[str, list[dict[str, Any]]]] = {of: {} for of in OF}
    for row in ordered:
        found[row["of"]].setdefault(row["verdict"], []).append(row)
    return found


def counts(table: list[dict[str, Any]]) -> str:
    """The numbers of claims with each verdict, as a table in Markdown."""
    number = Counter((row["of"], row["verdict"]) for row in table)
    lines = ["| verdict | the paper's | ours |", "| --- | ---: | ---: |"]
    for word in VERDICTS:
        if any(number[of, word] for of in OF):
            lines.append(f"| **{word}** | {number['paper', word]} | {number['ours', word]} |")
    total = [sum(row["of"] == of for row in table) for of in OF]
    return "\n".join([*lines, f"| all | {total[0]} | {total[1]} |"])


def claims_page(table: list[dict[str, Any]]) -> str:
    """The text of ``results/CLAIMS.md``."""
    head = (("verdict", "what it means"), ("---", "---"))
    before = [row for row in table if row["written"] == "before"]
    proved = sum("mathematics" in figures()[row["figure"]] for row in before)
    parts = [
        INTRODUCTION.format(
            before=len(before),
            mathematics=proved,
            trainings=len(before) - proved,
            changed=sum(bool(row["changed"]) for row in table),
            all=len(table),
        ),
        "\n".join(f"| {words} | {meaning} |" for words, meaning in (*head, *legend(table))),
        counts(table),
        FIRST,
        "\n".join(
            f"- {name}, scale {scale}: {line}"
            for name in figures()
            for scale, lines in first_runs(name).items()
            for line in lines
        )
        or "None.",
        SMALLER,
        "\n".join(smaller_scales()) or "None.",
    ]
    index = ["| claim | figure | whose | verdict |", "| --- | --- | --- | --- |"]
    details = []
    for experiment, names in by_experiment().items():
        claims = {name: [row for row in table if row["figure"] == name] for name in names}
        if any(claims.values()):
            index.append(f"| **{experiment}** | | | |")
            details.append(f"## {experiment}")
        for name in names:
            rows = sorted(claims[name], key=lambda row: [*OF].index(row["of"]))
            index += [
                f"| [{row['says']}](#{row['claim']}) | {name} | {row['of']} | {row['verdict']} |"
                for row in rows
            ]
            details += _of_figure(name, rows) if rows else []
    return "\n\n".join([*parts, "## Index", "\n".join(index), *details]) + "\n"


def _of_figure(name: str, table: list[dict[str, Any]]) -> list[str]:
    """The paragraphs about the claims of one figure."""
    places = [row["where"] for row in table if row["where"] not in ("", LOGS)]
    parts = [f"### {name}: {figures()[name]['shows']}", *places[:1]]
    if "removed" in figures()[name]:
        parts.append(figures()[name]["removed"])
    for row in table:
        before = ", written before the runs" if row["written"] == "before" else ""
        source = "of the paper, section" if row["of"] == "paper" else "of ours, on section"
        lines = [
            f"#### {row['claim']}\n",
            f"**{row['says']}** `{row['verdict']}`\n",
            f"- {source} {row['section']}"
            + (f"; the paper reports: {row['reports']}" if row["reports"] else ""),
            f"- rule{before}: {_rule(row)}",
        ]
        if row["changed"]:
            lines.append(f"- changed: {row['changed']}")
        if row["measured"]:
            lines += [f"- measured: {row['measured']}", f"- distance: {row['apart']}"]
        if row["where"] == LOGS:
            lines.append(f"- scale: {LOGS}")
        parts.append("\n".join(lines))
    return parts


def _rule(row: dict[str, Any]) -> str:
    """The rule, with the reason why scale short decides nothing, if there is one."""
    reason = row.get("not_at_short")
    return f"{row['rule']} Undecided at scale short: {reason}." if reason else str(row["rule"])


def files(table: list[dict[str, Any]]) -> dict[Path, bytes]:
    """The page with its present text."""
    return {RESULTS / "CLAIMS.md": claims_page(table).encode()}
