"""What is installed: the wheel of laprop, and the versions that the tests run with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import laprop

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(requirements: Iterable[str]) -> set[str]:
    """Names of all distributions that these requirements need, by what is installed here."""
    todo, seen = list(map(Requirement, requirements)), set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        if name == "laprop":
            extras = PROJECT["optional-dependencies"]
            todo += [Requirement(text) for extra in wanted.extras for text in extras[extra]]
            todo += map(Requirement, PROJECT["dependencies"])
            continue
        for requirement in map(Requirement, distribution(name).requires or ()):
            marker, chosen = requirement.marker, wanted.extras or {""}
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in chosen):
                todo.append(requirement)
    return {name for name, *_ in seen}


def test_constraints_txt_pins_all_that_the_tests_need() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(line.split("==")[0]) for line in lines if line[0] != "#"}
    extras = PROJECT["optional-dependencies"]
    direct = {canonicalize_name(Requirement(text).name) for e in extras for text in extras[e]}
    theirs = re.compile("laprop$|nvidia-|cuda-|triton$|setuptools$")  # pinned by torch itself
    wanted = direct | needed(["laprop[dev]"])
    assert {name for name in wanted if not theirs.match(name)} <= pins
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"][-1] == {
        "pip": ["--constraint constraints.txt", "--editable .[dev]"]
    }


def test_the_citation_names_this_version_and_the_paper() -> None:
    """The file has what version 1.2.0 of the Citation File Format requires, and today's version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors"}
    assert citation["version"] == laprop.__version__
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper.keys() >= {"type", "title", "authors"}
    assert "2002.04839" in paper["identifiers"][0]["value"]


# The wheel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, which must contain all that a build needs."""
    folder = tmp_path_factory.mktemp("source")
    tree = folder / "tree"
    ignore = shutil.ignore_patterns(
        "*.so", "__pycache__", "build", "*.egg-info", ".*", "results", "outputs", "shared"
    )
    shutil.copytree(ROOT, tree, ignore=ignore)
    build = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / f"laprop-{laprop.__version__}"


def built(source: Path, folder: Path, **env: str) -> Path:
    """Build the wheel of a source tree; return its path."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    tree = shutil.copytree(source, folder / "tree")
    command = [*pip, "-w", str(folder), str(tree)]
    subprocess.run(command, env=os.environ | env, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def said(program: str, wheel: Path, folder: Path) -> str:
    """Run a program in a new environment with the wheel and torch alone; return what it prints."""
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv").glob("lib/*/site-packages")
    for name in needed(["torch"]):
        found = distribution(name)
        tops = {path.parts[0] for path in found.files or () if path.parts[0] != ".."}
        for top in tops - {"__pycache__", "bin", *os.listdir(packages)}:
            (packages / top).symlink_to(found.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    command = [str(python), "-I", "-c", program]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


PROGRAM = """
import importlib.util, torch, laprop.bounds, laprop.schedules, laprop.kernels as kernels
results = []
for kind in ({"fused": True}, {"foreach": True}, {}):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = laprop.LaProp([param], **kind)
    optimizer.step()
    results.append(param.detach())
assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
assert results[0][0] < 1
assert "site-packages" in laprop.__file__
others = "experiments scripts numpy pandas hydra pydantic matplotlib wandb fairseq".split()
print(kernels.available(), [name for name in others if importlib.util.find_spec(name)])
"""


def test_the_wheel_needs_torch_alone_and_holds_laprop_alone(source: Path, tmp_path: Path) -> None:
    wheel = built(source, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"laprop-{laprop.__version__}.dist-info"
        about = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert {name.split("/")[0] for name in names} == {"laprop", info}
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "laprop").rglob("*.py")
        if "build" not in path.parts
    }
    assert modules | {"laprop/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert [name for name in names if name.endswith(".so")]
    assert (about["Name"], about["License-Expression"]) == ("laprop", "MIT")
    always = [text for text in about.get_all("Requires-Dist") if "extra ==" not in text]
    assert list(map(str, map(Requirement, always))) == PROJECT["dependencies"]
    assert said(PROGRAM, wheel, tmp_path) == "True []"


def test_builds_and_works_without_a_compiler(source: Path, tmp_path: Path) -> None:
    """Without a compiler the package installs without a kernel; fused=True then means foreach."""
    nowhere = "/nonexistent"
    wheel = built(source, tmp_path, CC=f"{nowhere}/cc", CXX=f"{nowhere}/c++", PATH=nowhere)
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    assert said(PROGRAM, wheel, tmp_path) == "False []"
