"""Reading of results: the committed tables in ``results/<figure>/<scale>/``, or those of a sweep.

======================  ==========================================================================
``runs.csv``            one row per member: the axes that vary, the summary numbers, and
                        ``diverged_at`` where a run diverged
``curves.parquet``      the same axes, ``step``, and every logged metric, long
``<name>.csv``          extra tables of the runs, one below the other; the column ``run_key`` has
                        the key of each row's run
``<key>-<name>.jpg``    pictures that runs wrote to their folders
``manifest.json``       the figure, the scale and what it reduces, the common settings, each run's
                        key, number of rows, status, wall time and memory, the distinct environments
                        (commit, program, versions, hardware), and the seeds that are not finished
======================  ==========================================================================

``experiments.common.collect`` writes them. Reading needs only pandas and yaml.
"""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common import RESULTS
from experiments.common.files import RESTORE, read_object, reading
from experiments.common.timings import COMMITTED, grids

KEY = "run_key"  # column of extra tables


@dataclass(frozen=True)
class Results:
    """The tables of one figure at one scale, or of a sweep; a file is read when it is first used.

    If some runs of a seed are missing, all rows of this seed are left out, since its cells cannot
    be compared. A setting that varies at another scale of the figure is a column here too.
    """

    folder: Path

    @property
    def figure(self) -> str:
        """Name of the figure, such as ``fig02``, or of the sweep."""
        return str(self.manifest["figure"] or self.folder.name)

    @property
    def scale(self) -> str:
        """``paper``, ``short``, ``small`` or ``smoke``."""
        return str(self.manifest["scale"])

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per member."""
        return self._whole(self.every_run)

    @property
    def every_run(self) -> pd.DataFrame:
        """The content of ``runs.csv``, also the rows of unfinished seeds."""
        return self._checked("runs.csv", read_table(self.folder / "runs.csv", RESTORE))

    @property
    def by_run(self) -> list[tuple[dict[str, Any], pd.DataFrame]]:
        """Each run's entry in the manifest with its rows of ``runs.csv``, also of unfinished seeds.

        The two files have the runs in the same order. Manifests of earlier versions
        have no numbers of rows; their runs have equally many.
        """
        table, runs = self.every_run, self.manifest["runs"]
        with reading(self.folder / "manifest.json", RESTORE):
            rows = [run.get("rows", len(table) // len(runs)) for run in runs]
            if sum(rows) != len(table):
                raise ValueError(f"its runs have {sum(rows)} rows, runs.csv has {len(table)}")
            ends = itertools.accumulate(rows)
            parts = [table[end - size : end] for end, size in zip(ends, rows, strict=True)]
            return list(zip(runs, parts, strict=True))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Long table of logged metrics."""
        return self._whole(self.every_curve)

    @property
    def every_curve(self) -> pd.DataFrame:
        """The content of ``curves.parquet``, also the rows of unfinished seeds."""
        path = self.folder / "curves.parquet"
        with reading(path, RESTORE):
            return self._checked(path.name, pd.read_parquet(path), "step")

    def _checked(self, name: str, frame: pd.DataFrame, *more: str) -> pd.DataFrame:
        """A table, after a check that it has all columns, and each run (and step) only once."""
        with reading(self.folder / name, RESTORE):
            axes = self.manifest.get("axes", ())
            row = [*axes, *more]
            for column in [*row, *([] if more else self.manifest.get("summary", ()))]:
                if column not in frame:
                    raise ValueError(f"it has no column {column}")
            if axes and frame.duplicated(row).any():
                raise ValueError(f"two rows have the same {', '.join(row)}")
            return frame

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``."""
        return read_object(self.folder / "manifest.json", RESTORE)

    def table(self, name: str) -> pd.DataFrame:
        """An extra table by name, without the keys of its runs and without repeated rows."""
        frame = read_table(self.folder / f"{name}.csv", RESTORE)
        return frame.drop(columns=KEY, errors="ignore").drop_duplicates(ignore_index=True)

    @property
    def label(self) -> str:
        """One line for figures and claims: scale, what it reduces, number of seeds."""
        reduced = self.manifest["reduced"]
        text = f"scale: {self.scale}" + (f" ({reduced})" if reduced else "")
        return f"{text}, {self.seeds}"

    @property
    def seeds(self) -> str:
        """``1 seed``, ``100 seeds``, and ``1 of 3 seeds`` where the others lack runs."""
        count: int = self.manifest["seeds"]
        total = count + len(self.manifest.get("unfinished_seeds", []))
        return (f"{count} of " if count < total else "") + f"{total} seed" + "s" * (total != 1)

    def _whole(self, frame: pd.DataFrame) -> pd.DataFrame:
        if unfinished := self.manifest.get("unfinished_seeds", []):
            frame = frame[~frame.seed.isin(unfinished)].reset_index(drop=True)
        return frame.assign(**{k: v for k, v in self._fixed.items() if k not in frame})

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """Settings that are the same in these runs, but vary at another scale of the figure."""
        swept = set()
        for grid in grids(str(self.manifest.get("figure"))).values():
            for part in grid if isinstance(grid, list) else [grid]:
                swept |= {key for key, value in part.items() if re.search(r"[,[]|\$", str(value))}
        return {
            key.rpartition(".")[2]: value
            for key, value in self.manifest.get("settings", {}).items()
            if key in swept and not isinstance(value, list)
        }


def load(figure: str) -> Results | None:
    """The largest committed scale of a figure with at least one complete seed, or None."""
    for scale in COMMITTED:
        path = RESULTS / figure / scale / "manifest.json"
        if path.exists():
            results = Results(path.parent)
            with reading(path, RESTORE):
                if results.manifest["seeds"]:
                    return results
    return None


def begun(figure: str) -> Results | None:
    """The largest committed scale of a figure with finished runs but no complete seed, or None."""
    for scale in COMMITTED:
        path = RESULTS / figure / scale / "manifest.json"
        if path.exists() and not Results(path.parent).manifest["seeds"]:
            return Results(path.parent)
    return None


def read_table(path: Path, remedy: str) -> pd.DataFrame:
    """A table that this program wrote; ``remedy`` is what helps if it is damaged."""
    with reading(path, remedy):
        content = path.read_bytes()
        if not content.endswith(b"\n"):  # pandas would take the rest of a number for a number
            raise ValueError("its last line is cut off")
        return pd.read_csv(io.BytesIO(content), dtype={KEY: str})  # a key may look like a number
