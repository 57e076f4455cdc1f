"""Time-score matching: the slope of an energy in the noise level, learned from data alone.

A sample x = x_0 + sigma n of d elements tells the slope of the log-density at a fixed state,

    sigma dlog p(x; sigma)/dsigma = E[|n|² - d | x],

as its clean sample tells the denoiser. The loss is the variance of sigma dE/dsigma + |n|² - d among rows that
share a noise level, in nats². A denoising loss sees gradients at one noise level, which hardly show how probable
two modes are against each other. The slope does: at high noise the modes are one Gaussian, and from there their
log-densities are sums of its values. No estimate of a score enters, so that the minimiser is the exact energy.

- The loss is a variance, because an energy is known up to a constant at each noise level. So ROWS successive rows
  of a batch share their level. The constant is the same for all class labels.
- |n|² has the variance 2 d at low noise, whatever the student knows. So each clean sample comes twice, with two
  draws of the noise in opposite directions, whose squared lengths have complementary probabilities to be exceeded.
  Each draw is standard normal, while the squared lengths have the correlation -0.99 for 64 elements. On the smooth
  digits this and eight rows to a level, instead of independent draws and four rows, lower the error of an energy
  between modes from 1.6 to 1.2 nats (two heads on data alone, 2,500 steps, weight 0.001).

Sources: Choi, Meng, Song and Ermon 2022, arXiv 2111.11010 (time scores); Guth, Kadkhodaie and Simoncelli 2025,
arXiv 2506.05310 (energies from both scores). The opposite draws are ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edmfast.models.calling.foreign import energy_of
from edmfast.models.calling.origin import name_of
from edmfast.models.preconditioning import Scaling, expand_sigma

ROWS = 8
"""The number of successive rows of a batch that share their noise level."""
COPIES = 2
"""The number of successive rows that share their clean sample and its label."""
_HALLEY_STEPS = 20


def time_score_loss(slope: Tensor, noise_excess: Tensor) -> Tensor:
    """Return the loss [] in nats². slope: sigma dE/dsigma [B]. noise_excess: |n|² - d [B]."""
    error: Tensor = (slope + noise_excess).unflatten(0, (-1, ROWS))
    return error.var(1).mean()


def slope_and_denoised(
    student: Any, x: Tensor, sigma: Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return (sigma dE/dsigma [B], x - sigma² grad E like x), with a graph in the parameters.

    x: [B, *shape]. sigma: [B]. Both come from one forward and one backward pass of the student. Raises ValueError
    where its energy has no derivative with respect to sigma.
    """
    states, levels = x.detach().requires_grad_(), sigma.detach().requires_grad_()
    energy = energy_of(student, states, levels, **condition)
    slope: Tensor | None
    slope, gradient = torch.autograd.grad(
        energy.sum(), (levels, states), create_graph=True, allow_unused=True
    )
    if slope is None:
        raise ValueError(
            "time_score_weight > 0 needs an energy with a derivative with respect to sigma, which the one of "
            f"{name_of(student)} has not"
        )
    return sigma * slope, x - expand_sigma(sigma, x).square() * gradient


def slope_of_inner(
    potential: Tensor, gradient: Tensor, slope: Tensor, y: Tensor, scaling: Scaling, sigma: Tensor
) -> Tensor:
    """Return sigma dE/dsigma [B] of E = |x|²/(2 (sigma² + sigma_data²)) - (sigma_data/sigma) f(y, c_noise).

    potential: f [B]. gradient: df/dy, like y = c_in x. slope: df/dc_noise [B]. scaling: the coefficients at sigma
    [B].
    """
    c_in, c_skip = scaling.c_in.flatten(), scaling.c_skip.flatten()
    # c_in is proportional to sigma^-share, and c_noise is ln(sigma)/4
    share = (sigma * c_in).square()
    weight = c_skip.sqrt() / (sigma * c_in)
    squares, products = (y * y).flatten(1).sum(1), (y * gradient).flatten(1).sum(1)
    return weight * (potential + share * products - slope / 4) - share * squares


def opposite_draws(noise: Tensor) -> Tensor:
    """Return standard normal noise whose odd rows belong to the even ones before them. noise: [2 k, *shape].

    An odd row points away from the even one, and its length is exceeded as often as that of the even one is not.
    """
    first = noise[::COPIES]
    square = first.flatten(1).square().sum(1, dtype=torch.float64)
    ratio = (opposite_square(square, first[0].numel()) / square).sqrt().to(noise.dtype)
    return torch.stack([first, -expand_sigma(ratio, first) * first], 1).flatten(0, 1)


def opposite_square(square: Tensor, elements: int) -> Tensor:
    """Return chi-square values which are exceeded as often as the given ones are not, [k].

    square: float64 [k], squared lengths of standard normal noise with so many elements.
    """
    # a chi-square variable is twice a gamma variable of this shape
    shape = elements / 2
    shapes = torch.full_like(square, shape)
    below = torch.special.gammaincc(shapes, square / 2)
    # the approximation of Wilson and Hilferty 1931 is the start of Halley's method
    normal = torch.special.ndtri(below.clamp(1e-15, 1 - 1e-15))
    root = 1 - 1 / (9 * shape) + normal / (3 * math.sqrt(shape))
    value = (shape * root**3).clamp_min(1e-300)
    for _ in range(_HALLEY_STEPS):
        density = ((shape - 1) * value.log() - value - math.lgamma(shape)).exp()
        newton = (torch.special.gammainc(shapes, value) - below) / density
        curved = newton / (1 - newton * ((shape - 1) / value - 1) / 2).clamp(0.5, 2)
        value = torch.where(curved < value, value - curved, value / 2)
    result: Tensor = 2 * value
    return result
