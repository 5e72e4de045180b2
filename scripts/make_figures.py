"""Redraw every figure from the committed results: ``python -m scripts.make_figures [fig02 ...]``.

It writes ``results/figures/<name>.png`` and the index of figures, ``results/FIGURES.md``.
``--check`` writes nothing, and exits with 1 where a committed picture or the index is stale.
"""

import argparse
import io
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from experiments.common.records import RESULTS
from scripts.figures import style
from scripts.generated import settle
from scripts.paper import drawable, drawn, figures, results_of, script

PICTURES = RESULTS / "figures"


def picture(name: str) -> bytes | None:
    """A figure as PNG; None where it has no results yet."""
    if not drawable(name):
        return None
    results = results_of(name)
    style.use()
    figure = script(name).draw(results)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def index() -> str:
    """The table of all figures: what each shows, and at which scale it was run."""
    lines = [
        "# Figures",
        "",
        "Written by `make figures`. Scale `paper` is what the paper ran, `short` its setting cut",
        "short, `small` a smaller model; each says what it reduces. What nobody ran yet says so.",
        "",
        "| figure | what it shows | paper | task | status | run it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in figures().items():
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


def index_file() -> dict[Path, bytes]:
    """The index with the text that it should have."""
    return {RESULTS / "FIGURES.md": index().encode()}


def files(names: list[str], folder: Path = PICTURES) -> dict[Path, bytes]:
    """Draw these figures; return each picture with its path in ``folder``."""
    found = {}
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
        for name, png in zip(names, pool.map(picture, names), strict=True):
            print(f"{name}: {'not run' if png is None else 'drawn'}", flush=True)
            if png is not None:
                found[folder / f"{name}.png"] = png
    return found


def main() -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="*", help="names; default all")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    parser.add_argument("--to", type=Path, default=PICTURES, help="folder of the pictures")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.figures) - set(drawn())):
        parser.error(f"{', '.join(unknown)}: unknown figure; allowed are {', '.join(drawn())}")
    new = files(arguments.figures or drawn(), arguments.to)
    if arguments.to == PICTURES:
        new |= index_file()
    return settle(new, arguments.check)


if __name__ == "__main__":
    sys.exit(main())
