"""Test dynamic thresholding of the denoised states."""

from __future__ import annotations

import pytest
import torch

from edmfast import sampling
from edmfast.sampling.solvers import (
    DPMSolverMultistep,
    DPMSolverSinglestep,
    DynamicThreshold,
    UniPC,
)
from tests.sampling.solvers.problem import karras, start


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.995, 1.0])
def test_threshold_is_the_formula(quantile):
    x = 3 * torch.randn(5, 3, 7, 11, generator=torch.Generator().manual_seed(1))
    s = torch.quantile(x.abs().flatten(1), quantile, dim=1).clamp(min=1)[:, None, None, None]
    got = DynamicThreshold(quantile)(x)
    torch.testing.assert_close(got, x.clamp(-s, s) / s, rtol=1e-6, atol=1e-6)
    assert got.abs().max() <= 1


def test_states_within_the_range_stay_as_they_are():
    x = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.equal(DynamicThreshold()(x), x)
    assert torch.equal(DynamicThreshold(maximum=3.0)(3 * x), 3 * x)


def test_ceiling_bounds_the_scale():
    x = torch.tensor([[4.0, -1.5, 0.5]])
    assert torch.equal(DynamicThreshold(1.0, ceiling=2.0)(x), torch.tensor([[1.0, -0.75, 0.25]]))


@pytest.mark.parametrize(
    "solver", [DPMSolverMultistep, DPMSolverSinglestep, UniPC], ids=lambda solver: solver.__name__
)
def test_solvers_apply_it_to_every_evaluation(solver):
    threshold = DynamicThreshold(0.9)

    def model(x, sigma):
        return 0.3 * x + 0.7

    def bounded(x, sigma):
        return threshold(model(x, sigma))

    def run(model, solver):
        return sampling.sample(model, start(4), karras(6), solver, disable=True)

    got = run(model, solver(threshold=threshold))
    torch.testing.assert_close(got, run(bounded, solver()), rtol=0, atol=0)
    assert (got - run(model, solver())).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantile": 1.5}, "quantile"),
        ({"maximum": 0.0}, "maximum"),
        ({"ceiling": 0.5}, "ceiling"),
    ],
)
def test_bad_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        DynamicThreshold(**options)


def test_an_empty_batch_stays_empty():
    x = torch.zeros(0, 3, 4)
    assert DynamicThreshold()(x).shape == (0, 3, 4)
    solver = DPMSolverMultistep(threshold=DynamicThreshold())
    end = sampling.sample(lambda x, sigma: x / 2, x, karras(3), solver, disable=True)
    assert end.shape == x.shape
