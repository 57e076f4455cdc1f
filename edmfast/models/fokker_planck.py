"""The residual of the Fokker–Planck equation of a log-density, shared by training and diagnostics.

The log-density u(x, sigma) of data plus Gaussian noise of standard deviation sigma satisfies the heat equation

    du/dsigma = sigma (tr(grad² u) + |grad u|²).

Its residual R = du/dsigma - sigma (tr(grad² u) + |grad u|²) vanishes for an exact energy E = -u. Where the energy
is known up to a constant for each noise level, R is the derivative of that constant, equal at all states of the
level.

Source: Lai et al. 2023, arXiv 2210.04296, whose equation in a time t is this one with variance-exploding noise.
"""

from __future__ import annotations

from torch import Tensor


def fokker_planck_residual(
    slope: Tensor, score: Tensor, trace: Tensor, sigma: Tensor | float
) -> Tensor:
    """Return R [B] in nats per unit of sigma.

    slope: du/dsigma [B]. score: grad u [B, *shape]. trace: the trace of the score's Jacobian, tr(grad² u), [B].
    sigma: the noise levels [B], or one number, in the units of x. The first two terms nearly cancel: at usual
    states of a Gaussian they are about -d/sigma and d/sigma.
    """
    return slope - sigma * (trace + score.flatten(1).square().sum(1))
