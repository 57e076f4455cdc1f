"""The step of diffusers' `DDIMScheduler`, whose coefficients follow from the timestep alone.

With a = alpha_bar at the timestep and a' at the one that is num_train_timesteps // num_inference_steps before it,

    x' = sqrt(a') x_0 + sqrt(1 - a' - s²) eps + s z,    s² = eta² (1 - a') / (1 - a) (1 - a / a').

Clipping changes x_0 and leaves eps, unless the caller asks for the eps of the clipped x_0.
Source: Song et al. 2021, "Denoising diffusion implicit models", arXiv 2010.02502, equations 12 and 16.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class DDIMStep(NamedTuple):
    """The coefficients of one step.

    signal, spread: sqrt(a) and sqrt(1 - a). clean, eps: x_0 and eps as (factor of the sample, factor of the
    output). forward: x' as (factor of x_0, factor of eps, factor of z).
    """

    signal: float
    spread: float
    clean: tuple[float, float]
    eps: tuple[float, float]
    forward: tuple[float, float, float]

    def plain(self) -> tuple[float, float, float]:
        """Return x' as (factor of the sample, factor of the output, factor of z)."""
        to_clean, to_eps, fresh = self.forward
        pairs = zip(self.clean, self.eps, strict=True)
        of_sample, of_output = (to_clean * c + to_eps * e for c, e in pairs)
        return of_sample, of_output, fresh

    def clipped(self, renewed: bool) -> tuple[float, float, float, float]:
        """Return x' as (factor of x_0, factor of the sample, factor of the output, factor of z) for a given x_0.

        renewed: eps is that of the given x_0.
        """
        to_clean, to_eps, fresh = self.forward
        if not renewed:
            return to_clean, to_eps * self.eps[0], to_eps * self.eps[1], fresh
        return to_clean - to_eps * self.signal / self.spread, to_eps / self.spread, 0.0, fresh


def ddim_step(alpha_bar: float, before: float, prediction: str, eta: float) -> DDIMStep:
    """Return the coefficients of a step from alpha_bar to the alpha_bar of the timestep before it.

    Raises:
        ValueError: noise is predicted where there is no signal, so that x_0 is not determined.
    """
    signal, spread = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction == "epsilon":
        if not signal:
            raise ValueError(
                "prediction_type='epsilon' gives no clean samples at the last timestep with "
                "rescale_betas_zero_snr=True: such models predict 'v_prediction' or 'sample'"
            )
        clean, eps = (1 / signal, -spread / signal), (0.0, 1.0)
    elif prediction == "sample":
        clean, eps = (0.0, 1.0), (1 / spread, -signal / spread)
    else:
        clean, eps = (signal, -spread), (spread, signal)
    variance = (1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before)
    fresh = eta * math.sqrt(max(variance, 0.0))
    rest = math.sqrt(max(1 - before - fresh * fresh, 0.0))
    return DDIMStep(signal, spread, clean, eps, (math.sqrt(before), rest, fresh))
