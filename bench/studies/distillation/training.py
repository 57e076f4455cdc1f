"""The training of a student of `bench.studies.distillation`, with its errors on the way; it can be interrupted."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.studies.distillation.measures import errors_of
from bench.studies.distillation.recipes import RECIPES, SETTINGS, SHAPE, Recipe
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.distill import DistillConfig, load_ema
from edmfast.distill.batch import BatchMaker, Draws
from edmfast.distill.data import TrainingData, check_data
from edmfast.distill.interrupt import deferred_interrupt
from edmfast.distill.prepare import prepared_run
from edmfast.distill.two_heads import TwoHeadsLoss
from edmfast.models import TwoHeads
from edmfast.models.protocols import Denoiser

POINTS = (0.1, 0.2, 0.4, 0.6, 0.8)
"""The parts of a training after which its errors are measured, besides its end."""


@dataclasses.dataclass(frozen=True)
class Size:
    """The amount of training and measurement. count: draws for each measurement; more: those at the end."""

    steps: int
    data: int
    count: int
    more: int
    width: int = 32


class _WatchedBatches(BatchMaker):
    """Batches of a run that calls a function with the number of steps done before each of them."""

    def __init__(
        self,
        data: TrainingData,
        teacher: Denoiser | None,
        config: DistillConfig,
        watch: Callable[[int], None],
    ) -> None:
        super().__init__(data, teacher, config)
        self.watch = watch

    def draw(self, step: int) -> Draws:
        self.watch(step)
        return super().draw(step)


def train(recipe: Recipe, folder: Path, size: Size, seed: int = 0) -> dict[str, Any]:
    """Return the row of a student: its errors by steps, and those at the end.

    seed: that of the data, of the weights at the start and of the batches.

    A row that the folder holds is returned as it is, and a training that was interrupted goes on from its last
    checkpoint there.
    """
    checkpoint, path = checkpoint_of(recipe, folder, seed), _row_of(recipe, folder, seed)
    row: dict[str, Any] = (
        json.loads(path.read_text()) if path.exists() else _new_row(recipe, size, seed)
    )
    if "end" in row:
        return row
    steps = row["steps"]
    data = load_smooth_digits().sample(size.data, seed=5 + 100 * seed)
    data = data.float().reshape(-1, *SHAPE)
    student = recipe.model(size.width, seed)
    config = DistillConfig(
        **{**SETTINGS, **recipe.settings},
        steps=steps,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=max(1, steps // 20),
    )
    at = {round(part * steps) for part in POINTS}

    def watch(step: int) -> None:
        if step in at and str(step) not in row["curve"]:
            row["curve"][str(step)] = errors_of(averaged(), size.count)
            path.write_text(json.dumps(row))

    def averaged() -> nn.Module:
        model = copy.deepcopy(student).eval()
        with torch.no_grad():
            for parameter, average in zip(model.parameters(), run.state.ema, strict=True):
                parameter.copy_(average)
        return model

    batches = _WatchedBatches(
        check_data(data, student, config), _teacher(recipe, folder, size, seed), config, watch
    )
    run = prepared_run(
        student,
        batches,
        config,
        loss=TwoHeadsLoss(student, config) if isinstance(student, TwoHeads) else None,
        resume_from=checkpoint if checkpoint.exists() else None,
    )
    started = time.process_time()
    student.train()
    try:
        with deferred_interrupt() as interrupt:
            run.train(interrupt, False)
    finally:
        row["cpu_seconds"] += round(time.process_time() - started)
        path.write_text(json.dumps(row))
    row["end"] = errors_of(averaged(), size.more)
    path.write_text(json.dumps(row))
    return row


def finished(recipe: Recipe, folder: Path, seed: int) -> dict[str, Any] | None:
    """Return the row of a student whose training the folder has finished, or None."""
    path = _row_of(recipe, folder, seed)
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return row if "end" in row else None


def _row_of(recipe: Recipe, folder: Path, seed: int) -> Path:
    checkpoint = checkpoint_of(recipe, folder, seed)
    return checkpoint.with_name(checkpoint.name.replace(".checkpoint.safetensors", ".json"))


def checkpoint_of(recipe: Recipe, folder: Path, seed: int) -> Path:
    """Return the path of a student's checkpoint."""
    stem = recipe.name.replace(", ", "_").replace(" ", "_")
    return folder / f"{stem}_seed{seed}.checkpoint.safetensors"


def _teacher(recipe: Recipe, folder: Path, size: Size, seed: int) -> Denoiser | None:
    """Return the teacher of a student, which is trained first where it is a student itself."""
    if recipe.teacher == "none":
        return None
    if recipe.teacher == "exact":
        return load_smooth_digits()
    earlier = RECIPES[recipe.teacher]
    train(earlier, folder, size, seed)
    model = earlier.model(size.width, seed)
    load_ema(checkpoint_of(earlier, folder, seed), model)
    return model.eval()


def _new_row(recipe: Recipe, size: Size, seed: int) -> dict[str, Any]:
    parameters = sum(p.numel() for p in recipe.model(size.width).parameters())
    return {
        "name": recipe.name,
        "seed": seed,
        "data": size.data,
        "kind": recipe.kind,
        "teacher": recipe.teacher,
        "settings": recipe.settings,
        "parameters": parameters,
        "steps": round(recipe.part * size.steps),
        "passes": recipe.passes,
        "cpu_seconds": 0,
        "curve": {},
    }
