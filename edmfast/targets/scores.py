"""Functions that every target shares, for energies and plain denoisers alike: score, denoised states, checks.

A target has energy_and_score(x [B, *shape], sigma) -> (U [B], S like x). A denoiser is any callable
model(x, sigma) -> x0 like x, as in k-diffusion. Score and denoised states D determine each other by
D = x + sigma² S/A, with the exponent A of the model (see `edmfast.targets.exponents`).
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from edmfast._internal.broadcast import row_factors
from edmfast.models.calling.foreign import call_denoiser, call_energy
from edmfast.models.level_table import of_level
from edmfast.models.preconditioning import expand_sigma, noise_levels, refuse_zero
from edmfast.targets.exponents import exponent_of
from edmfast.targets.protocols import Model

M = TypeVar("M", bound=Model)


def has_energy(model: Model) -> bool:
    """Return whether energy_and_score works: the model's own `has_energy`, or else whether it has the method."""
    return bool(getattr(model, "has_energy", hasattr(model, "energy_and_score")))


def score_is_exact(model: Model) -> bool:
    """Return whether the score is -grad U, as the model says itself or else as all of its parts say.

    Langevin steps without an accept step rely on it, while weights and accept steps correct for any score. The
    parts of a foreign wrapper are its modules and the objects and sequences among its attributes.
    """
    if hasattr(model, "score_is_exact"):
        return bool(model.score_is_exact)
    if isinstance(model, nn.Module):
        parts: list[Any] = [part for part in model.modules() if part is not model]
    else:
        parts = []
    # A bound method is a denoiser too, and its object tells whether the score is exact.
    for value in (*getattr(model, "__dict__", {}).values(), getattr(model, "__self__", None)):
        parts += value if isinstance(value, (list, tuple)) else [value]
    return all(bool(getattr(part, "score_is_exact", True)) for part in parts)


def score_of(model: Model, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
    """Return S(x, sigma) like x: the score of an energy, or A (D - x)/sigma² of a plain denoiser.

    sigma: a float, [] or [B]; it must be positive.
    """
    if has_energy(model):
        return call_energy(model, x, sigma, **condition)[1]
    # At sigma = 0 the quotient (D - x)/sigma² would be NaN or infinite.
    refuse_zero(model, sigma)
    denoised = call_denoiser(model, x, sigma, **condition)
    return score_scale(model, x, sigma) * (denoised - x)


def score_scale(model: Model, x: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the factor A/sigma² of D - x in a denoiser's score, [B, 1, ...], or [1, 1, ...] for one level."""
    exponent, levels = exponent_of(model), noise_levels(x, sigma)
    if not isinstance(exponent, Tensor):
        a = exponent
        prepared = of_level((levels,), ("score", a), (), lambda rows: (a / rows.square(),))
        if prepared is not None:
            return prepared[0]
    return row_factors(exponent, x) / levels.square()


def denoised_from(model: Model, x: Tensor, sigma: float | Tensor, score: Tensor) -> Tensor:
    """Return the denoised states x + sigma² S/A like x, given the score S and a model that has the exponent A."""
    return x + expand_sigma(sigma, x).square() / row_factors(exponent_of(model), x) * score


def check_model(model: M) -> M:
    """Return the model itself. Raises TypeError where it is neither an energy nor a denoiser."""
    # a class can be called too, and has the methods of its instances
    if isinstance(model, type):
        raise TypeError(f"pass an instance of {model.__name__}, not the class")
    if not has_energy(model) and not callable(model):
        raise TypeError(
            f"{type(model).__name__} has no energy_and_score and is no denoiser: a model must be an "
            "energy, or callable as model(x, sigma) -> x0"
        )
    return model


def missing_energy(model: Model) -> TypeError:
    """Return the error to raise where an energy is requested from a model that has none."""
    return TypeError(
        f"{type(model).__name__} has no energy: distil its denoisers with edmfast.distill, or weigh a power, "
        "product or guidance of them with smc.sample(..., weights='reversal') or weights='score', without energies"
    )
