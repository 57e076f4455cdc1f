"""The teacher of the demonstration: a class-conditional denoiser of digits, whose weights are shipped.

It is a residual perceptron of 224 thousand parameters (0.9 MB), trained by denoising score matching on the
training half of the digits. One label in ten is dropped, so that class 10 stands for no label. An energy of a
small U-Net learns as well, but a training step of it takes about fifteen times as long on the CPU, too long for
a demonstration. `edmfast demo --retrain` trains the teacher again from the same seed. Source: Karras et al.
2022, arXiv 2206.00364; Ho & Salimans 2022, arXiv 2207.12598.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from edmfast.demo.digits import NUM_CLASSES, halves
from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, load_model, save_model

SHIPPED = Path(__file__).with_name("teacher.safetensors")
"""File of the shipped weights."""
SIGMA_DATA = 0.75
"""The sigma_data of the models, about the standard deviation of all pixels of all digits."""
P_MEAN, P_STD = -0.7, 1.3
"""Mean and standard deviation of ln(sigma) in training. They are a little larger than usual, as sigma_data is."""
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
    """Return an untrained backbone of teacher and energies, drawn from the current random state of torch."""
    return ResidualMLP(64, width=192, depth=4, num_classes=NUM_CLASSES)


def new_energy() -> EnergyModel:
    """Return an untrained energy with the architecture of the teacher."""
    return EnergyModel(new_backbone(), sigma_data=SIGMA_DATA)


def load_teacher(path: str | os.PathLike[str] = SHIPPED) -> Denoiser:
    """Return the trained teacher. Raises FileNotFoundError or ValueError where path does not hold one."""
    model = load_model(path)
    if not isinstance(model, Denoiser):
        raise ValueError(f"{path} holds {type(model).__name__}, but a teacher is a Denoiser")
    return model


def retrain(
    path: str | os.PathLike[str] = SHIPPED,
    *,
    config: DistillConfig = TRAINING,
    progress: bool = True,
) -> Denoiser:
    """Train the teacher again, save it at path and return it. This takes a minute or two on two cores.

    Ctrl-C raises KeyboardInterrupt and leaves a checkpoint, from which `distill` continues.
    """
    training, _ = halves()
    # the weights at the start must not depend on the random state of the caller
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Denoiser(new_backbone(), sigma_data=SIGMA_DATA)
    distill(None, teacher, (training.images, training.labels), config=config, progress=progress)
    save_model(teacher, path)
    return teacher
