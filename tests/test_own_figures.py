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
from scripts import index, make_figures, paper
from scripts.figures import style
from scripts.grid import own_tables


def has_runs(name: str) -> bool:
    """Whether a figure is drawn from committed runs of its own grid."""
    entry = paper.figures()[name]
    return not {"tables", "results"} & entry.keys() and paper.results_of(name) is not None


FIGURES = [name for name in paper.drawn() if has_runs(name)]


def some_seeds(committed: Results, folder: Path) -> Results:
    """A copy of tables with only a third of their seeds, at least one."""
    shutil.copytree(committed.folder, folder)
    seeds = sorted(committed.runs.seed.unique().tolist())
    kept = seeds[: max(1, len(seeds) // 3)]
    runs = committed.every_run
    runs[runs.seed.isin(kept)].to_csv(folder / "runs.csv", index=False)
    if (folder / "curves.parquet").exists():
        curves = committed.every_curve
        curves[curves.seed.isin(kept)].to_parquet(folder / "curves.parquet", index=False)
    manifest = committed.manifest | {"seeds": len(kept), "unfinished_seeds": []}
    manifest["runs"] = [
        run | {"rows": int(rows.seed.isin(kept).sum())} for run, rows in committed.by_run
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Results(folder)


def replaced(committed: Results) -> bool:
    """Whether committed tables are of an earlier grid, which only the commit of their runs has."""
    try:
        own_tables(committed.folder)
    except ConfigError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn_from_some_of_its_seeds(name: str, tmp_path: Path) -> None:
    committed = paper.results_of(name)
    own = some_seeds(committed, tmp_path / "own")
    if replaced(committed):
        with pytest.raises(ConfigError, match=r"any more$|must have its whole grid"):
            own_tables(own.folder)
    else:
        assert own_tables(own.folder) == (name, own)
    assert make_figures.picture(name, own)


def test_the_picture_is_that_of_the_given_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies beside the tables; title, verdicts and label are theirs; the index stays."""
    own = some_seeds(paper.results_of("variants"), tmp_path / "own")
    folder, heads, labelled = own.folder, [], []
    headline, provenance = style.headline, style.provenance
    monkeypatch.setattr(style, "headline", lambda *of: heads.append(of[1:]) or headline(*of))
    monkeypatch.setattr(
        style, "provenance", lambda *of, **more: labelled.append(of[1]) or provenance(*of, **more)
    )
    make_figures.picture("variants", own)
    assert labelled == [own]
    assert heads == [(paper.finding("variants", own), "claims of the paper: 4 undecided")]
    assert heads[0][0] != paper.finding("variants")
    assert heads[0][1] != make_figures.verdicts("variants")
    monkeypatch.delattr(index, "files")
    before = {path: path.stat().st_mtime for path in make_figures.PICTURES.glob("*.png")}
    monkeypatch.setattr(sys, "argv", ["make_figures", "--from", str(folder)])
    assert make_figures.main() == 0
    assert capsys.readouterr().out == f"variants: drawn\nwritten: {folder / 'variants.png'}\n"
    committed = (make_figures.PICTURES / "variants.png").read_bytes()
    assert (folder / "variants.png").read_bytes() != committed
    assert {path: path.stat().st_mtime for path in before} == before


def test_tables_of_which_no_figure_can_be_drawn_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--from .*/none: has no tables; scripts.collect"):
        own_tables(tmp_path / "none")
    known = {"figure": "fig04", "scale": "short", "seeds": 1}
    for changes, line in (
        ({"figure": None}, r": its runs are of figure=null; one that has a script in"),
        ({"seeds": 0}, ": each of its seeds lacks runs$"),
        ({"scale": "smoke"}, ": scale=smoke decides nothing, so no figure is drawn$"),
    ):
        folder = written(tmp_path / str(changes), [{"seed": 0}], **known | changes).folder
        with pytest.raises(ConfigError, match=line):
            own_tables(folder)


def test_a_part_of_a_grid_is_refused_because_verdicts_need_all_of_it(tmp_path: Path) -> None:
    """Also of one seed alone, and with another value of what is the same in all runs."""
    whole = some_seeds(paper.results_of("tuning_range"), tmp_path / "whole")
    assert own_tables(whole.folder) == ("tuning_range", whole)
    runs, manifest = pd.read_csv(whole.folder / "runs.csv"), whole.manifest
    begins = (
        "figure=tuning_range scale=paper must have its whole grid, if with fewer seeds, but its "
        "runs have "
    )
    less = runs.drop(index=runs.index[(runs.seed == 1) & (runs.nu == 0.9)][:1])
    key, value = next((k, v) for k, v in manifest["settings"].items() if isinstance(v, int))
    without = {k: v for k, v in manifest["axes"].items() if k != "nu"}
    for name, table, changes, line in (
        ("one", runs[runs.nu == 0.9].drop(columns="nu"), {"axes": without}, "one optimizer.nu$"),
        (
            "two",
            runs.assign(width=8),
            {"axes": manifest["axes"] | {"width": "task.width"}},
            "several task.width$",
        ),
        (
            "more",
            pd.concat([runs, runs[:1].assign(lr=0.7)]),
            {},
            "optimizer.name=.* optimizer.lr=0.7 ",
        ),
        ("less", less, {}, r"\d+ of \d+ settings at seed 1$"),
        (
            "other",
            runs,
            {"settings": manifest["settings"] | {key: value + 1}},
            f"{key}={value + 1}$",
        ),
    ):
        found = written(tmp_path / name, table, **manifest | changes)
        with pytest.raises(ConfigError, match=f"{begins}.*{line}"):
            own_tables(found.folder)


def test_too_few_seeds_for_a_script_are_one_line(tmp_path: Path) -> None:
    committed = paper.results_of("variants")
    runs = committed.every_run
    one = written(
        tmp_path / "one", runs[runs.seed == runs.seed.min()], **committed.manifest | {"seeds": 1}
    )
    with pytest.raises(ConfigError, match=r"one: variants cannot be drawn from 1 seed \("):
        make_figures.picture("variants", one)


def test_bad_places_and_flags_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_figures", "fig02", "--to", "/dev/null/x"])
    with pytest.raises(ConfigError, match=r"^--to /dev/null/x: Not a directory; must be a folder"):
        make_figures.main()
    for name in "a", "b":
        some_seeds(paper.results_of("table1"), tmp_path / name)
    one, other = (f"--from={tmp_path / name}" for name in "ab")
    for arguments, line in (
        (["--check", "--from", "x"], "so it takes neither --from nor --to"),
        ([one, other], f"--from {tmp_path}/b: {tmp_path}/a has tables of table1, too"),
        (
            ["fig02", "fig08", one],
            f"--from {tmp_path}/a: none of fig02, fig08 is drawn from tab",
        ),
        (["fig02", "table1", one], "fig02: has no --from FOLDER; --to FOLDER draws it from comm"),
    ):
        monkeypatch.setattr(sys, "argv", ["make_figures", *arguments])
        with pytest.raises(SystemExit, match="2"):
            make_figures.main()
        assert line in capsys.readouterr().err
