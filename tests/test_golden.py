"""A task may change its numbers only with its version, because the version is in a run's key."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import golden
import pytest
from conftest import TASKS

from experiments.common.versions import versions

GOLDEN = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("task", TASKS)
def test_numbers_change_only_with_a_version(task: str, tmp_path: Path):
    if task in ("translation", "roberta") and importlib.util.find_spec("fairseq") is None:
        pytest.skip("fairseq is not installed: make fairseq")
    now = versions(task)
    assert isinstance(now["task"], int), f"experiments/{task}.py declares no VERSION"
    again = f"then: python tests/golden.py {task}"
    assert task in GOLDEN, f"the numbers of {task} are not committed; {again}"
    assert now == GOLDEN[task]["versions"], f"the version of {task} changed; {again}"
    assert GOLDEN[task]["runs"]
    for optimizer, committed in GOLDEN[task]["runs"].items():
        found = golden.numbers(task, optimizer, tmp_path)
        changed = golden.differences(committed, found)
        assert not changed, f"{task} gives other numbers at the same VERSION: raise it; {again}"


def test_a_change_beyond_rounding_is_seen():
    one = {"summary.loss": [1.0, None], "last.step": [5]}
    assert golden.differences(one, {"summary.loss": [1.0001, None], "last.step": [5]}) == []
    assert golden.differences(one, {"summary.loss": [1.01, None], "last.step": [5]})
    assert golden.differences(one, {"summary.loss": [1.0, 2.0], "last.step": [5]})
    assert golden.differences(one, {"summary.loss": [1.0, None]}) == ["last.step"]
