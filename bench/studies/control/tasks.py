"""The tasks of `bench.studies.control`: powers and a product of the exact mixture of the digits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bench.rivals.control import Terms
from edmfast import Product
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.smooth_digits import SIGMA_MAX, SIGMA_MIN, load_smooth_digits

__all__ = ["SIGMA_MAX", "SIGMA_MIN", "PlainDenoiser", "Task", "digit_tasks"]
PAIR = (2, 3)
"""Classes whose product has two modes of about equal masses, out of four."""


class PlainDenoiser(nn.Module):
    """The denoiser of an exact mixture, without its energy and its exact trace."""

    exponent = 1.0

    def __init__(self, mixture: MixtureOfGaussians) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.mixture(x, sigma)


class TracedDenoiser(PlainDenoiser):
    """The denoiser of an exact mixture, with the exact trace of its Jacobian."""

    def jacobian_trace(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.mixture.jacobian_trace(x, sigma)


@dataclass(frozen=True)
class Task:
    """The target prod_i p_i^(a_i) of exact mixtures p_i, at the noise level SIGMA_MIN."""

    name: str
    models: tuple[MixtureOfGaussians, ...]
    exponents: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.models[0].means.shape[1],)

    def terms(self, *, energies: bool = False, traces: bool = True) -> Terms:
        """Return what the rivals take: energies, or denoisers with or without exact traces."""
        denoiser = TracedDenoiser if traces else PlainDenoiser
        models = self.models if energies else [denoiser(model) for model in self.models]
        return Terms(models, self.exponents)

    def target(self, *, energies: bool = False, traces: bool = True) -> Product:
        """Return the same for `smc.sample`."""
        models = self.terms(energies=energies, traces=traces).models
        return Product([*models], exponents=[*self.exponents])


def digit_tasks() -> list[Task]:
    """Return p², p^1.25 and a product of two classes, of the mixture of the digits."""
    digits = load_smooth_digits()
    first, second = PAIR
    return [
        Task("p(x)^2", (digits,), (2.0,)),
        Task("p(x)^1.25", (digits,), (1.25,)),
        Task(
            f"p(x | {first}) p(x | {second})",
            (digits.conditional(first), digits.conditional(second)),
            (1.0, 1.0),
        ),
    ]
