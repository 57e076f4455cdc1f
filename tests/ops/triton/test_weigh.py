"""Weighing and resampling by Triton has the bits of the plain reference."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import Weights, rng_state, weigh_and_resample
from edmfast.ops.weigh import reference

weigh = pytest.importorskip("edmfast.ops.weigh.triton_ops", exc_type=ImportError)

SHAPES = [(1, 1), (3, 7), (2, 1024), (2, 1500), (1, 5000)]


def operands(shape, models, dtype, powers, generator):
    start = torch.randn(shape, dtype=torch.float64, generator=generator)
    before = weigh_and_resample(
        Weights.start(*shape), start, [], [], rng_state(1, 0), ess_threshold=0.4
    )
    numbers = torch.randn(2 * models + 1, *shape, generator=generator, dtype=torch.float64).to(
        dtype
    )
    ratio, *energies = numbers
    ratio[-1, shape[1] // 2] = torch.inf
    for energy in energies[:1]:
        energy[0, -1], energy[-1, 0] = torch.inf, torch.nan
    exponents = torch.rand(shape[0], models, dtype=torch.float64, generator=generator)
    state = (before.log_weights, before.log_z, before.ancestors, before.root)
    return (
        *(*state, before.resampled, before.degenerate),
        *(ratio, energies[:models], energies[models:], exponents if powers else None),
        rng_state(7, 3),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("models", "dtype", "powers", "add"),
    [
        (0, torch.float64, False, True),
        (1, torch.float32, False, True),
        (3, torch.float32, True, True),
        (2, torch.float64, True, False),
    ],
)
def test_same_bits(run, generator, shape, models, dtype, powers, add):
    arguments = (*operands(shape, models, dtype, powers, generator), add, 0.6, 0, 3)
    ours = run(weigh.weigh_and_resample, *arguments)
    truth = reference.weigh_and_resample(*arguments)
    for name, a, b in zip(Weights._fields, ours, truth, strict=True):
        assert a.dtype == b.dtype, name
        if name == "increment_sd":
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
        else:
            assert bool(((a == b) | ((a != a) & (b != b))).all()), name
