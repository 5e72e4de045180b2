"""A task may change its numbers only with its version, because the version is in a run's key."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import pytest
from conftest import TASKS

from experiments.common.versions import versions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", [t for t in TASKS if t not in ("translation", "roberta")])
def test_numbers_change_only_with_a_version(task: str, tmp_path: Path):
    """Those of fairseq's tasks are compared in test_fairseq.py."""
    known = json.loads(golden.FILE.read_text())
    if task not in known and not isinstance(versions(task)["task"], int):
        pytest.skip("it has no VERSION yet, so its keys change with its program")
    golden.compare(task, tmp_path)


def test_a_change_beyond_rounding_is_seen():
    one = {"summary.loss": [1.0, None], "last.step": [5]}
    assert golden.differences(one, {"summary.loss": [1.0001, None], "last.step": [5]}) == []
    assert golden.differences(one, {"summary.loss": [1.01, None], "last.step": [5]})
    assert golden.differences(one, {"summary.loss": [1.0, 2.0], "last.step": [5]})
    assert golden.differences(one, {"summary.loss": [1.0, None]}) == ["last.step"]
