"""The result of a calibration: noise levels, kappa for each step, and the level at which weighting ends."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from edmfast._internal.files import read_json, write_json
from edmfast._internal.noise_levels import check_order
from edmfast._internal.numbers import as_float, as_int

_KIND = "calibration"


@dataclass(frozen=True, repr=False)
class Calibration:
    """Noise levels for a run of T steps on one target, with the numbers that the run needs at each.

    `smc.calibrate` makes it and `smc.sample` takes it in place of sigmas. Raises TypeError or ValueError for
    numbers that are negative or not finite, levels that do not decrease, and tables whose lengths do not fit.
    """

    sigmas: tuple[float, ...]
    """Strictly decreasing noise levels in the units of x, T + 1 of them and possibly a last 0."""
    kappa: tuple[float, ...]
    """The kappa of the curvature-matched proposal for each of the T steps between positive levels."""
    log_weight_sd: tuple[float, ...]
    """Predicted standard deviation of the incremental log-weight of each of the T steps, in nats."""
    sigma_lo: float = 0.0
    """The level of `sigmas` at which weighting ends, since the differences of a learned energy are noise below it.
    `smc.sample` stops weighting there unless it gets a sigma_range. 0 weights all levels."""
    probes: tuple[int, ...] | None = None
    """The number of trace probes of each of the T steps, for reversal weights. A step with 0 probes takes kappa
    from the table. None where no table was made, as for energies, exact traces and older files."""
    probe_sd: tuple[float, ...] | None = None
    """Predicted standard deviation of the noise that one probe adds to the log-weight of each of the T steps, in
    nats; None where probes is."""

    def __post_init__(self) -> None:
        for name in ("sigmas", "kappa", "log_weight_sd", "probe_sd"):
            values = getattr(self, name)
            if values is None and name == "probe_sd":
                continue
            numbers = tuple(
                as_float(f"{name}[{i}]", value, least=0) for i, value in enumerate(values)
            )
            object.__setattr__(self, name, numbers)
        object.__setattr__(self, "sigma_lo", as_float("sigma_lo", self.sigma_lo, least=0))
        if self.probes is not None:
            counts = tuple(
                as_int(f"probes[{i}]", count, least=0) for i, count in enumerate(self.probes)
            )
            object.__setattr__(self, "probes", counts)
        if not self.sigmas:
            raise ValueError("a calibration needs at least one sigma, got none")
        check_order(self.sigmas)
        positive = sum(sigma > 0 for sigma in self.sigmas)
        if len(self.kappa) != positive - 1 or len(self.log_weight_sd) != positive - 1:
            raise ValueError(
                f"{positive} positive sigmas need {positive - 1} entries of kappa and of log_weight_sd, got "
                f"{len(self.kappa)} and {len(self.log_weight_sd)}"
            )
        for name in ("probes", "probe_sd"):
            values = getattr(self, name)
            if values is not None and len(values) != positive - 1:
                raise ValueError(
                    f"{positive} positive sigmas need {positive - 1} entries of {name}, got {len(values)}"
                )
        if not self.sigma_lo < max(self.sigmas):
            raise ValueError(
                f"sigma_lo must be at least 0 and below the highest level {max(self.sigmas):g}, got "
                f"{self.sigma_lo}"
            )

    def __repr__(self) -> str:
        probes = "" if self.probes is None else f"{sum(self.probes)} probes, "
        return (
            f"Calibration({len(self.sigmas)} levels from {self.sigmas[0]:g} to {self.sigmas[-1]:g}, {probes}"
            f"sigma_lo {self.sigma_lo:g}, weighted variance {self.weighted_variance:.3g} nats²)"
        )

    @property
    def log_weight_variance(self) -> tuple[float, ...]:
        """Predicted variance of the incremental log-weight of each step, in nats²."""
        return tuple(sd**2 for sd in self.log_weight_sd)

    @property
    def weighted_variance(self) -> float:
        """Predicted variance of the log-weight in nats², summed over the steps that end at sigma_lo or above."""
        # The denoising step to a last 0 is not weighed.
        ends = self.sigmas[1 : len(self.kappa) + 1]
        pairs = zip(ends, self.log_weight_variance, strict=True)
        return sum(variance for end, variance in pairs if end >= self.sigma_lo)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a JSON file, whole or not at all.

        A file of a calibration is replaced. A file of another kind is replaced only with overwrite=True, and
        raises FileExistsError otherwise. Raises ValueError or OSError where the path cannot be written.
        """
        write_json(path, _KIND, asdict(self), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Return the calibration that `save` wrote, or one of an older file without sigma_lo or probes.

        Raises ValueError for any other file, and OSError where the file cannot be read.
        """
        # Older files have no sigma_lo, since their runs weighed all levels, and no numbers of probes.
        content = {"sigma_lo": 0.0, "probes": None, "probe_sd": None, **read_json(path, _KIND)}
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a {_KIND}: {error}") from error
