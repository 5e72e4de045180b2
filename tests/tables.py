"""Tables in the format of committed results, for tests of claims and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.common.records import Results


def written(
    folder: Path,
    rows: list[dict[str, Any]],
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
