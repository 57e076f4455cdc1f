"""List the parameters that docstrings describe by lines `name: text` on the pages of the documentation.

A docstring describes each parameter of a function, or each field of a class, by a line that begins with its name
and a colon; further lines are indented. Several names share a line as `first, second: text`. An extension of
griffe rewrites such paragraphs as sections in Google's style before they are read.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_CHOICE = re.compile(r'^\s*("\w+")\s{2,}(.*)$')
_OWN_PARAGRAPH = re.compile(r"(?<=\S)\n(?=(?:Raises|Returns) \w|(?:Sources?|Derivatives): )")


class Parameters(griffe.Extension):
    """Give functions a section of arguments, and classes a section of attributes or arguments."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        _rewrite(func, [parameter.name.lstrip("*") for parameter in func.parameters], "Args:")

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        fields = [name for name, member in cls.members.items() if member.is_attribute]
        init = cls.members.get("__init__")
        if isinstance(init, griffe.Function):
            names = [parameter.name.lstrip("*") for parameter in init.parameters]
            _rewrite(cls, names, "Args:")
        else:
            _rewrite(cls, fields, "Attributes:")


def _rewrite(described: griffe.Object, names: list[str], title: str) -> None:
    if described.docstring is None:
        return
    text = _OWN_PARAGRAPH.sub("\n\n", described.docstring.value)
    if names and title not in text:
        text = with_sections(text, names, title)
    described.docstring.value = text


def with_sections(text: str, names: list[str], title: str) -> str:
    """Return a docstring with its paragraphs of `name: text` under a title; other paragraphs stay as they are."""
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    start = re.compile(rf"(?:^|(?<=[.;] ))((?:{name})(?:, (?:{name}))*): ", re.MULTILINE)
    paragraphs: list[str] = []
    described = False  # the paragraph before belongs to the section
    for paragraph in re.split(r"\n\s*\n", text):
        items = start.split(paragraph)
        if len(items) < 3 or items[0].strip():
            paragraphs.append(paragraph)
            described = False
            continue
        lines = [] if described else [title]
        for label, description in zip(items[1::2], items[2::2], strict=True):
            lines += _item(label, description)
        section = "\n".join(lines)
        if described:
            paragraphs[-1] += "\n" + section
        else:
            paragraphs.append(section)
        described = True
    return "\n\n".join(paragraphs)


def _item(label: str, description: str) -> list[str]:
    """Return the lines of one parameter; indented lines of `"choice"  text` become a list."""
    first, *rest = description.strip().rstrip(";").splitlines()
    lines = [f"    {label}: {first}"]
    in_list = False
    for line in rest:
        choice = _CHOICE.match(line)
        if choice and not in_list:
            lines.append("")
        in_list = in_list or choice is not None
        words = f"- `{choice[1]}`: {choice[2]}" if choice else line.strip()
        lines.append(f"        {'  ' if in_list and not choice else ''}{words}")
    return lines
