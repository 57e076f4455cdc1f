"""The protocol of training data: where the clean samples of a run come from.

The batch of a training step has the same rows on any number of ranks. So every rank draws the rows of the whole
batch (`draw`), and reads only those of its own part (`rows`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class TrainingData(Protocol):
    """The clean samples of a run, and their class labels where there are any.

    shape: the shape of one sample. dtype and device: those of the samples that `rows` returns. size: the number of
    samples, or None where it is not known. has_labels: True where `rows` returns labels. num_classes: the number
    of classes that the student knows, 0 without labels or where it does not say.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def size(self) -> int | None: ...

    @property
    def has_labels(self) -> bool: ...

    @property
    def num_classes(self) -> int: ...

    def draw(self, step: int, count: int, generator: torch.Generator) -> Any:
        """Return which samples a step takes, `count` of them, as `rows` understands it.

        The answer follows from the step, the count and the state of the generator alone. It is equal on all ranks.
        """
        ...

    def rows(self, drawn: Any, part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the samples [n, *shape] of a part of what was drawn, and their labels int64 [n] or None."""
        ...

    def some(self, count: int) -> torch.Tensor:
        """Return up to count samples [n, *shape], always the same ones, from which scales are estimated."""
        ...

    def digest(self) -> str:
        """Return a checksum by which a resumed run recognises its data."""
        ...
