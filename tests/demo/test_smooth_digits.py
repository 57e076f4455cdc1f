"""The smooth model of the digits is the one that the command fits, and its p² differs from p as stated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edmfast._internal.files import read_tensors
from edmfast.demo import smooth_digits
from edmfast.demo.digits import NUM_CLASSES, all_digits
from edmfast.models import EnergyModel, ResidualMLP, save_model


def test_the_shipped_mixture_is_small_and_its_command_reproduces_it(tmp_path: Path) -> None:
    assert smooth_digits.SHIPPED.stat().st_size <= 1_000_000
    assert smooth_digits.main([str(tmp_path / "again")]) == 0
    shipped = smooth_digits.load_smooth_digits()
    again = smooth_digits.load_smooth_digits(tmp_path / "again")
    images = all_digits().images
    likelihoods = [mixture.log_prob(images, 0.05).mean() for mixture in (shipped, again)]
    assert abs(likelihoods[0] - likelihoods[1]) < 0.5
    # another version of scikit-learn may start its fit elsewhere
    versions = [
        read_tensors(path)[1]["scikit-learn"]
        for path in (smooth_digits.SHIPPED, tmp_path / "again")
    ]
    if versions[0] == versions[1]:
        for name in ("means", "covariances", "weights", "classes"):
            torch.testing.assert_close(
                getattr(shipped, name), getattr(again, name), rtol=0, atol=1e-3
            )


def test_components_have_classes_and_the_shares_of_the_digits() -> None:
    mixture = smooth_digits.load_smooth_digits()
    assert mixture.classes.tolist() == [c for c in range(NUM_CLASSES) for _ in range(2)]
    shares = all_digits().labels.bincount().double() / 1797
    torch.testing.assert_close(mixture.by_class(mixture.weights), shares, rtol=0, atol=1e-6)
    means = torch.stack(
        [all_digits().images[all_digits().labels == c].flatten(1).mean(0) for c in range(10)]
    )
    of_classes = torch.stack(
        [(mixture.conditional(c).weights @ mixture.conditional(c).means) for c in range(10)]
    )
    torch.testing.assert_close(of_classes, means.double(), rtol=0, atol=1e-5)
    # nothing is narrower than the regularisation allows
    smallest = torch.linalg.eigvalsh(mixture.covariances).min()
    assert abs(smallest - smooth_digits.REGULARISATION) < 1e-3


def test_the_square_is_far_from_the_density() -> None:
    mixture = smooth_digits.load_smooth_digits()
    (masses,) = mixture.power(2, smooth_digits.SIGMA_MIN).factor_masses
    assert 0.5 * (masses - mixture.weights).abs().sum() > 0.6
    assert masses.max() < 0.6


def test_another_file_is_refused(tmp_path: Path) -> None:
    save_model(EnergyModel(ResidualMLP(64, 8, 1), sigma_data=0.75), tmp_path / "energy")
    with pytest.raises(ValueError, match="holds no mixture of Gaussians"):
        smooth_digits.load_smooth_digits(tmp_path / "energy")
