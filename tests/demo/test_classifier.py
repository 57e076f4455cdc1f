"""Test the classifier of the demonstration and the distances it measures."""

from __future__ import annotations

import pytest
import torch

from edmfast.demo.classifier import DigitClassifier, diversity
from edmfast.demo.digits import halves


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return DigitClassifier(halves()[1])


def test_recognises_digits_it_never_saw(classifier: DigitClassifier) -> None:
    training, _ = halves()
    assert classifier.adherence(training.images, training.labels) > 0.95
    assert classifier.adherence(training.images, (training.labels + 1) % 10) < 0.05


def test_frechet_tells_digits_from_noise(classifier: DigitClassifier) -> None:
    training, held_out = halves()
    assert classifier.frechet(held_out.images) < 1e-6
    real = classifier.frechet(training.images)
    noise = torch.randn(training.images.shape, generator=torch.Generator().manual_seed(0))
    assert real < 0.5
    assert classifier.frechet(noise) > 100 * real


def test_is_the_same_every_time(classifier: DigitClassifier) -> None:
    before = torch.get_rng_state()
    again = DigitClassifier(halves()[1])
    assert torch.equal(classifier.reference, again.reference)
    assert torch.equal(before, torch.get_rng_state())


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    images = torch.zeros(3, 1, 8, 8)
    assert diversity(images) == 0
    images[2, 0, 0, 0] = 3.0
    assert diversity(images) == pytest.approx(2.0)
