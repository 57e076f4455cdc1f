"""Include pages of the folder above, and turn formulas into MathML, for which browsers need no script."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_BARS = re.compile(r"\|([^|]+)\|")
_PAGE_ABOVE = re.compile(r'^--8<-- "(\w+\.md)"$', re.MULTILINE)


def on_page_markdown(text: str, **_: Any) -> str:
    """Return the text of a page with the pages of the folder above that it includes, links as seen from docs/."""
    return _PAGE_ABOVE.sub(_included, text)


def _included(found: re.Match[str]) -> str:
    return (Path(__file__).parents[1] / found[1]).read_text().replace("](docs/", "](")


def on_page_content(text: str, **_: Any) -> str:
    """Return the HTML of a page with every formula of arithmatex replaced by MathML."""
    return _FORMULA.sub(_as_mathml, text)


def _as_mathml(found: re.Match[str]) -> str:
    block = found["tag"] == "div"
    latex = html.unescape(found["latex"]).strip()
    # Bars are marked as fences, since browsers put spaces around them otherwise.
    latex = _BARS.sub(r"\\left|\1\\right|", latex)
    formula = convert(latex, display="block" if block else "inline")
    return f'<div class="formula">{formula}</div>' if block else formula
