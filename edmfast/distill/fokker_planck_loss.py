"""The Fokker–Planck residual of an energy as a training loss.

The residual of u = -E at noise level sigma is R = du/dsigma - sigma (tr(grad² u) + |grad u|²), in nats per unit of
sigma. The loss is

    mean over noise levels of Cov(r_1, r_2)/d,    r_j = (sigma²/sigma_data) R_j,

over the states of a level, with d the number of elements of a sample.

- sigma²/sigma_data turns R into units of the potential f, since E contains -(sigma_data/sigma) f. In the same
  units the denoising loss is the squared error of grad f per element, so both weigh the noise levels alike.
- A covariance leaves out the constant of each noise level and class, which an energy is free to choose.
- R_1 and R_2 estimate the trace by independent probes of signs (Hutchinson 1990). A variance of one estimate would
  contain the variance of its probe, and training would make the Hessian diagonal to reduce that. The covariance of
  two estimates has the variance of R as its expectation. So single values of the loss may be negative.

The slope du/dsigma is a derivative by autograd through sigma. The trace comes from differences of the score,
v·(score(x + h v) - score(x))/h with h = sigma/100: an exact derivative would make the parameter gradient a third
derivative, which attention and normalisation do not have. The error of the difference is odd in v, so that it has
mean zero. Dropout and autocast do not act on this loss, since a difference would magnify their noise. Compare
`bench/studies/fokker_planck` for the accuracy and the cost of both choices.

Sources: Lai et al. 2023, arXiv 2210.04296 (the residual as a regulariser); Deveney et al. 2023, arXiv 2311.15996
(less residual brings the samples of the ODE and of the SDE together, and may make those of the SDE worse).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast.distill.covariance import covariance_within
from edmfast.models.calling.foreign import energy_of
from edmfast.models.calling.origin import name_of
from edmfast.models.fokker_planck import fokker_planck_residual
from edmfast.models.patching.dropout import without_dropout
from edmfast.models.preconditioning import expand_sigma

_STEP = 1e-2
"""The step h of the differences in units of sigma."""


def fokker_planck_loss(student: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss [] of a student with an energy and a sigma_data.

    batch: fokker_planck_x [K, m, *shape], m states at each of K levels; fokker_planck_sigma [K];
    fokker_planck_probe [K, m, 2, *shape], two probes of signs for each state; with labels fokker_planck_label
    int64 [K, m].

    Raises ValueError where the energy has no derivative with respect to sigma.
    """
    states, levels = batch["fokker_planck_x"], batch["fokker_planck_sigma"]
    label = batch.get("fokker_planck_label")
    condition = {} if label is None else {"class_label": label.flatten()}
    sigma = levels[:, None].expand(states.shape[:2]).flatten()
    probes = batch["fokker_planck_probe"].flatten(0, 1).unbind(1)
    # differences of scores need all digits of the student's dtype, and one network for all points
    with torch.autocast(states.device.type, enabled=False), without_dropout():
        residuals = residual_estimates(student, states.flatten(0, 1), sigma, probes, condition)
    sigma_data: float = student.sigma_data
    first, second = ((sigma.square() / sigma_data * r).view(states.shape[:2]) for r in residuals)
    return covariance_within(first, second, label).mean() / states[0, 0].numel()


def residual_estimates(
    student: Any,
    x: Tensor,
    sigma: Tensor,
    probes: tuple[Tensor, ...],
    condition: dict[str, Any],
) -> list[Tensor]:
    """Return one estimate of R [B] for each probe, with a graph in the parameters.

    x: [B, *shape]. sigma: [B]. probes: independent signs, each like x. The estimates share all but the trace.
    """
    size, count = len(x), 1 + len(probes)
    step = _STEP * expand_sigma(sigma, x)
    # all states go through the network as one batch
    points = torch.cat([x, *(x + step * probe for probe in probes)]).detach().requires_grad_()
    levels = sigma.repeat(count).detach().requires_grad_()
    repeated = {name: value.repeat(count) for name, value in condition.items()}
    energy = energy_of(student, points, levels, **repeated)
    slopes: Tensor | None
    slopes, gradient = torch.autograd.grad(
        energy.sum(), (levels, points), create_graph=True, allow_unused=True
    )
    if slopes is None:
        raise ValueError(
            f"fokker_planck_weight > 0 needs an energy with a derivative with respect to sigma, which the one of "
            f"{name_of(student)} has not"
        )
    score, *shifted = (-gradient).split(size)
    slope = -slopes[:size]
    estimates = []
    for probe, other in zip(probes, shifted, strict=True):
        trace = ((other - score) / step * probe).flatten(1).sum(1)
        estimates.append(fokker_planck_residual(slope, score, trace, sigma))
    return estimates
