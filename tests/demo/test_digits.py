"""Test the digits of the demonstration and their two halves."""

from __future__ import annotations

import torch

from edmfast.demo.digits import NUM_CLASSES, SHAPE, all_digits, halves


def test_all_digits_are_images_in_minus_one_to_one() -> None:
    images, labels = all_digits()
    assert images.shape == (1797, *SHAPE)
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() == 1
    assert labels.bincount().sum() == 1797


def test_halves_share_nothing_and_leave_nothing_out() -> None:
    training, held_out = halves()
    assert len(training.images) + len(held_out.images) == 1797
    both = torch.cat([training.images, held_out.images]).flatten(1)
    assert torch.equal(
        both.unique(dim=0, return_counts=True)[1],
        all_digits().images.flatten(1).unique(dim=0, return_counts=True)[1],
    )


def test_halves_have_equal_shares_of_every_class() -> None:
    training, held_out = halves()
    counts = [half.labels.bincount(minlength=NUM_CLASSES) for half in (training, held_out)]
    assert (counts[0] - counts[1]).abs().max() <= 1
