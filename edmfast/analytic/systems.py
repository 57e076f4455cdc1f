"""Particle systems of the sampling literature, with energies and scores that are known without noise only.

x is [B, particles, dimensions], or [B, *shape] with as many numbers in that order. With d_ij = |x_i - x_j|:
  DoubleWellPairs:  E = (1/tau) sum_{i<j} [a (d_ij - d_0) + b (d_ij - d_0)² + c (d_ij - d_0)⁴];
  LennardJones:     E = (1/tau) sum_{i<j} eps [(r_m/d_ij)¹² - 2 (r_m/d_ij)⁶] + (k/2) sum_i |x_i - centre|².
Energies are in nats, and invariant under rotations, reflections and permutations. With centre_std=None they are
also invariant under translations, and exp(-E) is a density of centred configurations, which have
(particles - 1) dimensions numbers. With a centre_std the centre is one more independent Gaussian,
E + |centre|²/(2 centre_std²), and exp(-E) is a density on the whole space. Energies with `PairwiseMLP` are of that
kind, with centre_std = sigma_data/sqrt(particles) before noise. The convolution with noise has no closed form, so
these are targets at sigma = 0 only.

Every pair counts once here. So eps = 2 is the LJ13 of Akhound-Sadegh et al., whose sum takes each pair in both
orders: a droplet of mean energy -43. The formula of Köhler et al. with eps = 1 is a gas of mean energy 0.5.
Sources: Köhler et al. 2020, arXiv 2006.02425 (the systems and the constants of DW4); Akhound-Sadegh et al. 2024,
arXiv 2402.06121 (LJ13 as it is sampled today).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edmfast._internal.derivatives import is_recorded
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int
from edmfast.models.preconditioning import expand_sigma


class ParticleSystem(nn.Module):
    """The base of both systems: a sum over pairs of a function of their distance. A target with exponent 1.

    Args:
        particles: number of particles, at least 2.
        dimensions: numbers per particle, at least 1.
        tau: the temperature, positive.
        trap: strength of the harmonic trap around the centre.
        centre_std: standard deviation of the centre in the units of x, or None.

    Raises:
        ValueError: values outside these ranges.
    """

    exponent = 1.0
    _first: torch.Tensor
    _second: torch.Tensor

    def __init__(
        self, particles: int, dimensions: int, tau: float, trap: float, centre_std: float | None
    ) -> None:
        super().__init__()
        self.particles = particles = as_int("particles", particles, least=2)
        self.dimensions = as_int("dimensions", dimensions, least=1)
        self.tau = as_float("tau", tau, positive=True)
        self.trap = as_float("trap", trap)
        self.centre_std = None
        if centre_std is not None:
            self.centre_std = as_float("centre_std", centre_std, positive=True)
            check_level("centre_std", self.centre_std)
        # each pair appears once
        first, second = torch.triu_indices(particles, particles, 1)
        self.register_buffer("_first", first, persistent=False)
        self.register_buffer("_second", second, persistent=False)

    def pair(self, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (energy of a pair times tau, its derivative), each like distance."""
        raise TypeError(f"{type(self).__name__} must define the method pair, the energy of a pair")

    def distances(self, x: torch.Tensor) -> torch.Tensor:
        """Return |x_i - x_j| for all pairs i < j, [B, particles (particles - 1)/2], in the units of x."""
        return self._offsets(self._positions(x)).square().sum(2).sqrt()

    def energy(self, x: torch.Tensor, sigma: float | torch.Tensor = 0.0) -> torch.Tensor:
        """Return E [B] in nats; see `energy_and_score` for x, sigma and errors."""
        return self.energy_and_score(x, sigma)[0]

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (E [B] in nats, forces -grad E like x), differentiable where x requires grad.

        Args:
            x: [B, particles, dimensions], or [B, *shape] of as many numbers in that order.
            sigma: 0 only.

        Raises:
            ValueError: another sigma, or another shape.
        """
        shaped = isinstance(sigma, torch.Tensor) and sigma.dim() > 0
        if shaped or as_float("sigma", sigma) != 0:
            raise ValueError(
                f"the energy is known without noise only, so sigma must be 0, given sigma={sigma}"
            )
        with torch.set_grad_enabled(is_recorded(x)):
            positions = self._positions(x)
            offsets = self._offsets(positions)
            distance = offsets.square().sum(2).sqrt()
            value, slope = self.pair(distance)
            pull = (slope / (distance * self.tau))[:, :, None] * offsets
            score = torch.zeros_like(positions)
            # the forces of a pair are opposite, so that the centre feels none
            score = score.index_add(1, self._first, -pull).index_add(1, self._second, pull)
            energy = value.sum(1) / self.tau
            # the trap acts on the distances from the centre, not from the origin
            centre = positions.mean(1, keepdim=True)
            energy = energy + 0.5 * self.trap * (positions - centre).square().flatten(1).sum(1)
            score = score - self.trap * (positions - centre)
            if self.centre_std is not None:
                variance = self.centre_std**2
                energy = energy + 0.5 * centre.square().flatten(1).sum(1) / variance
                score = score - centre / (self.particles * variance)
            return energy, score.reshape(x.shape)

    def _positions(self, x: torch.Tensor) -> torch.Tensor:
        # this call checks the dtype and the dimensions of x
        expand_sigma(0.0, x)
        n, dimensions = self.particles, self.dimensions
        if math.prod(x.shape[1:]) != n * dimensions:
            raise ValueError(
                f"x must be [B, {n}, {dimensions}] or [B, {n * dimensions}], given {[*x.shape]}"
            )
        return x.reshape(-1, n, dimensions)

    def _offsets(self, positions: torch.Tensor) -> torch.Tensor:
        return positions.index_select(1, self._first) - positions.index_select(1, self._second)


class DoubleWellPairs(ParticleSystem):
    """A system of particles with a double well in each pair distance, around d_0 = offset. The default is DW4.

    The pair energy is a r + b r² + c r⁴ with r = d_ij - offset, in nats times tau.

    Source: Köhler et al. 2020, arXiv 2006.02425.

    Args:
        particles: number of particles, at least 2.
        dimensions: numbers per particle, at least 1.
        a: the linear constant of the pair energy.
        b: the quadratic constant.
        c: the quartic constant.
        offset: d_0, in the units of x.
        tau: the temperature, positive.
        centre_std: standard deviation of the centre in the units of x, or None.

    Raises:
        ValueError: values outside these ranges.
    """

    def __init__(
        self,
        particles: int = 4,
        dimensions: int = 2,
        *,
        a: float = 0.0,
        b: float = -4.0,
        c: float = 0.9,
        offset: float = 4.0,
        tau: float = 1.0,
        centre_std: float | None = None,
    ) -> None:
        super().__init__(particles, dimensions, tau, 0.0, centre_std)
        self.a, self.b = as_float("a", a), as_float("b", b)
        self.c, self.offset = as_float("c", c), as_float("offset", offset)

    def pair(self, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (energy of a pair times tau, its derivative), each like distance."""
        r = distance - self.offset
        square = r.square()
        value = r * self.a + square * (self.b + self.c * square)
        return value, self.a + r * (2 * self.b + 4 * self.c * square)


class LennardJones(ParticleSystem):
    """A Lennard-Jones cluster in a harmonic trap of strength k = trap around its own centre. The default is LJ13.

    Configurations in which two particles nearly coincide have an infinite energy in float32, so their weight is 0.

    Sources: Köhler et al. 2020, arXiv 2006.02425; Akhound-Sadegh et al. 2024, arXiv 2402.06121.

    Args:
        particles: number of particles, at least 2.
        dimensions: numbers per particle, at least 1.
        eps: depth of the pair potential, in nats times tau.
        r_m: the distance of its minimum, in the units of x.
        trap: strength k of the trap, in nats per squared unit of x.
        tau: the temperature, positive.
        centre_std: standard deviation of the centre in the units of x, or None.

    Raises:
        ValueError: values outside these ranges.
    """

    def __init__(
        self,
        particles: int = 13,
        dimensions: int = 3,
        *,
        eps: float = 2.0,
        r_m: float = 1.0,
        trap: float = 1.0,
        tau: float = 1.0,
        centre_std: float | None = None,
    ) -> None:
        super().__init__(particles, dimensions, tau, trap, centre_std)
        self.eps, self.r_m = as_float("eps", eps), as_float("r_m", r_m)

    def pair(self, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (energy of a pair times tau, its derivative), each like distance."""
        # one power serves both terms of the energy and of its derivative
        sixth = (self.r_m / distance).pow(6)
        value = self.eps * sixth * (sixth - 2)
        return value, -12 * self.eps * sixth * (sixth - 1) / distance
