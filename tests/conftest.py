"""What the tests of runs share: settings with an own output folder, the toy task, the CLI."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tables import MU, NU, SEEDS, toy_loss, write_run

import experiments
from experiments.common import config, overrides
from experiments.common import records as committed
from experiments.common.config import compose_settings
from experiments.common.data import DataError
from experiments.common.execution import execute
from experiments.common.messages import ConfigError
from experiments.common.optimizers import Optimizer
from experiments.common.run import Run
from experiments.common.settings import Settings, Tracking

# A busy machine is no failure, so that an example may take as long as it does.
hypothesis.settings.register_profile("laprop", max_examples=50, deadline=None)
hypothesis.settings.load_profile("laprop")

# A shell starts a script in the background with Ctrl-C ignored, and children inherit that. Tests of
# Ctrl-C need it heeded.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
TOYS = ROOT / "tests" / "toys"
TASKS = sorted(file.stem for file in (ROOT / "configs" / "task").glob("*.yaml"))
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
FIGURES = sorted(file.stem for file in (ROOT / "configs" / "figure").glob("*.yaml"))


# `make check` leaves out what trains or builds, starts the command line, or takes many seconds. It
# is marked in its file, but for what these fixtures start.
SLOW_FIXTURES = {"browser", "cli", "forkserver", "site"}


def pytest_itemcollected(item: pytest.Function) -> None:
    """Mark what asks for a slow fixture."""
    if SLOW_FIXTURES & set(item.fixturenames):
        item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """Skip a test whose data cannot be had on this machine; fail instead where CI is set."""
    try:
        return (yield)
    except DataError as error:
        if os.environ.get("CI") or not str(error).startswith("no place serves"):
            raise
        pytest.skip(str(error).splitlines()[0])


pytest_runtest_call = pytest_runtest_setup

SERVER = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="session")
def forkserver() -> None:
    """Start the server that forks the processes of ``SERVER``, so that each starts quickly."""
    SERVER.set_forkserver_preload(["forked"])
    with pytest.MonkeyPatch.context() as patch:  # the server looks for modules in this path alone
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        multiprocessing.forkserver.ensure_running()


Maker = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """``make("task=rosenbrock", ...)``: settings that write to the test's own folder."""

    def settings(*overrides: str, output: Path = tmp_path / "outputs") -> Settings:
        return compose_settings([f"output={output}", "threads=1", *overrides])

    return settings


@pytest.fixture
def results_folder(tmp_path: Path, monkeypatch) -> Path:
    """The folder of committed results, in the test's own folder and empty."""
    monkeypatch.setattr(committed, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Maker:
    """``toy(steps=5, _seed=1)``: settings of the toy task, and with ``_`` those of all tasks."""
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(TOYS)])
    return partial(toy_settings, output=tmp_path / "outputs")


def toy_settings(output: Path, **values: Any) -> Settings:
    """The settings that the fixture ``toy`` makes; ``TOYS`` must be in the path of experiments."""
    from experiments import toy as module

    shared = {k[1:]: values.pop(k) for k in list(values) if k.startswith("_")}
    optimizer = {"name": "laprop", "lr": 0.01, "mu": 0.9, "nu": 0.99, "epsilon": 1e-15}
    fields = {
        "task_name": "toy",
        "task": module.Config(**values),
        "optimizer": Optimizer(**optimizer | shared.pop("optimizer", {})),
        "seed": 0,
        "scale": "paper",
        "figure": None,
        "device": "cpu",
        "threads": 1,
        "output": output,
        "checkpoint_every": 60.0,
        "tracking": Tracking(),
    }
    return Settings(**fields | shared)


@pytest.fixture
def toy_runs(toy: Maker) -> dict[tuple[Any, ...], Settings]:
    """Runs of the toy task by optimizer, mu, nu and seed; nothing trained them."""
    made = {}
    for cell in itertools.product(("adam", "laprop"), MU, NU, SEEDS):
        name, mu, nu, seed = cell
        made[cell] = toy(_optimizer={"name": name, "mu": mu, "nu": nu}, _seed=seed)
        log = [{"step": step, "train_loss": toy_loss(*cell) / step} for step in (1, 2, 3)]
        write_run(made[cell], log, {"final_loss": toy_loss(*cell)})
    return made


@pytest.fixture
def toy_sweep(toy_runs: dict[tuple[Any, ...], Settings]) -> Path:
    """The folder of these runs."""
    return next(iter(toy_runs.values())).folder.parent


@pytest.fixture
def toy_configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The project's configs with the toy tasks among them, and a figure that sweeps one."""
    folder = tmp_path / "configs"
    for group in ROOT.glob("configs/*"):
        if group.is_dir():
            (folder / group.name).mkdir(parents=True)
            for file in group.glob("*.yaml"):
                (folder / group.name / file.name).symlink_to(file)
    (folder / "config.yaml").symlink_to(ROOT / "configs" / "config.yaml")
    for toy in TOYS.glob("*.yaml"):
        (folder / "task" / toy.name).symlink_to(toy)
    (folder / "figure" / "toys.yaml").write_text(
        "# @package _global_\ndefaults: [override /task: toy]\nfigure: { name: toys }\n"
        "grids:\n  paper: { optimizer: 'adam,laprop', seed: '1,2' }\n"
        "  smoke: { optimizer.nu: '0.5,0.6', task.steps: 4, seed: 3 }\n"
    )
    for module in config, overrides:
        monkeypatch.setattr(module, "CONFIGS", folder)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(TOYS)])
    forget()
    yield
    forget()


def forget() -> None:
    """What was composed of other files."""
    for cached in (config.composed, config._base, config._references, config._resolved):
        cached.cache_clear()


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``cli("task=...", env={...})`` runs ``python -m experiments`` in the test's own folder."""

    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "experiments", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return call


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd):
    """``main("task=...")`` does so in this process; it returns exit status, stdout and stderr."""
    # Imported late, because @hydra.main sets Hydra's version, and fairseq needs an older one.
    from experiments import __main__ as entry

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["python -m experiments", *arguments])
        capfd.readouterr()
        code = entry.main()
        return code, *capfd.readouterr()

    return call


def copied(folder: Path, *more: str) -> Path:
    """Copy the program, and the folders named besides, into a folder, and return it."""
    for name in ("laprop", "experiments", "configs", *more):
        ignored = shutil.ignore_patterns("__pycache__", "build")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the program in the test's own folder, to which a test adds files."""
    return copied(tmp_path)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one task more: one Python file and one YAML file."""
    folder = copied(tmp_path_factory.mktemp("checkout"))
    shutil.copy(TOYS / "toy.py", folder / "experiments")
    shutil.copy(TOYS / "toy.yaml", folder / "configs" / "task")
    return folder


@pytest.fixture
def sweep(checkout: Path, tmp_path: Path) -> Iterator[Any]:
    import swept

    made = swept.Sweep(checkout, tmp_path / "sweep")
    yield made
    made.end()


@pytest.fixture(scope="session")
def undisturbed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished sweep that nothing befell."""
    import swept

    sweep = swept.Sweep(checkout, tmp_path_factory.mktemp("alone"))
    sweep.to_its_end(**swept.AT_ONCE)
    assert len(sweep.finished()) == len(swept.SEEDS)
    return sweep


@pytest.fixture(scope="session")
def alone(undisturbed: Any) -> dict[str, list[bytes]]:
    """The numbers of that sweep."""
    return dict(undisturbed.numbers())


SWITCHES = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,900"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any, None, None]:
    """Chromium without a window; skipped where there is none, unless CI=true."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        reason = "the browser tests need Debian's packages chromium and chromium-driver"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in SWITCHES.split():
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, written as ``make report`` writes it."""
    from scripts import report

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", "--to", str(folder)])
        report.main()
    return folder


def blocks(language: str, text: str = "") -> list[str]:
    """The code blocks in a language, of a text; default: of the README and all pages of docs."""
    pages = text or "\n".join(page.read_text() for page in [ROOT / "README.md", *DOCS])
    return re.findall(rf"```{language}\n(.*?)```", pages, re.DOTALL)


def documented(word: str, language: str = "python") -> str:
    """The one block of code in the README and the docs that contains a word."""
    (block,) = (block for block in blocks(language) if word in block)
    return block


def manifest(settings: Settings) -> dict[str, Any]:
    """What a run wrote about itself."""
    return dict(json.loads((settings.folder / "manifest.json").read_text()))


def summary(settings: Settings) -> dict[str, Any]:
    """The numbers that a run ended with."""
    return dict(json.loads((settings.folder / "summary.json").read_text()))


def trained(settings: Settings) -> dict[str, Any]:
    """Execute a run to its end; return the numbers that it ended with."""
    assert execute(settings) == "finished"
    return summary(settings)


def records(settings: Settings) -> list[dict[str, Any]]:
    """Everything that a run logged."""
    return [json.loads(line) for line in (settings.folder / "metrics.jsonl").open()]


def assert_refused(make: Maker, *overrides: str, allowed: str) -> None:
    """The last override is refused in one line, which names its key and says what is allowed."""
    with pytest.raises(ConfigError) as caught:
        make(*overrides)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(overrides[-1].split("=")[0])
    assert allowed in line


def interrupt(settings: Settings, after: int) -> None:
    """Execute a run in this process, and send it SIGTERM when it has logged so many records."""
    real, count = Run.log, 0
    with pytest.MonkeyPatch.context() as patch:

        def log(run: Run, step: int, **metrics: object) -> None:
            nonlocal count
            real(run, step, **metrics)
            count += 1
            if count == after:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Run, "log", log)
        with pytest.raises(SystemExit):
            execute(settings)


def statuses(output: Path) -> dict[str, dict[str, Any]]:
    """The manifest of every run below an output folder, by key."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in output.glob("*/*/manifest.json")
    }


def files(folder: Path) -> set[str]:
    """Names of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until the condition holds; fail where it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
