"""The files around the package agree with it: version, pins, citation, changelog, templates, release workflow."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import edmfast

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml")


def pins():
    """Return the exact versions of the extra `lint` by the names of the tools."""
    listed = re.search(r"^lint = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    return dict(re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', listed))


def hooks():
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    return [hook for repository in content["repos"] for hook in repository["hooks"]]


def test_hooks_run_the_pinned_tools_of_make_lint():
    makefile = (ROOT / "Makefile").read_text()
    linted = makefile.split("\nlint:", 1)[1].split("\n\n", 1)[0]
    commands = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks()]
    tools = [line.split("/", 1)[1].split()[0] for line in linted.splitlines()[1:]]
    assert {command.split()[0] for command in commands} == {*tools} == {*pins()}
    for hook in hooks():
        # A system hook has no version that could differ from the pin.
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == edmfast.__version__
    assert f"\n## [{edmfast.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def resolves(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_documented_names_are_where_the_changelog_says():
    text = (ROOT / "CHANGELOG.md").read_text()
    table = text.split("| documented name | new home |\n", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[1:]]
    assert rows
    for before, now in rows:
        old, new = (re.findall(r"`(edmfast[.\w]*)`", cell) for cell in (before, now))
        assert old
        assert new
        assert [name for name in old if resolves(name)] == []
        assert [name for name in new if not resolves(name)] == []


def test_the_citation_is_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "year", "url"} <= set(paper)
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])


@pytest.mark.parametrize("name", ["bug", "slow", "feature"])
def test_templates_are_forms(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    identifiers = [field["id"] for field in form["body"]]
    assert len({*identifiers}) == len(identifiers)
    for field in form["body"]:
        assert field["type"] in {"textarea", "checkboxes", "input", "dropdown"}
        assert field["attributes"]["label"]


def release_jobs():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]


def test_only_a_tag_publishes_and_only_what_was_tried():
    jobs = release_jobs()
    assert {*jobs["publish"]["needs"]} == {"sdist", "try"}
    assert jobs["page"]["needs"] == "publish"
    assert "github.ref_type == 'tag'" in jobs["publish"]["if"]
    may_write = {name for name, job in jobs.items() if "permissions" in job}
    assert may_write == {"publish", "page"}
    # A job with a token for writing runs no code of the repository.
    for name in may_write:
        assert not [s for s in jobs[name]["steps"] if "checkout" in s.get("uses", "")]


def test_both_kinds_of_wheels_are_tried_with_the_oldest_torch():
    jobs = release_jobs()
    built = {entry["kind"] for entry in jobs["wheel"]["strategy"]["matrix"]["include"]}
    tried = jobs["try"]["strategy"]["matrix"]
    assert built == {*tried["kind"]} == {"cpu", "cuda"}
    oldest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f"{oldest}.0" in tried["torch"]
