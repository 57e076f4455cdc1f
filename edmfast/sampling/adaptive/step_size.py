"""The choice of step sizes of DPM-Solver's adaptive method, for a whole batch or for each sample.

A step of length h in lambda = -ln sigma gives states of two orders. With the tolerances, and all states in the
units of the tolerances,

    E = the root mean square of (x_high - x_low) / max(atol, rtol max(|x_low|, |x_previous|))

of a sample. A step with E <= 1 is accepted, and the next one has the length theta h E^(-1/order), at most what is
left. Source: Lu et al. 2022, arXiv 2206.00927, algorithm 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.sampling.moments import inner_products


def error_of(
    low: Tensor,
    high: Tensor,
    previous: Tensor,
    rtol: float,
    atol: float,
    units: tuple[Tensor, Tensor],
) -> Tensor:
    """Return E of every sample, float64 [B], whose bits do not depend on the batch.

    low, high, previous: [B, *shape]. units: the factors [B] of the new states and of the previous ones.
    """
    new, old = (unsqueeze_like(unit.to(low.dtype), low) for unit in units)
    size = torch.maximum((low * new).abs_(), (previous * old).abs_())
    # Without an absolute tolerance, states that are exactly 0 must not give 0 / 0.
    least = max(atol, torch.finfo(low.dtype).tiny)
    scaled = ((high - low) * new).div_(size.mul_(rtol).clamp_(min=least))
    squares = inner_products([scaled])[:, 0, 0]
    return (squares / max(low[:1].numel(), 1)).sqrt()


class StepSizes:
    """The places and step sizes of the samples of a run, all float64 [B] on the device of the states.

    Args:
        start, end: the first and the last lambda, with start < end.
        batch: the number of samples B.
        first: the length of the first step.
        order: the order of the method, by whose root the error changes the step size.
        theta: the safety factor.
        shared: all samples take the steps that the one with the largest error needs.

    Attributes:
        place: lambda of every sample. active: the samples that have not arrived.
        shortest: the shortest step that the errors ask of an active sample, float64 [].
        accepted, rejected: how many steps each sample took and repeated, int64 [B].
    """

    def __init__(
        self,
        start: float,
        end: float,
        batch: int,
        first: float,
        order: int,
        theta: float,
        device: torch.device,
        *,
        shared: bool,
    ) -> None:
        self.end, self.order, self.theta, self.shared = end, order, theta, shared
        self.place = torch.full((batch,), start, dtype=torch.float64, device=device)
        self.h = torch.full_like(self.place, min(first, end - start))
        self.active = torch.ones_like(self.place, dtype=torch.bool)
        self.accepted = torch.zeros_like(self.place, dtype=torch.int64)
        self.rejected = torch.zeros_like(self.accepted)
        self.shortest = self.h.new_full((), math.inf)

    def target(self) -> Tensor:
        """Return lambda after the next step. The last step ends exactly at the end."""
        target = self.place + self.h
        return torch.where(target < self.end, target, self.end)

    def decide(self, error: Tensor) -> Tensor:
        """Return which samples accept their step, bool [B], and choose the next step sizes.

        error: E of every sample, of which that of samples that have arrived does not count.
        """
        if self.shared and len(error):
            error = error.max().expand_as(error)
        accept = self.active & (error <= 1)
        self.accepted += accept
        self.rejected += self.active & ~accept
        self.place = torch.where(accept, self.target(), self.place)
        self.active = self.active & (self.place < self.end)
        longer = self.theta * self.h * error.pow(-1 / self.order)
        self.shortest = torch.where(self.active, longer, math.inf).min()
        # Samples that have arrived keep a valid step, whose result is not used.
        self.h = torch.where(self.active, torch.minimum(longer, self.end - self.place), self.h)
        return accept
