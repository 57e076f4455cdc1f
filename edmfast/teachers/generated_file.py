"""The file of generated samples: a safetensors file that grows, and is always whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.atomic_write import check_output
from edmfast._internal.file_kinds import GENERATED, kind_of
from edmfast._internal.files import read_tensors, write_tensors

_KIND = "generated-samples"
_EVERY = 30.0
"""The seconds between two times of writing the file, at least."""
_SHARE = 20
"""The file is written so seldom that writing takes at most 1/20 of the time."""
_TOLERANCE = 1e-2
"""The difference from the samples in a file that is allowed, in units of their standard deviation, since another
machine rounds otherwise."""


class GeneratedFile:
    """A file of samples with these settings, of which `count` are wanted.

    Attributes:
        written: the number of samples in the file.

    Raises FileExistsError for a file of another kind, without overwrite.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: dict[str, Any],
        count: int,
        *,
        overwrite: bool,
    ) -> None:
        self._path = check_output(path, GENERATED, overwrite=overwrite)
        self._settings, self._count, self._overwrite = settings, count, overwrite
        self.written, self._recorded = 0, count
        self._took, self._last = 0.0, time.monotonic()

    def read_into(
        self,
        samples: Tensor,
        labels: Tensor | None,
        draw: Callable[[int, int], Tensor],
        batch_size: int,
    ) -> int:
        """Fill the first rows of samples [count, *shape] from the file, and return how many they are.

        draw: a function that draws the samples from one index to another. It draws the first batch again, which
        tells another teacher apart. Raises ValueError for a file of other settings, labels or another teacher,
        unless it may be overwritten.
        """
        if not self._path.is_file() or kind_of(self._path) != GENERATED:
            return 0
        tensors, metadata = read_tensors(self._path)
        present, classes = tensors.get("samples"), tensors.get("labels")
        fault = self._difference(metadata, present, classes, labels)
        if fault is None and present is not None:
            done = min(len(present), self._count)
            again = draw(0, min(done, batch_size)).double()
            before = present[: len(again)].double()
            close = (again - before).abs().amax() <= _TOLERANCE * before.std(correction=0)
            if bool(close):
                samples[:done] = present[:done]
                self.written, self._recorded = len(present), metadata.get("count", 0)
                return done
            fault = "its samples differ from those of this teacher"
        if self._overwrite:
            return 0
        raise ValueError(
            f"path {self._path} has other samples: {fault}. Give another path, or pass overwrite=True"
        )

    def lacks(self, done: int) -> bool:
        """Return whether the file lacks some of the first `done` samples, or the word that it is complete."""
        unfinished = done == self._count == self.written and self._recorded != self._count
        return done > self.written or unfinished

    def is_due(self) -> bool:
        """Return whether the file should be written now."""
        return time.monotonic() - self._last >= max(_EVERY, _SHARE * self._took)

    def write(self, samples: Tensor, labels: Tensor | None) -> None:
        """Write the samples that are drawn so far, with their labels. labels: [count], or None."""
        started = time.monotonic()
        tensors = {"samples": samples}
        if labels is not None:
            tensors["labels"] = labels[: len(samples)]
        metadata = {"kind": _KIND, "count": self._count, **self._settings}
        write_tensors(self._path, tensors, metadata, kind=GENERATED, overwrite=self._overwrite)
        self._last = time.monotonic()
        self._took, self.written = self._last - started, len(samples)

    def _difference(
        self,
        metadata: dict[str, Any],
        present: Tensor | None,
        classes: Tensor | None,
        labels: Tensor | None,
    ) -> str | None:
        """Return in what the file differs from these settings, or None."""
        for name, value in self._settings.items():
            if metadata.get(name) != value:
                return f"it has {name}={metadata.get(name)!r}, and this call has {value!r}"
        shape = tuple(self._settings["shape"])
        if present is None or present.shape[1:] != shape or len(present) == 0:
            return "it holds no samples of this shape"
        shared = min(len(present), self._count)
        if (classes is None) != (labels is None) or (
            classes is not None
            and labels is not None
            and not torch.equal(classes[:shared], labels[:shared])
        ):
            return "it has other class labels"
        return None
