"""The options of `edmfast sample`, and what is read from them: models, shapes, conditions.

Whatever an option asks for is counted before it is made: a condition has at most a million values, a run at
most 100,000 noise levels, and its states must fit the memory that is free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.memory import free_memory, gibibytes
from edmfast.models import load_model

FIRST_NAME = "model"
MOST_VALUES = 1_000_000
MOST_STEPS = 100_000
_STATE_COPIES = 4
"""A step holds at least four copies of the states: before and after, the score and the noise."""
_TRACE_BYTES = 64
"""Kept of every population at every noise level."""
_INT64 = 2**63
_OF_THE_RUN = ("x", "sigma")


@dataclass(frozen=True)
class Request:
    """The options of `edmfast sample`, as given; None where a default depends on the others."""

    model: Path | None = None
    models: Sequence[str] = ()
    target: str | None = None
    shape: str | None = None
    steps: int | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    weighted_above: float | None = None
    particles: int = 64
    populations: int | None = None
    class_label: str | None = None
    conditions: Sequence[str] = field(default_factory=tuple)
    proposal: str | None = None
    calibrate: bool = False
    pilot_steps: int = 128
    calibration: Path | None = None
    checkpoint: Path | None = None
    resume: Path | None = None
    overwrite: bool = False
    out: Path | None = None
    png: Path | None = None
    seed: int = 0
    device: str = "cpu"


def load_models(request: Request) -> dict[str, Any]:
    """Models by the names that expressions use."""
    paths = {} if request.model is None else {FIRST_NAME: request.model}
    for entry in request.models:
        name, equals, path = entry.partition("=")
        if not equals or not name.isidentifier() or not path:
            raise ValueError(f"--model takes NAME=PATH, got {entry!r}")
        if name in paths:
            raise ValueError(f"two models are called {name!r}")
        paths[name] = Path(path)
    if not paths:
        raise ValueError("no model given: name a file, or --model NAME=PATH")
    device = _device(request.device)
    return {name: load_model(path).to(device) for name, path in paths.items()}


def _device(name: str) -> torch.device:
    """Raises ValueError for a device that is not there, or that holds no numbers."""
    try:
        torch.zeros(1, device=name).cpu()
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, OverflowError, ImportError) as error:
        raise ValueError(f"no device {name!r}: {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    """torch appends a list of everything it knows, which tells a user nothing."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:200]


def read_shape(request: Request, models: dict[str, Any]) -> tuple[int, ...]:
    """The shape of one sample: as asked for, or as all models say."""
    if request.shape is not None:
        try:
            shape = tuple(int(side) for side in request.shape.replace("x", ",").split(","))
        except ValueError as error:
            raise ValueError(f"--shape takes numbers like 1,8,8, got {request.shape!r}") from error
        if min(shape) < 1:
            raise ValueError(f"--shape takes numbers of at least 1, got {request.shape!r}")
        return shape
    known = {shape_of(model) for model in models.values()}
    if len(known) > 1 or None in known:
        raise ValueError("the models do not tell the shape of one sample: give --shape, like 1,8,8")
    (shape_of_all,) = known
    assert shape_of_all is not None
    return shape_of_all


def check_sizes(
    request: Request, shape: tuple[int, ...], populations: int, pilot_particles: int
) -> None:
    """Raises ValueError where a run has too many steps, or more states than free memory can hold.

    pilot_particles: of each population in a pilot run; 0 where there is none.
    """
    steps = {"--steps": request.steps, "--pilot-steps": request.pilot_steps}
    for option, value in steps.items():
        if value is not None and not 1 <= value <= MOST_STEPS:
            raise ValueError(f"{option} must be from 1 to {MOST_STEPS}, got {value}")
    for option, value in (("--particles", request.particles), ("--populations", populations)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    levels = max(request.steps or 1, request.pilot_steps if pilot_particles else 1)
    particles = max(request.particles, pilot_particles)
    bytes_needed = populations * (
        particles * math.prod(shape) * 4 * _STATE_COPIES + levels * _TRACE_BYTES
    )
    free = free_memory(torch.device(request.device))
    if free is not None and bytes_needed > free:
        raise ValueError(
            f"{populations} populations of {particles} particles of shape {shape} over {levels} noise "
            f"levels need {gibibytes(bytes_needed)} at least, and {gibibytes(free)} are free: ask for fewer"
        )


def shape_of(model: Any) -> tuple[int, ...] | None:
    """The shape of one sample, where the architecture of a saved model fixes it."""
    config: dict[str, Any] = model.backbone.config
    if {"in_channels", "size"} <= config.keys():
        return (config["in_channels"], *config["size"])
    if {"particles", "dimensions"} <= config.keys():
        return (config["particles"], config["dimensions"])
    return (config["dim"],) if "dim" in config else None


def read_conditions(request: Request) -> dict[str, Tensor]:
    """The values [K] of every condition."""
    entries = [*request.conditions]
    if request.class_label is not None:
        entries.append(f"class_label={request.class_label}")
    conditions = {}
    for entry in entries:
        name, equals, values = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--condition takes NAME=VALUES, got {entry!r}")
        if name in conditions:
            raise ValueError(f"{name} is given twice")
        if name in _OF_THE_RUN:
            raise ValueError(f"{name} is no condition: every model is called with it")
        conditions[name] = torch.tensor(read_values(name, values))
    return conditions


def read_values(name: str, text: str) -> list[int] | list[float]:
    """Return the numbers of `3`, `0,1,4`, `0..9` (both ends) or `0.5,1.5`: all integers, or all floats."""
    values: list[int | float] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        try:
            first = int(low) if dots else _number(part)
            last = int(high) if dots else first
        except ValueError as error:
            message = f"{name} takes numbers like 3, 0,1,4 or 0..9, got {text!r}"
            raise ValueError(message) from error
        if not (-_INT64 <= first < _INT64 and -_INT64 <= last < _INT64):  # NaN and infinities too
            raise ValueError(f"{name} takes finite numbers of at most 64 bits, got {part!r}")
        if last < first:
            raise ValueError(f"{name} has no values in {part!r}")
        if len(values) + last - first >= MOST_VALUES:
            raise ValueError(f"{name} takes at most {MOST_VALUES} values, got more in {text!r}")
        values.extend(range(int(first), int(last) + 1) if dots else [first])
    if all(isinstance(value, int) for value in values):
        return [int(value) for value in values]
    return [float(value) for value in values]


def _number(text: str) -> int | float:
    return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
