"""The notebooks run, and show what they show when they are run."""

import subprocess
import sys

import nbformat

from experiments.common.config import ROOT
from scripts.run_notebooks import NOTEBOOKS


def test_committed_outputs_are_those_of_the_code() -> None:
    command = [sys.executable, "-m", "scripts.run_notebooks", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_code_cell_was_executed_in_order() -> None:
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert len(paths) >= 3
    for path in paths:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert any("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)
        assert path.stat().st_size < 500_000
