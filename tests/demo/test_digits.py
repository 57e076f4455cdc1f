"""Test the digits of the demonstration."""

from __future__ import annotations

import torch

from edmfast.demo.digits import SHAPE, all_digits


def test_all_digits_are_images_in_minus_one_to_one() -> None:
    images, labels = all_digits()
    assert images.shape == (1797, *SHAPE)
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() == 1
    assert labels.bincount().sum() == 1797
