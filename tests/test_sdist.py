"""The source distribution holds the files of git, installs, and states in one line why a build fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
MADE_BY_SETUPTOOLS = {"PKG-INFO", "setup.cfg"}
# Builds and runs leave these files in a working tree, and the distribution must not hold them.
LEFT_BEHIND = ["edmfast/_C.abi3.so", "edmfast/_cuda.so", "edmfast/_build_info.txt"]
LEFT_BEHIND += ["edmfast/ops/__pycache__/noise.cpython-311.pyc", "build/cuda/noise.o"]


def clean(**environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDMFAST_")}
    return {key: value for key, value in kept.items() if key != "PYTHONPATH"} | environment


def run(*command, cwd, **environment):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean(**environment),
        capture_output=True,
        text=True,
        timeout=1500,
    )


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).exists())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the files that git holds, with the leftovers of builds beside them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"stale")
    return folder


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    done = run(sys.executable, "-c", BUILD, folder, cwd=checkout)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("edmfast-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def test_it_holds_the_files_of_git_and_no_build_outputs(unpacked):
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    generated = MADE_BY_SETUPTOOLS | {name for name in files if ".egg-info/" in name}
    assert sorted(files - generated) == tracked()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert sources <= files
    for suffix in (".cpp", ".cu", ".h"):
        assert any(name.endswith(suffix) for name in sources)


def test_it_installs_and_answers_without_a_compiler(sdist, tmp_path):
    place = tmp_path / "site"
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = run(
        *(sys.executable, "-m", "pip", *install, "--target", place, sdist),
        cwd=tmp_path,
        EDMFAST_SKIP_CPP="1",
    )
    assert done.returncode == 0, done.stderr
    installed = {str(path.relative_to(place / "edmfast")) for path in place.rglob("edmfast/**/*.*")}
    modules = {name.removeprefix("edmfast/") for name in tracked() if name.startswith("edmfast/")}
    assert modules <= installed
    assert not [name for name in installed if name.endswith(".so")]
    program = "import edmfast; print(edmfast.__file__); print(edmfast.info()['kernels']['cpu'])"
    done = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(place))
    where, kernels = done.stdout.splitlines()
    assert Path(where) == place / "edmfast" / "__init__.py"
    assert kernels == "off: no compiled library (C++ skipped by EDMFAST_SKIP_CPP=1)"


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("EDMFAST_TEST_INSTALL") != "1",
    reason="compiles in a new environment with the network: EDMFAST_TEST_INSTALL=1",
)
def test_it_compiles_in_a_new_environment(sdist, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    torch = os.environ.get("TORCH", "torch==2.13.0")
    done = run(*pip, torch, "setuptools>=77", "ninja", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(*pip, "--no-build-isolation", sdist, cwd=tmp_path, EDMFAST_SKIP_CUDA="1")
    assert done.returncode == 0, done.stderr
    smoke = ROOT / ".github" / "smoke_test.py"
    done = run(python, "-W", "error::RuntimeWarning", smoke, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "works: _C" in done.stdout


WITHOUT_TORCH = """
from importlib import metadata
version = metadata.version
def hidden(name):
    if name == "torch":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = hidden
"""
OLD_TORCH = WITHOUT_TORCH.replace("raise metadata.PackageNotFoundError(name)", "return '2.10.1'")
OLD_SETUPTOOLS = "import setuptools; setuptools.__version__ = '68.2.0'"
NO_COMPILER = "import shutil; shutil.which = lambda name, **options: None"


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (OLD_SETUPTOOLS, "setuptools 77 or later is needed, this is 68.2.0: pip install"),
        (WITHOUT_TORCH, "torch 2.11 or later is needed at build time, there is none: pip install"),
        (OLD_TORCH, "torch 2.11 or later is needed at build time, this is 2.10: pip install"),
        (NO_COMPILER, "no C++ compiler is found (tried c++ and g++)"),
    ],
)
def test_a_missing_tool_is_named_in_one_line(checkout, tmp_path, before, message):
    program = f"import sys, runpy\n{before}\nsys.argv[1:] = ['build', '-b', {str(tmp_path)!r}]\n"
    program += "runpy.run_path('setup.py', run_name='__main__')"
    done = run(sys.executable, "-c", program, cwd=checkout, EDMFAST_SKIP_CUDA="1", CXX="c++")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"edmfast cannot be built: {message}")
    assert "Traceback" not in done.stderr


def test_a_tree_without_its_cuda_sources_is_refused_at_once(unpacked):
    hidden = unpacked.parent / "hidden"
    shutil.copytree(unpacked, hidden, ignore=shutil.ignore_patterns("*.cu"))
    done = run(sys.executable, "setup.py", "--version", cwd=hidden)
    shutil.rmtree(hidden)
    assert done.returncode == 1
    assert "source tree is incomplete: there is no csrc/cuda/*.cu" in done.stderr


def test_a_source_tree_that_hides_the_installed_package_says_so(unpacked, tmp_path):
    program = "import edmfast; print(edmfast.info()['kernels']['cpu'])"
    done = run(sys.executable, "-c", program, cwd=unpacked)
    assert f"{unpacked} is a source tree that was not built" in done.stdout
    assert "start Python in another folder, or build in place" in done.stdout
    assert "RuntimeWarning" in done.stderr
    done = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert "is a source tree that was not built" in done.stdout
