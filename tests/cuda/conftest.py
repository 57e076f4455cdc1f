"""Compile the emulated kernels of this folder for the host."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
FLAGS = ["-O1", "-std=c++20", "-shared", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas"]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


ORDERS = ("first to last", "last to first", "drawn")
"""The orders in which the emulator runs blocks, warps and lanes, by their numbers in emulator.h."""
_loaded: list[ctypes.CDLL] = []


@pytest.fixture(params=range(len(ORDERS)), ids=ORDERS.__getitem__)
def order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every launch of a test in one of the orders, and fail where threads leave others waiting."""
    for library in _loaded:
        library.emulator_order(request.param)
    yield
    failed = [library.emulator_failed() for library in _loaded]
    assert not any(failed), "see the lines on stderr"


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ctypes.CDLL]:
    """Return a function that compiles a file of this folder by the first C++ compiler there is, and loads it.

    It takes the name of the file and further flags of the compiler.
    """
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((results for name in names if name and (results := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler")

    def load(name: str, *flags: str) -> ctypes.CDLL:
        target = tmp_path_factory.mktemp("emulated") / f"{name}.so"
        source = FOLDER / f"{name}.cpp"
        subprocess.run([compiler, *FLAGS, *flags, str(source), "-o", str(target)], check=True)
        library = ctypes.CDLL(str(target))
        if hasattr(library, "emulator_order"):
            _loaded.append(library)
        return library

    return load
