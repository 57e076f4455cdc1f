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
    """The denoiser of an exact mixture, without its energy."""

    exponent = 1.0

    def __init__(self, mixture: MixtureOfGaussians) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.mixture(x, sigma)

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

    def terms(self, *, energies: bool = False) -> Terms:
        """Return what the rivals take: plain denoisers, or energies."""
        models = self.models if energies else [PlainDenoiser(model) for model in self.models]
        return Terms(models, self.exponents)

    def target(self, *, energies: bool = False) -> Product:
        """Return what `smc.sample` takes: a product of plain denoisers, or of energies."""
        return Product([*self.terms(energies=energies).models], exponents=[*self.exponents])


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
