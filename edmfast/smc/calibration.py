"""What one pilot run learns of a target: noise levels that share the work, and kappa at each of them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from edmfast.models.files import read_json, write_json


@dataclass(frozen=True)
class Calibration:
    """sigmas: T + 1 levels, decreasing (a last 0 has no kappa); kappa: one per step between positive
    levels; log_weight_sd: predicted standard deviation of the incremental log-weight of each step."""

    sigmas: tuple[float, ...]
    kappa: tuple[float, ...]
    log_weight_sd: tuple[float, ...]

    def __post_init__(self) -> None:
        positive = sum(sigma > 0 for sigma in self.sigmas)
        if len(self.kappa) != positive - 1 or len(self.log_weight_sd) != positive - 1:
            raise ValueError(
                f"{positive} positive sigmas need {positive - 1} kappa and log_weight_sd, got "
                f"{len(self.kappa)} and {len(self.log_weight_sd)}"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, "calibration", asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote. ValueError for anything else."""
        content = read_json(path, "calibration")
        try:
            return cls(**{name: tuple(map(float, values)) for name, values in content.items()})
        except TypeError as error:
            raise ValueError(f"{path} is not a calibration: {error!r}") from error
