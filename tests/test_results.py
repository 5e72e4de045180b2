"""The committed results: figures redraw, tables are fresh, everything is found by globbing."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.common import ROOT
from experiments.common.config import CONFIGS
from experiments.common.records import RESULTS, Results
from scripts import check_claims, make_discrepancies, make_figures

COMMITTED = sorted(path.parent for path in RESULTS.glob("*/*/manifest.json"))
CATALOGUE = make_figures.catalogue()


@pytest.mark.parametrize(
    "name", [name for name in make_figures.drawn() if make_figures.drawable(name)]
)
def test_every_figure_is_drawn_and_twice_the_same(name: str) -> None:
    png = make_figures.picture(name)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert png == make_figures.picture(name)
    assert (make_figures.PICTURES / f"{name}.png").exists()


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.make_figures", "fig08", "--to", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "fig08.png").read_bytes() == make_figures.picture("fig08")


def test_the_index_names_every_figure_of_the_paper_and_every_script() -> None:
    assert {f"fig{n:02}" for n in range(1, 16)} <= CATALOGUE.keys()
    assert set(make_figures.drawn()) <= CATALOGUE.keys()
    text = (RESULTS / "FIGURES.md").read_text()
    assert text == make_figures.index(), "stale: run make figures"
    for name in CATALOGUE:
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        assert ("not run" in row) == (make_figures.results_of(name) is None)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_results_are_whole(folder: Path) -> None:
    results = Results(folder)
    assert results.scale in ("paper", "short", "small")
    assert (CONFIGS / "figure" / f"{results.figure}.yaml").exists()
    assert len(results.runs) > 0
    assert set(results.manifest["axes"]) <= set(results.runs.columns)
    assert set(results.manifest["summary"]) <= set(results.runs.columns)
    assert not results.runs.duplicated(list(results.manifest["axes"])).any()
    assert {run["status"] for run in results.manifest["runs"]} <= {"finished", "diverged"}
    assert results.scale == "paper" or results.manifest["reduced"], "what was reduced is not said"


def test_claims_are_fresh_and_every_checked_claim_has_its_function() -> None:
    table = check_claims.rows()
    assert (RESULTS / "CLAIMS.md").read_text() == check_claims.claims_page(table)
    readme = check_claims.README.read_text()
    assert readme == check_claims.readme(readme, table), "stale: run make claims"
    names = yaml.safe_load((check_claims.HERE / "claims.yaml").read_text())
    for row, (name, claim) in zip(table, names.items(), strict=True):
        assert claim["figure"] in CATALOGUE, name
        if claim.get("logs"):
            assert row["verdict"].startswith("authors' logs: ")
            continue
        assert (row["verdict"] == "not run") == (make_figures.results_of(claim["figure"]) is None)


@pytest.mark.parametrize(
    ("held", "scale", "word"),
    [
        (True, "paper", "reproduced"),
        (False, "paper", "not reproduced"),
        (None, "paper", "underpowered"),
        (True, "small", "reduced scale: held"),
        (False, "small", "reduced scale: did not hold"),
        (True, check_claims.LOGS, "authors' logs: held"),
    ],
)
def test_a_reduced_scale_or_a_log_never_says_reproduced(
    held: bool | None, scale: str, word: str
) -> None:
    assert check_claims.verdict(check_claims.Measured("", held), scale) == word


def test_a_stale_table_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["check_claims", "--check"])
    assert check_claims.main() == 0
    table = check_claims.rows()
    monkeypatch.setattr(check_claims, "rows", lambda: table[1:])
    before = (RESULTS / "CLAIMS.md").read_text()
    assert check_claims.main() == 1
    assert (RESULTS / "CLAIMS.md").read_text() == before


def test_the_ledger_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_discrepancies", "--check"])
    assert make_discrepancies.main() == 0


def test_an_unknown_figure_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "scripts.make_figures", "fig99"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "fig99: unknown figure; allowed are" in result.stderr.splitlines()[-1]


def test_the_ratios_in_the_readme_are_the_measured_ones() -> None:
    def benchmark(name: str, index: str | list[str]) -> pd.DataFrame:
        return pd.read_csv(RESULTS / "benchmarks" / f"{name}.csv").set_index(index)

    steps = benchmark("optimizer", ["problem", "threads", "way"]).times_fused_adam
    ours = {p: steps[p, 1, "LaProp, fused"] for p in ("10M", "ResNet-20", "transformer")}
    cells = benchmark("grid", "way").cells_per_second
    sentences = [
        f"LaProp's takes {ours['10M']:.2f} of the time of torch's fused Adam on a tensor of 10M",
        f"{ours['ResNet-20']:.2f} on ResNet-20's tensors and {ours['transformer']:.2f} on a trans",
        f"that is {ours['10M'] / steps['10M', 1, 'stream']:.2f} of a loop in C",
        f"at {cells['batch'] / cells['loop']:,.0f} times the cells per second",
        f"at {benchmark('cifar10', 'way').times_the_better_plain['ours']:.2f} times the images",
        f"at {benchmark('rainbow', 'way').ratio['ours, Adam']:.2f} times the steps",
        f"at {benchmark('fairseq', 'way').ratio['laprop']:.2f} times the tokens",
    ]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert [sentence for sentence in sentences if sentence not in text] == []
    memory = benchmark("optimizer", ["problem", "threads", "way"]).temporary_bytes
    assert memory["10M", 1, "LaProp, fused"] == 0
