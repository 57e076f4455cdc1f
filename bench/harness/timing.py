"""Time several implementations side by side, in turn, so that all see the same machine.

A round takes one sample of each implementation and starts with another one each time. A sample is as many
calls as fill a minimum time, because the clock and the launch would hide a single short call. The inputs
rotate among copies. The result holds the median and the 20th and 80th percentile of the time per call.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Call = Callable[..., Any]


@dataclass(frozen=True)
class Effort:
    """The effort of a measurement: seconds per case, at least `rounds` rounds, seconds per sample.

    A case that has taken `limit` seconds ends after FEWEST rounds or more: long calls have little scatter.
    """

    seconds: float = 3.0
    rounds: int = 15
    sample_seconds: float = 2e-3
    limit: float = 10.0


QUICK = Effort(seconds=0.5, rounds=5, sample_seconds=5e-4, limit=2.0)
FEWEST = 3
# in a call as long as this, the first touch of the inputs does not count
_LONG_SECONDS = 0.25


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds."""

    median: float
    p20: float
    p80: float
    rounds: int


def time_side_by_side(
    implementations: Mapping[str, Call],
    copies: Sequence[tuple[Any, ...]],
    device: torch.device,
    effort: Effort,
) -> dict[str, Timing]:
    """Return the seconds per call of every implementation on the rotating copies of the inputs.

    Every implementation is called on every copy before the clock starts. Long calls are an exception: the gate
    has called them before, so they are warm, and their first call here is a sample.
    """
    rotating = {name: itertools.cycle(copies) for name in implementations}
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    for name, implementation in implementations.items():
        calls[name], samples[name] = _warm(
            implementation, rotating[name], len(copies), device, effort
        )
    names = list(implementations)
    collecting = gc.isenabled()
    # a collection of garbage would be timed with whichever implementation runs
    gc.disable()
    try:
        start = time.perf_counter()
        for i in itertools.count():
            taken = time.perf_counter() - start
            if i >= effort.rounds and taken > effort.seconds:
                break
            if i >= FEWEST and taken > effort.limit:
                break
            # each round starts with another one, so that a drift within a round favours none
            for name in names[i % len(names) :] + names[: i % len(names)]:
                if len(samples[name]) > i:
                    continue  # warming up has taken this sample of a long call
                seconds = _sample(implementations[name], rotating[name], calls[name], device)
                samples[name].append(seconds / calls[name])
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(values) for name, values in samples.items()}


def captured(
    implementations: Mapping[str, Call], copies: Sequence[tuple[Any, ...]]
) -> tuple[dict[str, Call], list[tuple[int]]] | None:
    """Capture the jobs as CUDA graphs, one for each copy of the inputs.

    Returns (calls that replay the graph of a number, the numbers), or None where a job cannot be captured. A
    replay has no launches from Python, so that it takes the device's own time.
    """
    replays: dict[str, Call] = {}
    try:
        for name, implementation in implementations.items():
            replays[name] = _replay([_graph(implementation, inputs) for inputs in copies])
    except Exception:
        torch.cuda.synchronize()
        return None
    return replays, [(index,) for index in range(len(copies))]


def _graph(implementation: Call, inputs: tuple[Any, ...]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Return the graph and its outputs, whose memory it writes to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # libraries make their workspaces in a first call
        implementation(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = implementation(*inputs)
    return graph, outputs


def _replay(graphs: list[tuple[torch.cuda.CUDAGraph, Any]]) -> Call:
    def call(index: int) -> None:
        graphs[index][0].replay()

    return call


def _warm(
    implementation: Call, inputs: itertools.cycle, copies: int, device: torch.device, effort: Effort
) -> tuple[int, list[float]]:
    """Call an implementation on every copy.

    Return the calls that a sample needs, and a first sample where a call is long.
    """
    for _ in range(copies):
        taken = _sample(implementation, inputs, 1, device)
        if taken > max(_LONG_SECONDS, effort.sample_seconds):
            return 1, [taken]
    return _calls_per_sample(implementation, inputs, device, effort), []


def _calls_per_sample(
    implementation: Call, inputs: itertools.cycle, device: torch.device, effort: Effort
) -> int:
    calls = 1
    while True:
        taken = _sample(implementation, inputs, calls, device)
        if taken >= effort.sample_seconds:
            return calls
        # the number doubles at least, so that the search ends soon
        calls = max(2 * calls, int(calls * effort.sample_seconds / max(taken, 1e-9)))


def _sample(
    implementation: Call, inputs: itertools.cycle, calls: int, device: torch.device
) -> float:
    """Return the seconds of `calls` calls, on the device's own clock where it has one."""
    # inputs are picked before the clock starts
    arguments = list(itertools.islice(inputs, calls))
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # launches that came before must not count
        torch.cuda.synchronize(device)
        begin.record()
        for inputs_of_call in arguments:
            implementation(*inputs_of_call)
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) * 1e-3
    start = time.perf_counter()
    for inputs_of_call in arguments:
        implementation(*inputs_of_call)
    return time.perf_counter() - start


def _summary(values: list[float]) -> Timing:
    p20, median, p80 = (float(q) for q in np.quantile(values, [0.2, 0.5, 0.8]))
    return Timing(median=median, p20=p20, p80=p80, rounds=len(values))
