"""`pytest bench/`: the cases of the registry under pytest-benchmark, with the options of bench.run.

pytest reads this file early enough to take its options only where `bench/` (or a file in it) is named
on the command line, or where it is started in this folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# `bench` is not an installed package, and the command `pytest` does not look in its own folder
sys.path.append(str(Path(__file__).parents[1]))

from bench.harness import memory, registry
from bench.harness.gate import Gate
from bench.harness.registry import Case

# Shorter rounds than this would drown in the clock, and their list would fill the JSON file.
_ROUND_SECONDS = 1e-3
_QUICK = {"benchmark_max_time": 0.1, "benchmark_min_rounds": 2}
_CASES = pytest.StashKey[dict[str, Case]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "cases of bench/")
    group.addoption("--device", choices=["cpu", "cuda"], default="cpu")
    group.addoption("--threads", type=int, default=1, help="CPU threads (default 1)")
    group.addoption("--only", default="", metavar="SUBSTR", help="cases whose name contains it")
    group.addoption("--quick", action="store_true", help="fewer rounds: a look, not a result")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("threads") < 1:
        raise pytest.UsageError(f"--threads must be at least 1, got {config.getoption('threads')}")
    if config.getoption("device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("no CUDA device is available to torch")
    option = config.option
    option.benchmark_disable_gc = True
    option.benchmark_min_time = max(float(option.benchmark_min_time), _ROUND_SECONDS)
    if option.quick:
        vars(option).update(_QUICK)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"name", "implementation"} <= set(metafunc.fixturenames):
        return
    device, only = (metafunc.config.getoption(key) for key in ("device", "only"))
    cases = {case.name: case for case in registry.select(registry.load(), device, only)}
    if not cases:
        raise pytest.UsageError(f"no case for {device} contains {only!r}")
    metafunc.config.stash[_CASES] = cases
    # names instead of cases: pytest-benchmark writes the parameters into its file
    pairs = [(name, f) for name, case in cases.items() for f in case.implementations]
    metafunc.parametrize(("name", "implementation"), pairs, ids=[f"{n}-{f}" for n, f in pairs])


@pytest.fixture
def case(name: str, request: pytest.FixtureRequest) -> Case:
    """The case of a test."""
    return request.config.stash[_CASES][name]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of all tests, with the number of threads that was asked for."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("threads"))
    memory.keep_freed_memory()
    yield torch.device(request.config.getoption("device"))
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gate(device: torch.device) -> Iterator[Gate]:
    """The gate before the clock, once per case as its tests follow each other."""
    made = Gate(device)
    yield made
    made.release()
