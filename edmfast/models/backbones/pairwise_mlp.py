"""PairwiseMLP: a residual perceptron over the pairs of a system of particles, which sees only distances.

Each pair i < j has a state s of `width` numbers, the same for (i, j) and (j, i):
  s = W_in e(|y_i - y_j|) + b,  s <- s + silu(W_l s + V_l (a_i + a_j) + e_l).
Here e are the features of `DistanceFeatures`, a_i is the mean of s over the pairs of particle i, and the shifts
e_l come from noise level and class. Each pair gives one number φ_ij = w s + c, and the output is
h_i = (1/n) Σ_j φ_ij (y_i - y_j). The inner-product potential <h, y> = (1/n) Σ_{i<j} φ_ij |y_i - y_j|² is then
invariant under translations, rotations and reflections in any dimension, and under permutations of the particles.
Through a_i the state of a pair depends on other pairs, so that the energy is more than a sum over pairs. w and c
start at zero, so that it starts as the exact Gaussian one. The network is infinitely differentiable, also where
particles coincide.

The Gaussian part |x|²/(2 (sigma² + sigma_data²)) of an energy does depend on the centre of mass: the centre is
one more independent Gaussian of variance (sigma² + sigma_data²)/n per dimension. Data whose centre is removed lack
it. To train on such data, add to each sample one normal shift of standard deviation sigma_data/sqrt(n), common to
its particles, which makes that Gaussian exact; and remove the centre from the states that are sampled.

Sources: Köhler et al. 2020, arXiv 2006.02425 (such fields, and the systems DW4 and LJ13); Satorras et al.
2021, arXiv 2102.09844 (EGNN, where states come from distances; here positions move only once, at the end).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from edmfast._internal.batch_invariant import padding
from edmfast._internal.numbers import as_float, as_int
from edmfast._internal.rows import per_sample, rows_of
from edmfast.models.backbones.activation import silu
from edmfast.models.backbones.distance_features import DistanceFeatures, differences
from edmfast.models.backbones.embedding import Embedding, as_classes
from edmfast.models.backbones.linear import Linear


class PairwiseMLP(nn.Module):
    """A perceptron over pairs of identical particles, equivariant under rotations, reflections and translations.

    `PairwiseMLP(**PairwiseMLP.PRESETS["DW4"])` has the size of the networks that Akhound-Sadegh et al. 2024
    (arXiv 2402.06121) use for that system: DW4 or LJ13. The work is O(particles² width²) per layer and sample.

    Sources: Köhler et al. 2020, arXiv 2006.02425; Satorras et al. 2021, arXiv 2102.09844.

    Args:
        particles: number of particles, at least 2.
        dimensions: numbers per particle.
        width: numbers in the state of a pair.
        depth: number of residual layers.
        num_classes: the number of classes that class_label distinguishes, or None for no labels.
        features: features per distance, at least 2.
        longest: the distance up to which the features distinguish, in the units of the scaled states y, whose
            numbers have a standard deviation of about 1.
        embedding_width: numbers of the embedding of noise level and class.

    Raises:
        ValueError: sizes below these limits.
    """

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        "DW4": {"particles": 4, "dimensions": 2, "width": 128, "depth": 3},
        "LJ13": {"particles": 13, "dimensions": 3, "width": 128, "depth": 5},
    }
    _members: torch.Tensor
    _pair_of: torch.Tensor

    def __init__(
        self,
        particles: int,
        dimensions: int,
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        features: int = 32,
        longest: float = 6.0,
        embedding_width: int = 64,
    ) -> None:
        super().__init__()
        particles = as_int("particles", particles, least=2)
        dimensions = as_int("dimensions", dimensions, least=1)
        width, depth = as_int("width", width, least=1), as_int("depth", depth, least=1)
        num_classes, features = as_classes(num_classes), as_int("features", features, least=2)
        longest = as_float("longest", longest, positive=True)
        embedding_width = as_int("embedding_width", embedding_width, least=1)
        self.config: dict[str, Any] = {
            "particles": particles,
            "dimensions": dimensions,
            "width": width,
            "depth": depth,
            "num_classes": num_classes,
            "features": features,
            "longest": longest,
            "embedding_width": embedding_width,
        }
        self.particles, self.dimensions, self.num_classes = particles, dimensions, num_classes
        self.distances = DistanceFeatures(particles, features, longest)
        first, second = self.distances.pairs.unbind(1)
        order = torch.arange(len(first))
        # row i of this matrix sums over the pairs of particle i
        members = torch.zeros(particles, len(first))
        members[first, order] = members[second, order] = 1.0
        # a particle has no pair with itself; any entry serves, since its difference is zero
        pair_of = torch.zeros(particles, particles, dtype=torch.int64)
        pair_of[first, second] = pair_of[second, first] = order
        self.register_buffer("_members", members, persistent=False)
        self.register_buffer("_pair_of", pair_of.flatten(), persistent=False)
        self.embedding = Embedding(embedding_width, num_classes)
        self.shifts = Linear(embedding_width, depth * width)
        self.input = Linear(features, width)
        self.layers = nn.ModuleList(Linear(width, width, bias=False) for _ in range(depth))
        self.mixing = nn.ModuleList(Linear(width, width, bias=False) for _ in range(depth))
        self.output = Linear(width, 1)
        # zero pair numbers make the energy start as the Gaussian one
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, y: torch.Tensor, c_noise: torch.Tensor, class_label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a tensor like y.

        Args:
            y: [B, particles, dimensions], or [B, *shape] with as many numbers in that order; scaled states.
            c_noise: [B], ln(sigma)/4.
            class_label: int64 [B], or None for "unconditional".

        Raises:
            ValueError: a y of another shape, or labels out of range.
        """
        n, dimensions = self.particles, self.dimensions
        if math.prod(y.shape[1:]) != n * dimensions:
            raise ValueError(
                f"y must be [B, {n}, {dimensions}] or [B, {n * dimensions}], given {rows_of(y)}"
            )
        shifts = per_sample(self.shifts(self.embedding(c_noise, class_label)), y.shape[0])
        between = differences(y.reshape(-1, n, dimensions))
        s = self.input(self.distances.of_differences(between))
        for layer, mixing, shift in zip(
            self.layers, self.mixing, shifts[:, None].chunk(len(self.layers), 2), strict=True
        ):
            # each particle averages its pairs, and each pair then reads its two particles
            means = _along_pairs(s, self._members / (n - 1))
            around = _along_pairs(mixing(means), self._members.T)
            s = s + silu(layer(s) + around + shift)
        weights = self.output(s)[:, :, 0].index_select(1, self._pair_of).unflatten(1, (n, n))
        moves: torch.Tensor = weights[:, :, :, None] * between
        return (moves.sum(2) / n).reshape(y.shape)


def _along_pairs(states: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return matrix [k, m] times states [B, m, W], [B, k, W], as one product for the whole batch.

    Rows are padded as those of `Linear` are, so that a sample has the same bits in any batch.
    """
    kept = matrix.shape[0]
    columns, matrix = states.mT, matrix.to(states.dtype)
    if states.device.type == "cpu":
        rows, entries = padding(kept), padding(matrix.shape[1])
        matrix, columns = F.pad(matrix, (0, entries, 0, rows)), F.pad(columns, (0, entries))
    return F.linear(columns, matrix)[..., :kept].mT
