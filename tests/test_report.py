"""What stands in the pages of the site."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from experiments.common import RESULTS, ROOT
from scripts import (
    check_claims,
    discrepancies,
    effects,
    pages,
    paper,
    readme,
    report,
    words,
)

ENTRIES = report.entries()
MEASURED = [name for name, entry in ENTRIES.items() if entry["runs"] is not None]
PAPER = "https://arxiv.org/abs/2002.04839"


@pytest.fixture(scope="module")
def claims() -> list[dict[str, str]]:
    """Every claim with its verdict."""
    return check_claims.rows()


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[str, ET.Element]:
    """Every page, read by a strict parser of XML, which refuses what is not well-formed."""
    return {path.name: ET.fromstring(path.read_text()) for path in sorted(site.glob("*.html"))}


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def by_class(page: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in page.iter() if name in e.get("class", "").split()]


def charts_of(page: ET.Element) -> list[dict[str, Any]]:
    """The charts of a page as the library that draws them gets them."""
    return [
        json.loads(script.text) for box in by_class(page, "charts") for script in box.iter("script")
    ]


# What stands in the pages -------------------------------------------------------------------------


def test_every_figure_has_a_page_with_its_picture_and_how_to_run_it(parsed) -> None:
    for name, row in ENTRIES.items():
        page = parsed[f"{name}.html"]
        said = text(page)
        assert row["shows"] in said
        shown = [image.get("src") for image in page.iter("img")]
        assert any(src.endswith(f"figures/{name}.png") for src in shown) == (paper.drawable(name))
        results = row["runs"]
        if results is None:
            assert row["tables"] or "Not run." in said
            assert row["beside"] or not by_class(page, "charts")
        else:
            assert f"Scale: {results.scale}" in said
            assert not results.manifest["reduced"] or results.manifest["reduced"] in said
            for place in results.manifest["environments"]:
                assert place["commit"][:10] in said
                assert place["hardware"]["cpu"] in said
            for key in results.manifest["settings"]:
                assert key in said
        commands = " ".join(text(e) for e in by_class(page, "command"))
        for drawn in (name, *[row["beside"]] * bool(row["beside"])):
            for scale in report.grids_of(drawn):
                figure = ENTRIES[drawn]["results"] or drawn
                assert f"python -m experiments figure={figure} scale={scale}" in commands
        assert commands or "No experiment of this figure exists yet." in said


def test_a_picture_of_two_sets_of_runs_has_both_on_its_page(parsed) -> None:
    """As Figure 5, whose right half is made from Figure 10's runs."""
    beside = {name: entry["beside"] for name, entry in ENTRIES.items() if entry["beside"]}
    for file in (paper.HERE / "figures").glob("fig*.py"):
        others = set(re.findall(r'\bload\("(fig\d\d)"\)', file.read_text()))
        assert others == {beside.get(file.stem)} - {None}, file.name
    assert beside["fig05"] == "fig10"
    for name, other in beside.items():
        page = parsed[f"{name}.html"]
        keys = [e.get("id") for e in by_class(page, "charts")]
        assert keys == [f"charts-{name}", f"charts-{other}"]
        assert len(by_class(page, "data")) == 2
        assert f"{other}.html" in [a.get("href") for a in page.iter("a")]


def test_every_claim_stands_in_the_table_and_on_its_figure(parsed, claims) -> None:
    rows = [e for e in parsed["index.html"].iter("tr") if e.get("data-figure")]
    for row, claim in zip(rows, claims, strict=True):
        assert row.get("id") == claim["claim"]
        assert row.get("data-figure") == claim["figure"]
        assert row.get("data-verdict") == claim["verdict"]
        assert row.get("data-of") == claim["of"]
        figure = parsed[f"{claim['figure']}.html"]
        (article,) = [e for e in figure.iter("article") if e.get("id") == claim["claim"]]
        for key in ("says", "measured", "apart", "verdict"):
            assert plain(claim[key]) in text(row)
        for key in ("says", "reports", "rule", "changed", "measured", "apart", "verdict"):
            assert plain(claim[key]) in text(article), key
        shown = effects.placed(claim["effects"])
        assert len(by_class(row, "forest")) == len(by_class(article, "forest")) == bool(shown)


def test_claims_of_the_paper_and_ours_are_counted_apart(parsed, claims) -> None:
    page = parsed["index.html"]
    (section,) = [e for e in page.iter("section") if e.get("id") == "claims"]
    for of, title in check_claims.OF.items():
        assert f"{title}: {sum(claim['of'] == of for claim in claims)}" in text(section)
    legend = text(by_class(page, "legend")[0])
    assert check_claims.OWN not in legend  # no committed claim is of a user's own task
    for kind, said in check_claims.WORDS.items():
        if kind != check_claims.OWN:
            assert all(word in legend for word in said.values())


def test_the_front_page_says_what_was_found_and_what_was_not(parsed, claims) -> None:
    page = parsed["index.html"]
    sections = {e.get("id"): text(e) for e in page.iter("section")}
    for name in readme.FOUND:
        assert paper.finding(name) in sections["found"]
    assert len(charts_of(page)) == len(readme.FOUND)
    for claim in claims:
        if claim["of"] == "paper":
            open_ = claim["held"] in (None, check_claims.NOT_RUN)
            assert (claim["says"] in sections["untested"]) == open_
            wrong = (claim["kind"], claim["held"]) == ("paper", False)
            assert (claim["says"] in sections["wrong"]) == wrong
    links = {a.get("href") for a in page.iter("a")}
    for row in discrepancies.rows():
        assert (f"discrepancy_list.html#{row['name']}" in links) == (row["group"] == "theory")


def test_the_site_and_the_repository_have_one_text(parsed) -> None:
    """The pages render the README and ``docs/``; their words stand in no template."""
    front = text(parsed["index.html"])
    headline = pages.readme("What we found").split("\n\n")[0]
    for part in (pages.readme(), headline, pages.readme("Should I use it?")):
        for sentence in re.split(r"\n\n|\n- ", re.sub(r"```.*?```", "", part, flags=re.DOTALL)):
            assert plain(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", sentence.lstrip("- "))) in front
    assert "pip install ." in front
    for path in pages.DOCS.glob("*.md"):
        guide = parsed[f"guide-{path.stem}.html"]
        heads = re.findall("^##? (.+)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL),
                           flags=re.MULTILINE)  # fmt: skip
        assert [text(e) for e in guide.iter() if e.tag in ("h1", "h2")] == list(map(plain, heads))
        assert f"guide-{path.stem}.html" in [a.get("href") for a in parsed["index.html"].iter("a")]


def plain(markdown: str) -> str:
    return " ".join(re.sub(r"[`*]", "", markdown).split())


def test_the_list_has_every_discrepancy_with_its_measurement(parsed) -> None:
    for row in discrepancies.rows():
        articles = parsed["discrepancy_list.html"].iter("article")
        (article,) = [e for e in articles if e.get("id") == row["name"]]
        for key in ("title", "where", *discrepancies.LABELS):
            assert plain(row[key]) in text(article), row["name"]
        names = [text(e).lower() for e in article.iter("dt")]
        assert names == list(discrepancies.LABELS.values())


def test_the_benchmarks_stand_in_tables(parsed) -> None:
    said = text(parsed["benchmarks.html"])
    for path in (RESULTS / "benchmarks").glob("*.csv"):
        assert path.name in said
        for way in pd.read_csv(path).way:
            assert way in said


def test_every_link_leads_somewhere_and_nothing_comes_from_outside(parsed, site: Path) -> None:
    ids = {name: {e.get("id") for e in page.iter()} for name, page in parsed.items()}
    for name, page in parsed.items():
        for element in page.iter():
            for kind in ("href", "src"):
                link = element.get(kind)
                if link is None or (element.tag, link) == ("a", PAPER):
                    continue
                assert not re.match(r"[a-z]+:|//", link), f"{name}: {link}"
                path, _, fragment = unquote(link).partition("#")
                assert (site / path).exists(), f"{name}: {link}"
                if path.endswith(".md"):
                    headings = re.findall("^#+ (.+)$", (site / path).read_text(), re.MULTILINE)
                    assert not fragment or fragment in map(words.slug, headings), link
                elif fragment and "=" not in fragment:  # else a choice of claims
                    assert fragment in ids[path or name], f"{name}: {link}"
    for asset in ("site.css", "site.js"):
        assert not re.search(r"@import|url\(|fetch|import\(", (site / asset).read_text())


@pytest.mark.parametrize(
    ("link", "there"),
    [
        ("results/CLAIMS.md", "index.html#claims"),
        ("results/CLAIMS.md#deep_small_lr", "index.html#deep_small_lr"),
        (
            "results/CLAIMS.md#first-runs-of-larger-scales",
            "../CLAIMS.md#first-runs-of-larger-scales",
        ),
        ("results/FIGURES.md#figures", "../FIGURES.md#figures"),
        ("results/figures/fig02.png#found", "fig02.html#found"),
        ("docs/speed.md#memory--time", "guide-speed.html#memory--time"),
        ("LICENSE", "../../LICENSE"),
        ("#memory", "#memory"),
    ],
)
def test_a_link_keeps_what_stands_behind_its_file(link: str, there: str) -> None:
    assert pages.linked(link, ROOT, report.SITE) == there


def test_a_heading_has_the_anchor_that_github_gives_it() -> None:
    html = pages.markdown("## Adam's `lr`\n\n## a-b--c, & d\n", pages.DOCS, report.SITE)
    assert re.findall('id="(.*?)"', html) == ["adams-lr", "a-b--c--d"]


def test_no_page_is_large(site: Path) -> None:
    for path in site.glob("*.html"):
        assert path.stat().st_size < 1_500_000, path.name


def test_the_table_of_a_page_holds_every_run(parsed) -> None:
    for name in MEASURED:
        runs = pd.read_csv(ENTRIES[name]["runs"].folder / "runs.csv")
        table = by_class(parsed[f"{name}.html"], "data")[0]
        heads = [text(e) for e in table.find("thead").iter("th")]
        seeds = [int(text(list(row)[heads.index("seeds")])) for row in table.find("tbody")]
        if len(seeds) < report.ROWS:  # a longer table is cut off
            assert sum(seeds) == len(runs), name


def test_the_reference_shows_every_public_name_with_its_formulas(site: Path) -> None:
    page = (site / "api" / "laprop.html").read_text()
    for name in ("lr_in_momentum", "weight_decay", "load_state_dict", "Raises"):
        assert name in page
    every = [*(site / "api").rglob("*.html")]
    assert {path.stem for path in every} >= {"laprop", "bounds", "functional", "schedules"}
    for path in every:
        html = path.read_text()
        assert not re.search(r'<(script|link|img)[^>]+(src|href)="(https?:)?//', html), path.name
        shown = re.sub(r'<div class="pdoc-code.*?</div>', "", html, flags=re.DOTALL)  # the source
        assert "$$" not in shown, path.name
        assert r"\(" not in shown, path.name
    assert page.count("<math") > 20
    assert 'href="../index.html"' in page
