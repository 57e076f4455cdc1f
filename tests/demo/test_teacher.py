"""Test the shipped teacher of the demonstration and its training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from edmfast.demo import teacher as teachers
from edmfast.demo.classifier import DigitClassifier
from edmfast.demo.digits import halves
from edmfast.demo.part_distillation import heun_samples
from edmfast.models import save_model


def test_shipped_weights_are_small_and_draw_digits() -> None:
    assert teachers.SHIPPED.stat().st_size <= 1_000_000
    classifier = DigitClassifier(halves()[1])
    images, labels = heun_samples(teachers.load_teacher(), 9, 500)
    assert classifier.frechet(images) < 1.0
    assert classifier.adherence(images, labels) > 0.9


def test_samples_are_not_copies_of_the_training_half() -> None:
    training, held_out = halves()
    images, _ = heun_samples(teachers.load_teacher(), 9, 200)
    distances = torch.cdist(images.flatten(1), training.images.flatten(1)).min(1).values
    between = torch.cdist(held_out.images.flatten(1), training.images.flatten(1)).min(1).values
    assert distances.median() > 0.5 * between.median()


def test_retraining_is_reproducible(tmp_path: Path) -> None:
    config = dataclasses.replace(teachers.TRAINING, steps=3)
    for name in ("first", "second"):
        teachers.retrain(tmp_path / name, config=config, progress=False)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_energy_is_no_teacher(tmp_path: Path) -> None:
    save_model(teachers.new_energy(), tmp_path / "energy")
    with pytest.raises(ValueError, match="holds EnergyModel, but a teacher is a Denoiser"):
        teachers.load_teacher(tmp_path / "energy")
