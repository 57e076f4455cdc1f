"""Train the features of digits, in a few seconds: `python -m edmfast.evaluation.train_digit_features`.

It replaces the shipped weights, or writes the file that it is told. The network learns to name the digits by
cross-entropy, with AdamW and a rate that falls along a cosine, on four fifths of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from edmfast._internal.digits import all_digits
from edmfast._internal.generators import generator
from edmfast.evaluation.digit_features import SHIPPED, DigitFeatures
from edmfast.evaluation.networks import save_features

HELD_OUT = 5
"""Every fifth digit is held out from the training."""
_EPOCHS, _BATCH, _RATE, _DECAY = 60, 64, 3e-3, 1e-3
_SEED = 0


def train_digit_features(
    path: str | os.PathLike[str] = SHIPPED, *, epochs: int = _EPOCHS
) -> DigitFeatures:
    """Train the network, save it at path and return it. Raises ImportError without scikit-learn."""
    digits = all_digits()
    trained = torch.arange(len(digits.labels)) % HELD_OUT != 0
    images, labels = digits.images[trained], digits.labels[trained]
    order = generator(_SEED)
    # the weights at the start must not depend on the random state of the caller
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = DigitFeatures()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=order).split(_BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network.logits(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
    save_features(network, path, accuracy=accuracy_of(network))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def accuracy_of(network: DigitFeatures) -> float:
    """Return the share of the held-out digits that the network names correctly."""
    digits = all_digits()
    held_out = torch.arange(len(digits.labels)) % HELD_OUT == 0
    named = network.logits(digits.images[held_out]).argmax(1)
    return float((named == digits.labels[held_out]).double().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the network and write it to the path in the arguments, or replace the shipped file."""
    paths = sys.argv[1:] if arguments is None else [*arguments]
    path = Path(paths[0]) if paths else SHIPPED
    network = train_digit_features(path)
    print(f"wrote {path}: {accuracy_of(network):.1%} of the held-out digits are named correctly")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
