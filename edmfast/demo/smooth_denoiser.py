"""A plain denoiser of the smooth digits, trained by denoising score matching on draws of their exact mixture.

What it learns is known exactly (`edmfast.demo.smooth_digits`), so that samples under control from it can be called
right or wrong. It is class-conditional, and half of the labels are dropped, so that it learns the whole mixture as
well as its classes. Source: Karras et al. 2022, arXiv 2206.00364.

`python -m edmfast.demo.smooth_denoiser` trains it, in eight minutes on one core, and replaces the shipped weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from edmfast.demo.digits import NUM_CLASSES, SIGMA_DATA
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, ResidualMLP, load_model, save_model

SHIPPED = Path(__file__).with_name("smooth_denoiser.safetensors")
"""File of the shipped weights."""
WIDTH, DEPTH = 256, 4
DRAWS = 100_000
"""Draws of the mixture. They are so many that the network does not learn them by heart."""
TRAINING = DistillConfig(
    mode="dsm",
    steps=10_000,
    batch_size=256,
    label_dropout=0.5,
    learning_rate=2e-3,
    betas=(0.9, 0.99),
    p_mean=-0.6,
    p_std=1.4,
)


def load_smooth_denoiser(path: str | os.PathLike[str] = SHIPPED) -> Denoiser:
    """Return the trained denoiser. Raises FileNotFoundError or ValueError where path does not hold one."""
    model = load_model(path)
    if not isinstance(model, Denoiser):
        raise ValueError(f"{path} holds {type(model).__name__}, and not a Denoiser")
    return model


def without_classes(denoiser: nn.Module | None) -> ResidualMLP:
    """Return the backbone of a class-conditional denoiser as one of the whole mixture, without classes."""
    if not isinstance(denoiser, Denoiser) or not isinstance(denoiser.backbone, ResidualMLP):
        raise ValueError(
            f"the denoiser must be one with a ResidualMLP, given {type(denoiser).__name__}"
        )
    source = denoiser.backbone
    copy = ResidualMLP(64, width=source.config["width"], depth=source.config["depth"])
    state = source.state_dict()
    # without a label the last row of the table is added, which the bias can do as well
    table = state.pop("embedding.label.weight")
    state["embedding.level.bias"] = state["embedding.level.bias"] + table[-1]
    copy.load_state_dict(state)
    return copy


def train_smooth_denoiser(
    path: str | os.PathLike[str] = SHIPPED,
    *,
    config: DistillConfig = TRAINING,
    width: int = WIDTH,
    depth: int = DEPTH,
    count: int = DRAWS,
    progress: bool = True,
) -> Denoiser:
    """Train the denoiser on `count` draws of the mixture, save it at path and return it.

    Its states are [B, 64], and class_label 10 means the whole mixture. Ctrl-C raises KeyboardInterrupt and leaves
    a checkpoint, from which `distill` continues.
    """
    mixture = load_smooth_digits()
    draws = mixture.sample(count, seed=config.seed + 1)
    # the class of a draw is drawn from its posterior, which is exact
    shares = torch.cat([mixture.responsibilities(rows) for rows in draws.split(8192)])
    random = torch.Generator().manual_seed(config.seed)
    assert mixture.classes is not None, "a model of digits has classes"
    labels = mixture.classes[torch.multinomial(shares, 1, generator=random)[:, 0]]
    # the weights at the start must not depend on the random state of the caller
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = ResidualMLP(64, width=width, depth=depth, num_classes=NUM_CLASSES)
    denoiser = Denoiser(backbone, sigma_data=SIGMA_DATA)
    distill(None, denoiser, (draws.float(), labels), config=config, progress=progress)
    save_model(denoiser, path)
    return denoiser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the denoiser and write it to the path in the arguments."""
    parser = argparse.ArgumentParser(prog="python -m edmfast.demo.smooth_denoiser")
    parser.add_argument(
        "path",
        nargs="?",
        default=SHIPPED,
        help="the safetensors file to write [default: the shipped one]",
    )
    parser.add_argument("--steps", type=int, default=TRAINING.steps)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--depth", type=int, default=DEPTH)
    chosen = parser.parse_args(arguments)
    config = dataclasses.replace(TRAINING, steps=chosen.steps)
    network = {"width": chosen.width, "depth": chosen.depth}
    train_smooth_denoiser(chosen.path, config=config, count=DRAWS, **network)
    print(f"wrote {chosen.path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
