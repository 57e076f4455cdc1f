"""Calls of every operator on particles over a sweep of sizes, layouts, dtypes and absent arguments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.ops.operator_calls import BF16, F32, F64, LAYOUTS, Call, laid_out, named

I32, I64, BOOL = torch.int32, torch.int64, torch.bool
SIZES = [(2, 5, 7), (1, 1, 1), (3, 4, 1), (1, 6, 64), (0, 5, 7), (2, 5, 0)]
"""Populations, particles and elements of a sample."""


POPULATIONS = [(2, 5), (1, 1), (3, 70), (1, 5000), (0, 5)]
"""Populations and particles."""


def _rng() -> Tensor:
    return torch.zeros(2, dtype=I64)


def _zeros(layout: str, *shape: int, dtype: torch.dtype) -> Tensor:
    return (
        laid_out(layout, *shape).mul(0).to(dtype)
        if layout != "expanded"
        else (torch.zeros(1, dtype=dtype).expand(shape))
    )


def noises() -> Iterator[Call]:
    """Yield calls of the normals."""
    for sizes, layout, dtype in itertools.product(SIZES, LAYOUTS, (F32, F64)):
        like = laid_out(layout, *sizes, dtype=dtype)
        yield Call(*named("noise", sizes, layout, dtype), (like, _rng(), 1, 2, 3))


def combinations() -> Iterator[Call]:
    """Yield calls of linear combinations of tensors that lie alike, or one in another way than the others."""
    name = "linear_combination"
    for sizes, layout, dtype, count in itertools.product(SIZES, LAYOUTS, (F32, BF16, F64), (1, 3)):
        tensors = [laid_out(layout, *sizes, dtype=dtype) for _ in range(count)]
        mixed = [laid_out("contiguous", *sizes, dtype=dtype), *tensors]
        numbers, more = torch.ones(count, dtype=F64), torch.ones(count + 1, dtype=F64)
        nothing = None, None, None, 0, 0
        label = sizes, layout, dtype, f"count {count}"
        yield Call(*named(name, *label), (tensors, numbers, *nothing))
        yield Call(*named(name, *label, "mixed"), (mixed, more, *nothing))
        for seeds in (1, sizes[0]):
            noise = torch.zeros(seeds, dtype=I64), torch.zeros(2, dtype=I64), numbers.new_ones(2)
            yield Call(*named(name, *label, f"seeds {seeds}"), (tensors, numbers, *noise, 1, 0))


def signs() -> Iterator[Call]:
    """Yield calls of the random signs."""
    for sizes, layout, dtype, count, coloured in itertools.product(
        SIZES, LAYOUTS, (F32, BF16, F64), (1, 3, 6), (False, True)
    ):
        like = laid_out(layout, *sizes, dtype=dtype)
        image = (1, sizes[2]) if coloured else (0, 0)
        label = sizes, layout, dtype, f"count {count}", f"coloured {coloured}"
        yield Call(*named("signs", *label), (like, _rng(), count, *image, 1, 2, 3))


def curvatures() -> Iterator[Call]:
    """Yield calls of the curvatures, and of the coefficients that follow them."""
    for (p, n, d), layout, dtype, powers in itertools.product(
        [*SIZES, (2, 0, 7)], LAYOUTS, (F32, BF16, F64), (False, True)
    ):
        products, probes = (laid_out(layout, p, n, d, dtype=dtype) for _ in range(2))
        exponents = laid_out(layout, p, dtype=F64) if powers else None
        label = (p, n, d), layout, dtype, f"exponents {powers}"
        yield Call(*named("curvature", *label), (products, probes, exponents, 1.5))
    for (p, n), layout, powers in itertools.product(POPULATIONS, LAYOUTS, (False, True)):
        arguments = (
            laid_out(layout, p, n, dtype=F64),
            _zeros(layout, p, n, dtype=I32),
            laid_out(layout, p, dtype=F64) if powers else None,
            1.5,
            torch.tensor([2.0, 1.0], dtype=F64),
        )
        label = (p, n), layout, f"exponents {powers}"
        yield Call(*named("curvature_matched", *label), arguments)


def proposals() -> Iterator[Call]:
    """Yield calls of the proposal step."""
    for (p, n, d), layout, dtype, masked, each in itertools.product(
        [*SIZES, (2, 0, 7)], LAYOUTS, (F32, BF16, F64), (False, True), (False, True)
    ):
        x = laid_out(layout, p, n, d, dtype=dtype)
        scores = [x] * (2 if masked else 1)
        shape = (p, n, len(scores) + 2) if each else (p, len(scores) + 2)
        arguments = (
            x,
            scores,
            _zeros(layout, p, n, dtype=I32),
            laid_out(layout, *shape, dtype=F64),
            _rng(),
            laid_out(layout, p, d, dtype=BOOL) if masked else None,
            0,
            0,
        )
        label = (p, n, d), layout, dtype, f"mask {masked}", f"each {each}"
        yield Call(*named("propagate", *label), arguments)


def reversals() -> Iterator[Call]:
    """Yield calls of the reversal's proposals."""
    for (p, n, d), layout, dtype, models, probes in itertools.product(
        [*SIZES, (2, 0, 7)], LAYOUTS, (F32, BF16, F64), (1, 2), (0, 1, 3)
    ):
        scores = [laid_out(layout, p, n, d, dtype=dtype) for _ in range(models)]
        along = [laid_out(layout, p, n, probes, d, dtype=dtype) for _ in range(models)]
        arguments = (
            scores,
            laid_out(layout, p, models, dtype=F64),
            torch.tensor([2.0, 1.0], dtype=F64),
            None if probes else laid_out(layout, models, p, n, dtype=F64),
            along if probes else [],
            along[0] if probes else None,
        )
        label = (p, n, d), layout, dtype, f"{models} scores", f"{probes} probes"
        yield Call(*named("reversal", *label), arguments)


def systematic_resamplings() -> Iterator[Call]:
    """Yield calls of the systematic resampling."""
    for (p, n), layout, dtype in itertools.product(POPULATIONS, LAYOUTS, (F32, F64)):
        weights, uniform = laid_out(layout, p, n, dtype=dtype), laid_out(layout, p, dtype=F64)
        yield Call(*named("systematic_resample", (p, n), layout, dtype), (weights, uniform, 0.5))


def resamplings() -> Iterator[Call]:
    """Yield calls of the resampling by any scheme."""
    for (p, n), layout, dtype, scheme in itertools.product(
        POPULATIONS, LAYOUTS, (F32, F64), range(6)
    ):
        weights = laid_out(layout, p, n, dtype=dtype)
        for count in {n, n if scheme == 4 else 3}:
            threshold = 0.5 if count == n else 1.0
            label = (p, n), layout, dtype, f"scheme {scheme}", f"count {count}"
            yield Call(*named("resample", *label), (weights, _rng(), count, threshold, scheme, 0))


def weighings() -> Iterator[Call]:
    """Yield calls of the weights of a step."""
    kinds = ((0, False, 0), (2, False, 0), (2, True, 0), (1, True, 1))
    for (p, n), layout, dtype, (models, powers, scheme) in itertools.product(
        POPULATIONS, LAYOUTS, (F32, F64), kinds
    ):
        energies = [laid_out(layout, p, n, dtype=dtype) for _ in range(models)]
        arguments = (
            laid_out(layout, p, n, dtype=F64),
            laid_out(layout, p, dtype=F64),
            _zeros(layout, p, n, dtype=I32),
            _zeros(layout, p, n, dtype=I32),
            _zeros(layout, p, dtype=BOOL),
            _zeros(layout, p, dtype=I32),
            laid_out(layout, p, n, dtype=dtype),
            energies,
            energies,
            laid_out(layout, p, models, dtype=F64) if powers else None,
            _rng(),
            True,
            0.5,
            scheme,
            0,
        )
        label = (p, n), layout, dtype, f"{models} energies", f"exponents {powers}"
        yield Call(*named("weigh_and_resample", *label, f"scheme {scheme}"), arguments)


def grams() -> Iterator[Call]:
    """Yield calls of the inner products of scores."""
    for (p, n, d), layout, dtype, models in itertools.product(
        [*SIZES, (2, 0, 7)], LAYOUTS, (F32, BF16, F64), (1, 3)
    ):
        scores = laid_out(layout, models, p, n, d, dtype=dtype)
        for displacement in (None, laid_out(layout, p, n, d, dtype=dtype)):
            label = (p, n, d), layout, dtype, models, f"displacement {displacement is not None}"
            yield Call(*named("score_gram", *label), (scores, displacement))
