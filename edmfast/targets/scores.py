"""What every target has in common, whether it is an energy or a mere denoiser: exponent, score, denoised state.

A target has energy_and_score(x [B, *shape], sigma) -> (U [B], S like x); a denoiser is any callable
model(x, sigma) -> x0 like x, as in k-diffusion. Both have an exponent A, 1 unless they say otherwise, with
D = x + sigma² S/A. A is a number, or float64 [K] with one for each of K equal runs of consecutive rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edmfast.models.calling.foreign import call_denoiser, call_energy, name_of
from edmfast.models.preconditioning import expand_sigma, refuse_zero

Exponent = float | Tensor


def has_energy(model: Any) -> bool:
    """Whether energy_and_score works: the model's own `has_energy`, or else whether it has the method."""
    return bool(getattr(model, "has_energy", hasattr(model, "energy_and_score")))


def score_is_exact(model: Any) -> bool:
    """Return whether the score is -grad U: what a model says, or else what all that it is made of say.

    Langevin steps without an accept step rely on it, while weights and accept steps correct for any score. A
    foreign wrapper is looked into: its modules, and what an object or a sequence among its attributes says.
    """
    if hasattr(model, "score_is_exact"):
        return bool(model.score_is_exact)
    if isinstance(model, nn.Module):
        inside: list[Any] = [part for part in model.modules() if part is not model]
    else:
        inside = []
    for value in (*getattr(model, "__dict__", {}).values(), getattr(model, "__self__", None)):
        inside += value if isinstance(value, (list, tuple)) else [value]
    return all(bool(getattr(part, "score_is_exact", True)) for part in inside)


def exponent_of(model: Any) -> Exponent:
    """Return A of the model: a float, or float64 [K]. ValueError for a tensor of more dimensions."""
    found = getattr(model, "exponent", 1.0)
    if not isinstance(found, Tensor) or found.dim() == 0:
        return float(found)
    if found.dim() > 1:
        raise ValueError(
            f"the exponent of {name_of(model)} must be a number or a tensor [K], given {[*found.shape]}"
        )
    return found.double()


def score_of(model: Any, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
    """S(x, sigma) like x: of an energy, or A (D - x)/sigma² of a mere denoiser. sigma must be positive."""
    if has_energy(model):
        return call_energy(model, x, sigma, **condition)[1]
    refuse_zero(model, sigma)
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
