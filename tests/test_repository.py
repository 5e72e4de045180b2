"""The commands of README and docs work as they say, and no layer imports one above it."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from conftest import DOCS, README, ROOT, TASKS, blocks, copied, documented


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code in a folder of its own, with the task of docs/extend.md added."""
    folder = copied(tmp_path_factory.mktemp("clone"), "scripts")
    (folder / "experiments" / "softmax.py").write_text(documented("class Config"))
    (folder / "configs" / "task" / "softmax.yaml").write_text(documented("name: softmax", "yaml"))
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one documented line in the copy."""
    words = [sys.executable, *command.split()[1:]]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_documented_task_runs_sweeps_records_and_is_found(copy: Path) -> None:
    sweep, collect = documented("task=softmax scale=smoke", "sh").strip().splitlines()
    first = run(sweep, copy)
    assert first.returncode == 0, first.stderr
    runs = sorted((copy / "outputs" / "softmax").glob("*/manifest.json"))
    assert len(runs) == 4
    assert {json.loads(path.read_text())["status"] for path in runs} == {"finished"}
    times = [path.stat().st_mtime_ns for path in runs]

    again = run(sweep, copy)  # everything is skipped
    assert "finished before: 4" in again.stdout
    assert [path.stat().st_mtime_ns for path in runs] == times

    assert run(collect, copy).returncode == 0
    (folder,) = (copy / "outputs" / "tables" / "softmax" / "smoke").iterdir()
    table = pd.read_csv(folder / "runs.csv")
    assert set(table.optimizer) == {"adam", "laprop"}
    assert set(table.nu) == {0.9, 0.999}
    assert (table.test_accuracy > 0.5).all()

    assert "softmax" in run("python -m experiments --help", copy).stdout


def test_the_documented_task_passes_the_linter_as_it_is() -> None:
    """As the file that its text names; whoever copies it can run ``make check``."""
    command = [sys.executable, "-m", "ruff"]
    for check in ["check", "--quiet"], ["format", "--check", "--quiet"]:
        done = subprocess.run(
            [*command, *check, "--stdin-filename", "experiments/softmax.py", "-"],
            input=documented("class Config"), cwd=ROOT, stdout=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_every_command_of_the_readme_composes() -> None:
    from experiments.common.config import expand

    lines = [
        line.split("#")[0].split("experiments ", 1)[1]
        for block in blocks("sh", README)
        for line in block.splitlines()
        if line.startswith("python -m experiments") and "softmax" not in line
    ]
    assert len(lines) >= 5
    for line in lines:
        words = [word.strip("'") for word in line.split() if not word.startswith(("-", "plan="))]
        if words:
            assert expand(words)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS])
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            place = page.parent / file if file else page
            assert place.exists(), target
            headings = re.findall(r"^#+ (.+)$", place.read_text(), re.M) if anchor else []
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert not anchor or anchor in anchors, target


def test_the_badges_say_what_the_project_file_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = re.findall(r"\[!\[([^]]+)\]\(https://img.shields.io/badge/([^)]+)-0072B2\)\]", README)
    known = "Programming Language :: Python :: "
    versions = [c.removeprefix(known) for c in project["classifiers"] if c.startswith(known)]
    expected = [f"licence {project['license']}", f"Python {' | '.join(versions)}"]
    assert [alt for alt, _ in texts] == [*expected, "tests: make test"]
    for alt, path in texts:
        assert path.replace("-", " ", 1).replace("_", " ") == alt.replace(":", "")
    assert "\ntest:" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_laprop_imports_torch_alone() -> None:
    """The optimizer imports torch and neither experiments nor scripts."""
    code = (
        "import sys, laprop, laprop.schedules, laprop.bounds, laprop.optimizer; "
        "print([m for m in ('experiments', 'scripts', 'hydra', 'pandas', 'matplotlib', 'wandb', "
        "'pydantic') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


LAYERS = ("laprop", "experiments", "scripts")
# What is made of the figures, which therefore import none of it.
ABOVE = ("build", "check_claims", "discrepancies", "index", "make_figures", "readme", "report")


def imported(file: Path) -> set[str]:
    """The full names of the modules that a file imports, and of what it takes from them."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def lies_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_no_layer_imports_one_above_it() -> None:
    """And no task imports another; nothing below the tasks imports one."""
    tasks = [f"experiments.{task}" for task in TASKS]
    for number, layer in enumerate(LAYERS):
        for file in (ROOT / layer).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            barred = [*LAYERS[number + 1 :]]
            if layer == "experiments":
                barred += [task for task in tasks if not lies_in(name, task)]
            if lies_in(name, "scripts.figures") or name == "scripts.paper":
                barred += [f"scripts.{script}" for script in ABOVE]
            if name == "scripts.check_claims":
                barred += ["scripts.make_figures"]
            assert not [i for i in imported(file) if any(lies_in(i, b) for b in barred)], name
