"""The options of `edmfast sample`, and what is read from them: models, shapes, conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast.models import load_model

FIRST_NAME = "model"


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
    weighted_above: float = 0.0
    particles: int = 64
    populations: int | None = None
    class_label: str | None = None
    conditions: Sequence[str] = field(default_factory=tuple)
    proposal: str | None = None
    calibrate: bool = False
    pilot_steps: int = 128
    calibration: Path | None = None
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
    """Raises ValueError for a device that is not there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r}: {str(error).splitlines()[0]}") from error


def read_shape(request: Request, models: dict[str, Any]) -> tuple[int, ...]:
    """Of one sample: as asked for, or as all models say."""
    if request.shape is not None:
        try:
            shape = tuple(int(side) for side in request.shape.replace("x", ",").split(","))
        except ValueError as error:
            raise ValueError(f"--shape takes numbers like 1,8,8, got {request.shape!r}") from error
    else:
        known = {shape_of(model) for model in models.values()}
        if len(known) > 1 or None in known:
            raise ValueError(
                "the models do not tell the shape of one sample: give --shape, like 1,8,8"
            )
        (found,) = known
        assert found is not None
        shape = found
    return shape


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
    found = {}
    for entry in entries:
        name, equals, values = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--condition takes NAME=VALUES, got {entry!r}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = torch.tensor(read_values(name, values))
    return found


def read_values(name: str, text: str) -> list[int] | list[float]:
    """3 | 0,1,4 | 0..9 (both ends) | 0.5,1.5: all integers, or all floats."""
    values: list[int | float] = []
    try:
        for part in text.split(","):
            low, dots, high = part.partition("..")
            if dots:
                values.extend(range(int(low), int(high) + 1))
            else:
                values.append(int(part) if part.strip().lstrip("+-").isdigit() else float(part))
    except ValueError as error:
        raise ValueError(f"{name} takes numbers like 3, 0,1,4 or 0..9, got {text!r}") from error
    if not values:
        raise ValueError(f"{name} has no values in {text!r}")
    if all(isinstance(value, int) for value in values):
        return [int(value) for value in values]
    return [float(value) for value in values]
