"""Find the Python blocks of Markdown pages, and run them in tests."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def python_blocks(page: Path) -> list[str]:
    """Return the Python blocks of a page in order, without those that include a file of examples/."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in blocks if not block.startswith("--8<--")]


def run_blocks(page: Path, folder: Path, monkeypatch: Any) -> dict[str, Any]:
    """Run the blocks of a page in order, in one namespace and in an empty folder; return the namespace.

    A block that begins with "# needs NAME" runs only where this package is installed.
    """
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in python_blocks(page):
        needed = re.match(r"# needs (\w+)\n", block)
        if needed and find_spec(needed[1]) is None:
            continue
        exec(compile(block, str(page), "exec"), names)
    return names
