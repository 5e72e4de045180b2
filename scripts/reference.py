"""The reference of the package ``laprop``: pdoc's pages of its docstrings, for the site.

Formulas become MathML, which browsers can draw without help. By default pdoc would load a library
from the network for them.
"""

import re
from pathlib import Path

import pdoc
import pdoc.render
import pdoc.render_helpers
from latex2mathml.converter import convert

from scripts.pages import HERE

PACKAGE = "laprop"
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
TABLE = re.compile(r"^=+( +=+)+\n(.+\n)+", re.MULTILINE)  # a table of reStructuredText
INLINE = re.compile(r"\\\\\((.+?)\\\\\)", re.DOTALL)  # pdoc writes :math: into Markdown like this


def formula(latex: str, display: str) -> str:
    """MathML of a formula; ``display`` is ``inline`` or ``block``, which may have several lines."""
    aligned = display == "block" and "&" in latex
    return str(
        convert(rf"\begin{{align*}}{latex}\end{{align*}}" if aligned else latex, display=display)
    )


def table(text: str) -> str:
    """Markdown of a simple table of reStructuredText with two columns and no heading."""
    rows = [re.split(r"\s{2,}", row, maxsplit=1) for row in text.splitlines() if row[0] != "="]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {' | '.join(row)} |" for row in rows), ""])


def to_html(markdown: str) -> str:
    """HTML of a docstring that pdoc has turned into Markdown, with its formulas drawn."""
    text = BLOCK.sub(lambda found: f"\n\n{formula(found[1], 'block')}\n\n", markdown)
    text = INLINE.sub(lambda found: formula(found[1].strip(), "inline"), text)
    text = TABLE.sub(lambda found: table(found[0]), text)
    text = re.sub(r"^::$", "", text, flags=re.MULTILINE)  # the marker before a block of code
    return str(pdoc.render_helpers.to_html(text.replace("::\n", ":\n").replace(r"\|", "|")))


def write(target: Path) -> None:
    """Write the pages into a folder, of which ``laprop.html`` is the first."""
    pdoc.render.configure(
        docformat="google", search=False, template_directory=HERE / "pdoc", footer_text=""
    )
    pdoc.render.env.filters["to_html"] = to_html
    pdoc.pdoc(PACKAGE, output_directory=target)
