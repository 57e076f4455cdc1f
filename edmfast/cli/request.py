"""The options of `edmfast sample`, and the models, shapes and conditions that are read from them.

Sizes are checked before anything is allocated: a condition has at most a million values, a run has at most
100,000 noise levels, and its states must fit into the free memory.
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

UNNAMED_MODEL = "model"
"""The name by which expressions call the model that is given without one."""
MOST_VALUES = 1_000_000
MOST_STEPS = 100_000
_STATE_COPIES = 4
"""A step holds at least four arrays as large as the states: both states, the score and the noise."""
_TRACE_BYTES = 64
"""Bytes that a run records for every population at every noise level."""
_INT64 = 2**63
_FOREIGN = (".pkl", ".pt", ".pth", ".ckpt", ".bin")
"""The endings of files that other projects write."""
_ARGUMENTS_OF_MODELS = ("x", "sigma")
"""Names that no condition can have, since every model is called with them."""


@dataclass(frozen=True)
class Request:
    """The options of `edmfast sample` as the user gave them; None where the default depends on other options."""

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
    weights: str = "auto"
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
    """Return the models by the names that expressions use.

    Raises ValueError for a malformed option, a name that is used twice, no model at all, or a device that is
    not there, and as `edmfast.load_model` does.
    """
    paths = {} if request.model is None else {UNNAMED_MODEL: request.model}
    for entry in request.models:
        name, equals, path = entry.partition("=")
        if not equals or not name.isidentifier() or not path:
            raise ValueError(f"--model takes NAME=PATH, got {entry!r}")
        if name in paths:
            raise ValueError(f"two models are called {name!r}: give each its own name")
        paths[name] = Path(path)
    if not paths:
        raise ValueError("no model was given: name a file, or use --model NAME=PATH")
    device = device_of(request.device)
    return {name: read_model(path, device) for name, path in paths.items()}


def read_model(path: Path, device: torch.device) -> Any:
    """Return a saved model, or the denoiser of a file or folder of another project, on a device."""
    if path.suffix not in _FOREIGN and not path.is_dir():
        return load_model(path).to(device)
    # the room of teachers imports much that saved models do not need
    from edmfast.teachers import load_teacher

    return load_teacher(path, device=device)


def device_of(name: str) -> torch.device:
    """Return the device of that name. Raises ValueError where it is not there or holds no numbers."""
    try:
        # some devices, such as meta, can be named but hold no numbers
        torch.zeros(1, device=name).cpu()
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, OverflowError, ImportError) as error:
        raise ValueError(f"there is no device {name!r}: {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of an error of torch, without the long lists that may follow."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:200]


def read_shape(request: Request, models: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape of one sample: that of --shape, or the one that all models have.

    Raises ValueError for a malformed --shape, or where the models do not agree on a shape.
    """
    if request.shape is not None:
        try:
            shape = tuple(int(side) for side in request.shape.replace("x", ",").split(","))
        except ValueError as error:
            raise ValueError(
                f"--shape takes integers such as 1,8,8, got {request.shape!r}"
            ) from error
        if min(shape) < 1:
            raise ValueError(f"--shape takes integers of at least 1, got {request.shape!r}")
        return shape
    shapes = {shape_of(model) for model in models.values()}
    if len(shapes) > 1 or None in shapes:
        raise ValueError(
            "the files of the models do not fix the shape of one sample: give --shape, such as 1,8,8"
        )
    (common_shape,) = shapes
    assert common_shape is not None
    return common_shape


def check_sizes(
    request: Request, shape: tuple[int, ...], populations: int, pilot_particles: int
) -> None:
    """Raise ValueError where a run has too many steps, or more states than the free memory can hold.

    pilot_particles: number of particles in each population of a pilot run, 0 without one.
    """
    steps = {"--steps": request.steps, "--pilot-steps": request.pilot_steps}
    for option, value in steps.items():
        if value is not None and not 1 <= value <= MOST_STEPS:
            raise ValueError(f"{option} must be from 1 to {MOST_STEPS}, got {value}")
    for option, value in (("--particles", request.particles), ("--populations", populations)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    # the pilot run and the run itself are not in memory at the same time
    levels = max(request.steps or 1, request.pilot_steps if pilot_particles else 1)
    particles = max(request.particles, pilot_particles)
    bytes_needed = populations * (
        particles * math.prod(shape) * 4 * _STATE_COPIES + levels * _TRACE_BYTES
    )
    free = free_memory(torch.device(request.device))
    if free is not None and bytes_needed > free:
        raise ValueError(
            f"{populations} populations of {particles} particles of shape {shape} over {levels} noise "
            f"levels need {gibibytes(bytes_needed)} at least, and {gibibytes(free)} are free: use fewer of them"
        )


def shape_of(model: Any) -> tuple[int, ...] | None:
    """Return the shape of one sample where the architecture of a model fixes it, and None otherwise."""
    for part in (model, getattr(model, "backbone", None)):
        if (shape := getattr(part, "sample_shape", None)) is not None:
            return tuple(shape)
    config: dict[str, Any] = getattr(getattr(model, "backbone", None), "config", {})
    if {"in_channels", "img_resolution"} <= config.keys():
        return (config["in_channels"], *[config["img_resolution"]] * 2)
    if {"in_channels", "size"} <= config.keys():
        return (config["in_channels"], *config["size"])
    if {"particles", "dimensions"} <= config.keys():
        return (config["particles"], config["dimensions"])
    return (config["dim"],) if "dim" in config else None


def read_conditions(request: Request) -> dict[str, Tensor]:
    """Return the values [K] of every condition by its name.

    Raises ValueError for a malformed option, and for a name that is given twice or that no condition can have.
    """
    entries = [*request.conditions]
    if request.class_label is not None:
        entries.append(f"class_label={request.class_label}")
    conditions = {}
    for entry in entries:
        name, equals, values = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--condition takes NAME=VALUES, got {entry!r}")
        if name in conditions:
            raise ValueError(f"the condition {name} is given twice")
        if name in _ARGUMENTS_OF_MODELS:
            raise ValueError(
                f"{name} is no condition: it is an argument that every model is called with"
            )
        conditions[name] = torch.tensor(read_values(name, values))
    return conditions


def read_values(name: str, text: str) -> list[int] | list[float]:
    """Return the numbers of a text such as `3`, `0,1,4`, `0..9` (with both ends) or `0.5,1.5`.

    They are all integers, or else all floats. Raises ValueError for any other text, numbers of more than 64
    bits, and more than a million values. name: the name of the option in error messages.
    """
    values: list[int | float] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        try:
            # a range has steps of 1, so both its ends are integers
            first = int(low) if dots else _number(part)
            last = int(high) if dots else first
        except ValueError as error:
            message = f"{name} takes numbers such as 3, 0,1,4 or 0..9, got {text!r}"
            raise ValueError(message) from error
        if not (-_INT64 <= first < _INT64 and -_INT64 <= last < _INT64):  # false for NaN too
            raise ValueError(f"{name} takes finite numbers of at most 64 bits, got {part!r}")
        if last < first:
            raise ValueError(
                f"{name} has no values in {part!r}: the first number of a range must not be above the last"
            )
        # the count is checked before the values are made
        if len(values) + last - first >= MOST_VALUES:
            raise ValueError(f"{name} takes at most {MOST_VALUES} values, got more in {text!r}")
        values.extend(range(int(first), int(last) + 1) if dots else [first])
    if all(isinstance(value, int) for value in values):
        return [int(value) for value in values]
    return [float(value) for value in values]


def _number(text: str) -> int | float:
    return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
