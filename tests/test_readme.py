"""README is short, its code runs as pasted, and its picture and links lead somewhere."""

from __future__ import annotations

import re

from tests.pages import ROOT, python_blocks, run_blocks

README = ROOT / "README.md"
MOST_WORDS = 600


def words(text: str) -> int:
    """Return the number of words beside code, pictures, comments and the addresses of links."""
    text = re.sub(r"```.*?```|<!--.*?-->|!\[[^]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return len(re.findall(r"\S*\w\S*", text))


def test_readme_is_short():
    assert words(README.read_text()) <= MOST_WORDS


def test_words_are_counted_without_code_and_pictures():
    text = (
        "One *two* `three`, [four](a/b.md).\n\n    make test\n\n```python\nx = 1\n```\n![p](q.png)"
    )
    assert words(text) == 4


def test_links_and_pictures_exist():
    links = re.findall(r"\]\(([^)#]+)", README.read_text())
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_quick_start_runs_and_finds_the_right_mass(capsys, tmp_path, monkeypatch):
    blocks = python_blocks(README)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 20
    names = run_blocks(README, tmp_path, monkeypatch)
    assert "verdict: ok" in capsys.readouterr().out
    # the exact answer is 0.90, and scaling the score gives 0.63
    mass = names["run"].expectation_estimate(lambda x: (x[..., 0] > 0.5).double())
    assert 0.85 < float(mass.value) < 0.95
    assert names["samples"].shape == (500, 2)
