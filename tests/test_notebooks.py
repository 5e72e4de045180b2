"""The notebooks run, and their committed outputs are what their code prints and draws."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import vl_convert
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from experiments.common import ROOT
from scripts import run_notebooks
from scripts.run_notebooks import NOTEBOOKS, executed, pictureless

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # kernels start, three notebooks run

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
VEGALITE = "application/vnd.vegalite.v5+json"


def cells(path: Path) -> list[Any]:
    """The code cells of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_committed_outputs_are_those_of_the_code() -> None:
    command = [sys.executable, "-m", "scripts.run_notebooks", "--check"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=540
    )
    assert result.returncode == 0, result.stderr


def test_every_code_cell_was_executed_in_order() -> None:
    assert len(PATHS) >= 3
    for path in PATHS:
        counts = [cell.execution_count for cell in cells(path)]
        assert counts == list(range(1, len(counts) + 1))
        assert not pictureless(nbformat.read(path, as_version=4))
        assert any(run_notebooks.DRAWS.search(cell.source) for cell in cells(path))
        assert path.stat().st_size < 500_000


# Pictures -----------------------------------------------------------------------------------------

DRAWING = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def notebook(path: Path, *sources: str) -> Path:
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


@pytest.mark.parametrize("check", [True, False], ids=["check", "write"])
def test_a_cell_that_draws_and_leaves_no_picture_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, check: bool
) -> None:
    path = notebook(tmp_path / "blank.ipynb", "import matplotlib as mpl; mpl.use('Agg')", DRAWING)
    before = path.read_bytes()
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_notebooks", *["--check"] * check])
    assert run_notebooks.main() == 1
    said = "no picture: blank.ipynb, the cell that begins 'import matplotlib.pyplot as plt'\n"
    assert capsys.readouterr().err == said
    assert path.read_bytes() == before


def test_the_scripts_leave_a_notebook_its_pictures(tmp_path: Path) -> None:
    scripts = sorted(file.stem for file in (ROOT / "scripts").glob("*.py"))
    imports = "\n".join(f"import scripts.{name}" for name in scripts)
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    assert not pictureless(executed(notebook(tmp_path / "a.ipynb", path + imports, DRAWING)))


# The cell that finds or installs the repository ---------------------------------------------------


def test_all_notebooks_begin_with_the_same_cell() -> None:
    (first,) = {cells(path)[0].source for path in PATHS}
    assert 'ADDRESS = ""' in first
    assert all(cells(path)[0].outputs == [] for path in PATHS)  # in a clone it says nothing


def begin(folder: Path, address: str = "", then: str = "") -> Any:
    """Execute the first cell in a folder, with an address typed into it."""
    source = cells(PATHS[0])[0].source.replace('ADDRESS = ""', f'ADDRESS = "{address}"')
    return executed(notebook(folder / "n.ipynb", source, then))


def test_outside_a_clone_the_first_cell_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError) as error:
        begin(tmp_path)
    assert error.value.ename == "SystemExit"
    assert error.value.evalue == (
        'no clone here: type the git address of the repository as ADDRESS = "..."'
    )
    assert os.listdir(tmp_path) == ["n.ipynb"]


def test_with_an_address_the_first_cell_clones_and_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, elsewhere = tmp_path / "origin", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(ROOT / "laprop", origin / "laprop", ignore=shutil.ignore_patterns("*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "scripts/paper.yaml"):
        (origin / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, origin / name)
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    # pip reads the real command and the project's metadata, and leaves this environment alone.
    for name in ("DRY_RUN", "NO_DEPS"):
        monkeypatch.setenv(f"PIP_{name}", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # as pip reads it, 0 switches isolation off
    then = "import laprop; print(os.getcwd(), laprop.__file__)"
    for _ in range(2):  # once more it finds the clone
        ran = begin(elsewhere, origin.as_uri(), then)
        clone = elsewhere / "laprop"
        assert ran.cells[1].outputs[0]["text"] == f"{clone} {clone}/laprop/__init__.py\n"
    assert (clone / ".git").exists()


# The slider ---------------------------------------------------------------------------------------


@pytest.fixture
def chart(browser: Any, tmp_path: Path) -> Any:
    """The committed chart of notebook 2 in a browser, without a kernel."""
    outputs = [output for cell in cells(NOTEBOOKS / "2_laprop.ipynb") for output in cell.outputs]
    (spec,) = [o["data"][VEGALITE] for o in outputs if VEGALITE in o.get("data", {})]
    vl_convert.vegalite_to_svg(spec, vl_version="5.20")  # JupyterLab's Vega-Lite draws it, too
    page = tmp_path / "page.html"
    page.write_text(
        f'<meta charset="utf-8" /><div id="a"></div><script>{vl_convert.javascript_bundle()}'
        f'</script><script>vegaEmbed("#a", {json.dumps(spec)}, {{renderer: "svg"}})</script>'
    )
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda driver: len(curves(driver)) == 2)
    return browser


def curves(driver: Any) -> list[str]:
    """The lines that are drawn, as SVG paths."""
    found = driver.find_elements("css selector", ".mark-line path")
    return [line.get_attribute("d") for line in found]


def test_a_slider_that_is_moved_draws_other_curves_without_a_kernel(chart: Any) -> None:
    before = curves(chart)
    for slider in chart.find_elements("css selector", "input[type=range]"):
        slider.send_keys(Keys.HOME)
    WebDriverWait(chart, 60).until(lambda driver: curves(driver) != before)
    assert len(curves(chart)) == 2
    title = [e.text for e in chart.find_elements("css selector", ".role-title-text")]
    assert title == ["µ = 0.0, ν = 0.00"]
    # Without momentum the two are one and the same rule.
    assert len(set(curves(chart))) == 1
    for slider in chart.find_elements("css selector", "input[type=range]"):
        slider.send_keys(Keys.END)
    WebDriverWait(chart, 60).until(lambda driver: len(set(curves(driver))) == 2)
