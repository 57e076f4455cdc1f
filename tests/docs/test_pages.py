"""The site has every page that it names, every public name is on a page, and the code of all pages runs."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from typing import Any

import pytest

import edmfast
from edmfast.smc.proposals import PROPOSALS
from tests.pages import DOCS, ROOT, python_blocks, run_blocks

PACKAGES = (
    "edmfast",
    "edmfast.targets",
    "edmfast.models",
    "edmfast.analytic",
    "edmfast.nn",
    "edmfast.ops",
    "edmfast.smc",
    "edmfast.sampling",
    "edmfast.sampling.solvers",
    "edmfast.k_diffusion",
    "edmfast.sampling.guidance",
    "edmfast.density",
    "edmfast.interpolants",
    "edmfast.diagnostics",
    "edmfast.evaluation",
    "edmfast.distill",
    "edmfast.diffusers",
    "edmfast.teachers",
)
PAGES = sorted(DOCS.rglob("*.md"))
WITH_CODE = [page for page in PAGES if python_blocks(page)]


def name_of(page):
    return str(page.relative_to(DOCS))


def navigation() -> list[str]:
    """Return the pages that mkdocs.yml names, in order."""
    text = (ROOT / "mkdocs.yml").read_text()
    return re.findall(r"^ +- (?:.*: )?(\S+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)


def documented(package: str) -> list[str]:
    """Return the dotted names that the page of a package documents."""
    page = DOCS / "api" / f"{package.rpartition('.')[2]}.md"
    return re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)


def resolved(name: str) -> Any:
    """Return the object of a dotted name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ImportError(name)


def public_names() -> list[tuple[str, str]]:
    return [
        (package, name) for package in PACKAGES for name in importlib.import_module(package).__all__
    ]


def _skip_without_its_package(name):
    """Skip a test of a public name that needs a package which is not a dependency."""
    needed = {"EdmfastScheduler": "diffusers"}.get(name)
    if needed:
        pytest.importorskip(needed, reason=f"{name} needs it")


def test_every_page_is_in_the_navigation_and_every_entry_has_its_page():
    assert sorted(navigation()) == sorted(map(name_of, PAGES))


@pytest.mark.parametrize(("package", "name"), public_names())
def test_every_public_name_is_documented(package, name):
    if name == "__version__":
        assert "`__version__`" in (DOCS / "api" / "edmfast.md").read_text()
        return
    _skip_without_its_package(name)
    wanted = getattr(importlib.import_module(package), name)
    if type(wanted) is type(edmfast) and f"{package}.{name}" in PACKAGES:
        return  # this package has its own page
    if package == "edmfast" and (DOCS / "api" / f"{name}.md").exists():
        return
    pages = PACKAGES if package == "edmfast" else (package,)
    entries = [entry for page in pages for entry in documented(page)]
    if type(wanted) is type(edmfast):
        assert [entry for entry in entries if entry.startswith(f"{package}.{name}.")]
    else:
        assert any(
            entry.rpartition(".")[2] == name and resolved(entry) is wanted for entry in entries
        ), (
            f"put ::: {package}.{name} on docs/api/{package.rpartition('.')[2]}.md, or "
            f"::: {package}.{name}.{name} if a module has that name"
        )


@pytest.mark.parametrize("package", PACKAGES)
def test_every_documented_name_exists(package):
    names = documented(package)
    assert names
    assert len(set(names)) == len(names)
    for name in names:
        if name.endswith(".EdmfastScheduler") and find_spec("diffusers") is None:
            continue
        resolved(name)


@pytest.mark.parametrize("name", PROPOSALS)
def test_every_proposal_is_in_the_tables(name):
    for page in ("choosing.md", "mathematics.md", "catalogue.md"):
        text = (DOCS / page).read_text()
        assert f"`{name}`" in text or f'`"{name}"`' in text, page
    assert f'"{name}"' in edmfast.smc.sample.__doc__
    assert f"::: edmfast.smc.{PROPOSALS[name].__name__}" in (DOCS / "api/smc.md").read_text()


def test_included_files_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    included = re.findall(r'--8<-- "([^":]+)', text)
    assert included
    assert [name for name in included if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    run_blocks(page, tmp_path, monkeypatch)
