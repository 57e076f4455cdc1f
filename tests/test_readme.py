"""The quick start of the README runs as pasted, and ends at the truth it names."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_quick_start_runs(capsys):
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    names: dict = {}
    exec(compile(block, str(README), "exec"), names)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    assert "narrow mode" in capsys.readouterr().out
    mass = names["mass"]
    assert abs(mass.mean() - 0.9) < 4 * mass.std() / len(mass) ** 0.5 + 0.005
