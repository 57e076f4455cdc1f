"""Pairs of noise and sample, which a teacher's ODE joins, as the training data of Rectified Diffusion."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.checksum import checksum
from edmfast._internal.file_kinds import NOISE_PAIRS
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.numbers import as_int
from edmfast._internal.select import rows_of

PATTERN = "pairs-*.safetensors"
"""The names of the files of a folder of pairs."""
_KIND = "noise-pairs"


@dataclasses.dataclass(frozen=True)
class NoisePairs:
    """Pairs (eps, x_0), whose states x_0 + sigma eps serve at the noise levels of their own range.

    Attributes:
        noise: eps [n, *shape].
        clean: x_0 like noise, in the units of the data.
        low: the lowest noise level at which each pair serves, [n], positive.
        high: the highest one, [n], at least low.
        labels: int64 [n], or None.
        num_classes: the label that means unconditional, 0 where there is none.

    Raises:
        TypeError: tensors of another kind.
        ValueError: shapes that differ, numbers that are not finite, or ranges that are no ranges.
    """

    noise: Tensor
    clean: Tensor
    low: Tensor
    high: Tensor
    labels: Tensor | None = None
    num_classes: int = 0

    has_labels = property(lambda self: self.labels is not None)

    def __post_init__(self) -> None:
        clean, classes = self.clean, as_int("num_classes", self.num_classes, least=0)
        # the dataclass is frozen, and this is still its construction
        object.__setattr__(self, "num_classes", classes)
        for name in ("noise", "clean", "low", "high"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be a floating-point tensor, given {kind}")
        if clean.dim() < 2 or len(clean) == 0 or self.noise.shape != clean.shape:
            raise ValueError(
                f"noise and clean must be [n, *shape] with n >= 1 and equal shapes, given "
                f"{[*self.noise.shape]} and {[*clean.shape]}"
            )
        for name in ("low", "high"):
            if getattr(self, name).shape != (len(clean),):
                raise ValueError(
                    f"{name} must be [{len(clean)}], one level for each pair, given "
                    f"{[*getattr(self, name).shape]}"
                )
        if not bool(self.noise.isfinite().all() and clean.isfinite().all()):
            raise ValueError("noise and clean must be finite, given NaN or infinity among them")
        if not bool(((self.low > 0) & (self.low <= self.high) & self.high.isfinite()).all()):
            raise ValueError("low and high must be finite noise levels with 0 < low <= high")
        labels = self.labels
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != (len(clean),)):
            raise ValueError(
                f"labels must be int64 [{len(clean)}], given {labels.dtype} {[*labels.shape]}"
            )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.clean)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.clean.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the samples."""
        return self.clean.dtype

    @property
    def device(self) -> torch.device:
        """The device of the samples."""
        return self.clean.device

    @property
    def size(self) -> int:
        """The number of pairs."""
        return len(self.clean)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> NoisePairs:
        """Return the pairs on a device, with samples and noise levels in a dtype."""
        moved = {
            name: getattr(self, name).to(device, dtype)
            for name in ("noise", "clean", "low", "high")
        }
        labels = None if self.labels is None else self.labels.to(device)
        return dataclasses.replace(self, labels=labels, **moved)

    def draw(self, step: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the indices of `count` random pairs, drawn with replacement."""
        return torch.randint(len(self), (count,), generator=generator, device=generator.device)

    def rows(self, drawn: Tensor, part: slice) -> tuple[Tensor, Tensor | None]:
        """Return the clean samples of a part of the indices, and their labels or None."""
        index = drawn[part]
        return rows_of(self.clean, index), None if self.labels is None else self.labels[index]

    def some(self, count: int) -> Tensor:
        """Return equally spaced clean samples, up to count of them."""
        return self.clean[:: max(1, math.ceil(len(self) / count))]

    def digest(self) -> str:
        """Return a checksum of all pairs."""
        return checksum({name: tensor.cpu() for name, tensor in self._tensors().items()}, "")[:32]

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Write the pairs to one safetensors file, which `load_pairs` reads.

        Args:
            path: the file to write.
            overwrite: replace a file that holds something else.
            settings: how the pairs were made, as JSON can hold it; the file keeps it.

        Raises:
            FileExistsError: a file of another kind at path, without overwrite.
        """
        metadata = {"kind": _KIND, "num_classes": self.num_classes, "settings": settings or {}}
        write_tensors(path, self._tensors(), metadata, kind=NOISE_PAIRS, overwrite=overwrite)

    def _tensors(self) -> dict[str, Tensor]:
        names = ("noise", "clean", "low", "high", "labels")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def load_pairs(path: str | os.PathLike[str]) -> NoisePairs:
    """Read the pairs of a file that `NoisePairs.save` wrote, or of a folder that `make_pairs` filled.

    All pairs are held in memory: n pairs of samples with d numbers take 2 n d times the bytes of their dtype, and
    twice as much while the files of a folder are joined. A folder whose pairs are only partly made gives those
    that are there.

    Args:
        path: a file or a folder.

    Returns:
        The pairs on the CPU, in the order in which they were made.

    Raises:
        FileNotFoundError: no file at path, or a folder without pairs.
        ValueError: a file that is corrupt or holds no pairs.
    """
    path = Path(path)
    files = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} holds no pairs: make_pairs writes them as {PATTERN}")
    parts = [read_pairs(file)[0] for file in files]
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("noise", "clean", "low", "high")
    }
    labels = [part.labels for part in parts if part.labels is not None]
    if labels and len(labels) < len(parts):
        raise ValueError(f"{path} holds pairs with labels and pairs without")
    classes = max(part.num_classes for part in parts)
    return NoisePairs(**joined, labels=torch.cat(labels) if labels else None, num_classes=classes)


def read_pairs(path: Path) -> tuple[NoisePairs, dict[str, Any]]:
    """Return the pairs of one file and its metadata. Raises ValueError for a file of another kind."""
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != _KIND:
        raise ValueError(f"{path} holds no pairs of noise and sample")
    try:
        pairs = NoisePairs(**tensors, num_classes=int(metadata["num_classes"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is corrupt: {error}") from error
    return pairs, metadata
