"""The site in a browser that opens its pages from disk."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import check_claims, report, words
from scripts.paper import results_of

ENTRIES = report.entries()
DRAWN = """return [...document.querySelectorAll('.charts:not([hidden])')]
    .every((box) => box.querySelector('svg.marks'))"""


@pytest.fixture(scope="module")
def claims() -> list[dict[str, str]]:
    """Every claim with its verdict."""
    return check_claims.rows()


@pytest.fixture
def view(browser: Any, site: Path) -> Iterator[Any]:
    """``view("fig02", 375)`` opens a page, 375 pixels wide."""

    def open_page(name: str, width: int = 1280) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for log in ("browser", "performance"):
            browser.get_log(log)  # of the page before
        browser.get((site / f"{name}.html").as_uri())
        wait(browser, lambda: browser.execute_script(DRAWN))
        return browser

    yield open_page
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def wait(driver: Any, condition: Callable[[], bool]) -> None:
    """Wait for what a page does after it is loaded: charts, a new address."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 30).until(lambda _: condition())


def find(driver: Any, css: str) -> list[Any]:
    return driver.find_elements("css selector", css)


def visible_claims(driver: Any) -> list[str]:
    """The claims of the table that can be seen, by name."""
    seen = "[...document.querySelectorAll('tr[data-figure]')].filter((row) => row.offsetParent)"
    return driver.execute_script(f"return {seen}.map((row) => row.id)")


def select(driver: Any, css: str, choice: str) -> None:
    """Choose from a list as a reader would, by what it shows (without a count)."""
    (option,) = [e for e in find(driver, f"{css} option") if e.text.split(" (")[0] == choice]
    option.click()


def test_pages_load_from_disk_without_errors_and_fit_a_phone(view, site: Path) -> None:
    for path in sorted(site.glob("*.html")):
        driver = view(path.stem, 390)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390, path.name
        assert driver.get_log("browser") == [], path.name
        events = [
            json.loads(entry["message"])["message"] for entry in driver.get_log("performance")
        ]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["documentURL"].startswith("file:")  # not the browser's own pages
        ]
        assert asked
        assert [url for url in asked if not re.match("file:|data:", url)] == [], path.name


def test_letters_of_charts_are_not_shrunk_on_a_phone(view) -> None:
    """They keep their size; a chart that is wider than its box scrolls in it."""
    for name in ("index", "fig02", "fig12"):
        driver = view(name, 390)
        assert len(find(driver, ".drawing svg.marks")) >= 1
        script = """return [...document.querySelectorAll('.drawing svg.marks, .forest')]
            .map((svg) => svg.getBoundingClientRect().width / svg.width.baseVal.value)"""
        assert min(driver.execute_script(script)) > 0.99
        script = """return Math.min(...[...document.querySelectorAll('.drawing text')].map((text) =>
            parseFloat(getComputedStyle(text).fontSize)))"""
        assert driver.execute_script(script) >= 10


def test_claims_are_filtered_and_the_address_keeps_it(view, claims) -> None:
    driver = view("index")
    assert len(visible_claims(driver)) == len(claims)
    select(driver, "[name=verdict]", "not reproduced")
    expected = [c for c in claims if c["verdict"] == "not reproduced"]
    assert visible_claims(driver) == [c["claim"] for c in expected]
    select(driver, "[name=figure]", words.label(expected[0]["figure"]))
    left = [c["claim"] for c in expected if c["figure"] == expected[0]["figure"]]
    assert visible_claims(driver) == left
    output = find(driver, "form.filter output")[0]
    assert output.text == f"{len(left)} of {len(claims)} claims"
    driver.refresh()
    wait(driver, lambda: visible_claims(driver) == left)
    scales = {ENTRIES[claim["figure"]]["scale"] for claim in claims}
    select(driver, "[name=scale]", max(scales - {ENTRIES[expected[0]["figure"]]["scale"]}))
    assert visible_claims(driver) == []
    find(driver, "form.filter button")[0].click()
    assert len(visible_claims(driver)) == len(claims)
    assert "#" not in driver.current_url


def test_claims_are_searched_and_counts_lead_to_them(view, claims) -> None:
    driver = view("index")
    find(driver, "[name=q]")[0].send_keys("roberta warmup")
    found = visible_claims(driver)
    assert 0 < len(found) < 20
    assert {"fig10"} <= {c["figure"] for c in claims if c["claim"] in found}
    find(driver, "form.filter button")[0].click()
    (count,) = find(driver, ".counts a[href='#of=paper&verdict=small%20model%3A%20not%20seen']")
    count.click()
    both = {"of": "paper", "verdict": "small model: not seen"}
    expected = [c["claim"] for c in claims if both.items() <= c.items()]
    wait(driver, lambda: visible_claims(driver) == expected)


def test_a_link_to_a_claim_marks_it(view, site: Path, claims) -> None:
    driver = view("index")
    name = claims[40]["claim"]
    find(driver, f"#{name} .permalink")[0].click()
    assert driver.current_url.endswith(f"index.html#{name}")
    assert driver.execute_script("return document.querySelector('tr:target').id") == name
    assert (
        0 <= find(driver, "tr:target")[0].rect["y"] - driver.execute_script("return scrollY") < 900
    )


def test_pointing_at_a_cell_shows_its_numbers(view) -> None:
    from selenium.webdriver import ActionChains

    driver = view("fig12")
    label = "[aria-label^='µ: 0.5; ν: 0.4;'][aria-label*='optimizer: LaProp;']"
    cell = find(driver, f".drawing path{label}")[0]
    ActionChains(driver).move_to_element_with_offset(cell, 20, 0).perform()
    tip = find(driver, "#vg-tooltip-element.visible")[0].text
    assert re.search(r"optimizer\W+LaProp", tip)
    assert re.search(r"average\W+60\.647\W+from\W+59\.11", tip)
    assert re.search(r"seeds with a number\W+3 of 3", tip)


def title(driver: Any) -> str:
    """The title of the first chart, which is drawn after its panels' headings."""
    return str(find(driver, ".drawing .role-title-text")[-1].text)


def test_the_quantity_of_a_chart_is_chosen_and_kept(view) -> None:
    driver = view("fig13")
    assert title(driver) == "training loss"
    select(driver, ".charts select", "test loss over µ and ν")
    wait(driver, lambda: title(driver) == "test loss")
    driver.refresh()
    wait(driver, lambda: find(driver, ".drawing svg.marks") and title(driver) == "test loss")
    assert driver.get_log("browser") == []


def test_the_first_chart_is_that_of_the_picture(view) -> None:
    assert title(view("fig12")) == "test accuracy, %"
    assert title(view("fig02")) == "updates until it converges"


def test_no_table_is_cut_in_print(view, browser) -> None:
    inner = """return [...document.querySelectorAll('.scroll')]
        .map((e) => [e.scrollHeight - e.clientHeight, e.scrollWidth - e.clientWidth])"""
    assert max(max(pair) for pair in view("fig02").execute_script(inner)) > 0
    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        for name in ("fig02", "fig12", "benchmarks"):
            assert max(max(p) for p in view(name, 700).execute_script(inner)) <= 1, name
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_strips_of_pictures_are_folded(view) -> None:
    driver = view("fig03")
    strips = find(driver, ".strips img")
    results = results_of("fig03")
    assert results is not None
    assert len(strips) == len(list(results.folder.glob("*.jpg"))) > 0
    assert not any(image.is_displayed() for image in strips)
    find(driver, ".strips summary")[0].click()
    assert all(image.is_displayed() for image in strips)


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
    assert not find(driver, ".charts")[0].is_displayed()
