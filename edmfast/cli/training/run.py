"""The run of `edmfast distill`: its files, its loggers, and the text that it prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edmfast._internal.atomic_write import check_output
from edmfast._internal.file_kinds import MODEL, TRAINING_CHECKPOINT, kind_of
from edmfast.cli.training.estimate import estimate
from edmfast.cli.training.models import (
    check_folder,
    device_for,
    make_student,
    read_data,
    read_teacher,
)
from edmfast.cli.training.ranks import Ranks, ranks_of
from edmfast.cli.training.settings import SETTINGS, Settings
from edmfast.distill import (
    DistillConfig,
    JsonLines,
    Logger,
    TensorBoard,
    WeightsAndBiases,
    distill,
)
from edmfast.models import save_model
from edmfast.models.calling.origin import name_of
from edmfast.models.saving.save_load import describe_model

CHECKPOINT, MODEL_FILE = "run.safetensors", "model.safetensors"
RECORDS = "records.jsonl"
_LAST = 100
"""The number of steps over which the last loss is averaged."""


def distill_command(
    settings: Settings, *, resume: bool, overwrite: bool, dry_run: bool
) -> Iterator[str]:
    """Train, and yield the lines to print. All ranks of torchrun call this, and the first one prints.

    dry_run: make a few steps only, and print an estimate of the whole run. Nothing but generated data is written.
    """
    device = device_for(settings)
    with ranks_of(device) as ranks:
        check_folder(settings.out)
        config = _config(settings)
        checkpoint = settings.out / CHECKPOINT
        resume_from = checkpoint if resume and checkpoint.exists() else None
        if ranks.first and not dry_run:
            _check_files(settings.out, resume_from, overwrite)
        teacher = read_teacher(settings, device)
        data = read_data(settings, teacher, ranks)
        student: Any = make_student(settings, teacher, data, device)
        # a model that could not be saved is refused before its training
        describe_model(student)
        for line in _described(student, teacher, data.size, config, device, ranks.size):
            if ranks.first:
                yield line
        names = settings.teacher.get("condition_names")
        options = {
            "resume_from": resume_from,
            "overwrite": overwrite,
            "condition_names": names,
        }
        found = (
            estimate(teacher, student, data, config, ranks, names)
            if dry_run
            else _train(teacher, student, data, config, ranks, settings, options)
        )
        for line in found:
            if ranks.first:
                yield line


def _train(
    teacher: Any,
    student: Any,
    data: Any,
    config: DistillConfig,
    ranks: Ranks,
    settings: Settings,
    options: dict[str, Any],
) -> Iterator[str]:
    if ranks.first:
        (settings.out / SETTINGS).write_text(settings.text(), encoding="utf-8")
    result = distill(
        teacher,
        student,
        data,
        config=config,
        group=ranks.group,
        loggers=_loggers(settings) if ranks.first else (),
        **options,
    )
    model = settings.out / MODEL_FILE
    if ranks.first:
        trained: Any = result.model
        save_model(trained, model, overwrite=True)
    last = min(_LAST, len(result.losses))
    loss = float(result.losses[-last:].mean())
    speed = f", {result.steps_per_second:.3g} steps/s" if result.steps_per_second > 0 else ""
    yield f"{result.step:,} steps, mean loss of the last {last} steps {loss:.4g}{speed}"
    yield f"model with averaged weights: {model}"
    yield f"next: edmfast evaluate {model} --data …, edmfast sample {model} …"


def _config(settings: Settings) -> DistillConfig:
    """Return the settings of the training, whose checkpoint lies in the folder of the run."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.train.items()
    }
    return DistillConfig(**values, checkpoint=settings.out / CHECKPOINT)


def _check_files(out: Path, resume_from: Path | None, overwrite: bool) -> None:
    """Raise FileExistsError for results of another run, before any work is done."""
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and resume_from is None and not overwrite:
        known = kind_of(checkpoint) == TRAINING_CHECKPOINT
        advice = "--resume continues it, " if known else ""
        raise FileExistsError(
            f"{checkpoint} exists: {advice}--overwrite starts again, and another --out keeps it"
        )
    check_output(out / MODEL_FILE, MODEL, name="the model", overwrite=overwrite)


def _loggers(settings: Settings) -> list[Logger]:
    loggers: list[Logger] = []
    if settings.log.get("json", True):
        loggers.append(JsonLines(settings.out / RECORDS))
    if folder := settings.log.get("tensorboard"):
        place = settings.out / "tensorboard" if folder is True else folder
        loggers.append(TensorBoard(os.fspath(place)))
    if options := settings.log.get("wandb"):
        loggers.append(WeightsAndBiases(**({} if options is True else options)))
    return loggers


def _described(
    student: nn.Module,
    teacher: Any,
    size: int | None,
    config: DistillConfig,
    device: torch.device,
    ranks: int,
) -> Iterator[str]:
    backbone = getattr(student, "backbone", student)
    count = sum(p.numel() for p in student.parameters())
    yield f"student: {type(student).__name__} of {type(backbone).__name__}, {count:,} parameters"
    if teacher is not None:
        network = getattr(teacher, "backbone", getattr(teacher, "network", None))
        inner = "" if network is None else f" of {type(network).__name__}"
        yield f"teacher: {name_of(teacher)}{inner}"
    samples = "a stream of samples" if size is None else f"{size:,} samples"
    rows = config.batch_size // ranks
    spread = "" if ranks == 1 else f", {rows} on each of {ranks} ranks"
    yield f"data: {samples}; batch {config.batch_size}{spread}; {config.steps:,} steps on {device}"
