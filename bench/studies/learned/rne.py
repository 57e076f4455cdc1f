"""The regulariser of RNE on a student's own energy and score, reconstructed from its formula.

He et al. 2025 (arXiv 2506.05668) train energies with a consistency loss: along a noising step s > u the student's
energies and the reversal made from its own score must give the same ratio of path densities,

  r = -(E(x_u, u) - E(x_s, s)) - [log q(x_u | x_s) - log N(x_s; x_u, tau² I)] = 0.

These are assumptions of ours. q is Gaussian with the mean of the student's score, x_s + tau² score(x_s), and the
variance of the reversal of a reference Gaussian of width sigma_data, kappa tau² with
kappa = (u² + sigma_data²)/(s² + sigma_data²), for which the ratio is exact at every step size. The loss is the
variance of r over a batch at a shared step, so that gauges drop out. No gradient flows through the score: the
energy follows the score, which the denoising loss trains. The pairs (x_u, x_s) and their levels are those of the
energy-difference loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edmfast.distill import DistillConfig
from edmfast.distill.batch import Batch, BatchMaker
from edmfast.distill.data import TensorData
from edmfast.distill.gradients import gradient_function
from edmfast.distill.loss import denoising_loss, difference_loss
from edmfast.distill.path_values import reversal_log_ratio
from edmfast.distill.state import RunState
from edmfast.models import EnergyModel


class _Loss(nn.Module):
    def __init__(self, student: EnergyModel, weight: float) -> None:
        super().__init__()
        self.student, self.weight = student, weight

    def forward(self, batch: Batch) -> Tensor:
        """Return the denoising loss plus the weighted regulariser, []."""
        start, to = batch["pair_from"][0], batch["pair_to"][0]
        s, u = batch["pair_sigma_from"][0], batch["pair_sigma_to"][0]
        with torch.no_grad():
            denoised = self.student(start, s)
            width = self.student.sigma_data**2
            kappa = (u.square() + width) / (s.square() + width)
            # this trace gives that kappa
            trace = 1 + (kappa - 1) * s.square() / (s.square() - u.square())
            target = reversal_log_ratio(start, to, s, u, denoised, trace)
        batch = {**batch, "pair_target": target[None]}
        return denoising_loss(self.student, batch) + self.weight * difference_loss(
            self.student, batch
        )


def train_with_rne(
    student: EnergyModel, teacher: nn.Module, draws: Tensor, config: DistillConfig, weight: float
) -> EnergyModel:
    """Return the student after config.steps steps with the regulariser, with its averaged weights."""
    pairs = DistillConfig(**{**vars(config), "difference_weight": 1.0})
    make_batch = BatchMaker(TensorData(draws, None, 0), teacher, pairs)
    state = RunState(student, [*draws.shape], pairs)
    named = {f"student.{name}": p for name, p in state.trained.items()}
    gradients = gradient_function(_Loss(student, weight), named, compile=False)
    student.train()
    for step in range(config.steps):
        state.record(*gradients(make_batch(step)))
        state.update()
    state.use_ema()
    return student.eval()
