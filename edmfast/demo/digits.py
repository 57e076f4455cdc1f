"""The 1,797 handwritten digits bundled with scikit-learn, as images in [-1, 1].

The images have 8x8 pixels with 16 grey levels, x = grey/8 - 1. They are split into two halves, alternating within
each class. The models are trained on the training half. The held-out half trains the classifier and is the
reference of every Fréchet distance. Nothing is downloaded.
Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

NUM_CLASSES = 10
SHAPE = (1, 8, 8)


class Digits(NamedTuple):
    """Images of digits with their labels."""

    images: torch.Tensor
    """Images, float32 [n, 1, 8, 8] in [-1, 1]."""
    labels: torch.Tensor
    """Labels 0 to 9, int64 [n]."""


def all_digits() -> Digits:
    """Return all digits in the order of the data set. Raises ImportError without scikit-learn."""
    try:
        # scikit-learn is an extra, so it is imported only where digits are needed
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the demonstration takes its digits from scikit-learn: pip install 'edmfast[demo]'"
        ) from error
    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 8 - 1
    return Digits(images, torch.tensor(bundle.target, dtype=torch.int64))


def halves() -> tuple[Digits, Digits]:
    """Return the training half and the held-out half, each with every other image of a class."""
    digits = all_digits()
    one_hot = torch.nn.functional.one_hot(digits.labels, NUM_CLASSES)
    # this is the index of each image among those of its class
    place_in_class = (one_hot.cumsum(0) * one_hot).sum(1) - 1
    training = place_in_class % 2 == 0
    return (
        Digits(digits.images[training], digits.labels[training]),
        Digits(digits.images[~training], digits.labels[~training]),
    )
