"""Each rule of ``paper.yaml``, on tables that decide it one way, the other way, or not at all.

``rules.py`` has a table for each figure, on which the verdicts are known. A case of
``rule_cases.py`` changes some rows of it and says whose verdicts this changes; all others must
stay. The verdicts are those of ``make
claims``, with the arguments that ``paper.yaml`` gives to each function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rule_cases import CASES
from rules import TABLES, Verdicts, runs_of, tables, unchanged, verdicts

from scripts import paper

# The rules of these figures are tried both ways in test_trainings.py and test_rainbow_results.py.
ELSEWHERE = ("fig05", "fig06", "fig10", "fig11", "iwslt_map", "rainbow_atari")


def changed(figure: str, where: str, becomes: dict[str, Any]) -> pd.DataFrame:
    """The runs of a figure, of which some rows are changed."""
    runs = runs_of(figure).copy()
    rows = runs.index[runs.eval(where)]
    assert len(rows)
    for name, value in becomes.items():
        new = runs.loc[rows].eval(value) if isinstance(value, str) else value
        runs[name] = runs[name].astype(float)
        runs.loc[rows, name] = new
    return runs


@pytest.mark.parametrize("figure", TABLES)
def test_the_tables_have_the_verdicts_that_the_cases_change(figure: str, tmp_path: Path) -> None:
    assert verdicts(figure, tables(figure, runs_of(figure), tmp_path, {})) == unchanged(figure)


@pytest.mark.parametrize(
    ("figure", "where", "becomes", "others"),
    [
        pytest.param(figure, *case, id=f"{figure}-{number}")
        for figure, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_a_rule_turns_on_what_it_names(
    figure: str, where: str, becomes: dict[str, Any], others: Verdicts, tmp_path: Path
) -> None:
    settings = {name: value for name, value in becomes.items() if "." in name}
    columns = {name: value for name, value in becomes.items() if "." not in name}
    found = tables(figure, changed(figure, where, columns), tmp_path, settings)
    assert verdicts(figure, found) == unchanged(figure) | others


def test_every_rule_is_tried_in_both_directions() -> None:
    for name, claim in paper.claims().items():
        figure = claim["figure"]
        if not claim.get("logs") and figure not in ELSEWHERE:
            tried = {unchanged(figure)[name]} | {
                changed[name] for *_, changed in CASES[figure] if name in changed
            }
            assert {True, False} <= tried, name


def test_a_claim_that_the_runs_did_not_record_is_not_run(tmp_path: Path) -> None:
    runs = runs_of("theorem1").drop(columns="condition_broken")
    found = verdicts("theorem1", tables("theorem1", runs, tmp_path, {}))
    unknown = {"laprop_regret_bounded", "bound_needs_no_gamma"}
    assert unchanged("theorem1").keys() - found.keys() == unknown


NEAR = "optimizer == 'laprop' and epsilon > 1e-10 and nu == 0.9"


@pytest.mark.parametrize(
    ("figure", "where", "final_loss", "says"),
    [
        ("clipping", "clip == 0 and spike_share > 0", "final_loss * 1.3",
         "LaProp needs no clipping on ordinary gradients, needs clipping on exploding ones: "
         "without it up to 1.31 times the loss (Adam 1.3)"),
        ("clipping", "clip == 0", "final_loss * 1.05",
         "LaProp may or may not need clipping (undecided) on ordinary gradients, may or may not "
         "need clipping (undecided) on exploding ones: "),
        ("epsilon", NEAR, "final_loss",
         "may be anything from 1e-20 to 1e-8; 1e-4 raises the loss by 48.7 to 50.6 %"),
        ("epsilon", NEAR, "final_loss * 0.6",
         "may not be anything from 1e-20 to 1e-8; 1e-4 does not raise the loss (-10.2 to +49.8 %)"),
        ("epsilon", NEAR, "1.05 + 0.1 * (seed - 4.5)",
         "it is undecided whether LaProp's ε may be anything from 1e-20 to 1e-8; 1e-4 changes the "
         "loss by less than 49.9 % (95 % intervals)"),
        ("nu_schedule", "nu == 0.999 and later_nu != later_nu", "final_loss * 1.05 / 1.1",
         "by -18.4 [-18.8, -18.0] % against ν 0.9, -14.5 [-14.8, -14.2] % against ν 0.999; at "
         "first ν 0.9 costs -16.6 [-17.0, -16.2] %"),
        ("tuning_range", "optimizer == 'amsgrad'", "final_loss * (1 + mu)",
         "within 5 % of the best setting's loss: LaProp 100 %, Adam 52 %, AMSGrad 28 %; within "
         "50 %: LaProp 100 %, Adam 100 %, AMSGrad 50 %"),
    ],
)  # fmt: skip
def test_a_finding_is_that_of_the_runs(
    figure: str, where: str, final_loss: str, says: str, tmp_path: Path
) -> None:
    found = tables(figure, changed(figure, where, {"final_loss": final_loss}), tmp_path, {})
    assert says in paper.script(figure).finding(found)
