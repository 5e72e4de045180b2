"""Redraw every figure from the committed results: ``python -m scripts.make_figures [fig02 ...]``.

It writes ``results/figures/<name>.png`` and the index of figures, ``results/FIGURES.md``.
``--check`` writes nothing, and exits with 1 if a committed picture or the index is stale.

``--from FOLDER`` draws a figure from your own tables, as ``scripts.collect`` writes them, into the
same folder. A part that shows another figure's runs comes from the committed results.
"""

import argparse
import io
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from experiments.common import RESULTS
from experiments.common.messages import ConfigError, named
from experiments.common.records import Results
from experiments.common.terminal import as_command
from scripts import check_claims, index, readme
from scripts.figures import style
from scripts.generated import settle
from scripts.grid import own_tables
from scripts.paper import drawable, drawn, figures, finding, results_of, script

PICTURES = RESULTS / "figures"


def picture(name: str, own: Results | None = None) -> bytes | None:
    """The PNG of a figure with its finding above it, or None if there is nothing to draw yet.

    Args:
        name: name of the figure.
        own: results to draw in place of the committed ones.

    Raises:
        ConfigError: its script cannot draw these results of one's own.
    """
    if own is None:
        return _picture(name, results_of(name)) if drawable(name) else None
    try:
        return _picture(name, own)
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:  # of too few seeds
        raise ConfigError(
            f"{own.folder}: {name} cannot be drawn from {own.seeds} ({named(error)})"
        ) from error


def _picture(name: str, results: Results | None) -> bytes:
    style.use()
    figure = script(name).draw(results)
    title = finding(name, results), verdicts(name, results)
    strip = style.headline(figure.get_figwidth(), *title)
    parts = [_pixels(part) for part in (strip, figure)]
    plt.close(figure)
    whole = Image.new("RGB", (parts[1].width, sum(part.height for part in parts)), "white")
    whole.paste(parts[0])
    whole.paste(parts[1], (0, parts[0].height))
    buffer = io.BytesIO()
    whole.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _pixels(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def verdicts(name: str, results: Results | None = None) -> str:
    """The numbers of the claims that a figure decides, by verdict, as text; see ``shown``."""
    rows = readme.shown(check_claims.rows(name, results))
    by_kind: dict[str, list[str]] = {}
    for (kind, held), count in Counter((row["kind"], row["held"]) for row in rows).items():
        by_kind.setdefault(kind, []).append(f"{count} {check_claims.WORDS[kind][held]}")
    parts = [check_claims.BEFORE[kind] + ", ".join(counts) for kind, counts in by_kind.items()]
    whose = "claims of the paper" if any(row["of"] == "paper" for row in rows) else "our claims"
    return f"{whose}: {'; '.join(parts)}" if parts else ""


def files(
    names: list[str], folder: Path | None = None, own: Mapping[str, Results] | None = None
) -> dict[Path, bytes]:
    """Draw these figures; return each picture with its path.

    Args:
        names: names of the figures.
        folder: the folder of the pictures; by default that of one's own tables, else ``PICTURES``.
        own: figure -> results to draw in place of the committed ones.
    """
    found = {}
    own = own or {}
    workers = min(len(names), os.cpu_count() or 1)
    # Only the workers switch the backend; this process may use another, for example in a notebook.
    with ProcessPoolExecutor(workers, initializer=mpl.use, initargs=("Agg",)) as pool:
        tables = [own.get(figures()[name].get("results", name)) for name in names]
        pictures = pool.map(picture, names, tables)
        for name, table, png in zip(names, tables, pictures, strict=True):
            print(f"{name}: {'not run' if png is None else 'drawn'}", flush=True)
            if png is not None:
                place = folder or (table.folder if table else PICTURES)
                found[place / f"{name}.png"] = png
    return found


def main() -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="*", help="names; default all")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    mine = "draw a figure from your own tables, into their folder; may be repeated"
    parser.add_argument("--from", type=Path, default=[], action="append", metavar="FOLDER",
                        dest="tables", help=mine)  # fmt: skip
    parser.add_argument("--to", type=Path, help="another folder for the pictures")
    arguments = parser.parse_args()
    if arguments.check and (arguments.tables or arguments.to):
        parser.error(
            "--check: compares the committed pictures, so it takes neither --from nor --to"
        )
    own: dict[str, Results] = {}
    for folder in arguments.tables:
        name, results = own_tables(folder)
        if name in own:
            parser.error(f"--from {folder}: {own[name].folder} has tables of {name}, too")
        own[name] = results
    if unknown := sorted(set(arguments.figures) - set(drawn())):
        parser.error(f"{', '.join(unknown)}: unknown figure; allowed are {', '.join(drawn())}")
    names = arguments.figures or [*own] or drawn()
    sources = {name: figures()[name].get("results", name) for name in names}
    for source in own.keys() - set(sources.values()):
        parser.error(
            f"--from {own[source].folder}: none of {', '.join(names)} is drawn from {source}'s runs"
        )
    for name in [name for name in names if own and not arguments.to and sources[name] not in own]:
        parser.error(f"{name}: has no --from FOLDER; --to FOLDER draws it from committed results")
    if arguments.to:
        try:
            arguments.to.mkdir(parents=True, exist_ok=True)  # fails now, not after the drawing
        except OSError as error:
            why = f"{error.strerror}; must be a folder that can be written"
            raise ConfigError(f"--to {arguments.to}: {why}") from None
    new = files(names, arguments.to, own)
    if not (own or arguments.to):
        new |= index.files()
    return settle(new, arguments.check)


if __name__ == "__main__":
    as_command(main)
