"""The denoiser of the smooth digits trains by its command, and learns the exact denoiser."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from edmfast.demo import smooth_denoiser
from edmfast.demo.digits import SIGMA_DATA
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.models import Denoiser, ResidualMLP, load_model


@torch.no_grad()
def error_of(denoiser: Denoiser, sigma: float, label: int, told: int | None = None) -> float:
    """Return the share of the variance of the exact denoised states that the denoiser misses.

    told: the label that the denoiser is told, which is the right one by default.
    """
    exact = load_smooth_digits()
    density = exact if label == 10 else exact.conditional(label)
    x = density.sample(400, sigma, seed=3)
    target = density(x, sigma)
    given = torch.full((400,), label if told is None else told)
    found = denoiser(x.float(), sigma, class_label=given).double()
    return float((found - target).square().mean() / target.var(0).mean())


def test_a_short_training_learns_the_mixture_and_its_classes(tmp_path: Path) -> None:
    config = dataclasses.replace(
        smooth_denoiser.TRAINING, steps=300, batch_size=128, warmup_steps=20, ema_decay=0.98
    )
    path = tmp_path / "denoiser.safetensors"
    options = {"config": config, "width": 64, "depth": 2, "count": 5000, "progress": False}
    denoiser = smooth_denoiser.train_smooth_denoiser(path, **options)
    fresh = Denoiser(ResidualMLP(64, width=64, depth=2, num_classes=10), sigma_data=SIGMA_DATA)
    for label in (10, 3):
        assert error_of(denoiser, 1.0, label) < 0.5 * error_of(fresh, 1.0, label)
    # the class makes a difference, and the right one
    assert error_of(denoiser, 1.0, 3) < 0.8 * error_of(denoiser, 1.0, 3, told=8)
    loaded = load_model(path)
    x, label = torch.randn(3, 64), torch.full((3,), 10)
    assert torch.equal(loaded(x, 0.5, class_label=label), denoiser(x, 0.5, class_label=label))


def test_the_command_writes_the_file(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(smooth_denoiser, "DRAWS", 500)
    path = tmp_path / "denoiser.safetensors"
    arguments = [str(path), "--steps", "2", "--width", "16", "--depth", "1"]
    assert smooth_denoiser.main(arguments) == 0
    assert capsys.readouterr().out.strip() == f"wrote {path}"
    assert isinstance(load_model(path), Denoiser)
