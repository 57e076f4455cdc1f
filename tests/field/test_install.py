"""Test briefly that publicly reported install problems do not occur; the longer tests are in test_sdist.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = (ROOT / "setup.py").exists() and (ROOT / ".git").exists()


def test_every_source_that_setup_compiles_is_in_the_manifest():
    """torch_memory_saver 51, optimum-quanto 254: the source distribution lacked sources. Here MANIFEST.in includes
    whole folders and excludes no kind of source.
    """
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    grafted = {line.split()[1] for line in lines if line.startswith("graft")}
    excluded = {
        part for line in lines if "exclude" in line.split()[:1][:1] for part in line.split()[1:]
    }
    for path in (ROOT / "csrc").rglob("*"):
        assert path.relative_to(ROOT).parts[0] in grafted
        assert f"*{path.suffix}" not in excluded
    assert {"csrc", "edmfast", "tests"} <= grafted


@pytest.mark.skipif(not CHECKOUT, reason="not a checkout")
@pytest.mark.parametrize("command", ["egg_info", "build"])
def test_an_environment_without_torch_is_told_so(tmp_path, command):
    """flash-attention 1421: building in a bare environment failed with "No module named torch". Here one line
    says what to install, before anything is built."""
    program = (
        "import sys, runpy\nfrom importlib import metadata\nversion = metadata.version\n"
        "def without(name):\n"
        "    if name == 'torch':\n        raise metadata.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        f"metadata.version = without\nsys.argv[1:] = [{command!r}]\n"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    environment = {key: v for key, v in os.environ.items() if not key.startswith("EDMFAST_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("edmfast cannot be built: torch 2.11 or later is needed")
    assert "Traceback" not in done.stderr


def test_a_source_tree_that_was_not_built_names_itself(tmp_path):
    """vllm 4229: the source tree hid the installed package, and its kernels were "not found". Here the warning
    says which folder Python used and what to do.
    """
    for name in ("setup.py", "csrc"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "edmfast").mkdir()
    for path in (ROOT / "edmfast").iterdir():
        if path.suffix != ".so" and path.name != "_build_info.txt":
            (tmp_path / "edmfast" / path.name).symlink_to(path)
    program = (
        "import pathlib, edmfast._library as e\n"
        f"e._FOLDER = pathlib.Path({str(tmp_path / 'edmfast')!r})\n"
        "print(e._why_not_built())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"{tmp_path} is a source tree that was not built" in done.stdout
    assert "start Python in another folder" in done.stdout
