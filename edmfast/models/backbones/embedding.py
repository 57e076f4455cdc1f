"""The embedding of noise level and class, silu(W [cos(c w), sin(c w)] + b + table[class_label]).

c = c_noise = ln(sigma)/4, [B]. The eight angular frequencies w are geometric from 1 to 30: the lowest varies
slowly over all noise levels, and the highest resolves a factor of two in sigma. The table has num_classes + 1
rows; its last row means "unconditional", for label dropout and classifier-free guidance (Ho & Salimans 2022,
arXiv 2207.12598). The features are those of Tancik et al. 2020, arXiv 2006.10739.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from edmfast._internal.dispatch import as_written
from edmfast._internal.numbers import as_int
from edmfast._internal.rows import shared_rows
from edmfast.models.backbones.activation import silu
from edmfast.models.backbones.linear import Linear
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.origin import is_ours
from edmfast.models.level_table import of_level

FREQUENCIES, HIGHEST_FREQUENCY = 8, 30.0


def as_classes(num_classes: int | None) -> int | None:
    """Return a number of classes as an int, or None. Raises TypeError or ValueError for other values."""
    return None if num_classes is None else as_int("num_classes", num_classes, least=1)


def check_conditions_of(backbone: Any, condition: dict[str, Any], batch: int) -> None:
    """Raise ValueError for conditions whose rows do not fit the caller's batch, which is not yet padded."""
    # networks with other labels check them themselves
    if condition and (check := getattr(backbone, "check_condition", None)) and is_ours(backbone):
        check(condition, batch)
    label = condition.get("class_label") if condition else None
    embedding = getattr(backbone, "embedding", None)
    if label is not None and isinstance(embedding, Embedding) and embedding.label is not None:
        _check_label(label, batch)
    check_condition_rows(backbone, condition, batch)


def _check_label(label: Any, batch: int) -> None:
    if not isinstance(label, torch.Tensor):
        raise ValueError(
            f"class_label must be int64 [{batch}], given {label!r}: one class for all samples is bound by "
            "edmfast.Conditioned(model, class_label=...)"
        )
    if label.dtype != torch.int64 or label.shape != (batch,):
        raise ValueError(
            f"class_label must be int64 [{batch}], given {label.dtype} {[*label.shape]}"
        )


class Embedding(nn.Module):
    """The embedding as a module: c_noise [B] and class_label int64 [B] or None -> [B, width].

    For one noise level without labels the result has fewer rows, all equal; see `forward`.
    """

    _frequencies: torch.Tensor

    def __init__(self, width: int, num_classes: int | None) -> None:
        super().__init__()
        self.num_classes = num_classes = as_classes(num_classes)
        frequencies = torch.linspace(0, math.log(HIGHEST_FREQUENCY), FREQUENCIES).exp()
        self.register_buffer("_frequencies", frequencies, persistent=False)
        self.level = Linear(2 * FREQUENCIES, width)
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, width)

    def forward(self, c_noise: torch.Tensor, class_label: torch.Tensor | None) -> torch.Tensor:
        """Return the embedding [B, width], or fewer equal rows where c_noise is one level expanded to [B].

        class_label None means "unconditional". `per_sample` turns results computed from the equal rows into one
        row that serves all samples. Raises ValueError for a label out of range.
        """
        if self.label is None and class_label is not None:
            raise ValueError(
                "a backbone built with num_classes=None takes no class_label, given one"
            )
        # a stride of zero shows that one level was expanded, so that all rows are equal
        alone = c_noise.shape[0] == 1 or c_noise.stride(0) == 0
        embedded = self._prepared(c_noise[:1], class_label is None) if alone else None
        if embedded is None:
            if class_label is None and alone and c_noise.shape[0] > 1:
                c_noise = shared_rows(c_noise[:1])
            embedded = self._of_level(c_noise, class_label is None)
        if class_label is None:
            return embedded
        assert self.label is not None
        _check_label(class_label, len(c_noise))
        try:
            return silu(embedded + self.label(class_label))
        # the check by exception costs nothing; reading the labels first would wait for a GPU
        except IndexError as error:
            raise ValueError(
                f"class_label must lie in 0..{self.num_classes} ({self.num_classes} means "
                f"unconditional), given {class_label.min()}..{class_label.max()}"
            ) from error

    def _of_level(self, c_noise: torch.Tensor, whole: bool) -> torch.Tensor:
        """Return the part that depends on c_noise [R] alone, [R, width]. whole: embed "unconditional" too."""
        # cosine and sine together determine the angle, so that no level is confused with another
        angle = c_noise[:, None] * self._frequencies
        embedded: torch.Tensor = self.level(torch.cat([angle.cos(), angle.sin()], 1))
        if not whole:
            return embedded
        # the last row of the table means unconditional
        return silu(embedded if self.label is None else embedded + self.label.weight[-1])

    def _prepared(self, c_noise: torch.Tensor, whole: bool) -> torch.Tensor | None:
        """Return `_of_level` of one level [1] where a run has prepared it, else None."""
        labels = [self.label] if whole and self.label is not None else []
        if type(self.level) is not Linear or not all(map(as_written, (self.level, *labels))):
            return None
        weights = [self._frequencies, self.level.weight, self.level.bias]
        weights += [label.weight for label in labels]
        name = ("embedding", id(self), whole)
        found = of_level((c_noise,), name, weights, lambda rows: (self._of_level(rows, whole),))
        return None if found is None else found[0]
