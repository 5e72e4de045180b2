"""The parts of the README that are made from the results, such as findings and scorecard."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.common import ROOT
from experiments.common.records import begun, load
from scripts.check_claims import LOGS, NOT_RUN, OF, OWN, SHORT, SMALL
from scripts.paper import by_experiment, figures, finding, results_of, script

# The figures whose findings are in the README.
FOUND = ("fig01", "fig02", "one_gradient", "fig05", "imdb_tuned")
# What a row's `held` is called: a sign, and a text.
SIGNS = {True: "✓", False: "✗", None: "?", NOT_RUN: "–"}
ALONE = {True: "held", False: "did not hold", None: "is undecided", NOT_RUN: "was not run"}
WHOLE, MATHEMATICS, SETTING = "paper's scale", "mathematics", "our setting"
WHERE = {  # the kinds of verdicts, in the order in which they are shown, and where they were tested
    WHOLE: "at the paper's scale",
    SETTING: "in our setting",
    MATHEMATICS: "as mathematics, checked numerically",
    SHORT: "cut short",
    SMALL: "in a small model",
    LOGS: "in the authors' logs",
    OWN: "in a task of one's own",
    NOT_RUN: "not run",
}


def files(table: list[dict[str, Any]]) -> dict[Path, bytes]:
    """The README with its present text."""
    path = ROOT / "README.md"
    return {path: filled(path.read_text(), table).encode()}


def filled(text: str, table: list[dict[str, Any]]) -> str:
    """The README with its parts written anew.

    Args:
        text: the README, with a pair of comments around each part.
        table: the claims, see :func:`scripts.check_claims.rows`.
    """
    made = {
        "found": found(table),
        "totals": totals(table),
        "failed": failed(table),
        "scorecard": scorecard(table),
        "begun": first_runs(),
    }
    for name, part in made.items():
        begin, end = f"<!-- {name}: written by make claims -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{part}\n{end}{rest.split(end)[1]}"
    return text


def found(table: list[dict[str, Any]]) -> str:
    """A bullet for each of the figures: its finding, its picture, and the verdicts on claims."""
    lines = []
    for name in FOUND:
        picture = f"[{name}](results/figures/{name}.png)"
        verdicts = of_claims(shown([row for row in table if row["figure"] == name]))
        aside = getattr(script(name), "aside", lambda: "")()
        lines.append(f"- {finding(name)}{aside} ({picture}; {verdicts}).")
    return "\n".join(lines)


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's claims among those of a figure; ours if it has none of the paper's."""
    return [row for row in rows if row["of"] == "paper"] or rows


def of_claims(rows: list[dict[str, Any]]) -> str:
    """What the signs count: ``of the paper's 3 claims: ✓ 2 in our setting, ? 1 cut short``.

    Beside the finding of a figure a sign alone would look like a verdict on that sentence.
    """
    of = "the paper's" if any(row["of"] == "paper" for row in rows) else "our"
    if len(rows) == 1:
        ((kind, _),) = _kinds(rows)
        where = f", {WHERE[kind].split(',')[0]}" * (kind not in (WHOLE, NOT_RUN))
        says = rows[0]["says"].rstrip(".")
        return f"{of} one claim, “{says}”, {ALONE[rows[0]['held']]}{where}"
    parts = [
        signs(same) + f" {WHERE[kind]}" * (kind not in (WHOLE, NOT_RUN))
        for kind, same in _kinds(rows)
    ]
    return f"of {of} {len(rows)} claims: {', '.join(parts)}"


def by_kind(rows: list[dict[str, Any]]) -> str:
    """The numbers of claims with each verdict, by kind: ``paper's scale: ✓ 3; not run: – 1``."""
    return "; ".join(f"{kind}: {signs(same)}" for kind, same in _kinds(rows))


def signs(rows: list[dict[str, Any]]) -> str:
    """The numbers of claims with each verdict: ``✓ 3 ✗ 1``."""
    count = Counter(row["held"] for row in rows)
    return " ".join(f"{sign} {count[held]}" for held, sign in SIGNS.items() if count[held])


def totals(table: list[dict[str, Any]]) -> str:
    """A table with a row for each place where the paper's claims were tested, and the verdicts."""
    lines = [
        "| tested | ✓ held | ✗ did not hold | ? undecided | – not run |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    of_paper = [row for row in table if row["of"] == "paper"]
    for kind, same in _kinds(of_paper):
        count = Counter(row["held"] for row in same)
        lines.append(f"| {WHERE[kind]} | {' | '.join(str(count[held]) for held in SIGNS)} |")
    return "\n".join(lines)


def failed(table: list[dict[str, Any]]) -> str:
    """A bullet for each claim of the paper that did not hold, by where it was tested."""
    lines = []
    wrong = [row for row in table if row["of"] == "paper" and SIGNS[row["held"]] == "✗"]
    for kind, same in _kinds(wrong):
        lines.append(f"- {WHERE[kind].capitalize()}:")
        for row in same:
            link = f"[{row['figure']}](results/CLAIMS.md#{row['claim']})"
            lines.append(f"  - {row['says']} ({link}: {row['apart']})")
    return "\n".join(lines) or "Every claim held."


def first_runs() -> str:
    """What the first runs of CIFAR-10 at a larger scale show, beside the picture's; or nothing."""
    first, shown = begun("fig12"), load("fig12")
    if first is None or shown is None:
        return ""
    so_far = script("fig12").so_far
    lr, paper = (results.manifest["settings"]["optimizer.lr"] for results in (shown, first))
    pairs = first.every_run.pivot(
        index=["mu", "nu", "seed"], columns="optimizer", values="test_accuracy"
    )
    ahead = int((pairs.adam > pairs.laprop).sum())
    return (
        f"CIFAR-10, small model, {lr / paper:.3g} times the paper's learning rate: "
        f"{so_far(shown)}. At the paper's rate, in the first runs that are cut short: "
        f"{so_far(first)}, and Adam is the more accurate in {ahead} of {len(pairs)} pairs; they "
        "decide no claim yet ([first runs](results/CLAIMS.md#first-runs-of-larger-scales))."
    )


def scorecard(table: list[dict[str, Any]]) -> str:
    """A table with a row for each experiment: the verdicts of the paper's claims, by scale."""
    lines = ["| experiment | claims of the paper | figures |", "| --- | --- | --- |"]
    for experiment, names in by_experiment().items():
        claims = [row for row in table if row["figure"] in names and row["of"] == "paper"]
        if not claims:
            continue
        links = [
            name if results_of(name) is None else f"[{name}](results/figures/{name}.png)"
            for name in names
        ]
        lines.append(f"| {experiment} | {by_kind(claims)} | {', '.join(links)} |")
    return "\n".join(lines)


def _kinds(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The claims of each kind, in the order of :data:`WHERE`."""
    ordered = sorted(rows, key=lambda row: [*WHERE].index(_kind(row)))
    return [(kind, list(same)) for kind, same in groupby(ordered, key=_kind)]


def _kind(row: dict[str, Any]) -> str:
    """What a verdict is about: one of the keys of :data:`WHERE`."""
    if row["kind"] not in OF:
        return str(row["kind"])
    entry = figures()[row["figure"]]
    return MATHEMATICS if MATHEMATICS in entry else SETTING if "setting" in entry else WHOLE
