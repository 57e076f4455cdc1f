"""The coordinates in which diffusers keeps states, and the meaning of a model's output in them.

A state is sample = alpha (x_0 + s eps), where s is the level in the variance-exploding notation of all solvers.
With a schedule's own sigma:

    ve, edm     alpha = 1                     s = sigma
    vp          alpha = 1 / sqrt(1 + sigma²)  s = sigma
    flow        alpha = 1 - sigma             s = sigma / alpha

The denoised states are linear in sample and output: D = a sample + b output. `Frame.denoised` returns (a, b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edmfast.diffusers.families import EDM, FLOW, VE, VP

# At sigma = 1 a flow has no signal. Its alpha must not be 0 inside the coefficients, where it cancels.
_SMALLEST_ALPHA = 1e-12

PREDICTIONS = {
    VE: ("epsilon", "v_prediction", "sample"),
    EDM: ("epsilon", "v_prediction"),
    VP: ("epsilon", "v_prediction", "sample", "flow_prediction"),
    FLOW: ("epsilon", "v_prediction", "sample", "flow_prediction"),
}


@dataclass(frozen=True)
class Frame:
    """The coordinates of a configuration.

    kind: "ve", "edm", "vp" or "flow". prediction: what the model predicts. sigma_data: for "edm".
    """

    kind: str
    prediction: str
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS[self.kind]:
            raise ValueError(
                f"prediction_type={self.prediction!r} is not known for this scheduler: "
                f"it is one of {', '.join(PREDICTIONS[self.kind])}"
            )

    def alpha(self, sigma: float) -> float:
        """Return the factor of the clean states in a sample."""
        if self.kind == VP:
            return 1 / math.sqrt(1 + sigma * sigma)
        if self.kind == FLOW:
            return max(1 - sigma, _SMALLEST_ALPHA)
        return 1.0

    def level(self, sigma: float) -> float:
        """Return the level s in the variance-exploding notation."""
        return sigma / self.alpha(sigma) if self.kind == FLOW else sigma

    def sigma_of_level(self, level: float) -> float:
        """Return the schedule's sigma of a level s."""
        return level / (1 + level) if self.kind == FLOW else level

    def input_scale(self, sigma: float) -> float:
        """Return the factor that turns a sample into the model's input."""
        if self.kind == VE:
            return 1 / math.sqrt(sigma * sigma + 1)
        if self.kind == EDM:
            return 1 / math.sqrt(sigma * sigma + self.sigma_data * self.sigma_data)
        return 1.0

    def denoised(self, sigma: float) -> tuple[float, float]:
        """Return (a, b) with D = a sample + b output at a level of the schedule."""
        if self.kind == EDM:
            variance = sigma * sigma + self.sigma_data * self.sigma_data
            factor = sigma * self.sigma_data / math.sqrt(variance)
            sign = 1.0 if self.prediction == "epsilon" else -1.0
            return self.sigma_data * self.sigma_data / variance, sign * factor
        if self.prediction == "sample":
            return 0.0, 1.0
        if self.prediction == "flow_prediction":
            return 1.0, -sigma
        alpha = self.alpha(sigma)
        noise = alpha * self.level(sigma)
        if self.prediction == "epsilon":
            return 1 / alpha, -noise / alpha
        if self.kind == VE:
            # The network's own coordinates are those of "vp", and its sample is the scaled input.
            return 1 / (sigma * sigma + 1), -sigma / math.sqrt(sigma * sigma + 1)
        return alpha, -noise
