"""The queue of long runs: a killed worker, pauses, and figures that cannot be collected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, wait_for
from swept import Sweep

from experiments.common.messages import ConfigError
from scripts import long_runs

QUEUE = """
import sys
from scripts import long_runs

long_runs.QUEUE = (("task=toy", "seed=0,1,2"), ("task=toy", "seed=2,3"))
long_runs.overrides = lambda output, *entry: [
    *entry, "task.steps=60", "task.pause=0.1", "threads=1", f"output='{output}'"
]
long_runs.yield_to_others = lambda: None  # else the test takes as long as other tests run
sys.exit(long_runs.main())
"""


@pytest.mark.slow
def test_the_queue_pauses_resumes_and_survives_a_killed_worker(sweep: Sweep) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(sweep.checkout), str(ROOT)])}

    def queue(*arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start ``scripts.long_runs`` with four short runs; what it says goes to a file."""
        command = [sys.executable, "-c", QUEUE, *arguments, "--output", str(sweep.output)]
        said = sweep.folder / f"said {len(sweep.started)}"
        process = subprocess.Popen(
            command, cwd=sweep.folder, env=env, stdout=said.open("wb"), stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        sweep.started.append(process)
        return process, said

    def said_by(*arguments: str) -> str:
        process, said = queue(*arguments)
        assert process.wait(100) == 0, said.read_text()
        return said.read_text()

    process, said = queue()
    wait_for(lambda: len(sweep.at_work(process)) == 2, 200)
    workers = sweep.at_work(process)
    assert said_by("pause").endswith("processes: paused\n")
    assert {worker.status() for worker in workers} == {"stopped"}
    assert said_by("resume").endswith("processes: resumed\n")
    assert "stopped" not in {worker.status() for worker in workers}
    workers[0].kill()
    assert process.wait(200) == 0, said.read_text()
    assert said.read_text().splitlines()[-1] == "finished: 4, diverged: 0, busy: 0, failed: 0"
    assert said_by("status") == (
        "task=toy seed=0,1,2: 3 of 3 runs finished\ntask=toy seed=2,3: 2 of 2 runs finished\n"
    )
    assert said_by() == "all runs are finished\n"


def test_a_figure_that_cannot_be_collected_is_named_whole_and_the_others_follow(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    class Collected:
        folder, label = Path("results/two"), "3 seeds"

    def collect(words: list[str], partial: bool) -> Collected:
        if words[0] == "figure=one":
            raise ConfigError("runs.csv: cannot be used (empty); restore it by git")
        return Collected()

    monkeypatch.setattr(long_runs, "QUEUE", (("one", "paper"), ("two", "paper"), ("no", "paper")))
    monkeypatch.setattr(long_runs, "expand", lambda words: [words[0]])
    monkeypatch.setattr(long_runs, "found", lambda run: run != "figure=no")
    monkeypatch.setattr(long_runs, "collect", collect)
    assert long_runs.collected(tmp_path) == 1
    assert capsys.readouterr() == (
        f"results/two: 3 seeds\nno paper: none of 1 runs is finished in {tmp_path}\n",
        "error: one paper: runs.csv: cannot be used (empty); restore it by git\n",
    )
