"""A target whose proposals follow the score of another model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.rows import for_rows, part_of
from edmfast.models.calling.foreign import energy_of
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.scores import check_model, denoised_from, has_energy, missing_energy, score_of


class ProposedBy(nn.Module):
    """The energy of a target with the score of another model, which the moves of a run then follow.

    The weights stay exact for the target; a mismatch of the two adds variance to them. Use it where the score of
    the target is expensive or rough: `smc.sample(targets.ProposedBy(target, model), ...)`.

    Args:
        target: an energy; it has energy_and_score(x [B, *shape], sigma) -> ([B], like x).
        model: an energy or a denoiser with the exponent of the target, by which proposals divide its score.

    Raises TypeError for a target without an energy or a model that is neither energy nor denoiser, and ValueError
    for different exponents. Source: Thornton et al. 2025, arXiv 2502.12786 (the weights hold for any score).
    """

    score_is_exact = False

    def __init__(self, target: Any, model: Any) -> None:
        super().__init__()
        if not has_energy(target):
            raise missing_energy(target)
        check_model(model)
        wanted, given = (
            torch.as_tensor(exponent_of(part)).double().cpu() for part in (target, model)
        )
        if given.numel() not in (1, wanted.numel()) or not bool((given == wanted).all()):
            raise ValueError(
                "the model of ProposedBy must have the target's exponent, which its drift is divided by: got "
                f"{given.tolist()} and {wanted.tolist()}"
            )
        self.target, self.proposal_model = target, model

    @property
    def exponent(self) -> Exponent:
        """The exponent A of the target: a float, or float64 [K]."""
        return exponent_of(self.target)

    def energy(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return U [B] of the target in nats; arguments as in `energy_and_score`."""
        return energy_of(self.target, x, sigma, **condition)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return U [B] of the target in nats, and S like x of the model.

        x: [B, *shape]. sigma: a float, [] or [B], in units of x. Where x requires grad only the score has a graph.
        """
        with torch.no_grad():
            energy = energy_of(self.target, x, sigma, **condition)
        return energy, score_of(self.proposal_model, x, sigma, **condition)

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x + sigma² S/A, like x, by the score of the model."""
        score = score_of(self.proposal_model, x, sigma, **condition)
        return denoised_from(self, x, sigma, score)

    def for_rows(self, start: int, stop: int, batch: int) -> ProposedBy:
        """Return this target for samples start..stop - 1 of a batch that is evaluated in pieces."""
        part: ProposedBy = part_of(self)
        part.target = for_rows(self.target, start, stop, batch)
        part.proposal_model = for_rows(self.proposal_model, start, stop, batch)
        return part


def weighed_parts(target: Any) -> Iterator[Any]:
    """Yield a target and the modules in it, without those that only a proposal follows."""
    yield target
    if isinstance(target, ProposedBy):
        yield from weighed_parts(target.target)
    elif isinstance(target, nn.Module):
        for child in target.children():
            yield from weighed_parts(child)
