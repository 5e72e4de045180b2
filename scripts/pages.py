"""Tools for all pages: templates, Markdown, and links from a page into the repository."""

import os
import re
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from experiments.common import RESULTS, ROOT, status
from scripts import words
from scripts.paper import claims, figures

HERE = Path(__file__).parent / "site"
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = {  # files of the repository that a page of the site shows
    RESULTS / "CLAIMS.md": "index.html#claims",
    RESULTS / "FIGURES.md": "index.html#figures",
    RESULTS / "DISCREPANCIES.md": "discrepancy_list.html",
}
MARKDOWN = MarkdownIt("commonmark").enable("table")


def guides() -> dict[str, Path]:
    """Page name -> file of every text in ``docs/``."""
    return {f"guide-{path.stem}.html": path for path in sorted(DOCS.glob("*.md"))}


def heading(path: Path) -> str:
    """The first heading of a text."""
    return path.read_text().split("\n", 1)[0].removeprefix("# ")


def linked(link: str, base: Path, target: Path) -> str:
    """A link of a text in folder ``base``, rewritten for a page in folder ``target``.

    It leads to the page that shows the linked file if there is one, else to the file itself. The
    front page has the claims of CLAIMS.md, but not its other headings.
    """
    if re.match(r"[a-z]+:|#", link):
        return link
    path, _, fragment = link.partition("#")
    place = Path(os.path.normpath(base / path))
    if place in PAGES and not fragment:
        return PAGES[place]
    page = Path(os.path.relpath(place, target)).as_posix()
    if place.parent == RESULTS / "figures" and place.stem in figures():
        page = f"{place.stem}.html"
    elif place.parent == DOCS and place.suffix == ".md":
        page = f"guide-{place.stem}.html"
    elif place == RESULTS / "CLAIMS.md" and fragment in claims():
        page = "index.html"
    return page + f"#{fragment}" * bool(fragment)


def _redirect(tokens: list[Token], base: Path, target: Path) -> None:
    """Rewrite all links and pictures in these tokens, and give each heading an anchor."""
    for i, token in enumerate(tokens):
        if token.type == "link_open":
            token.attrSet("href", linked(str(token.attrGet("href")), base, target))
        if token.type == "image":
            path = os.path.relpath(base / str(token.attrGet("src")), target)
            token.attrSet("src", Path(path).as_posix())
        if token.type == "heading_open":
            token.attrSet("id", words.slug(tokens[i + 1].content))
        _redirect(token.children or [], base, target)


def markdown(text: str, base: Path, target: Path, inline: bool = False) -> Markup:
    """HTML of a Markdown text.

    Args:
        text: the source.
        base: the folder that its links are relative to.
        target: the folder of the page.
        inline: whether the text is part of a paragraph.
    """
    tokens = (MARKDOWN.parseInline if inline else MARKDOWN.parse)(text)
    _redirect(tokens, base, target)
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


def readme(title: str = "") -> str:
    """A section of the README without its heading; by default the text before the first section.

    Badges are left out, because they are loaded from the network.
    """
    text = re.sub(r"^\[!\[.*\n", "", README.read_text(), flags=re.MULTILINE)
    parts = re.split(r"^##? (.+)\n", text, flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    return sections[title or next(iter(sections))].strip()


def environment(target: Path) -> jinja2.Environment:
    """The templates of pages in ``target``."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    templates.filters |= {
        "prose": lambda text: markdown(text, RESULTS, target, inline=True),
        "link": lambda path: Path(os.path.relpath(path, target)).as_posix(),
        "duration": status.duration,
        "size": status.size,
        "section": words.section,
        "label": words.label,
        "words": words.name,
        "shown": words.value,
    }
    return templates
