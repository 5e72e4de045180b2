"""The simulator of the front page: its rules are those of Python, and its page works."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageColor
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from experiments.common import CONFIGS, ROOT
from experiments.rosenbrock import gradient, loss
from laprop.functional import ALGORITHMS

RULES = ("adam", "amsgrad", "laprop")
NAMES = ("Adam", "AMSGrad", "LaProp")
TASK = yaml.safe_load((CONFIGS / "task" / "rosenbrock.yaml").read_text())
UPDATES = 2000
FRAME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8" /><title>Simulator</title>
<meta name="viewport" content="width=device-width, initial-scale=1" /></head>
<body>{% include "simulator.html" %}</body></html>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that holds nothing but the simulator."""
    path = tmp_path_factory.mktemp("simulator") / "page.html"
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "scripts" / "site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    path.write_text(templates.from_string(FRAME).render())
    return path


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Callable[..., Any]]:
    """``opened("#anchor", width=390, dark=True, calm=True)`` opens the page afresh."""

    def call(anchor: str = "", width: int = 1280, dark: bool = False, calm: bool = False) -> Any:
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "no-preference",
        }
        wanted = [{"name": name, "value": value} for name, value in features.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
        browser.get("about:blank")  # the same address with another anchor would load nothing
        browser.get_log("browser")
        browser.get(page.as_uri() + anchor)
        return browser

    yield call
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def find(driver: Any, css: str) -> Any:
    return driver.find_element("css selector", f".simulator {css}")


def way(rule: str, settings: dict[str, float], noise: np.ndarray) -> np.ndarray:
    """The path of a rule by Python's functions in float64; noise (T, 2) gives (T + 1, 2)."""
    hyper = {name: settings[name] for name in ("lr", "mu", "nu", "epsilon")}
    theta = torch.zeros(1, 2, dtype=torch.float64)
    algorithm = ALGORITHMS[rule]
    state, path = algorithm.init(theta), [theta]
    for unit in torch.from_numpy(noise):
        g = gradient(theta + unit * settings["sigma"])
        theta, state = algorithm.step(theta, g, state, **hyper)
        path.append(theta)
    return torch.cat(path).numpy()


def in_the_browser(driver: Any, rule: str, settings: dict[str, float], noise: Any) -> np.ndarray:
    script = "return [...Rosenbrock.path(...arguments)]"
    return np.reshape(
        driver.execute_script(script, rule, settings, noise.ravel().tolist()), (-1, 2)
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("mu", "nu", "sigma", "lr"),
    [
        (0.9, 0.0, 0.04, 0.01),  # at which Adam leaps out of the valley
        (0.9, 0.0, 0.0, 0.01),
        (0.9, 0.999, 0.1, 0.01),
        (0.5, 0.4, 0.12, 0.05),
        (0.0, 0.9, 0.2, 0.001),
        (0.99, 0.95, 0.04, 0.1),
    ],
)
def test_a_thousand_updates_are_those_of_python(
    opened, rule: str, mu: float, nu: float, sigma: float, lr: float
) -> None:
    settings = {"mu": mu, "nu": nu, "sigma": sigma, "lr": lr, "epsilon": 1e-8}
    noise = np.random.default_rng(7).uniform(-1, 1, (1000, 2))
    expected = way(rule, settings, noise)
    assert np.isfinite(expected).all()
    assert np.abs(expected[-1]).max() > 0.1  # it has gone somewhere
    np.testing.assert_allclose(
        in_the_browser(opened(), rule, settings, noise), expected, rtol=1e-6, atol=0
    )


def test_the_simulator_begins_with_the_settings_of_the_task(opened) -> None:
    driver = opened()
    assert driver.execute_script("return [Rosenbrock.ARRIVED, Rosenbrock.EPSILON]") == [
        TASK["task"]["converged_below"],
        TASK["optimizer"]["epsilon"],
    ]
    shown = {
        name: float(find(driver, f"label:has([name={name}]) output").text)
        for name in ("mu", "sigma", "lr")
    }
    task = {name: TASK["optimizer"][name] for name in ("mu", "lr")}
    assert shown == task | {"sigma": TASK["task"]["sigma"]}
    assert TASK["task"]["noise"] == "halfwidth"  # the noise is uniform on (-sigma, sigma)
    assert TASK["task"]["start"] == [0, 0]


def test_the_noise_is_uniform_and_repeats_with_its_seed(opened) -> None:
    driver = opened()
    draw = lambda seed: np.array(  # noqa: E731
        driver.execute_script("return [...Rosenbrock.uniform(arguments[0], 20000)]", seed)
    )
    first = draw(1)
    assert np.array_equal(first, draw(1))
    assert abs(np.corrcoef(first, draw(2))[0, 1]) < 0.03
    assert abs(np.corrcoef(first[::2], first[1::2])[0, 1]) < 0.04  # x and y of an update
    assert np.abs(first).max() < 1
    share, _ = np.histogram(first, 10, (-1, 1))
    assert ((share - 2000) ** 2 / 2000).sum() < 27.9  # chi square with 9 degrees, p 0.001


def outcome(path: np.ndarray, view: dict[str, float]) -> str:
    """What the sentence has to say of a path."""
    arrived = np.flatnonzero(loss(torch.from_numpy(path[1:])).numpy() < 0.1)
    x, y = path[1:].T
    outside = (x <= view["left"]) | (x >= view["right"])
    left = np.flatnonzero(outside | (y <= view["bottom"]) | (y >= view["top"]))
    happened = {"arrived": arrived, "left the picture": left}
    when = sorted((updates[0] + 1, what) for what, updates in happened.items() if len(updates))
    said = [f"{what} after {update:,} updates" for update, what in when]
    return " and ".join(said) or f"is on its way after {UPDATES:,} updates"


@pytest.mark.parametrize("nu", ["0", "0.2", "0.999"])
def test_the_sentence_says_what_python_finds(opened, nu: str) -> None:
    driver = opened(f"#rosenbrock=0.9,{nu},0.04,0.01,1")
    unit = driver.execute_script("return [...Rosenbrock.uniform(1, arguments[0])]", 2 * UPDATES)
    view = driver.execute_script("return Rosenbrock.VIEW")
    settings = {"mu": 0.9, "nu": float(nu), "sigma": 0.04, "lr": 0.01, "epsilon": 1e-8}
    noise = np.reshape(unit, (-1, 2))
    parts = [
        f"{name} {outcome(way(rule, settings, noise), view)}"
        for name, rule in zip(NAMES, RULES, strict=True)
    ]
    assert find(driver, ".sentence").text == "; ".join(parts) + "."


def test_the_first_picture_is_the_one_that_the_text_speaks_of(opened) -> None:
    first = find(opened(), ".sentence").text
    assert re.match(r"Adam left the picture .*; LaProp arrived after [\d,]+ updates\.$", first)
    later = find(opened("#rosenbrock=0.9,0.999,0.04,0.01,1"), ".sentence").text
    arrivals = [int(n.replace(",", "")) for n in re.findall(r"arrived after ([\d,]+)", later)]
    assert len(arrivals) == 3
    assert max(arrivals) < 1.1 * min(arrivals)


def test_sliders_work_by_keyboard_and_a_reload_keeps_them(opened) -> None:
    driver = opened("#verdict=seen")
    before = find(driver, ".sentence").text
    slider = find(driver, "[name=nu]")
    slider.send_keys(Keys.END)
    assert find(driver, "label:has([name=nu]) output").text == "0.999"
    assert slider.get_attribute("aria-valuetext") == "0.999"
    after = find(driver, ".sentence").text
    assert after != before
    find(driver, ".renew").send_keys(Keys.ENTER)
    renewed = find(driver, ".sentence").text
    assert renewed != after
    # What another part of the page keeps in the address stays there.
    assert driver.current_url.endswith("#verdict=seen&rosenbrock=0.9,0.999,0.04,0.01,2")
    driver.refresh()
    assert find(driver, ".sentence").text == renewed
    find(driver, ".reset").send_keys(Keys.SPACE)
    assert find(driver, ".sentence").text == before


@pytest.mark.parametrize("anchor", ["#claims", "#rosenbrock=", "#rosenbrock=0.9,7,0.04,0.01,1"])
def test_an_address_that_says_nothing_valid_is_passed_over(opened, anchor: str) -> None:
    expected = find(opened(), ".sentence").text
    driver = opened(anchor)
    assert find(driver, ".sentence").text == expected
    assert driver.get_log("browser") == []


def position(driver: Any) -> int:
    return int(find(driver, ".time").get_attribute("value"))


def two_frames_later(driver: Any) -> None:
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def test_the_film_plays_pauses_and_ends_where_the_whole_picture_was(opened) -> None:
    driver = opened()
    whole = find(driver, ".sentence").text
    play = find(driver, ".play")
    play.click()
    assert play.text == "Pause"
    WebDriverWait(driver, 30).until(lambda d: 0 < position(d) < UPDATES)
    play.click()
    assert play.text == "Play"
    stopped = position(driver)
    assert 0 < stopped < UPDATES
    two_frames_later(driver)
    assert position(driver) == stopped
    Select(find(driver, ".speed")).select_by_visible_text("1,200 updates a second")
    play.click()
    WebDriverWait(driver, 60).until(lambda _: play.text == "Play")
    assert position(driver) == UPDATES
    assert find(driver, ".sentence").text == whole


def test_nothing_moves_for_a_reader_who_wants_no_motion(opened) -> None:
    driver = opened(calm=True)
    play = find(driver, ".play")
    assert play.text == "Next 100 updates"
    for expected in (100, 200):  # from the end it begins again
        play.click()
        two_frames_later(driver)
        assert position(driver) == expected
    assert "LaProp is on its way after 200 updates" in find(driver, ".sentence").text


def pixels(driver: Any, rule: str) -> int:
    """How many pixels of the picture have the colour of a rule."""
    style = "getComputedStyle(document.querySelector('.simulator'))"
    colour = driver.execute_script(f"return {style}.getPropertyValue('--{rule}')").strip()
    url = driver.execute_script("return document.querySelector('.simulator canvas').toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    apart = np.abs(np.asarray(picture, int) - ImageColor.getrgb(colour))
    return int((apart.max(-1) < 3).sum())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_picture_shows_the_ticked_optimizers(opened, width: int, dark: bool) -> None:
    driver = opened(width=width, dark=dark)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert all(pixels(driver, rule) > 10 for rule in RULES)
    find(driver, "[value=adam]").send_keys(Keys.SPACE)
    assert pixels(driver, "adam") == 0
    assert pixels(driver, "laprop") > 10
    assert driver.get_log("browser") == []


def test_on_a_phone_the_picture_stays_in_sight_of_every_slider(opened) -> None:
    driver = opened(width=390)
    for name in ("mu", "nu", "sigma", "lr"):
        box = driver.execute_script(
            """const slider = document.querySelector(`[name=${arguments[0]}]`);
            slider.scrollIntoView({ block: "end" });
            const [a, b] = [document.querySelector(".simulator canvas"), slider];
            return [a.getBoundingClientRect().top, a.getBoundingClientRect().bottom,
                    b.getBoundingClientRect().top];""",
            name,
        )
        assert box[0] >= 0
        assert box[1] < box[2]


def test_without_javascript_the_page_says_so(opened, browser, page: Path) -> None:
    ET.fromstring(page.read_text())  # as all pages of the site, well-formed
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver = opened()
    assert find(driver, "noscript p").text == "The simulator needs JavaScript."
    assert not find(driver, ".board").is_displayed()
