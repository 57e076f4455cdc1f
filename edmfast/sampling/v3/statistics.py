"""The statistics l, s and b of DPM-Solver-v3 on a grid of noise levels, and their file."""

from __future__ import annotations

import bisect
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.file_kinds import V3_STATISTICS
from edmfast._internal.files import read_tensors, write_tensors

_NAMES = ("sigmas", "l", "s", "b")


@dataclass(frozen=True, eq=False)
class DPMSolverV3Statistics:
    """The statistics l, s and b of DPM-Solver-v3, for every element of a state.

    Between the levels they are linear in lambda = -ln sigma, and constant beyond them. l = 1, s = 0, b = 0 is the
    prediction of the denoised states, and l = 0, s = -1, b = 0 that of epsilon. Source: Zheng et al. 2023,
    arXiv 2310.13268, section 3.

    Args:
        sigmas: noise levels [K], positive and strictly decreasing, in the units of x.
        l: [K, *shape], the diagonal of sigma d eps / dx, without a unit.
        s: [K, *shape], the slope of df/dlambda in f, without a unit.
        b: [K, *shape], the rest of df/dlambda, in the units of x.

    Raises:
        TypeError: a field that is not a floating-point tensor.
        ValueError: shapes that do not fit together, numbers that are not finite, or levels out of order.
    """

    sigmas: Tensor
    l: Tensor  # noqa: E741, the source's name
    s: Tensor
    b: Tensor
    lambdas: tuple[float, ...] = field(default=(), init=False, repr=False)
    """The values of lambda at the levels, rising."""
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    """The coefficients of the last grid of a sampler."""

    def __post_init__(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(f"{name} must be a floating-point tensor, got {value!r}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, got NaN or infinity in it")
            object.__setattr__(self, name, value.detach().to(torch.float64))
        if self.sigmas.ndim != 1 or len(self.sigmas) < 1:
            raise ValueError(f"sigmas must be [K], got shape {tuple(self.sigmas.shape)}")
        if not bool((self.sigmas > 0).all()) or not bool((self.sigmas.diff() < 0).all()):
            raise ValueError("sigmas must be positive and decrease strictly")
        for name in ("l", "s", "b"):
            shape = tuple(getattr(self, name).shape)
            if len(shape) < 2 or shape != (len(self.sigmas), *self.l.shape[1:]):
                raise ValueError(
                    f"{name} must be [{len(self.sigmas)}, *shape] with the shape of a state and that of l, "
                    f"got {shape}"
                )

        lambdas = tuple(-math.log(sigma) for sigma in self.sigmas.tolist())
        object.__setattr__(self, "lambdas", lambdas)

    def at(self, place: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return l, s and b at lambda = place, each [*shape] in float64."""
        knots = self.lambdas
        index = max(bisect.bisect_right(knots, place) - 1, 0)
        if index == len(knots) - 1 or place <= knots[0]:
            return self.l[index], self.s[index], self.b[index]
        share = (place - knots[index]) / (knots[index + 1] - knots[index])
        low, high = index, index + 1
        return (
            torch.lerp(self.l[low], self.l[high], share),
            torch.lerp(self.s[low], self.s[high], share),
            torch.lerp(self.b[low], self.b[high], share),
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the statistics to a safetensors file, whole or not at all.

        A file of statistics is replaced. A file of another kind is replaced only with overwrite=True, and raises
        FileExistsError otherwise. Raises ValueError or OSError where the path names no regular file or cannot be
        written.
        """
        tensors = {name: getattr(self, name) for name in _NAMES}
        metadata = {"kind": "dpm-solver-v3"}
        write_tensors(path, tensors, metadata, kind=V3_STATISTICS, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DPMSolverV3Statistics:
        """Return the statistics of a file that `save` wrote.

        Raises FileNotFoundError without a file, and ValueError for another kind of file or a corrupt one.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("kind") != "dpm-solver-v3" or set(tensors) != set(_NAMES):
            raise ValueError(f"{Path(path)} does not hold statistics of DPM-Solver-v3")
        try:
            return cls(**tensors)
        except TypeError as error:
            raise ValueError(f"{path} is corrupt: {error}") from error
