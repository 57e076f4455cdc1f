"""A target whose proposals follow the score of another model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.rows import for_rows, part_of
from edmfast.models.calling.foreign import energy_of
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.protocols import Model, Target
from edmfast.targets.scores import check_model, denoised_from, has_energy, missing_energy, score_of


class ProposedBy(nn.Module):
    """A target with the energy of one target and the score of another model, which the moves of a run follow.

    The weights stay exact for the target. A mismatch between its energy and the score adds variance to them. Use
    it where the score of the target is expensive or rough: `smc.sample(targets.ProposedBy(target, model), ...)`.
    Source: Thornton et al. 2025, arXiv 2502.12786 (the weights hold for any score).

    Args:
        target: a target with an energy.
        model: a target or a plain denoiser with the same exponent, because proposals divide its score by it.

    Raises:
        TypeError: a target without an energy, or a model that is neither a target nor a denoiser.
        ValueError: a model with another exponent than the target.
    """

    score_is_exact = False

    def __init__(self, target: Target, model: Model) -> None:
        super().__init__()
        if not has_energy(target):
            raise missing_energy(target)
        check_model(model)
        # Both may be on different devices until the target is moved to one.
        target_exponent, model_exponent = (
            torch.as_tensor(exponent_of(part)).double().cpu() for part in (target, model)
        )
        # Comparison would broadcast exponents of other lengths without an error.
        fits = model_exponent.numel() in (1, target_exponent.numel())
        if not fits or not bool((model_exponent == target_exponent).all()):
            raise ValueError(
                "the model of ProposedBy must have the target's exponent, because proposals divide its score by "
                f"it: given {model_exponent.tolist()} for the model and {target_exponent.tolist()} for the target"
            )
        self.target, self.proposal_model = target, model

    @property
    def exponent(self) -> Exponent:
        """The exponent A of the target: a float, or float64 [K]."""
        return exponent_of(self.target)

    def energy(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the energy U [B] of the target in nats. x: [B, *shape]. sigma: a float, [] or [B], positive."""
        return energy_of(self.target, x, sigma, **condition)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the energy of the target and the score of the model.

        Only the score has a graph where x requires grad; for the energy's derivatives use `energy`.

        Args:
            x: the states [B, *shape].
            sigma: the noise levels in units of x, positive: a float, [] or [B].
            condition: keyword conditions, passed to both.

        Returns:
            (U [B] in nats, S like x).
        """
        # Steps of a run compare energies and never differentiate them, so a graph would only cost memory.
        with torch.no_grad():
            energy = energy_of(self.target, x, sigma, **condition)
        return energy, score_of(self.proposal_model, x, sigma, **condition)

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x + sigma² S/A, like x, from the score of the model."""
        score = score_of(self.proposal_model, x, sigma, **condition)
        return denoised_from(self, x, sigma, score)

    def for_rows(self, start: int, stop: int, batch: int) -> ProposedBy:
        """Return this target for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        part: ProposedBy = part_of(self)
        part.target = for_rows(self.target, start, stop, batch)
        part.proposal_model = for_rows(self.proposal_model, start, stop, batch)
        return part


def weighed_target(target: Any) -> Any:
    """Return the target whose energy gives the weights: that of a `ProposedBy`, else the target itself."""
    while isinstance(target, ProposedBy):
        target = target.target
    return target


def weighed_parts(target: Any) -> Iterator[Any]:
    """Yield a target and the modules in it, without the modules of a model that only proposals follow."""
    yield target
    # The score of the other model does not enter the weights, so its checks of levels and gauges do
    # not apply.
    if isinstance(target, ProposedBy):
        yield from weighed_parts(target.target)
    elif isinstance(target, nn.Module):
        for child in target.children():
            yield from weighed_parts(child)
