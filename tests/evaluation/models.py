"""Models for the tests of evaluations: an exact mixture, and wrappers that hide or change parts of it."""

from __future__ import annotations

import torch

from edmfast.analytic import MixtureOfGaussians
from tests.mixtures import mixture

DIM = 4


def exact(classes=None) -> MixtureOfGaussians:
    """Return a mixture of three Gaussians in four dimensions, with a spread of about 1.2."""
    return mixture(3, DIM, seed=2, classes=classes)


class Gauged:
    """The mixture as a foreign energy, with another constant at each level, and without its log-density.

    tilt: the energy has the error tilt <x, e_1>, which the score does not have. traced: it has exact traces.
    """

    def __init__(self, base, tilt=0.0, traced=False, shape=None):
        self.base, self.tilt, self.shape = base, tilt, shape
        if traced:
            self.jacobian_trace = base.jacobian_trace

    def __call__(self, x, sigma, **condition):
        self._check(x)
        return self.base(x, sigma, **condition)

    def energy_and_score(self, x, sigma, **condition):
        self._check(x)
        energy, score = self.base.energy_and_score(x, sigma, **condition)
        gauge = 3 + torch.as_tensor(sigma, dtype=x.dtype).log()
        if "class_label" in condition:
            gauge = gauge + condition["class_label"]
        return energy + gauge + self.tilt * x.flatten(1)[:, 0], score

    def _check(self, x):
        assert self.shape is None or tuple(x.shape[1:]) == self.shape, x.shape


class Turned:
    """The denoiser of the mixture with a part that is no gradient: the score gains turn J x, J antisymmetric."""

    def __init__(self, base, turn):
        self.base = base
        self.turn = torch.zeros(DIM, DIM, dtype=torch.float64)
        self.turn[0, 1], self.turn[1, 0] = turn, -turn

    def __call__(self, x, sigma):
        return self.base(x, sigma) + sigma[:, None] ** 2 * (x @ self.turn.to(x))
