"""The 1,797 handwritten digits bundled with scikit-learn, as images in [-1, 1].

8x8 images of 16 grey levels, x = grey/8 - 1. They are split once and for all, alternating within
each class: the training half teaches the models, the held-out half trains the judge and is the
reference of every Fréchet distance.
Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI; nothing is
downloaded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

NUM_CLASSES = 10
SHAPE = (1, 8, 8)


class Digits(NamedTuple):
    """images float32 [n, 1, 8, 8] in [-1, 1] and labels int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor


def all_digits() -> Digits:
    """Every digit, in the order of the data set. ImportError, naming the cure, without sklearn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the demonstration needs scikit-learn for its digits: pip install 'edmfast[demo]'"
        ) from error
    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 8 - 1
    return Digits(images, torch.tensor(bundle.target, dtype=torch.int64))


def halves() -> tuple[Digits, Digits]:
    """(training half, held-out half): every other image of each class."""
    digits = all_digits()
    one_hot = torch.nn.functional.one_hot(digits.labels, NUM_CLASSES)
    place_in_class = (one_hot.cumsum(0) * one_hot).sum(1) - 1
    training = place_in_class % 2 == 0
    return (
        Digits(digits.images[training], digits.labels[training]),
        Digits(digits.images[~training], digits.labels[~training]),
    )
