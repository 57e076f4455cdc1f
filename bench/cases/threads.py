"""Time our operators on two threads against themselves on one, whatever `--threads` says.

The cases show the gain from a second thread and say nothing about other projects. They have no floor, because
the floors of a run are measured with its own number of threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bench.cases import propagate as bench_propagate
from bench.cases import systematic_resample as bench_systematic_resample
from bench.cases import weigh as bench_weigh
from bench.harness.registry import Case


def on_threads(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return function(*arguments)
        finally:
            torch.set_num_threads(before)

    return call


def make_case(case: Case) -> Case:
    return replace(
        case,
        name=f"threads/{case.name}",
        ours=on_threads(2, case.ours),
        baselines={"one thread": on_threads(1, case.ours)},
        goal=1.6,
        bytes=0,
        flops=0,
        goals={},
        bounds=(),
        unchecked=(),
        cpu_only=(),
        devices=("cpu",),
    )


_CHOSEN = (
    bench_systematic_resample.make_case(1, 10**5, 1.0),
    bench_systematic_resample.make_case(1, 10**6, 1.0),
    bench_systematic_resample.make_case(1024, 64, 1.0),
    bench_weigh.make_case(1, 10**6),
    bench_propagate.make_case(100_000, 2),
    bench_propagate.make_case(256, 12_288),
)
# a machine with one core has no second thread to measure
CASES = [make_case(case) for case in _CHOSEN] if (os.cpu_count() or 1) > 1 else []
