"""What one pilot run learns of a target: noise levels that share the work, and kappa at each of them."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


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
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        temporary.write_text(json.dumps({"edmfast": "calibration", **asdict(self)}, indent=1))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote. ValueError for anything else."""
        try:
            data = json.loads(Path(path).read_text())
            if data.pop("edmfast") != "calibration":
                raise KeyError("edmfast")
            return cls(**{name: tuple(map(float, values)) for name, values in data.items()})
        except (
            json.JSONDecodeError,
            UnicodeDecodeError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(f"{path} is not a calibration: {error!r}") from error
