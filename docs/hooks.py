"""Turn the formulas of a page into MathML while the site is built, so that browsers need no script for them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_BARS = re.compile(r"\|([^|]+)\|")


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
