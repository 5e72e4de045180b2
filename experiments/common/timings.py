"""The time that each figure took, from the committed manifests, read without torch and pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.common import CONFIGS, RESULTS
from experiments.common.files import RESTORE, read_config, read_object, reading
from experiments.common.status import duration

COMMITTED = ("paper", "short", "small")  # the scales that have results, the largest first


def _config(figure: str) -> dict[str, Any]:
    file = CONFIGS / "figure" / f"{figure}.yaml"
    return read_config(file) if file.exists() else {}


def grids(figure: str) -> dict[str, Any]:
    """The grids of a figure by scale, from its file; empty for a figure without a file."""
    return dict(_config(figure).get("grids") or {})


def reduced(figure: str) -> dict[str, str]:
    """How scales of a figure differ from the paper, in words, as its file says."""
    return dict((_config(figure).get("figure") or {}).get("reduced") or {})


def times(figure: str) -> dict[str, str]:
    """How long all runs of a figure take on two threads, for each scale that it has.

    The time is the sum over the runs in the committed manifest, where each run counts its wall time
    times its threads. The smoke scale has no results and is left out.

    Returns:
        scale -> ``1.4 h``; ``1.4 h so far`` where seeds are unfinished; ``not run``.
    """
    known = grids(figure)
    folders = {scale: RESULTS / figure / scale for scale in COMMITTED}
    return {scale: _time(f) for scale, f in folders.items() if scale in known or f.exists()}


def _time(folder: Path) -> str:
    path = folder / "manifest.json"
    if not path.exists():
        return "not run"
    manifest = read_object(path, RESTORE)
    with reading(path, RESTORE):
        seconds = 0.0
        for run in manifest["runs"]:
            last = manifest["environments"][run["environments"][-1]]
            seconds += run["wall_time_s"] * last["hardware"]["threads"] / 2
    return duration(seconds) + " so far" * bool(manifest.get("unfinished_seeds"))
