"""Tables in the format of committed results, and runs as their tasks would have written them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from experiments.common.records import Results
from experiments.common.settings import Settings
from experiments.common.versions import versions


def written(
    folder: Path,
    rows: list[dict[str, Any]] | pd.DataFrame,
    curves: pd.DataFrame | list[pd.DataFrame] | None = None,
    **manifest: Any,
) -> Results:
    """Write tables into a new folder, and read them."""
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)
    if isinstance(curves, list):
        curves = pd.concat(curves)
    if curves is not None:
        curves.to_parquet(folder / "curves.parquet", index=False)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Results(folder)


def tables(
    tmp_path: Path,
    figure: str,
    rows: list[dict[str, Any]],
    curves: pd.DataFrame | None = None,
    **settings: Any,
) -> Results:
    """Tables of a figure at the paper's scale."""
    manifest = {"figure": figure, "scale": "paper", "reduced": None, "seeds": 1}
    return written(tmp_path / figure / "paper", rows, curves, **manifest, settings=settings)


def noisy(level: float, rng: np.random.Generator) -> float:
    """A number that is half a per cent away from ``level``."""
    return level * float(np.exp(0.005 * rng.normal()))


def write_run(
    settings: Settings,
    log: list[dict[str, Any]],
    summary: dict[str, Any] | None,
    status: str = "finished",
    **changes: Any,
) -> Path:
    """The folder of a run that nothing trained; without a summary it has not ended."""
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    plain = json.loads(json.dumps(asdict(settings), default=str))
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    manifest = {
        "key": settings.key,
        "task": settings.task_name,
        "scale": settings.scale,
        "status": status,
        "started": "2020-01-01",
        "settings": settings.decisive(),
        "axes": list(settings.axes()),
        "versions": versions(settings.task_name),
        "environments": [{"program": "one"}],
        "diverged_at": 7 if status == "diverged" else None,
        "wall_time_s": 1.0,
        "peak_memory_bytes": 1,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def grid(tmp_path: Path, *more: str) -> list[str]:
    """A figure at its full scale; tests only write what its runs would have written."""
    return ["figure=fig05", "scale=short", f"output={tmp_path / 'outputs'}", *more]


def pretend(settings: Settings, loss: float = 1.0) -> None:
    """Write what a run of this grid would have written."""
    write_run(settings, [{"step": 1, "train_loss": loss}], {"final_loss": loss})


MU, NU, SEEDS = (0.0, 0.9), (0.5, 0.9, 0.99), (0, 1, 2)  # of the fixture toy_runs


def toy_loss(optimizer: str, mu: float, nu: float, seed: int) -> float:
    """A number that tells every cell and seed from every other."""
    return (2 if optimizer == "adam" else 1) + mu + nu / 10 + 0.01 * (seed - 1)
