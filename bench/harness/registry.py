"""Define a benchmark case, and list the modules that hold cases."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

MODULES: tuple[str, ...] = (
    "bench.cases.attention",
    "bench.cases.curvature",
    "bench.cases.distill",
    "bench.cases.energy",
    "bench.cases.energy_images",
    "bench.cases.flat_compile",
    "bench.cases.linear_combination",
    "bench.cases.norms",
    "bench.cases.mlp_potential",
    "bench.cases.noise",
    "bench.cases.derivative_orders",
    "bench.cases.populations",
    "bench.cases.potential",
    "bench.cases.propagate",
    "bench.cases.systematic_resample",
    "bench.cases.sampler",
    "bench.cases.sampler_images",
    "bench.cases.sampler_overhead",
    "bench.cases.sampling",
    "bench.cases.resample",
    "bench.cases.reversal",
    "bench.cases.scheduler_overhead",
    "bench.cases.score_gram",
    "bench.cases.signs",
    "bench.cases.startup",
    "bench.cases.threads",
    "bench.cases.weigh",
)


FORWARD, BACKWARD, DOUBLE_BACKWARD = DIRECTIONS = ("forward", "backward", "double backward")


@dataclass(frozen=True)
class Case:
    """One job at one size, done by us and by others.

    Every implementation is called as f(*make_inputs(shape, dtype, device)) and must not change its inputs.
    `reference` gets the same inputs and answers in float64. `check(output, truth)` raises AssertionError where
    an output is wrong; `bench.harness.correctness.close` makes a plain one.

    name: "stem/size", unique.
    direction: the highest order of derivative in the job, which includes all lower ones.
    bytes: the least memory traffic of one call: each input is read once and each output written once. flops:
        the least arithmetic of one call. Either is 0 where there is no such floor.
    goal: the ratio (time of the best baseline / our time) that we want to reach.
    goals: the ratios that we want to reach against single baselines, at least one for every bound.
    bounds: baselines that are no rivals and cannot be the best one: a hand-written loop, a part of the job, or
        our own work in another way.
    unchecked: baselines whose answer cannot be checked because they do a part of the job only.
    memory_goals: the ratios (peak memory of a baseline / our peak memory) that we want to reach.
    floor_goals: for each device type, the fraction of the least possible time that we want to reach (1 is the
        floor itself).
    cpu_only: baselines that accept tensors on the CPU only.
    inner: a baseline with a goal of its own that is a part of the job. Reports give the share of our time that
        is spent outside of it.
    evaluations: network evaluations in one of our calls, per sample; reports give their rate.
    rounds: the number of timing rounds for a job that takes seconds, where fewer are enough; 0 for the usual
        number.
    why_slower: the reason of physics, with the profile that shows it, for which no implementation of ours can
        reach the best baseline; empty for most cases.
    needs: the project without which the case or its rivals are absent. Reports leave it out of the cases that were
        not run, so that they are the same wherever they are written.
    """

    name: str
    shape: tuple[int, ...]
    make_inputs: Callable[[tuple[int, ...], torch.dtype, torch.device], tuple[Any, ...]]
    ours: Callable[..., Any]
    baselines: Mapping[str, Callable[..., Any]]
    reference: Callable[..., Any]
    check: Callable[[Any, Any], None]
    goal: float
    direction: str = FORWARD
    bytes: int = 0
    flops: int = 0
    goals: Mapping[str, float] = field(default_factory=dict)
    memory_goals: Mapping[str, float] = field(default_factory=dict)
    bounds: Sequence[str] = ()
    unchecked: Sequence[str] = ()
    floor_goals: Mapping[str, float] = field(default_factory=dict)
    cpu_only: Sequence[str] = ()
    inner: str = ""
    evaluations: int = 0
    rounds: int = 0
    why_slower: str = ""
    needs: str = ""
    dtype: torch.dtype = torch.float32
    devices: Sequence[str] = field(default=("cpu", "cuda"))

    def __post_init__(self) -> None:
        if not self.baselines or "ours" in self.baselines:
            raise ValueError(f"{self.name}: give at least one baseline, none of them named 'ours'")
        if not set(self.goals) <= set(self.baselines) or not all(
            g > 0 for g in self.goals.values()
        ):
            raise ValueError(
                f"{self.name}: goals must be > 0, of baselines among {sorted(self.baselines)}, "
                f"got {dict(self.goals)}"
            )
        if not set(self.memory_goals) <= set(self.baselines) or not all(
            goal > 0 for goal in self.memory_goals.values()
        ):
            raise ValueError(
                f"{self.name}: memory_goals must be > 0, of baselines among {sorted(self.baselines)}, "
                f"got {dict(self.memory_goals)}"
            )
        if not set(self.bounds) <= set(self.goals) or set(self.bounds) == set(self.baselines):
            raise ValueError(
                f"{self.name}: bounds must have goals and leave a rival, got {self.bounds} of the "
                f"baselines {sorted(self.baselines)} with goals {dict(self.goals)}"
            )
        if not set(self.unchecked) <= set(self.baselines):
            raise ValueError(
                f"{self.name}: unchecked must be among the baselines {sorted(self.baselines)}, "
                f"got {self.unchecked}"
            )
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"{self.name}: direction must be one of {DIRECTIONS}, got {self.direction!r}"
            )
        if not set(self.floor_goals) <= set(self.devices) or not all(
            0 < g <= 1 for g in self.floor_goals.values()
        ):
            raise ValueError(
                f"{self.name}: floor_goals must be in (0, 1], of devices among {self.devices}, "
                f"got {dict(self.floor_goals)}"
            )
        if self.inner and self.inner not in self.goals:
            raise ValueError(
                f"{self.name}: inner must be one of the goals {sorted(self.goals)}, got {self.inner!r}"
            )
        if min(self.evaluations, self.rounds) < 0:
            raise ValueError(
                f"{self.name}: evaluations and rounds must not be negative, got {self.evaluations} "
                f"and {self.rounds}"
            )
        if not self.goal > 0 or min(self.bytes, self.flops) < 0:
            raise ValueError(
                f"{self.name}: goal must be > 0, bytes and flops not negative, got goal={self.goal}, "
                f"bytes={self.bytes}, flops={self.flops}"
            )
        if self.floor_goals and not self.bytes + self.flops:
            raise ValueError(f"{self.name}: floor_goals need bytes or flops")

    @property
    def implementations(self) -> dict[str, Callable[..., Any]]:
        """All implementations by name: ours first, then the baselines."""
        return {"ours": self.ours, **self.baselines}


def load(modules: Sequence[str] = MODULES) -> list[Case]:
    """Return the cases of all modules, in order; each module has a list CASES.

    Raises:
        ValueError: two cases share a name.
    """
    cases = [case for name in modules for case in importlib.import_module(name).CASES]
    # runs are compared by the names of their cases
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"case names must be unique, these are not: {twice}")
    return cases


def select(
    cases: Sequence[Case], device: str, only: str = "", without: Sequence[str] = ()
) -> list[Case]:
    """Return the cases that run on a device type and whose name contains `only`, without baselines that do not
    run there.

    without: baselines that are left out everywhere, and with them the cases that have no other rival.
    """
    chosen = [case for case in cases if device in case.devices and only in case.name]
    if device != "cpu":
        chosen = [_without(case, case.cpu_only) for case in chosen]
    if without:
        others = [case for case in chosen if {*case.baselines} - {*without, *case.bounds}]
        chosen = [_without(case, without) for case in others]
    return chosen


def _without(case: Case, names: Sequence[str]) -> Case:
    baselines = {name: f for name, f in case.baselines.items() if name not in names}
    goals = {name: goal for name, goal in case.goals.items() if name not in names}
    of_memory = {name: goal for name, goal in case.memory_goals.items() if name not in names}
    # a case is refused where a field names a baseline that it lacks
    return replace(
        case,
        baselines=baselines,
        goals=goals,
        memory_goals=of_memory,
        bounds=tuple(name for name in case.bounds if name not in names),
        unchecked=tuple(name for name in case.unchecked if name not in names),
        inner="" if case.inner in names else case.inner,
    )
