"""The demonstration's teacher: a class-conditional denoiser of the digits, shipped as weights.

A residual perceptron of 224 thousand parameters (0.9 MB), trained by denoising score matching on
the training half of the digits with one label in ten dropped, so that it is unconditional too
(class 10). A perceptron, since an energy of a small U-Net takes some fifteen times as long per
training step on the CPU: too long for a demonstration, though it learns as well.
`edmfast demo --retrain` does it again, from the same seed.
Source: Karras et al. 2022, arXiv 2206.00364; Ho & Salimans 2022, arXiv 2207.12598.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from edmfast.demo.data import NUM_CLASSES, halves
from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, load_model, save_model

SHIPPED = Path(__file__).with_name("teacher.safetensors")
SIGMA_DATA = 0.75
"""Standard deviation of all pixels of all digits."""
P_MEAN, P_STD = -0.7, 1.3
"""Of ln(sigma) in training: a little higher than usual, as the digits are wider than 0.5."""
TRAINING = DistillConfig(
    mode="dsm",
    steps=8_000,
    batch_size=128,
    label_dropout=0.1,
    learning_rate=2e-3,
    p_mean=P_MEAN,
    p_std=P_STD,
)


def new_backbone() -> ResidualMLP:
    """The architecture of teacher and energies, from torch's current random state."""
    return ResidualMLP(64, width=192, depth=4, num_classes=NUM_CLASSES)


def new_energy() -> EnergyModel:
    """An untrained energy of the teacher's architecture."""
    return EnergyModel(new_backbone(), sigma_data=SIGMA_DATA)


def load_teacher(path: str | os.PathLike[str] = SHIPPED) -> Denoiser:
    """The trained teacher. FileNotFoundError or ValueError where path does not hold one."""
    model = load_model(path)
    if not isinstance(model, Denoiser):
        raise ValueError(f"{path} holds {type(model).__name__}, a teacher is a Denoiser")
    return model


def retrain(
    path: str | os.PathLike[str] = SHIPPED,
    *,
    config: DistillConfig = TRAINING,
    progress: bool = True,
) -> Denoiser:
    """Train the teacher again and save it at path (a minute or two on two cores).

    KeyboardInterrupt leaves a checkpoint and says where; `distill` continues from it.
    """
    training, _ = halves()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Denoiser(new_backbone(), sigma_data=SIGMA_DATA)
    distill(None, teacher, (training.images, training.labels), config=config, progress=progress)
    save_model(teacher, path)
    return teacher
