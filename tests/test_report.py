"""The report: what its pages say, and that they work in a browser that opens them from disk."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from experiments.common.records import RESULTS, Results
from scripts import check_claims, make_discrepancies, paper, report

ENTRIES = report.entries()
MEASURED = [name for name, entry in ENTRIES.items() if entry["runs"] is not None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, written as ``make report`` writes it."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", "--to", str(folder)])
        report.main()
    return folder


@pytest.fixture(scope="module")
def claims() -> list[dict[str, str]]:
    """Every claim with its verdict."""
    return check_claims.rows()


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, ET.Element]:
    """Every page, read by a strict parser of XML, which refuses what is not well-formed."""
    return {path.name: ET.fromstring(path.read_text()) for path in sorted(site.glob("*.html"))}


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def by_class(page: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in page.iter() if name in e.get("class", "").split()]


def grid_of(page: ET.Element) -> dict[str, Any]:
    return dict(json.loads(by_class(page, "grid")[0].find("script").text))


# What stands in the pages -------------------------------------------------------------------------


def test_every_figure_has_a_page_with_its_picture_and_how_to_run_it(pages) -> None:
    for name, row in ENTRIES.items():
        page = pages[f"{name}.html"]
        words = text(page)
        assert row["shows"] in words
        shown = [image.get("src") for image in page.iter("img")]
        assert any(src.endswith(f"figures/{name}.png") for src in shown) == (paper.drawable(name))
        results = row["runs"]
        if results is None:
            assert row["tables"] or "Not run." in words
            assert not by_class(page, "grid")
        else:
            assert f"Scale: {results.scale}" in words
            assert not results.manifest["reduced"] or results.manifest["reduced"] in words
            for place in results.manifest["environments"]:
                assert place["commit"][:10] in words
                assert place["hardware"]["cpu"] in words
            for key in results.manifest["settings"]:
                assert key in words
        commands = " ".join(text(e) for e in by_class(page, "command"))
        for scale in report.grids_of(name):
            figure = row["results"] or name
            assert f"python -m experiments figure={figure} scale={scale}" in commands
        assert commands or "No experiment of this figure exists yet." in words


def test_every_claim_stands_in_the_table_and_on_its_figure(pages, claims) -> None:
    table = by_class(pages["index.html"], "claims")[0].find("tbody")
    for row, claim in zip(table, claims, strict=True):
        assert row.get("data-figure") == claim["figure"]
        assert row.get("data-verdict") == claim["verdict"]
        assert row.get("data-of") == claim["of"]
        figure = pages[f"{claim['figure']}.html"]
        (article,) = [e for e in figure.iter("article") if e.get("id") == claim["claim"]]
        for part in ("says", "measured", "verdict"):
            assert plain(claim[part]) in text(row)
        for part in ("says", "reports", "rule", "measured", "apart", "verdict"):
            assert plain(claim[part]) in text(article), part


def test_claims_of_the_paper_and_ours_are_counted_apart(pages, claims) -> None:
    words = text(by_class(pages["index.html"], "opening")[0])
    for of, title in check_claims.OF.items():
        assert f"{title}: {sum(claim['of'] == of for claim in claims)}" in words
    legend = text(by_class(pages["index.html"], "legend")[0])
    assert check_claims.OWN not in legend  # no committed claim is of a user's own task
    for scale, words_of_scale in check_claims.WORDS.items():
        if scale != check_claims.OWN:
            assert all(word.split(": ")[-1] in legend for word in words_of_scale)


def plain(markdown: str) -> str:
    return " ".join(re.sub(r"[`*]", "", markdown).split())


def test_the_ledger_has_every_disagreement_with_its_measurement(pages) -> None:
    for row in make_discrepancies.rows():
        article = next(
            e for e in pages["ledger.html"].iter("article") if e.get("id") == row["name"]
        )
        for key in ("where", "paper", "code", "ours", "option", "measured"):
            assert plain(row[key]) in text(article), row["name"]


def test_the_benchmarks_stand_in_tables(pages) -> None:
    words = text(pages["benchmarks.html"])
    for path in (RESULTS / "benchmarks").glob("*.csv"):
        assert path.name in words
        for way in pd.read_csv(path).way:
            assert way in words


def test_every_link_leads_somewhere_and_nothing_comes_from_outside(pages, site: Path) -> None:
    ids = {name: {e.get("id") for e in page.iter()} for name, page in pages.items()}
    for name, page in pages.items():
        for element in page.iter():
            for kind in ("href", "src"):
                link = element.get(kind)
                if link is None or (element.tag, link) == ("a", "https://arxiv.org/abs/2002.04839"):
                    continue
                assert not re.match(r"[a-z]+:|//", link), f"{name}: {link}"
                path, _, fragment = unquote(link).partition("#")
                assert (site / path).exists(), f"{name}: {link}"
                assert not fragment or fragment in ids[path or name], f"{name}: {link}"
    for asset in ("site.css", "site.js"):
        assert not re.search(r"@import|url\(|fetch|import\(", (site / asset).read_text())


def test_no_page_is_large(site: Path) -> None:
    for path in site.glob("*.html"):
        assert path.stat().st_size < 1_500_000, path.name


def test_the_cells_of_a_page_hold_every_run_of_its_table(pages) -> None:
    for name in MEASURED:
        runs = pd.read_csv(ENTRIES[name]["runs"].folder / "runs.csv")
        data, page = grid_of(pages[f"{name}.html"]), pages[f"{name}.html"]
        assert sum(cell["seeds"] for cell in data["cells"]) == len(runs), name
        head = [text(e) for e in by_class(page, "data")[0].find("thead").iter("th")]
        assert set(data["metrics"]) <= set(head), name


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
    folder = folder / "fig12" / "paper"
    folder.mkdir(parents=True)
    runs = pd.DataFrame(rows)
    runs.to_csv(folder / "runs.csv", index=False, float_format="%.7g")
    pd.concat(curves).to_parquet(folder / "curves.parquet", index=False)
    axes = {name: f"optimizer.{name}" for name in ("mu", "nu", "epsilon")}
    manifest = {
        "figure": "fig12",
        "axes": {"optimizer": "optimizer.name", **axes, "seed": "seed"},
        "summary": ["train_loss", "test_accuracy", "diverged_at"],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Results(folder)


def test_diverged_runs_are_counted_and_not_averaged(tmp_path: Path) -> None:
    results = cifar10(tmp_path)
    cell = report.cells(results).loc[("adam", 0.9, 0.1, 1e-8)]
    assert cell["seeds", ""] == cell["diverged", ""] == 2
    assert cell["test_accuracy", "count"] == 0
    assert np.isnan(cell["test_accuracy", "mean"])
    assert report.spread(cell, "test_accuracy") == "– (0 of 2)"
    stable = report.cells(results).loc[("laprop", 0.9, 0.1, 1e-15)]
    assert stable["diverged", ""] == 0
    assert report.spread(stable, "train_loss") == "0.25 ± 0.071"
    table = report.cell_table(report.cells(results))
    assert ["adam", "0.9", "0.1", "1e-08", "2", "2", "– (0 of 2)", "– (0 of 2)"] in table["rows"]


def test_a_grid_of_mu_and_nu_with_curves(tmp_path: Path) -> None:
    results = cifar10(tmp_path)
    data = report.grid(results, report.cells(results))
    assert data["axes"] == {
        "optimizer": ["adam", "laprop"],
        "mu": ["0.5", "0.9"],
        "nu": ["0.1", "0.3"],
    }
    assert (data["down"], data["across"]) == ("nu", "mu")
    assert data["metrics"] == ["train_loss", "test_accuracy"]
    cell = next(c for c in data["cells"] if c["at"] == [0, 1, 0])  # both of its runs diverged
    assert cell["values"] == [[None, None, 0], [None, None, 0]]
    mean, low, high = cell["curves"]["train_loss"]
    assert len(cell["curves"]["steps"]) == len(mean) == report.POINTS
    assert cell["curves"]["steps"][0] == 1
    assert cell["curves"]["steps"][-1] == 164
    assert (low[0], high[0]) == (2, 2.1)
    assert mean[0] == 2.05
    assert mean[-1] == low[-1] == high[-1] == 3.1  # of the seed that is left


def test_curves_that_do_not_say_which_cell_they_belong_to_are_left_out(tmp_path: Path) -> None:
    results = cifar10(tmp_path)
    curves = results.curves.assign(mu=lambda frame: frame.train_loss)  # a metric of an axis's name
    curves.to_parquet(results.folder / "curves.parquet", index=False)
    data = report.grid(Results(results.folder), report.cells(results))
    assert data["curves"] == []
    assert all("curves" not in cell for cell in data["cells"])


def test_curves_of_many_cells_are_coarser(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "NUMBERS", 240)  # of 8 cells, a mean and two ends of each point
    results = cifar10(tmp_path)
    data = report.grid(results, report.cells(results))
    assert {len(cell["curves"]["steps"]) for cell in data["cells"]} == {10}


def test_a_long_table_says_how_much_of_it_is_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "ROWS", 3)
    table = report.cell_table(report.cells(cifar10(tmp_path)))
    assert len(table["rows"]) == 3
    assert table["total"] == 8


@pytest.mark.parametrize(
    ("x", "shown"),
    [(np.nan, "–"), (np.inf, "∞"), (1234.5, "1234"), (12870, "12,870"), (3e-9, "3e-09")],
)
def test_numbers_for_the_eye(x: float, shown: str) -> None:
    assert report.number(x) == shown


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture
def view(browser: Any, site: Path) -> Iterator[Any]:
    """``view("fig02", 375)`` opens a page, 375 pixels wide."""

    def open_page(name: str, width: int = 1280) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for log in ("browser", "performance"):
            browser.get_log(log)  # of the page before
        browser.get((site / f"{name}.html").as_uri())
        return browser

    yield open_page
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def find(driver: Any, css: str) -> list[Any]:
    return driver.find_elements("css selector", css)


def visible_claims(driver: Any) -> list[str]:
    """What the rows of the table say that can be seen."""
    seen = "[...document.querySelectorAll('.claims tbody tr')].filter((row) => row.offsetParent)"
    return driver.execute_script(f"return {seen}.map((r) => r.querySelector('.says').innerText)")


def select(driver: Any, css: str, choice: str) -> None:
    """Choose from a list as a reader would, by what it shows (without a count)."""
    (option,) = [e for e in find(driver, f"{css} option") if e.text.split(" (")[0] == choice]
    option.click()


def test_pages_load_from_disk_without_errors_and_fit_a_phone(view, site: Path) -> None:
    for path in sorted(site.glob("*.html")):
        driver = view(path.stem, 375)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 375, path.name
        assert driver.get_log("browser") == [], path.name
        events = [
            json.loads(entry["message"])["message"] for entry in driver.get_log("performance")
        ]
        asked = [
            e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")
        ]
        assert asked
        assert all(url.startswith("file:") for url in asked), path.name


def test_claims_are_filtered_by_figure_verdict_and_scale(view, claims) -> None:
    driver = view("index")
    assert len(visible_claims(driver)) == len(claims)
    select(driver, "[name=verdict]", "not reproduced")
    expected = [c for c in claims if c["verdict"] == "not reproduced"]
    assert visible_claims(driver) == [plain(c["says"]) for c in expected]
    select(driver, "[name=figure]", expected[0]["figure"])
    left = len(visible_claims(driver))
    assert left == sum(c["figure"] == expected[0]["figure"] for c in expected)
    output = find(driver, "form.filter output")[0]
    assert output.text == f"{left} of {len(claims)} claims"
    scales = {ENTRIES[claim["figure"]]["scale"] for claim in claims}
    select(driver, "[name=scale]", max(scales - {ENTRIES[expected[0]["figure"]]["scale"]}))
    assert visible_claims(driver) == []


def test_pointing_at_a_cell_shows_its_curves(view, pages) -> None:
    from selenium.webdriver import ActionChains

    driver = view("propositions")
    before = find(driver, ".detail svg path.line")[-1].get_attribute("d")
    (cell,) = find(driver, "[aria-label^='optimizer Adam, mu 0.5, nu 0.9,']")
    ActionChains(driver).move_to_element(cell).perform()
    assert find(driver, ".detail h3")[0].text.startswith("mu 0.5, nu 0.9,")
    number = cell.get_attribute("aria-label").rsplit(", ", 1)[1]
    assert find(driver, ".rivals .chosen")[0].text == f"Adam {number}"
    lines = find(driver, ".detail svg path.line")
    assert len(lines) == len(grid_of(pages["propositions.html"])["axes"]["optimizer"])
    assert lines[-1].get_attribute("d") != before  # the one pointed at lies on top
    described = find(driver, ".detail svg")[0].get_attribute("aria-label")
    assert described.startswith("log10_update against step. LaProp ends at ")


def test_a_grid_is_walked_with_the_arrow_keys(view) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = view("fig02")
    stops = find(driver, ".map td[tabindex='0']")
    assert len(stops) == 1  # Tab comes by once
    stops[0].send_keys(Keys.NULL)
    title = lambda: find(driver, ".detail h3")[0].text  # noqa: E731
    first = driver.switch_to.active_element.get_attribute("aria-label")
    assert title().startswith("nu 0, sigma 0.04, noise halfwidth")
    for _ in range(3):
        driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert title().startswith("nu 0, sigma 0.16, noise halfwidth")
    assert first.startswith("optimizer Adam")
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)  # on to the next optimizer's map
    label = driver.switch_to.active_element.get_attribute("aria-label")
    assert label.startswith("optimizer AMSGrad, nu 0, sigma 0.04")
    driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert title().startswith("nu 0.025, sigma 0.04, noise halfwidth")
    driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    driver.switch_to.active_element.send_keys(Keys.ARROW_UP)
    driver.switch_to.active_element.send_keys(Keys.ARROW_UP)  # the edge holds
    assert title().startswith("nu 0, sigma 0.16, noise halfwidth")


def test_axes_and_metric_of_a_grid_are_chosen(view) -> None:
    driver = view("theorem1")
    heads = lambda: [e.text for e in find(driver, ".map")[0].find_elements("tag name", "th")]  # noqa: E731
    assert "rare" in heads()
    before = find(driver, ".key")[0].text
    select(driver, "[data-name=across] select", "lr")
    assert heads()[:2] == ["0.1", "1"]
    assert find(driver, "[data-name=problem] select")
    select(driver, "[data-name=across] select", "nu")  # was down: the two change places
    assert find(driver, ".map small")[0].text == "lr ↓ nu →"
    select(driver, "[data-name=metric] select", "growth_exponent")
    assert find(driver, ".key")[0].text != before
    assert driver.get_log("browser") == []


def test_cells_without_a_number_are_marked(view) -> None:
    driver = view("fig02")
    label = "[aria-label^='optimizer AMSGrad, nu 0.5, sigma 0.1,']"
    assert find(driver, f"{label}[aria-label$='none of 100 seeds']")[0].text == "×"
    select(driver, "[data-name=noise] select", "width")
    assert "×" not in find(driver, label)[0].text


def test_a_command_is_copied(view) -> None:
    driver = view("fig02")
    find(driver, ".command button")[0].click()
    selected = driver.execute_script("return String(getSelection())")
    assert selected.startswith("python -m experiments figure=fig02 scale=paper\n")


def test_pages_are_whole_without_javascript(view, browser, claims) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver = view("index")
    assert len(visible_claims(driver)) == len(claims)
    assert not find(driver, "form.filter")[0].is_displayed()
    driver = view("fig02")
    assert find(driver, ".data tbody tr")[0].is_displayed()
    assert find(driver, "noscript p")[0].is_displayed()
    assert not find(driver, ".grid")[0].is_displayed()
