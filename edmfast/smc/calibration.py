"""What one pilot run learns of a target: noise levels that share the work, kappa at each, the end of weighting."""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass

from edmfast._internal.files import read_json, write_json
from edmfast._internal.numbers import as_float

_KIND = "calibration"


@dataclass(frozen=True, repr=False)
class Calibration:
    """sigmas: T + 1 levels, decreasing (a last 0 has no kappa); kappa: one per step between positive
    levels; log_weight_sd: predicted standard deviation of the incremental log-weight of each step, in nats.

    sigma_lo: the level below which the increments of a learned energy are taken for noise, one of `sigmas`;
    `smc.sample` stops weighting there unless it is given a sigma_range. 0 where weights are good to the end.
    """

    sigmas: tuple[float, ...]
    kappa: tuple[float, ...]
    log_weight_sd: tuple[float, ...]
    sigma_lo: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sigmas", "kappa", "log_weight_sd"):
            values = getattr(self, name)
            numbers = tuple(
                as_float(f"{name}[{i}]", value, least=0) for i, value in enumerate(values)
            )
            object.__setattr__(self, name, numbers)
        object.__setattr__(self, "sigma_lo", as_float("sigma_lo", self.sigma_lo, least=0))
        if not self.sigmas:
            raise ValueError("a calibration needs sigmas, got none")
        if any(b >= a for a, b in itertools.pairwise(self.sigmas)):
            raise ValueError(f"sigmas must be strictly decreasing, got {self.sigmas}")
        positive = sum(sigma > 0 for sigma in self.sigmas)
        if len(self.kappa) != positive - 1 or len(self.log_weight_sd) != positive - 1:
            raise ValueError(
                f"{positive} positive sigmas need {positive - 1} kappa and log_weight_sd, got "
                f"{len(self.kappa)} and {len(self.log_weight_sd)}"
            )
        if not self.sigma_lo < max(self.sigmas):
            raise ValueError(
                f"sigma_lo must be in [0, {max(self.sigmas):g}), the highest level, got {self.sigma_lo}"
            )

    def __repr__(self) -> str:
        return (
            f"Calibration({len(self.sigmas)} levels from {self.sigmas[0]:g} to {self.sigmas[-1]:g}, "
            f"sigma_lo {self.sigma_lo:g}, weighted variance {self.weighted_variance:.3g} nats²)"
        )

    @property
    def log_weight_variance(self) -> tuple[float, ...]:
        """Predicted variance of the incremental log-weight of each step, in nats²."""
        return tuple(sd**2 for sd in self.log_weight_sd)

    @property
    def weighted_variance(self) -> float:
        """Their sum in nats² over the steps that end at sigma_lo or above: what the weights go through."""
        ends = self.sigmas[1 : len(self.kappa) + 1]
        pairs = zip(ends, self.log_weight_variance, strict=True)
        return sum(variance for end, variance in pairs if end >= self.sigma_lo)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write as JSON, whole or not at all. overwrite: replace a file of another kind too."""
        write_json(path, _KIND, asdict(self), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote, or an older file without sigma_lo. ValueError for anything else."""
        content = {"sigma_lo": 0.0, **read_json(path, _KIND)}
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a {_KIND}: {error}") from error
