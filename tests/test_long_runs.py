"""The queue of long runs: killed processes, and figures that cannot be collected."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, wait_for

from experiments.common.messages import ConfigError
from scripts import long_runs


class Worker:
    """A process that has ended with an exit code."""

    numbers = itertools.count(1)

    def __init__(self, returncode: int) -> None:
        self.returncode, self.pid = returncode, next(self.numbers)

    def poll(self) -> int:
        return self.returncode


@pytest.mark.parametrize(
    ("codes", "processes", "status", "restarts"),
    [
        ([0, 0], 2, 0, 0),
        ([-9, 0], 1, 0, 1),
        ([-9, 0, -11, 0], 2, 0, 2),
        ([1, 0], 2, 1, 0),
        ([-9, -9, -9, -9], 1, 1, 3),
    ],
)
def test_a_killed_process_is_replaced_a_few_times_and_named(
    tmp_path: Path, monkeypatch, capsys, codes: list[int], processes: int, status: int,
    restarts: int,
) -> None:  # fmt: skip
    workers: Iterator[Worker] = (Worker(code) for code in codes)
    monkeypatch.setattr(long_runs.subprocess, "Popen", lambda *_, **__: next(workers))
    monkeypatch.setattr(long_runs.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(long_runs, "RESTARTS", 3)
    assert long_runs.start(tmp_path, processes) == status
    said = capsys.readouterr().out.splitlines()
    assert next(workers, None) is None
    assert sum("another one is started" in line for line in said) == restarts
    assert all("was killed by SIG" in line for line in said)
    assert len(said) == sum(code < 0 for code in codes)


START = """
import sys
from pathlib import Path
from scripts import long_runs
sys.executable = sys.argv[1]
long_runs.start(Path(sys.argv[2]), 1)
"""


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Else it would go on beside those of the next start."""
    worker, pid = tmp_path / "worker", tmp_path / "pid"
    worker.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 300\n")
    worker.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, "-c", START, str(worker), str(tmp_path / "outputs")], cwd=ROOT
    )
    wait_for(pid.exists)
    process = psutil.Process(int(pid.read_text()))
    parent.kill()
    parent.wait()

    def ended() -> bool:
        try:
            return process.status() == "zombie"  # no one may be left to fetch its exit status
        except psutil.NoSuchProcess:
            return True

    try:
        wait_for(ended, 20)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()


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
