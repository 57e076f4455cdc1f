"""The translation between noise levels and the times of a network that was trained at a list of noise levels.

Time t is the level sigmas[t]. Between whole times ln sigma is linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_bool, as_int
from edmfast.k_diffusion.utils import append_zero


class DiscreteSchedule(nn.Module):
    """A list of noise levels, and the times 0 ... N - 1 at which a network was trained with them.

    Args:
        sigmas: the noise levels [N], N >= 2, that do not decrease.
        quantize: `sigma_to_t` returns the nearest whole time unless told otherwise.

    Attributes:
        sigmas, log_sigmas: the levels and their logarithms, as buffers [N].

    Raises:
        TypeError: sigmas that are no floating-point tensor, or a quantize that is not True or False.
        ValueError: sigmas of another shape, negative ones, or ones that decrease.
    """

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self, sigmas: Tensor, quantize: bool) -> None:
        super().__init__()
        _check(sigmas)
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())
        self.quantize = as_bool("quantize", quantize)

    @property
    def sigma_min(self) -> Tensor:
        """The lowest noise level, []."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The highest noise level, []."""
        return self.sigmas[-1]

    def get_sigmas(self, n: int | None = None) -> Tensor:
        """Return n decreasing noise levels and a 0 at the end, [n + 1], at times of equal distance.

        n: the number of positive levels; None for all levels of the list.
        """
        if n is None:
            return append_zero(self.sigmas.flip(0))
        last = len(self.sigmas) - 1
        times = torch.linspace(last, 0, as_int("n", n, least=1), device=self.sigmas.device)
        return append_zero(self.t_to_sigma(times))

    def sigma_to_t(self, sigma: Tensor, quantize: bool | None = None) -> Tensor:
        """Return the times of noise levels, in the shape of sigma.

        Levels beyond the list have its first or its last time. quantize: True returns the nearest whole time in ln
        sigma, as int64. False interpolates. None takes the setting of the schedule.
        """
        quantize = self.quantize if quantize is None else as_bool("quantize", quantize)
        table = self.log_sigmas
        log_sigma = sigma.log().to(table.dtype)
        if quantize:
            # A level in the middle of two has the earlier time.
            return torch.searchsorted((table[1:] + table[:-1]) / 2, log_sigma)
        # The number of inner levels up to sigma is the number of the interval that holds it.
        low = torch.searchsorted(table[1:-1], log_sigma, right=True)
        start = table[low]
        return low + ((log_sigma - start) / (table[low + 1] - start)).clamp(0, 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Return the noise levels of times, in the shape of t; times lie between 0 and N - 1."""
        t = t if t.dtype == torch.float64 else t.float()
        low, high, share = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]).exp()


def sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    """Return the noise levels sqrt((1 - a) / a) of the cumulative products a of a variance-preserving schedule.

    Raises TypeError unless it is a floating-point tensor.
    """
    if not isinstance(alphas_cumprod, Tensor) or not alphas_cumprod.is_floating_point():
        kind = getattr(alphas_cumprod, "dtype", type(alphas_cumprod).__name__)
        raise TypeError(f"alphas_cumprod must be a floating-point tensor [N], got {kind}")
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def _check(sigmas: Tensor) -> None:
    if not isinstance(sigmas, Tensor) or not sigmas.is_floating_point():
        kind = getattr(sigmas, "dtype", type(sigmas).__name__)
        raise TypeError(f"sigmas must be a floating-point tensor [N], got {kind}")
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas must be [N] with N >= 2, got shape {[*sigmas.shape]}")
    if not bool((sigmas >= 0).all()) or not bool((sigmas[1:] >= sigmas[:-1]).all()):
        raise ValueError(
            "sigmas must be levels >= 0 that do not decrease (alphas_cumprod that do not increase), "
            f"got {sigmas[0]:.4g} to {sigmas[-1]:.4g}"
        )
