"""Figures drawn from tables of one's own: ``make_figures --from FOLDER``."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from tables import written

from experiments.common.messages import ConfigError
from experiments.common.records import Results
from scripts import make_figures, paper


def has_runs(name: str) -> bool:
    """Whether a figure is drawn from committed runs of its own grid."""
    entry = paper.figures()[name]
    return not {"tables", "results"} & entry.keys() and paper.results_of(name) is not None


FIGURES = [name for name in paper.drawn() if has_runs(name)]


def some_seeds(committed: Results, folder: Path) -> int:
    """Copy tables, but only a third of their seeds, at least one; return how many these are."""
    shutil.copytree(committed.folder, folder)
    seeds = sorted(committed.runs.seed.unique().tolist())
    kept = seeds[: max(1, len(seeds) // 3)]
    runs = committed.every_run
    runs[runs.seed.isin(kept)].to_csv(folder / "runs.csv", index=False)
    if (folder / "curves.parquet").exists():
        curves = committed.every_curve
        curves[curves.seed.isin(kept)].to_parquet(folder / "curves.parquet", index=False)
    manifest = committed.manifest | {"seeds": len(kept), "unfinished_seeds": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return len(kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn_from_some_of_its_seeds(name: str, tmp_path: Path) -> None:
    some_seeds(paper.results_of(name), tmp_path / "own")
    assert make_figures.picture(name, Results(tmp_path / "own"))


def test_the_picture_is_that_of_the_given_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies beside the tables; title, verdicts and label are theirs; the index stays."""
    folder = tmp_path / "own"
    some_seeds(paper.results_of("clipping"), folder)
    seen: dict[str, object] = {}
    headline = make_figures.style.headline

    def noted(width: float, title: str, verdicts: str) -> object:
        seen.update(title=title, verdicts=verdicts)
        return headline(width, title, verdicts)

    monkeypatch.setattr(make_figures.style, "headline", noted)
    make_figures.picture("clipping", Results(folder))
    assert seen["title"] == paper.finding("clipping", Results(folder)) != paper.finding("clipping")
    assert seen["verdicts"] == make_figures.verdicts("clipping", Results(folder))
    before = {path: path.stat().st_mtime for path in make_figures.PICTURES.glob("*.png")}
    monkeypatch.setattr(sys, "argv", ["make_figures", "--from", str(folder)])
    assert make_figures.main() == 0
    assert capsys.readouterr().out == f"clipping: drawn\nwritten: {folder / 'clipping.png'}\n"
    committed = (make_figures.PICTURES / "clipping.png").read_bytes()
    assert (folder / "clipping.png").read_bytes() != committed
    assert {path: path.stat().st_mtime for path in before} == before


def test_tables_of_which_no_figure_can_be_drawn_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--from .*/none: has no tables; scripts.collect"):
        make_figures.own_tables(tmp_path / "none")
    written(tmp_path / "sweep", [{"seed": 0}], figure=None, seeds=1)
    with pytest.raises(ConfigError, match=r"/sweep: its runs are of figure=null; one that has a"):
        make_figures.own_tables(tmp_path / "sweep")
    written(tmp_path / "begun", [{"seed": 0}], figure="fig04", seeds=0)
    with pytest.raises(ConfigError, match=r"/begun: each of its seeds lacks runs$"):
        make_figures.own_tables(tmp_path / "begun")
    folder = tmp_path / "part"
    some_seeds(paper.results_of("table1"), folder)
    runs = pd.read_csv(folder / "runs.csv")
    runs[runs.optimizer == "adam"].to_csv(folder / "runs.csv", index=False)
    with pytest.raises(ConfigError, match=r"part: table1 cannot be drawn from it \(.*whole grid"):
        make_figures.picture("table1", Results(folder))


def test_bad_places_and_flags_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_figures", "fig02", "--to", "/dev/null/x"])
    with pytest.raises(ConfigError, match=r"^--to /dev/null/x: Not a directory; must be a folder"):
        make_figures.main()
    monkeypatch.setattr(sys, "argv", ["make_figures", "--check", "--from", "x"])
    with pytest.raises(SystemExit, match="2"):
        make_figures.main()
    assert "so it takes neither --from nor --to" in capsys.readouterr().err
