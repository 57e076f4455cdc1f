"""The jobs of `bench.gpu.core`, the most important first: what the goals for a GPU are about.

Operators are cases of `bench.cases` without the baselines that torch.compile makes, which take minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.cases import attention, mlp_potential, norms, propagate, weigh
from bench.gpu import smc_step
from bench.harness import machine
from bench.harness.correctness import failures, reason
from bench.harness.floors import Floors
from bench.harness.inputs import rotation
from bench.harness.registry import Case
from bench.harness.timing import Effort, Timing, captured, time_side_by_side

EFFORT = Effort(seconds=0.4, rounds=7, sample_seconds=2e-3, limit=3.0)
_QUICK = Effort(seconds=0.01, rounds=3, sample_seconds=1e-4, limit=0.1)
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A measurement.

    seconds: the most that it may take, the compilation of its kernels included. run: makes the record on a device
    from the floors of the machine, where they are known, at small sizes where asked. warm: calls ours once.
    warmed: whether this is worth while beside the build, because the job has Triton kernels.
    """

    name: str
    seconds: float
    run: Callable[[torch.device, Floors | None, bool], Record]
    warm: Callable[[torch.device, bool], object]
    warmed: bool = False


def of_case(case: Case, seconds: float, small: tuple[int, ...], warmed: bool = False) -> Job:
    """Return the job of a case. small: the shape for a rehearsal."""
    baselines = {name: f for name, f in case.baselines.items() if name != "compile"}
    plain = replace(case, baselines=baselines)

    def sized(small_size: bool) -> Case:
        return replace(plain, shape=small) if small_size else plain

    def warm(device: torch.device, small_size: bool) -> object:
        chosen = sized(small_size)
        return chosen.ours(*chosen.make_inputs(chosen.shape, chosen.dtype, device))

    return Job(
        case.name,
        seconds,
        lambda device, floors, small_size: measured(
            sized(small_size), device, None if small_size else floors, small_size
        ),
        warm,
        warmed,
    )


def measured(case: Case, device: torch.device, floors: Floors | None, quick: bool) -> Record:
    """Check all implementations of a case, and time the right ones by replays of CUDA graphs.

    What cannot be captured is timed by events around its calls, and the record says so.
    """
    inputs = case.make_inputs(case.shape, case.dtype, device)
    wrong = failures(case, inputs)
    if "ours" in wrong:
        return {"ok": False, "error": wrong["ours"], "failures": wrong}
    copies = rotation(inputs, machine.cache_bytes(device))
    timings: dict[str, Timing] = {}
    timers: dict[str, str] = {}
    for name, implementation in case.implementations.items():
        if name in wrong:
            continue
        try:
            timers[name], timings[name] = _timed(
                name, implementation, copies, device, _QUICK if quick else EFFORT
            )
        except Exception as error:  # an error of a baseline must not hide our time
            wrong[name] = reason(error)
    floor = floors.seconds(case) if floors else None
    return record_of(timings, timers, floor, case.bounds) | {
        "ok": "ours" in timings,
        "failures": wrong,
    }


def _timed(
    name: str,
    implementation: Callable[..., Any],
    copies: list[tuple[Any, ...]],
    device: torch.device,
    effort: Effort,
) -> tuple[str, Timing]:
    """Return the clock in use, and the seconds of one call."""
    timer, call, arguments = "events", implementation, copies
    if device.type == "cuda" and (replays := captured({name: implementation}, copies)):
        timer, call, arguments = "graphs", replays[0][name], [*replays[1]]
    return timer, time_side_by_side({name: call}, arguments, device, effort)[name]


def record_of(
    timings: dict[str, Timing],
    timers: dict[str, str],
    floor: float | None,
    bounds: Any = (),
) -> Record:
    """Return seconds, the ratio to the best baseline that is no bound, and the fraction of the floor reached."""
    medians = {name: timing.median for name, timing in timings.items()}
    ours = medians.get("ours")
    rivals = {name: t for name, t in medians.items() if name not in ("ours", *bounds)}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    return {
        "ours": ours,
        "spread": [timings["ours"].p20, timings["ours"].p80] if "ours" in timings else None,
        "others": {name: t for name, t in medians.items() if name != "ours"},
        "timers": timers,
        "best": best,
        "ratio": rivals[best] / ours if best and ours else None,
        "floor": floor,
        "fraction": floor / ours if floor and ours else None,
    }


def _second_order(name: str) -> Case:
    """Return a case of norms."""
    return next(case for case in norms.CASES if case.name == name)


def of_step(how: str, seconds: float, warmed: bool = False) -> Job:
    """Return the job of one step of a sampler."""
    return Job(
        f"smc step {how}",
        seconds,
        lambda device, floors, small: smc_step.measured(how, device, floors, small),
        lambda device, small: smc_step.run(how, device, small),
        warmed,
    )


JOBS = (
    of_case(weigh.make_case(1, 2**20), 20, (1, 500)),
    of_case(weigh.make_case(1, 2**26), 35, (1, 20_000)),
    of_case(propagate.make_case(256, 12_288), 20, (1, 16, 96)),
    of_case(propagate.gpu_case(4096, 12_288), 25, (1, 300, 64)),
    of_case(attention.gpu_cases(8, 12, 1024)[0], 40, (1, 2, 64, 64), warmed=True),
    of_case(mlp_potential.case(2**20), 35, (96, 64), warmed=True),
    of_case(
        _second_order("group_norm_silu/group double backward 256x128x32x32"),
        30,
        (2, 128, 8, 8),
        warmed=True,
    ),
    of_step("eager", 25, warmed=True),
    of_step("captured", 60, warmed=True),
    of_step("compiled", 60),
)
