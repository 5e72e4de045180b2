"""The charts, tables, effects and formulas of the site, before they stand in a page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import written

from experiments.common.records import Results
from experiments.common.stats import Estimate, log_ratio
from experiments.common.tables import rounded
from scripts import cells, check_claims, effects, explore, readme, reference, report, words

ENTRIES = report.entries()
MEASURED = [name for name, entry in ENTRIES.items() if entry["runs"] is not None]


# Seeds taken together -----------------------------------------------------------------------------


def cifar10(folder: Path) -> Results:
    """Tables in the format of Figure 12: Adam's two runs at mu 0.9, nu 0.1 diverge, each its way.

    One was ended in epoch 150; one was not, and its loss is worse than guessing.
    """
    rows, curves = [], []
    epochs = np.arange(1, 165)
    for optimizer, epsilon in (("adam", 1e-8), ("laprop", 1e-15)):
        for mu in (0.5, 0.9):
            for nu in (0.1, 0.1 + 0.2):
                for seed in (0, 1):
                    lost = (optimizer, mu, nu) == ("adam", 0.9, 0.1)
                    ended = lost and seed == 0
                    row = {"optimizer": optimizer, "mu": mu, "nu": nu, "epsilon": epsilon}
                    row["seed"] = seed
                    loss = np.linspace(2, 3 if lost else 0.2, 164) + 0.1 * seed
                    logged = epochs[:150] if ended else epochs
                    curves.append(
                        pd.DataFrame(row | {"step": logged, "train_loss": loss[: len(logged)]})
                    )
                    row |= {"train_loss": np.nan if ended else loss[-1], "test_accuracy": 0.9}
                    rows.append(row | {"diverged_at": 150.0 if ended else np.nan})
    axes = {name: f"optimizer.{name}" for name in ("mu", "nu", "epsilon")}
    return written(
        folder / "fig12" / "paper",
        pd.DataFrame(rows).map(rounded),
        curves,
        figure="fig12",
        axes={"optimizer": "optimizer.name", **axes, "seed": "seed"},
        summary=["train_loss", "test_accuracy", "diverged_at"],
    )


def test_diverged_runs_are_counted_and_not_averaged(tmp_path: Path) -> None:
    results = cifar10(tmp_path)
    table = report.cell_table(results)
    assert table["heads"][:5] == ["optimizer", "µ", "ν", "seeds", "diverged"]
    rows = {tuple(row[:3]): row[3:] for row in table["rows"]}
    assert rows["Adam", "0.9", "0.1"] == [2, 2, "– (0 of 2)", "– (0 of 2)"]
    seeds, diverged, loss, _ = rows["LaProp", "0.9", "0.1"]
    assert (seeds, diverged) == (2, 0)
    assert re.fullmatch(r"0\.25 \[-0\.38\d*, 0\.88\d*\]", loss)  # Student's t of 0.2 and 0.3


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """The rows that a chart draws."""
    (data,) = chart.to_dict()["datasets"].values()
    return list(data)


def entry(monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
    """Let these be the only chart of Figure 12."""
    monkeypatch.setattr(explore, "entries", lambda part: {"fig12": [keys]})


def test_a_map_has_the_average_of_each_cell_and_says_where_seeds_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = cifar10(tmp_path)
    entry(monkeypatch, draw="grid", of="test_accuracy", x="mu", y="nu", panels=["optimizer"],
          times=100, title="test accuracy, %")  # fmt: skip
    (drawing,) = explore.of(results, "fig12")
    assert drawing.name == "test accuracy, % over µ and ν"
    cell = {(r["optimizer"], r["mu"], r["nu"]): r for r in rows_of(drawing.chart)}
    assert len(cell) == 8
    assert cell["Adam", "0.9", "0.1"]["label"] == ["diverged"]
    assert cell["Adam", "0.9", "0.1"]["of"] == "0 of 2"
    assert cell["LaProp", "0.5", "0.3"]["centre"] == 90
    results.runs.loc[0, "test_accuracy"] = np.nan
    (drawing,) = explore.of(results, "fig12")
    cell = {(r["optimizer"], r["mu"], r["nu"]): r for r in rows_of(drawing.chart)}
    assert cell["Adam", "0.5", "0.1"]["label"] == ["90", "1 of 2"]


def test_curves_are_dashed_where_seeds_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = cifar10(tmp_path)
    entry(monkeypatch, draw="curves", of="train_loss", by="nu", panels=["mu", "optimizer"],
          step="epochs")  # fmt: skip
    (drawing,) = explore.of(results, "fig12")
    where = {"optimizer": "Adam", "mu": "0.9", "nu": "0.1"}
    curve = [r for r in rows_of(drawing.chart) if where.items() <= r.items()]
    assert len(curve) == explore.POINTS
    assert (curve[0]["step"], curve[-1]["step"]) == (1, 164)
    assert curve[0]["centre"] == 2.05
    assert curve[0]["whole"]
    assert curve[-1]["centre"] == 3.1  # of the seed that is left
    assert curve[-1]["of"] == "1 of 2"
    assert curve[-1]["line"] is None  # which the solid line leaves out
    assert any("strokeDash" in str(layer) for layer in drawing.chart.to_dict()["spec"]["layer"])


def test_seeds_that_never_arrive_make_a_median_infinite() -> None:
    """Adam at nu 0 would look faster than LaProp, were they left out."""
    (drawing,) = explore.of(ENTRIES["fig02"]["runs"], "fig02")
    rows = rows_of(drawing.chart)
    for row in rows:
        arrived, seeds = map(int, row["of"].split(" of "))
        assert row["lost"] == (arrived < seeds / 2 or arrived == 0), row
        assert row["solid"] <= (arrived == seeds)
    at_zero = [r for r in rows if r["nu"] == "0" and r["optimizer"] == "Adam" and not r["lost"]]
    assert at_zero
    assert all(not r["solid"] and r["line"] is None for r in at_zero)  # hollow, on no line


def test_a_chart_averages_nothing_but_seeds(tmp_path: Path, monkeypatch) -> None:
    entry(monkeypatch, draw="lines", of="test_accuracy", x="nu", by="optimizer")
    with pytest.raises(ValueError, match=r"fig12: rows differ in more than nu, optimizer, seed"):
        explore.of(cifar10(tmp_path), "fig12")


def test_every_chart_is_of_what_its_figure_has() -> None:
    assert set(explore.entries("figures")) <= set(ENTRIES)
    assert set(explore.entries("findings")) == set(readme.FOUND)
    allowed = {"draw", "of", "x", "y", "by", "panels", "average", "band", "where",
               "times", "smooth", "step", "title", "apart", "authors", "table", "log", "within",
               "names"}  # fmt: skip
    lists = [*explore.entries("figures").values(), [*explore.entries("findings").values()]]
    for one in [one for some in lists for one in some]:
        assert set(one) <= allowed
        assert one["draw"] in ("grid", "lines", "curves")
        assert one.get("average", "mean") in explore.AVERAGE
        assert one.get("band", "interval") in explore.BAND


def test_a_figure_without_an_entry_has_charts_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(explore, "entries", lambda part: {})
    names = [drawing.name for drawing in explore.of(cifar10(tmp_path), "fig12")]
    assert names == ["training loss against µ", "training loss against step"]


def test_a_figure_of_one_cell_has_its_curve_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(explore, "entries", lambda part: {})
    rows = pd.DataFrame({"optimizer": "laprop", "seed": [0, 1], "train_loss": [0.5, 0.6]})
    curves = pd.concat([rows.assign(step=step) for step in (1, 2)])
    axes = {"optimizer": "optimizer.name", "seed": "seed"}
    results = written(tmp_path / "fig12", rows, curves, figure="fig12", axes=axes)
    (drawing,) = explore.of(results, "fig12")
    assert drawing.name == "training loss against step"
    assert len(rows_of(drawing.chart)) == 2


def test_a_long_table_says_how_much_of_it_is_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "ROWS", 3)
    table = report.cell_table(cifar10(tmp_path))
    assert len(table["rows"]) == 3
    assert table["total"] == 8


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        (np.nan, "–"),
        (np.inf, "∞"),
        (1234.5, "1234"),
        (12870, "12,870"),
        (3e-9, "3e-9"),
        (2e298, "2e298"),
    ],
)
def test_numbers_for_the_eye(x: float, shown: str) -> None:
    assert words.number(x) == shown


def test_columns_are_shown_in_words() -> None:
    known = set(words.table("columns")) | {"optimizer", "updates", "limit", "game", "seed"}
    for name in MEASURED:
        results = ENTRIES[name]["runs"]
        frames = [results.runs]
        if (results.folder / "curves.parquet").exists():
            frames.append(results.curves)
        for frame in frames:
            missing = set(cells.metrics(frame, [])) - known
            assert not missing, f"{name}: no words in scripts/words.yaml for {missing}"
    assert words.name("test_accuracy") == "test accuracy"
    assert words.name("a_metric_of_mine") == "a metric of mine"
    assert words.value("space_invaders") == "space invaders"
    assert words.value("data/my_texts.txt") == "data/my_texts.txt"


def test_pictures_say_which_run_left_them() -> None:
    found = dict(report.pictures(ENTRIES["fig09"]["runs"]))
    assert len(found) == 3
    assert sorted(found.values()) == [
        f"montage of {o}; learning rate 0.001, 0.1; ν 0, 0.4, 0.7, 0.9, 0.999; seed 0"
        for o in ("AMSGrad", "Adam", "LaProp")
    ]
    starts = dict(report.pictures(ENTRIES["fig03"]["runs"])).values()
    assert "montage of LaProp; learning rate 0.01; ν 0.4, 0.999; seed 0" in starts
    assert "montage of SGD, learning rate 0.3, seed 0" in starts
    breakout = sorted(dict(report.pictures(ENTRIES["fig06"]["runs"])).values())
    assert breakout == [
        f"breakout of {o}, ε {e}, seed 0" for o in ("Adam", "LaProp") for e in ("0.00015", "1e-15")
    ]


# Effects ------------------------------------------------------------------------------------------


def test_an_effect_is_printed_with_its_interval_and_drawn_beside_its_line() -> None:
    gap = effects.difference(Estimate(0.19, 0.05, 9), "+.2f")
    assert str(gap) == "+0.19 [+0.08, +0.30]"
    ((_, places),) = effects.placed([gap])
    assert places == pytest.approx(
        [0.5 + x / 2 / gap.high for x in (gap.low, gap.centre, gap.high)]
    )
    halved = effects.ratio(log_ratio(pd.Series([0.25, 1.0]), pd.Series([1.0, 1.0])))
    assert halved.text.startswith("0.500 [")
    ((_, places),) = effects.placed([halved])
    furthest = max(abs(np.log(halved.low)), abs(np.log(halved.high)))
    assert places[1] == pytest.approx(0.5 + np.log(0.5) / 2 / furthest)
    (_, near), _ = effects.placed([effects.ratio(Estimate(0.001, 0.001, 9)) for _ in range(2)])
    assert near == pytest.approx((0.5, 0.5, 0.5), abs=0.02)  # not blown up to the frame
    ((turned, places),) = effects.placed([effects.share(20, 20)])
    assert str(turned) == "100% [84%, 100%]"
    assert places == pytest.approx((0.84, 1, 1), abs=0.005)
    assert str(effects.percentage(Estimate(np.log(1.057), 0))) == "+5.7% [+5.7%, +5.7%]"


def test_what_has_no_interval_or_another_unit_is_not_drawn() -> None:
    none = effects.difference(Estimate(0.013))
    assert str(none) == "+0.01 [no interval]"
    assert effects.placed([none, effects.ratio(Estimate(0.0))]) == []
    ratios = [effects.ratio(Estimate(0.1, 0.01, 9))] * 2
    mixed = [effects.difference(Estimate(-1, 0.1, 9)), *ratios, none]
    assert [effect for effect, _ in effects.placed(mixed)] == ratios


def test_effects_of_all_claims_are_in_order_in_the_frame_and_in_the_text() -> None:
    claims = check_claims.rows()
    found = [effect for claim in claims for effect in effects.placed(claim["effects"])]
    assert len(found) > 60
    for effect, (low, centre, high) in found:
        assert effect.low <= effect.centre <= effect.high, effect.text
        assert -1e-9 <= low <= centre <= high <= 1 + 1e-9
    for claim in claims:
        assert all(effect.text in claim["measured"] for effect in claim["effects"]), claim["claim"]
        signed = re.findall(r"\[[+-][\d.]+%?, [+-]", claim["measured"])
        assert len(signed) <= len(claim["effects"]), claim["claim"]


# Formulas -----------------------------------------------------------------------------------------


def test_formulas_and_tables_of_docstrings() -> None:
    html = reference.to_html("By $$a &= b^2 \\\\\nc &= d$$ and \\\\( \\nu \\\\).\n")
    assert html.count("<mtr>") == 2
    assert html.count("<math") == 2
    assert "ν" in html or "&#x003BD;" in html
    html = reference.to_html("==  ===\n``a``  the first\nb  the second\n==  ===\n\nMore.\n")
    assert re.search(r"<td[^>]*><code>a</code></td>\s*<td[^>]*>the first</td>", html)
    assert "==" not in html
