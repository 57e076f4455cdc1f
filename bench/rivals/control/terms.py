"""The target prod_i p_i^(a_i) as the rivals see it: scores, energies and traces, with a count of what they cost.

Costs are counted as a network would pay them, one for each model: a score is a forward, an energy with its score
is a forward and a vector–Jacobian product (vjp), and a trace is one vjp for each probe. An exact trace, which only
an analytic model has, counts as one vjp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edmfast.targets.scores import has_energy, score_of


@dataclass
class Terms:
    """Models with their exponents a_i, whose sum is positive. States are x [P, N, *shape]."""

    models: Sequence[Any]
    exponents: Sequence[float]
    forwards: int = field(default=0, init=False)
    vjps: int = field(default=0, init=False)

    @property
    def total(self) -> float:
        """A, the sum of the exponents."""
        return float(sum(self.exponents))

    def log_z_of_start(self, sigma: float, elements: int) -> float:
        """Return the log of the integral of prod_i N(x; 0, sigma² I)^(a_i), in nats.

        It stands for log Z at the first level, where all models are close to that Gaussian.
        """
        rest = (self.total - 1) * math.log(2 * math.pi * sigma**2) + math.log(self.total)
        return -elements / 2 * rest

    def scores(self, x: Tensor, sigma: float) -> Tensor:
        """Return the scores [M, P, N, *shape] of all models."""
        self.forwards += len(self.models)
        rows = x.flatten(0, 1)
        with torch.no_grad():
            return torch.stack([score_of(model, rows, sigma).view_as(x) for model in self.models])

    def combined(self, values: Tensor) -> Tensor:
        """Return sum_i a_i values_i from values [M, ...]."""
        weights = values.new_tensor(self.exponents)
        return torch.tensordot(weights, values, 1)

    def energy_and_score(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return U [B] and S like x, for rows x [B, *shape] at the levels [B]. The caller counts its cost.

        Raises TypeError for a model without an energy.
        """
        for model in self.models:
            if not has_energy(model):
                name = getattr(type(model), "__name__", "a model")
                raise TypeError(f"this law needs energies, but {name} has none")
        with torch.no_grad():
            pairs = [model.energy_and_score(x, sigma) for model in self.models]
        energies, scores = zip(*pairs, strict=True)
        return self.combined(torch.stack(energies)), self.combined(torch.stack(scores))

    def scores_and_traces(
        self, x: Tensor, sigma: float, probes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the scores [M, P, N, *shape] and tr grad s_i [M, P, N].

        probes: Rademacher probes of each trace, 0 for the exact trace of `jacobian_trace`.
        """
        if probes:
            return self._probed(x, sigma, probes, generator)
        self.vjps += len(self.models)
        rows, elements = x.flatten(0, 1), math.prod(x.shape[2:])
        jacobian = torch.stack([model.jacobian_trace(rows, sigma) for model in self.models])
        traces = (jacobian.double() - elements) / sigma**2
        return self.scores(x, sigma), traces.view(-1, *x.shape[:2])

    def _probed(
        self, x: Tensor, sigma: float, probes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.forwards += len(self.models)
        self.vjps += probes * len(self.models)
        rows = x.flatten(0, 1)
        scores: list[Tensor] = []
        traces: list[Tensor] = []
        signs = torch.randint(0, 2, (probes, *rows.shape), generator=generator).to(x) * 2 - 1
        with torch.enable_grad():
            for model in self.models:
                leaf = rows.detach().requires_grad_()
                score = score_of(model, leaf, sigma)
                products = [
                    torch.autograd.grad(score, leaf, v, retain_graph=True)[0] for v in signs
                ]
                traces.append((torch.stack(products) * signs).flatten(2).sum(2).mean(0))
                scores.append(score.detach().view_as(x))
        return torch.stack(scores), torch.stack(traces).double().view(-1, *x.shape[:2])
