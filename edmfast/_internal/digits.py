"""The 1,797 handwritten digits bundled with scikit-learn, as images in [-1, 1].

The images have 8x8 pixels with 16 grey levels, x = grey/8 - 1. Nothing is downloaded.
Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

NUM_CLASSES = 10
SHAPE = (1, 8, 8)
SIGMA_DATA = 0.75
"""The sigma_data of the models, about the standard deviation of all pixels of all digits."""


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
            "the digits come from scikit-learn: pip install 'edmfast[demo]'"
        ) from error
    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 8 - 1
    return Digits(images, torch.tensor(bundle.target, dtype=torch.int64))
