"""The notebooks run, and their committed outputs are what their code prints."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from experiments.common import ROOT
from scripts.run_notebooks import NOTEBOOKS, client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # kernels start, three notebooks run


def test_committed_outputs_are_those_of_the_code() -> None:
    command = [sys.executable, "-m", "scripts.run_notebooks", "--check"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=540
    )
    assert result.returncode == 0, result.stderr


def test_every_code_cell_was_executed_in_order() -> None:
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert len(paths) >= 3
    for path in paths:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        drawing = [cell for cell in cells if "plt.show()" in cell.source or "Image(" in cell.source]
        assert drawing
        for cell in drawing:
            assert any("image/png" in o.get("data", {}) for o in cell.outputs), cell.source
        assert path.stat().st_size < 500_000


def test_a_slider_that_is_moved_draws_another_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOKS / "2_laprop.ipynb", as_version=4)
    notebook.cells.append(
        new_code_cell("_, nu, picture = sliders.children; print(picture.comm.comm_id)")
    )
    runner = client(notebook)

    def pictures() -> list[str]:
        """The pictures that the sliders' output shows, as PNG."""
        outputs = runner.widget_state[picture]["outputs"]
        return [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]

    sent = []
    with runner.setup_kernel():
        shell = runner.kc.shell_channel
        send = shell.send
        monkeypatch.setattr(shell, "send", lambda m: (sent.append(m["msg_type"]), send(m)))
        for index, cell in enumerate(notebook.cells):
            runner.execute_cell(cell, index)
        picture = notebook.cells[-1].outputs[0]["text"].strip()
        (before,) = pictures()
        notebook.cells.append(new_code_cell("nu.value = 0.999; print(sliders.kwargs)"))
        runner.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
        (after,) = pictures()
    assert notebook.cells[-1].outputs[0]["text"] == "{'mu': 0.9, 'nu': 0.999}\n"
    assert before != after
    # A client that sends anything else may miss the kernel's reply and wait for ever.
    assert set(sent) == {"execute_request"}
