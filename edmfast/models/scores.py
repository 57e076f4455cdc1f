"""What every target has in common, whether it is an energy or a mere denoiser: exponent, score, denoised state.

A target has energy_and_score(x [B, *shape], sigma) -> (U [B], S like x); a denoiser is any callable
model(x, sigma) -> x0 like x, as in k-diffusion. Both have an exponent A, 1 unless they say otherwise, with
D = x + sigma² S/A. A is a number, or float64 [K] with one for each of K equal runs of consecutive rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast.models.foreign import call_denoiser, call_energy
from edmfast.models.preconditioning import expand_sigma

Exponent = float | Tensor


def has_energy(model: Any) -> bool:
    """Whether energy_and_score works: the model's own `has_energy`, or else whether it has the method."""
    return bool(getattr(model, "has_energy", hasattr(model, "energy_and_score")))


def score_is_exact(model: Any) -> bool:
    """Whether the score is -grad U, unless the model says otherwise: what Langevin steps without an accept step
    rely on, while weights and accept steps correct for any score."""
    return bool(getattr(model, "score_is_exact", True))


def exponent_of(model: Any) -> Exponent:
    """A of the model: a float, or float64 [K]."""
    found = getattr(model, "exponent", 1.0)
    return found.double() if isinstance(found, Tensor) and found.dim() > 0 else float(found)


def score_of(model: Any, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
    """S(x, sigma) like x: of an energy, or A (D - x)/sigma² of a mere denoiser. sigma must be positive."""
    if has_energy(model):
        return call_energy(model, x, sigma, **condition)[1]
    denoised = call_denoiser(model, x, sigma, **condition)
    return column(exponent_of(model), x) / expand_sigma(sigma, x).square() * (denoised - x)


def denoised_from(model: Any, x: Tensor, sigma: float | Tensor, score: Tensor) -> Tensor:
    """x + sigma² S/A like x, of a score that is at hand."""
    return x + expand_sigma(sigma, x).square() / column(exponent_of(model), x) * score


def check_model(model: Any) -> Any:
    """The model itself. TypeError where it is neither an energy nor a denoiser."""
    if not has_energy(model) and not callable(model):
        raise TypeError(
            f"{type(model).__name__} has no energy_and_score and is no denoiser: a model must be an "
            "energy, or callable as model(x, sigma) -> x0"
        )
    return model


def needs_energy(model: Any) -> TypeError:
    """The error of who is asked for an energy that it has not."""
    return TypeError(
        f"{type(model).__name__} has no energy: distil its denoisers with edmfast.distill, or sample "
        "with the score-only law, which needs none"
    )


def per_row(numbers: Exponent, x: Tensor) -> float | Tensor:
    """Numbers [K] as [B] in the dtype of x, each for B/K consecutive rows of x; a float as it is."""
    if not isinstance(numbers, Tensor) or numbers.dim() == 0:
        return numbers
    rows, batch = len(numbers), x.shape[0]
    if rows == batch == 0:
        return numbers.to(device=x.device, dtype=x.dtype)
    if rows == 0 or batch % rows:
        raise ValueError(f"{rows} numbers do not divide a batch of {batch} rows")
    spread = numbers[:, None].expand(rows, batch // rows).reshape(batch)
    return spread.to(device=x.device, dtype=x.dtype)


def column(numbers: Exponent, x: Tensor) -> float | Tensor:
    """As `per_row`, [B, 1, ...] to be multiplied with x."""
    rows = per_row(numbers, x)
    if not isinstance(rows, Tensor) or rows.dim() == 0:
        return rows
    return rows.reshape(-1, *[1] * (x.dim() - 1))
