"""Redraw every figure from the committed results: ``python -m scripts.make_figures [fig02 ...]``.

Writes ``results/figures/<name>.png`` and the figure index ``results/FIGURES.md``. With ``--check``
nothing is written; exit status 1 where a committed picture or the index is not what is drawn.
"""

import argparse
import importlib
import io
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib as mpl
import yaml

mpl.use("Agg")
import matplotlib.pyplot as plt

from experiments.common.records import RESULTS, Results, load
from scripts.figures import style

HERE = Path(__file__).parent / "figures"
PICTURES = RESULTS / "figures"


def drawn() -> list[str]:
    """Names of the figures that have a script, by globbing."""
    return sorted(file.stem for file in HERE.glob("*.py") if file.stem != "style")


def catalogue() -> dict[str, dict[str, str]]:
    """Every figure of the paper, and ours: section, task, what it shows."""
    return dict(yaml.safe_load((HERE / "catalogue.yaml").read_text()))


def results_of(name: str) -> Results | None:
    """What a figure is drawn from: its own results, or those that its catalogue row names.

    ``results`` names another figure, ``tables`` a file of ``results/`` that no run made, beside
    which the others lie.
    """
    entry = catalogue()[name]
    if "tables" in entry:
        table = RESULTS / entry["tables"]
        return Results(table.parent) if table.exists() else None
    return load(entry.get("results", name))


def drawable(name: str) -> bool:
    """Whether there is something to draw: results, or the authors' own runs, alone until then."""
    return results_of(name) is not None or "authors" in catalogue()[name]


def picture(name: str) -> bytes | None:
    """The PNG of a figure, or None where there is nothing to draw yet."""
    if not drawable(name):
        return None
    results = results_of(name)
    style.use()
    figure = importlib.import_module(f"scripts.figures.{name}").draw(results)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def index() -> str:
    """The table of all figures: what each shows, and how far it has come."""
    lines = [
        "# Figures",
        "",
        "Written by `make figures`. `paper` scale is what the paper ran; `cpu` a reduced one that",
        "says what it reduces. A figure that nobody ran yet says so.",
        "",
        "| figure | what it shows | paper | task | status | run it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in catalogue().items():
        results = results_of(name)
        if results is None:
            status, command = "not run", ""
            if drawable(name):
                status += f"; [{entry['authors']}](figures/{name}.png)"
        elif "tables" in entry:
            status, command = f"[measured](figures/{name}.png)", f"`{entry['command']}`"
        else:
            status = f"[{results.label}](figures/{name}.png)"
            command = f"`python -m experiments figure={results.figure} scale={results.scale}`"
        lines.append(
            f"| {name} | {entry['shows']} | {entry['section']} | {entry['task']} | {status} "
            f"| {command} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="*", help="names; default all")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    parser.add_argument("--to", type=Path, default=PICTURES, help="folder of the pictures")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.figures) - set(drawn())):
        parser.error(f"{', '.join(unknown)}: unknown figure; allowed are {', '.join(drawn())}")
    files = {}
    names = arguments.figures or drawn()
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
        for name, png in zip(names, pool.map(picture, names), strict=True):
            print(f"{name}: {'not run' if png is None else 'drawn'}", flush=True)
            if png is not None:
                files[arguments.to / f"{name}.png"] = png
    if arguments.to == PICTURES:
        files[RESULTS / "FIGURES.md"] = index().encode()
    if arguments.check:
        stale = [p for p, new in files.items() if not p.exists() or p.read_bytes() != new]
        for path in stale:
            print(f"stale: {path.relative_to(RESULTS.parent)}; run make figures", file=sys.stderr)
        return bool(stale)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
