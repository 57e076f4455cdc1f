"""Every implementation of every case: right first, then timed by pytest-benchmark.

pytest-benchmark takes one implementation after the other and its clock is the wall's, so a GPU call
includes its launch and the wait for its end. `bench.run` times all implementations in turn on the
device's clock: its ratios are the ones to cite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.harness import machine
from bench.harness.gate import Gate
from bench.harness.registry import Case


def test_case(
    case: Case,
    implementation: str,
    device: torch.device,
    gate: Gate,
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
) -> None:
    """A wrong implementation fails; where our own is wrong, the others have nothing to be timed for."""
    benchmark.skipped = True  # until it is used: an unused fixture warns
    copies, wrong = gate(case)
    if implementation in wrong:
        pytest.fail(f"{implementation}: {wrong[implementation]}", pytrace=False)
    if "ours" in wrong:
        pytest.skip("our own answer is wrong, so nothing of this case is timed")
    benchmark.skipped = False
    benchmark.group = case.name
    benchmark.extra_info.update(_description(case, implementation, device))
    call = _synchronised(case.implementations[implementation], copies, device)
    if benchmark.enabled and len(copies) > 1:  # the gate has called it on the first one
        for _ in copies:
            call()
    if case.rounds:
        rounds = min(case.rounds, request.config.getoption("benchmark_min_rounds"))
        benchmark.pedantic(call, rounds=rounds)
    else:
        benchmark(call)
    if benchmark.stats is not None:
        p20, p80 = np.quantile(benchmark.stats.stats.data, [0.2, 0.8])
        benchmark.extra_info.update(p20=float(p20), p80=float(p80))


def _synchronised(
    implementation: Callable[..., Any], copies: list[tuple[Any, ...]], device: torch.device
) -> Callable[[], None]:
    """A call on the next input copy that returns when its work is done."""
    rotating = itertools.cycle(copies)
    if device.type != "cuda":
        return lambda: _drop(implementation(*next(rotating)))

    def call() -> None:
        implementation(*next(rotating))
        torch.cuda.synchronize(device)

    return call


def _drop(output: Any) -> None:
    """pytest-benchmark would keep the last output alive."""


def _description(case: Case, implementation: str, device: torch.device) -> dict[str, Any]:
    return {
        "implementation": implementation,
        "direction": case.direction,
        "shape": list(case.shape),
        "dtype": str(case.dtype),
        "bytes": case.bytes,
        "flops": case.flops,
        "goal": case.goal,
        "goals": dict(case.goals),
        "no_rivals": list(case.bounds),
        "device": device.type,
        "device_name": machine.device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
