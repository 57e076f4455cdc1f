"""Log-densities along paths of growing noise, for any denoiser, energy, or product of their powers.

A path starts at the state x, at the lowest level, and keeps one draw z of the noise:

    x_i = x + sqrt(sigma_i² - sigma_lo²) z.

At every level it is distributed as the states on which a denoiser is trained. At the highest level the density is
nearly a Gaussian, whose mean and variance follow from the score s and the trace t of grad s there:

    log p(x_T) = -v |s|²/2 - (d/2) log(2 pi v),    v = -d/t.

The log-density of x is this number plus the differences between neighbouring levels. Each of these is the mean of
two estimates, one from the score and the trace at the upper level and one from those at the lower level; see
`edmfast.targets.path_ratios`. Their errors cancel to first order in tau². Richardson's extrapolation to infinitely
many levels removes most of the rest: the same evaluations give the sum over pairs of steps too, whose error is
four times as large. Isotropic Gaussians are exact at any levels.

What is left is a bias. At the levels of Karras et al. 2022 up to 80, its measured size in nats, for the mean of
many states, is

    levels                                                  16      32      64      128
    exact trace, 8 and 64 dimensions, from 0.002 or 0.01    0.3     0.009   0.0007  0.0003
    one probe, 8 dimensions, from 0.01                      0.05    0.01    0.005   0.005

The densities are mixtures of five Gaussians with standard deviations of 0.02 or 0.1, and Gaussians with variances
from 0.01 to 1. From 64 levels on, the numbers of one probe are the standard error of the measurement. Probes add
little, because the logarithms in the two estimates bend in opposite directions.

What remains with probes is the noise of the trace, which the mean over paths reduces.
Sources: He et al. 2025, arXiv 2506.05668; Hutchinson 1990; Richardson 1911.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import row_numbers
from edmfast._internal.derivatives import refuse_run
from edmfast._internal.inference_mode import as_ordinary, without_inference_mode
from edmfast._internal.noise_levels import as_noise_levels, check_squares
from edmfast._internal.numbers import as_int, as_seed
from edmfast._internal.rows import for_rows, pad_rows, spread_rows
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.foreign import name_of
from edmfast.models.preconditioning import expand_sigma
from edmfast.ops import random_signs, score_gram, standard_normal
from edmfast.targets.constrained import Constrained
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.inverse import LinearInverse
from edmfast.targets.parts import Part, parts_of
from edmfast.targets.path_ratios import (
    log_density_of_gaussian,
    log_ratio_from_above,
    log_ratio_from_below,
)
from edmfast.targets.proposed_by import ProposedBy
from edmfast.targets.protocols import Model
from edmfast.targets.scores import check_model
from edmfast.targets.tilted import Tilted
from edmfast.targets.traces import has_exact_trace, score_and_trace

_NOISE_STREAM, _PROBE_STREAM = 12, 13
_MIN_ROWS, _MAX_ROWS, _NUMBERS = 64, 4096, 1 << 18
"""Bounds on the rows of one evaluation, and the numbers in it."""


@dataclass(frozen=True)
class LogDensity:
    """Log-densities in nats, with their errors over paths.

    Attributes:
        mean: the mean over paths, float64 [B].
        standard_error: its standard error over paths, float64 [B]; NaN for a single path. It contains the
            noise of paths and probes, but neither the bias of few levels nor the error of the model. With four
            paths, three standard errors are needed for 95 %.
        paths: the estimate of every path, float64 [B, paths].
        evaluations: the evaluations of models that each sample took.
        products: the vector-Jacobian products of models that each sample took.
    """

    mean: Tensor
    standard_error: Tensor
    paths: Tensor
    evaluations: int
    products: int


@dataclass(frozen=True)
class _Numbers:
    """Numbers of one model along the paths, float64 [B, paths, L] with the lowest level first.

    along: <s, z>. square: |s|². trace: tr(grad s).
    """

    along: Tensor
    square: Tensor
    trace: Tensor


def log_density(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    paths: int = 4,
    probes: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    **condition: Any,
) -> LogDensity:
    """Estimate log p(x; sigma) at the lowest noise level by sums of log-ratios along paths of growing noise.

    A `Product`, `Tempered` or `Guided` target gives sum_i a_i log p_i(x; sigma), which is not normalised. One
    evaluation of every model is taken per level and path, and `probes` vector-Jacobian products; none of these
    where the model offers the exact trace by a method `jacobian_trace`.

    Sources: He et al. 2025, arXiv 2506.05668 (ratios along paths); Hutchinson 1990 (probes).

    Args:
        model: a denoiser, an energy, or a product of powers of these; see `edmfast.targets`.
        x: the states [B, *shape], data with noise of the level sigmas[-1].
        sigmas: the noise levels [L] in units of x, positive and strictly decreasing. At the first the density
            must be nearly Gaussian: take at least ten times the standard deviation of the data. The bias of the
            mean log-density was below 0.001 nats at 64 levels of the schedule of Karras et al. 2022 with exact
            traces, and not resolved, at most 0.01 nats, with one probe. 16 levels left up to 0.3 nats.
        paths: the number of paths per sample.
        probes: the number of random signs per evaluation for the trace of the Jacobian. As many as x has elements
            give the exact trace.
        seed: 64 bits. The paths of sample b depend on (seed, b) alone.
        batch_size: the largest number of rows in one evaluation; by default a number that suits the shape.
        condition: keyword conditions for the model, with one row per sample of x or one for all.

    Returns:
        A `LogDensity`, in nats.

    Raises:
        TypeError: a number of the wrong type, or something that is neither an energy nor a denoiser.
        ValueError: levels out of order, numbers out of range, a target that is no product of powers of densities
            of data with noise (a tilt, a constraint, an inverse problem, or a model whose own exponent is not 1),
            or a model whose results have no graph and that has no jacobian_trace.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.
    """
    refuse_run("log_density", check_model(model), x)
    levels = as_noise_levels(sigmas, last_zero=False)
    expand_sigma(levels[0], x)  # checks x
    check_squares(levels, x.dtype)
    paths, probes = as_int("paths", paths, least=1), as_int("probes", probes, least=1)
    seed = as_seed(seed)
    batch_size = None if batch_size is None else as_int("batch_size", batch_size, least=1)
    # rows that divide the batch would serve several samples each
    check_condition_rows(model, condition, len(x))
    with without_inference_mode(), torch.no_grad():
        walk = _Walk(
            as_ordinary(x.detach()), tuple(reversed(levels)), paths, probes, seed, batch_size
        )
        total = torch.zeros(len(x), paths, dtype=torch.float64, device=x.device)
        evaluations = products = 0
        for part in parts_of(model, walk.x, condition):
            _check_part(part)
            exponent, leaf, _ = part
            total = total + walk.rows_of(exponent) * walk.log_density(part)
            evaluations += paths * len(levels)
            products += 0 if has_exact_trace(leaf) else paths * len(levels) * walk.probes
    mean = total.mean(1)
    # Torch warns where it divides by zero degrees of freedom.
    variance = (total - mean[:, None]).square().sum(1) / (paths - 1 if paths > 1 else math.nan)
    return LogDensity(mean, (variance / paths).sqrt(), total, evaluations, products)


@dataclass(frozen=True)
class _Walk:
    """The paths of all samples: x [B, *shape], levels from the lowest to the highest, and settings."""

    x: Tensor
    levels: tuple[float, ...]
    paths: int
    most_probes: int
    seed: int
    batch_size: int | None

    @property
    def dim(self) -> int:
        """The number of elements of a state."""
        return self.x.shape[1:].numel()

    @property
    def probes(self) -> int:
        """The number of probes per evaluation: no more than there are elements."""
        return min(self.most_probes, self.dim)

    def rows_of(self, exponent: Exponent) -> Any:
        """Return an exponent as a number, or as float64 [B, 1] where samples have their own."""
        numbers = row_numbers(exponent, self.x.new_empty(len(self.x), 1, dtype=torch.float64))
        return numbers[:, None] if isinstance(numbers, Tensor) and numbers.dim() else numbers

    def normals(self, stream: int, step: int) -> Tensor:
        """Return standard normals [B paths, *shape], the paths of a sample one after the other."""
        # Sample b is a particle and its path a population, so that its numbers depend on (seed, b).
        like = self.x.expand(self.paths, *self.x.shape)
        z = standard_normal(like, seed=self.seed, step=step, stream=stream)
        return z.transpose(0, 1).flatten(0, 1)

    def probes_at(self, level: int) -> Tensor:
        """Return the probes [B paths, K, *shape] of a level."""
        rows = len(self.x) * self.paths
        if self.probes == self.dim:
            basis = torch.eye(self.dim, dtype=self.x.dtype, device=self.x.device)
            basis = basis.mul_(math.sqrt(self.dim)).reshape(self.dim, *self.x.shape[1:])
            return basis.expand(rows, *basis.shape)
        first = level * self.probes
        like = self.x.expand(self.paths, *self.x.shape)
        signs = [
            random_signs(like, seed=self.seed, step=first + k, stream=_PROBE_STREAM)
            for k in range(self.probes)
        ]
        return torch.stack(signs, 2).transpose(0, 1).flatten(0, 1)

    def log_density(self, part: Part) -> Tensor:
        """Return the log-density of x by one model along every path, float64 [B, paths]."""
        z = self.normals(_NOISE_STREAM, 0)
        numbers = self._numbers(part, z)
        noise, _ = score_gram(z[None, None])
        sizes = noise.reshape(len(self.x), self.paths, 1)
        sigmas = torch.tensor(self.levels, dtype=torch.float64, device=self.x.device)
        start = log_density_of_gaussian(
            self.dim, sigmas[-1], numbers.trace[..., -1], numbers.square[..., -1]
        )
        return start + _climbed(self.dim, sigmas, numbers, sizes)

    def _numbers(self, part: Part, z: Tensor) -> _Numbers:
        _, leaf, condition = part
        exact = has_exact_trace(leaf)
        start = self.x.repeat_interleave(self.paths, 0)
        columns = []
        for i, level in enumerate(self.levels):
            states = start + math.sqrt(max(0.0, level**2 - self.levels[0] ** 2)) * z
            probes = None if exact else self.probes_at(i)
            columns.append(self._at_level(leaf, condition, level, states, z, probes))
        stacked = torch.stack(columns, 1).reshape(len(self.x), self.paths, len(self.levels), 3)
        return _Numbers(*stacked.unbind(3))

    def _at_level(
        self,
        leaf: Any,
        condition: dict[str, Any],
        level: float,
        states: Tensor,
        z: Tensor,
        probes: Tensor | None,
    ) -> Tensor:
        """Return (<s, z>, |s|², trace) of all rows at one level, float64 [B paths, 3]."""
        batch = len(states)
        size = self.batch_size or min(max(_NUMBERS // max(1, self.dim), _MIN_ROWS), _MAX_ROWS)
        results = [states.new_empty(0, 3, dtype=torch.float64)]
        for start in range(0, batch, size):
            stop = min(start + size, batch)
            rows = for_rows(leaf, start, stop, batch)
            held = {
                name: spread_rows(name, value, start, stop, batch)
                for name, value in condition.items()
            }
            more: dict[str, Any] = {"condition": held, "z": z[start:stop]}
            if probes is not None:
                more["probes"] = probes[start:stop]
            x, levels = states[start:stop], states.new_full((1, 1), level)
            # A model that holds numbers for single rows fits these rows only.
            if rows is leaf:
                x, _, more = pad_rows(x, levels, more)
            score, trace = score_and_trace(rows, x, level, more.get("probes"), **more["condition"])
            gram, along = score_gram(score[None, None], more["z"].to(score.dtype)[None])
            numbers = torch.stack([along[0, :, 0], gram[0, :, 0, 0], trace], 1)
            results.append(numbers[: stop - start])
        return torch.cat(results)


def _check_part(part: Part) -> None:
    """Raise ValueError for a model whose score is not that of data with noise."""
    _, leaf, _ = part
    if isinstance(leaf, (Tilted, Constrained, LinearInverse, ProposedBy)):
        raise ValueError(
            f"log_density needs densities of data with noise, given {name_of(leaf)}: take the log-density of the "
            "model inside it, and add the tilt at the lowest level"
        )
    exponent = exponent_of(leaf)
    if isinstance(exponent, Tensor) or exponent != 1:
        raise ValueError(
            f"log_density needs models whose own exponent is 1, given {name_of(leaf)} with {exponent}: temper "
            "the model with edmfast.Tempered"
        )


def _climbed(dim: int, sigmas: Tensor, numbers: _Numbers, sizes: Tensor) -> Tensor:
    """Return log p(x) - log p(x_T) of every path, extrapolated to infinitely many levels. sizes: |z|²."""
    single = _ratios(dim, sigmas, numbers, sizes, 1)
    double = _ratios(dim, sigmas, numbers, sizes, 2)[..., ::2]
    paired = single[..., : 2 * double.shape[-1]]
    # A last step without a partner is the one at the top, where the density is nearly Gaussian.
    return single.sum(2) + (paired.sum(2) - double.sum(2)) / 3


def _ratios(dim: int, sigmas: Tensor, numbers: _Numbers, sizes: Tensor, stride: int) -> Tensor:
    """Return log p(x_i) - log p(x_j) for j = i + stride, the mean of the estimates from both ends."""
    distance = (sigmas.square() - sigmas[0].square()).clamp_min(0).sqrt()
    s, u = sigmas[stride:], sigmas[:-stride]
    step = distance[:-stride] - distance[stride:]
    move = step.square() * sizes

    def estimate(formula: Callable[..., Tensor], part: slice) -> Tensor:
        trace, along, square = (
            values[..., part] for values in (numbers.trace, numbers.along, numbers.square)
        )
        return formula(dim, s, u, trace, step * along, square, move)

    above = estimate(log_ratio_from_above, slice(stride, None))
    below = estimate(log_ratio_from_below, slice(None, -stride))
    return (above + below) / 2
