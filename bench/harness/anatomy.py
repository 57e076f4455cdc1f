"""Where the time of one call goes: operators or launches, what they take, what the processor is kept from.

On the CPU, torch's profiler tells the operators and how long each was busy by itself; what no operator was
busy for is Python. On a GPU, it tells the kernels, and the time that the device waited for the next launch;
the trace adds registers, shared memory and the occupancy that the driver expects. Profiling slows what is
short, so shares are to be read, not times.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

TOP = 3
_CALL = "bench: the call"
# the tracer would print a line at every start and stop
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@dataclass(frozen=True)
class Part:
    """share: of the time of the call. The rest only of GPU kernels, where the trace has it."""

    name: str
    share: float
    calls: int
    registers: int | None = None
    occupancy: float | None = None


@dataclass(frozen=True)
class Anatomy:
    """calls: operators on the CPU, launches on a GPU. idle: the share of the time that none of them took."""

    calls: int
    idle: float
    parts: list[Part] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_call(
    call: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device
) -> Anatomy | None:
    """The anatomy of call(*inputs), which has run before; None where the profiler saw nothing."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        with record_function(_CALL):
            call(*inputs)
        if on_gpu:
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    complete = [event for event in events if event.get("ph") == "X"]
    return of_kernels(complete) if on_gpu else of_operators(complete)


def of_operators(events: list[dict[str, Any]]) -> Anatomy | None:
    """From the complete events of a trace: an operator's own time is what its inner ones leave."""
    found = sorted(
        (event for event in events if event.get("cat") == "cpu_op"),
        key=lambda event: (event["tid"], event["ts"], -event["dur"]),
    )
    whole = [event for event in events if event["name"] == _CALL]
    if not found or not whole:
        return None
    own: Counter[str] = Counter()
    open_: list[dict[str, Any]] = []
    for event in found:
        while open_ and not _holds(open_[-1], event):
            open_.pop()
        if open_:
            own[open_[-1]["name"]] -= event["dur"]
        own[event["name"]] += event["dur"]
        open_.append(event)
    return _summary(found, own, whole[0]["dur"], {})


def of_kernels(events: list[dict[str, Any]]) -> Anatomy | None:
    """From the complete events of a trace: kernels, copies and fills of the device."""
    found = [
        event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    if not found:
        return None
    own: Counter[str] = Counter()
    for event in found:
        own[event["name"]] += event["dur"]
    start = min(event["ts"] for event in found)
    span = max(event["ts"] + event["dur"] for event in found) - start
    return _summary(found, own, span, {event["name"]: event.get("args", {}) for event in found})


def _holds(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    same = outer["tid"] == inner["tid"]
    return same and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1e-3


def _summary(
    events: list[dict[str, Any]], own: Counter[str], span: float, facts: dict[str, dict[str, Any]]
) -> Anatomy:
    span = max(span, 1e-9)
    calls = Counter(event["name"] for event in events)
    parts = [
        Part(
            name=name,
            share=taken / span,
            calls=calls[name],
            registers=facts.get(name, {}).get("registers per thread"),
            occupancy=facts.get(name, {}).get("est. achieved occupancy %"),
        )
        for name, taken in own.most_common(TOP)
    ]
    return Anatomy(len(events), max(1 - sum(own.values()) / span, 0.0), parts)
