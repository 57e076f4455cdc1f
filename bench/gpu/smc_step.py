"""Time one step of sequential Monte Carlo in a run: eager, compiled, or captured as a CUDA graph.

The energy is a perceptron of width 128 in 64 dimensions, with 4096 particles and the ancestral proposal: a small
network, around which launches weigh most. The time of a step is the time between the ends of two steps of one
run, on the device's clock, in the second half of the run. Rivals: the same sampler in plain torch, and the network
alone.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bench.harness.floors import Floors
from bench.harness.networks import mlp_flops, network
from bench.harness.timing import Effort, Timing, captured, time_side_by_side
from bench.rivals import plain_smc
from edmfast import smc
from edmfast.smc.compiling import compiled
from edmfast.smc.run import Run

DIM, PARTICLES, SMALL = 64, 4096, 64
STEPS = {"eager": 48, "compiled": 48, "captured": 48}
_EFFORT = Effort(seconds=0.3, rounds=5, limit=2.0)


def levels(steps: int) -> list[float]:
    return torch.logspace(1.0, -0.5, steps + 1, dtype=torch.float64).tolist()


class _Marks:
    """Points in time on the clock of the device, or on that of the host without one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.points: list[Any] = []

    def add(self) -> None:
        if self.device.type != "cuda":
            self.points.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.points.append(event)

    def gaps(self) -> list[float]:
        """Return the seconds between neighbours."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        pairs = zip(self.points, self.points[1:], strict=False)
        if self.device.type == "cuda":
            return [a.elapsed_time(b) * 1e-3 for a, b in pairs]
        return [b - a for a, b in pairs]


def run(how: str, device: torch.device, small: bool) -> list[float]:
    """Run once, and return the seconds of each step but the first.

    Raises RuntimeError where the step could not be compiled and the run went on eagerly.
    """
    marks, advance = _Marks(device), Run.advance

    def marked(self: Run, *arguments: Any) -> None:
        advance(self, *arguments)
        marks.add()

    # without captures a compiled step launches its kernels one by one
    alone: Any = mock.patch.object(compiled, "captures", return_value=False)
    within = alone if how == "compiled" else contextlib.nullcontext()
    with mock.patch.object(Run, "advance", marked), within, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=smc.DoubtfulWeightsWarning)
        warnings.filterwarnings("ignore", category=smc.DegenerateWeightsWarning)
        warnings.filterwarnings("error", message="compile=True failed")
        smc.sample(
            network("mlp", device),
            (DIM,),
            levels(8 if small else STEPS[how]),
            particles=SMALL if small else PARTICLES,
            proposal="ancestral",
            seed=3,
            compile=how != "eager",
        )
    return marks.gaps()


def _summary(seconds: list[float]) -> Timing:
    later = seconds[len(seconds) // 2 :]
    p20, median, p80 = (float(q) for q in np.quantile(later, [0.2, 0.5, 0.8]))
    return Timing(median=median, p20=p20, p80=p80, rounds=len(later))


def _plain(device: torch.device, small: bool) -> Callable[[], None]:
    model, count = network("mlp", device), SMALL if small else PARTICLES
    sigmas = torch.tensor(levels(8), dtype=torch.float64, device=device)

    def energy_and_score(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return model.energy_and_score(x.float(), sigma)

    def call() -> None:
        with torch.no_grad():
            plain_smc.run(energy_and_score, (DIM,), sigmas, count, 0.5)

    return call


def _network_alone(device: torch.device, small: bool) -> Callable[[], object]:
    model, count = network("mlp", device), SMALL if small else PARTICLES
    x = torch.randn(count, DIM, generator=torch.Generator().manual_seed(0)).to(device)
    sigma = torch.full((), 1.0, device=device)

    def call() -> object:
        with torch.no_grad():
            return model.energy_and_score(x, sigma)

    return call


def measured(how: str, device: torch.device, floors: Floors | None, small: bool) -> dict[str, Any]:
    """Return the record of a step, with the seconds of the step in plain torch and of the network alone."""
    if how == "eager":
        run(how, device, small)  # this compiles the kernels
    gaps = run(how, device, small)
    alone, plain = _network_alone(device, small), _plain(device, small)
    timer, call = "events", alone
    copies: list[Any] = [()]
    if device.type == "cuda" and (replays := captured({"network alone": alone}, [()])):
        timer, call, copies = "graphs", replays[0]["network alone"], [*replays[1]]
    inner = time_side_by_side({"network alone": call}, copies, device, _EFFORT)["network alone"]
    loop = time_side_by_side({"plain torch": plain}, [()], device, _EFFORT)["plain torch"]
    timings = {"ours": _summary(gaps), "network alone": inner}
    ours, steps = timings["ours"].median, 8
    rate = floors.gemm.get("torch.float32") if floors and not small else None
    floor = 2 * mlp_flops(PARTICLES) / rate if rate else None
    return {
        "ok": True,
        "ours": ours,
        "spread": [timings["ours"].p20, timings["ours"].p80],
        "first": max(gaps),
        "others": {"plain torch": loop.median / steps, "network alone": inner.median},
        "timers": {"ours": "events", "plain torch": "events", "network alone": timer},
        "best": "plain torch",
        "ratio": loop.median / steps / ours,
        "floor": floor,
        "fraction": floor / ours if floor else None,
        "share_outside": 1 - inner.median / ours,
        "failures": {},
    }
