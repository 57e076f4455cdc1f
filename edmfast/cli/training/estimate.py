"""The estimate of a dry run: the time and the memory of a whole training, from a few of its steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from edmfast.cli.training.ranks import Ranks
from edmfast.distill import DistillConfig, distill
from edmfast.distill.recording.measures import memory_gib

STEPS = 6
"""The number of steps of a dry run. The first one may compile, and is left out of the time."""


def estimate(
    teacher: Any,
    student: nn.Module,
    data: Any,
    config: DistillConfig,
    ranks: Ranks,
    condition_names: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Make a few steps and yield lines about parameters, memory and time. The student is changed."""
    device = next(student.parameters()).device
    before = memory_gib(device)
    short = dataclasses.replace(
        config, steps=min(STEPS, config.steps), checkpoint=None, keep_best=False, keep_last=1
    )
    result = distill(
        teacher,
        student,
        data,
        config=short,
        progress=False,
        group=ranks.group,
        condition_names=condition_names,
    )
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    yield f"trained parameters: {trained:,}"
    where = "on the GPU" if device.type == "cuda" else "of the process"
    yield f"largest memory {where}: {memory_gib(device):.2f} GiB ({before:.2f} GiB before the first step)"
    if not math.isfinite(result.steps_per_second):
        yield "time: unknown, since one step alone has no speed"
        return
    seconds = config.steps / result.steps_per_second
    yield (
        f"time: {1 / result.steps_per_second:.3g} s a step, {duration(seconds)} for {config.steps:,} steps, "
        f"{seconds * ranks.size / 3600:.3g} device hours"
    )
    yield f"loss of the first steps: {float(result.losses[: result.step].mean()):.4g}"


def duration(seconds: float) -> str:
    """Return a time in words of at most two units, such as 2 d 3 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
