"""Show where the time of one call goes: its operators or launches, their time, and idle time.

On the CPU, torch's profiler reports each operator and its own time; the rest is Python. On a GPU it reports
the kernels and the time that the device waited for the next launch, and the trace adds registers, shared
memory and the expected occupancy. Profiling slows short calls, so read the shares, not the times.
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
# without this the tracer prints a line at every start and stop
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@dataclass(frozen=True)
class Part:
    """One operator or kernel.

    share: its share of the time of the call. registers and occupancy: of GPU kernels, where the trace has
    them.
    """

    name: str
    share: float
    calls: int
    registers: int | None = None
    occupancy: float | None = None


@dataclass(frozen=True)
class Anatomy:
    """calls: the number of operators on the CPU, or of launches on a GPU.

    idle: the share of the time that no part took.
    """

    calls: int
    idle: float
    parts: list[Part] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def of_call(
    call: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device
) -> Anatomy | None:
    """Return the anatomy of call(*inputs), which has run before; None where the profiler saw nothing."""
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
    """Compute the anatomy from the complete events of a CPU trace.

    The own time of an operator excludes inner operators.
    """
    # if two operators start together, the longer one is the outer one
    operators = sorted(
        (event for event in events if event.get("cat") == "cpu_op"),
        key=lambda event: (event["tid"], event["ts"], -event["dur"]),
    )
    whole = [event for event in events if event["name"] == _CALL]
    if not operators or not whole:
        return None
    own_time: Counter[str] = Counter()
    open_: list[dict[str, Any]] = []
    for event in operators:
        while open_ and not _holds(open_[-1], event):
            open_.pop()
        if open_:
            own_time[open_[-1]["name"]] -= event["dur"]
        own_time[event["name"]] += event["dur"]
        open_.append(event)
    return _summary(operators, own_time, whole[0]["dur"], {})


def of_kernels(events: list[dict[str, Any]]) -> Anatomy | None:
    """Compute the anatomy from the complete events of a GPU trace: kernels, copies and fills."""
    kernels = [
        event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    if not kernels:
        return None
    own_time: Counter[str] = Counter()
    for event in kernels:
        own_time[event["name"]] += event["dur"]
    start = min(event["ts"] for event in kernels)
    span = max(event["ts"] + event["dur"] for event in kernels) - start
    facts = {event["name"]: event.get("args", {}) for event in kernels}
    return _summary(kernels, own_time, span, facts)


def _holds(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    same = outer["tid"] == inner["tid"]
    return same and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1e-3


def _summary(
    events: list[dict[str, Any]],
    own_time: Counter[str],
    span: float,
    facts: dict[str, dict[str, Any]],
) -> Anatomy:
    # a trace may be so short that it has no length
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
        for name, taken in own_time.most_common(TOP)
    ]
    # kernels on several streams overlap, so their shares may exceed the whole
    return Anatomy(len(events), max(1 - sum(own_time.values()) / span, 0.0), parts)
