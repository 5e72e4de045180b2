"""The two parts of the README that are made from the results: what was found, and the scorecard."""

from collections import Counter
from itertools import groupby
from typing import Any

from scripts.paper import figures, results_of, script

# The figures whose findings are in the README.
FOUND = ("fig01", "fig02", "one_gradient", "fig05", "imdb_tuned")
EXPERIMENTS = {  # name -> the `task` of its figures in paper.yaml
    "Noisy Rosenbrock function": ("rosenbrock",),
    "Small nets on MNIST": ("mnist_divergence",),
    "Style transfer": ("style_transfer",),
    "Deep fully connected nets on MNIST": ("deep_fc",),
    "IWSLT14, translation": ("translation", "translation, roberta"),
    "RoBERTa": ("roberta",),
    "Rainbow on Atari": ("rainbow",),
    "IMDB, LSTM with label noise": ("imdb",),
    "CIFAR-10, ResNet-20": ("cifar10",),
    "Limits, bounds and regret": (
        *("limits", "update_bounds", "convex_regret", "one_gradient", "update_variance"),
    ),
}
SIGNS = {  # signs for claims that held, did not hold, cannot be decided, were not tested
    "✓": ("reproduced", "supports", "seen"),
    "✗": ("not reproduced", "contradicts", "not seen"),
    "?": ("underpowered", "undecided"),
    "–": ("not run",),
}
WHOLE = "paper's scale"
WHERE = {
    WHOLE: "",
    "not run": "",
    "our setting": "in our setting",
    "small model": "in a small model",
    "authors' logs": "in the authors' logs",
}


def filled(text: str, table: list[dict[str, Any]]) -> str:
    """The README with both parts written anew.

    Args:
        text: the README, with a pair of comments around each part.
        table: the claims, see :func:`scripts.check_claims.rows`.
    """
    for name, part in (("found", found(table)), ("scorecard", scorecard(table))):
        begin, end = f"<!-- {name}: written by make claims -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{part}\n{end}{rest.split(end)[1]}"
    return text


def found(table: list[dict[str, Any]]) -> str:
    """A bullet for each of the figures: its finding, its picture, and the verdicts on claims."""
    lines = []
    for name in FOUND:
        results = results_of(name)
        picture = f"[{name}](results/figures/{name}.png)"
        verdicts = of_claims(shown([row for row in table if row["figure"] == name]))
        lines.append(f"- {script(name).finding(results)} ({picture}; {verdicts}).")
    return "\n".join(lines)


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's claims among those of a figure; ours if it has none of the paper's."""
    return [row for row in rows if row["of"] == "paper"] or rows


def of_claims(rows: list[dict[str, Any]]) -> str:
    """What the signs count: ``of the paper's 3 claims: ✓ 2 in our setting, ? 1 at scale short``.

    Beside the finding of a figure a sign alone would look like a verdict on that sentence.
    """
    parts = []
    for kind, same in _kinds(rows):
        parts.append(f"{signs(same)} {WHERE.get(kind, f'at scale {kind}')}".strip())
    of = "the paper's" if any(row["of"] == "paper" for row in rows) else "our"
    count = f"{of} one claim" if len(rows) == 1 else f"of {of} {len(rows)} claims"
    return f"{count}: {', '.join(parts)}"


def by_kind(rows: list[dict[str, Any]]) -> str:
    """The numbers of claims with each verdict, by kind: ``paper's scale: ✓ 3; not run: – 1``."""
    return "; ".join(f"{kind}: {signs(same)}" for kind, same in _kinds(rows))


def signs(rows: list[dict[str, Any]]) -> str:
    """The numbers of claims with each verdict: ``✓ 3 ✗ 1``."""
    words = Counter(row["verdict"].rpartition(": ")[2] for row in rows)
    count = {sign: sum(words[word] for word in meant) for sign, meant in SIGNS.items()}
    return " ".join(f"{sign} {number}" for sign, number in count.items() if number)


def scorecard(table: list[dict[str, Any]]) -> str:
    """A table with a row for each experiment: the verdicts of the paper's claims, by scale."""
    lines = ["| experiment | claims of the paper | figures |", "| --- | --- | --- |"]
    of_task = {name: entry["task"] for name, entry in figures().items()}
    for experiment, tasks in EXPERIMENTS.items():
        names = [name for name, task in of_task.items() if task in tasks]
        claims = [row for row in table if row["figure"] in names and row["of"] == "paper"]
        links = [
            name if results_of(name) is None else f"[{name}](results/figures/{name}.png)"
            for name in names
        ]
        lines.append(f"| {experiment} | {by_kind(claims)} | {', '.join(links)} |")
    return "\n".join(lines)


def _kinds(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The claims of each kind, by the name of the kind."""
    return [(kind, list(same)) for kind, same in groupby(sorted(rows, key=_kind), key=_kind)]


def _kind(row: dict[str, Any]) -> str:
    """What a verdict is about: the paper's scale, another one, the authors' logs, or nothing."""
    if row["verdict"] == "not run":
        return "not run"
    whole = "our setting" if "setting" in figures()[row["figure"]] else WHOLE
    return row["verdict"].rpartition(": ")[0] or whole
