"""Execute the notebooks and write their outputs into them: ``make notebooks``.

``--check`` writes nothing, and exits with 1 where the text in a committed notebook is not what its
code prints now; pictures are not compared. Widgets are not written, because without a running
kernel they do nothing, and their names change with each execution.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget

from experiments.common import ROOT

NOTEBOOKS = ROOT / "notebooks"
CELL_SECONDS = 180
WIDGET = "application/vnd.jupyter.widget-view+json"


class Output(OutputWidget):
    """A widget's output area that does not report its changes to the kernel.

    nbclient sends every change back to the kernel, past asyncio, on the socket on which it waits
    for the kernel's reply. ZeroMQ announces a reply once. If the client sends after the reply has
    come and before it has looked, the announcement is lost: the reply lies unread until the
    cell's time is over (nbclient's issue 312). No cell of ours reads the outputs in the kernel.
    """

    def sync_state(self) -> None:
        """Send nothing."""


def client(notebook: Any) -> NotebookClient:
    """A client that executes a notebook in the folder of the notebooks.

    A cell may take ``CELL_SECONDS``, and its outputs as long again; more is an error.
    """
    runner = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        iopub_timeout=CELL_SECONDS,
        raise_on_iopub_timeout=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    runner.widget_registry = {"@jupyter-widgets/output": {"OutputModel": Output}}
    return runner


def executed(path: Path) -> Any:
    """Execute a notebook in a fresh kernel; return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client(notebook).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of day at which cells ran
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    return notebook


def texts(notebook: Any) -> list[str]:
    """The text outputs of all code cells, in order."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" not in data:
                shown.append(output.get("text") or data.get("text/plain", ""))
    return shown


def main() -> int:
    """Execute all notebooks, and write them or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    check = parser.parse_args().check
    stale = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = executed(path)
        if check and texts(notebook) != texts(nbformat.read(path, as_version=4)):
            stale.append(path)
        elif not check:
            nbformat.write(notebook, path)
        print(f"{path.name}: executed", flush=True)
    for path in stale:
        print(f"stale: {path.relative_to(ROOT)}; run make notebooks", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
