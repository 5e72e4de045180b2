"""Execute the notebooks and write their outputs into them: ``make notebooks``.

If a cell that draws gives no picture, the notebook is left as it was and the exit status is 1.
``--check`` writes nothing. Its exit status is 1 also if the text or the number of pictures in a
committed notebook is not what its code makes now; the pictures themselves are not compared.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from experiments.common import ROOT
from experiments.common.files import atomic
from experiments.common.terminal import as_command

NOTEBOOKS = ROOT / "notebooks"
CELL_SECONDS = 180
PICTURE = "image/png"
DRAWS = re.compile(r"\bplt\.|\bImage\(|\balt\.Chart\(")


def executed(path: Path) -> Any:
    """Execute a notebook in a fresh kernel, in its own folder; return it with its outputs.

    A cell may take ``CELL_SECONDS``, and then its outputs as long again; more time is an error.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        iopub_timeout=CELL_SECONDS,
        raise_on_iopub_timeout=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of day at which cells ran
    return notebook


def pictureless(notebook: Any) -> list[str]:
    """The code of all cells that draw and have no picture among their outputs."""
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code"
        and DRAWS.search(cell.source)
        and not any(PICTURE in output.get("data", {}) for output in cell.outputs)
    ]


def shown(notebook: Any) -> list[str]:
    """The outputs of all code cells, in order; a picture is represented by its type."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            text = output.get("text") or data.get("text/plain", "")
            texts.append(PICTURE if PICTURE in data else text)
    return texts


def main() -> int:
    """Execute all notebooks, and write them or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    check = parser.parse_args().check
    faults = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook, name = executed(path), path.relative_to(ROOT)
        print(f"{path.name}: executed", flush=True)
        if blank := pictureless(notebook):
            faults += [
                f"no picture: {name}, the cell that begins {s.splitlines()[0]!r}" for s in blank
            ]
        elif not check:
            with atomic(path) as temporary:
                nbformat.write(notebook, temporary)
        elif shown(notebook) != shown(nbformat.read(path, as_version=4)):
            faults.append(f"stale: {name}; run make notebooks")
    print("\n".join(faults), file=sys.stderr, end="\n" * bool(faults))
    return bool(faults)


if __name__ == "__main__":
    as_command(main)
