"""Samplers that start from the Student-t prior reproduce the data of a perfect denoiser of PFGM++."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import PointPotential, PointSet
from edmfast.models import PotentialDenoiser

POINTS, WEIGHTS = [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.5, 0.3, 0.2]
COUNT = 2000


def masses(x):
    """Return the shares of the samples that end nearest to each point, and the distance that 97 % keep to it."""
    distances = torch.cdist(x.double(), torch.tensor(POINTS).double())
    nearest = distances.min(1)
    return torch.bincount(nearest.indices, minlength=3) / len(x), float(
        nearest.values.quantile(0.97)
    )


@pytest.mark.parametrize("dof", [1.0, 4.0, 128.0, math.inf])
@pytest.mark.parametrize(
    "name",
    ["sample_euler", "sample_heun", "sample_dpm_2", "sample_lms", "sample_dpmpp_2m"],
)
def test_the_prior_flows_to_the_data(dof, name):
    model = PointSet(POINTS, WEIGHTS, dof=dof)
    x = sampling.student_t_prior((COUNT, 2), 80.0, dof, seed=3, dtype=torch.float64)
    sigmas = sampling.get_sigmas_karras(40, 0.002, 80.0).double()
    shares, far = masses(getattr(sampling, name)(model, x, sigmas, disable=True))
    # for D = 1 the noise has no variance at any level, and the last of it is large in a few samples
    assert far < 0.02
    spread = math.sqrt(0.25 / COUNT)
    assert (shares - torch.tensor(WEIGHTS)).abs().max() < 4 * spread


def test_the_law_on_the_way_is_that_of_the_noised_data():
    """The flow stops at a level: the radii of its states have the quantiles of direct draws."""
    dof, level = 3.0, 0.5
    model = PointSet(POINTS, WEIGHTS, dof=dof)
    x = sampling.student_t_prior((COUNT, 2), 80.0, dof, seed=3, dtype=torch.float64)
    sigmas = sampling.get_sigmas_karras(40, level, 80.0)[:-1].double()
    ours = sampling.sample_heun(model, x, sigmas, disable=True).norm(dim=1).sort().values
    drawn = model.sample(COUNT, level, seed=4).norm(dim=1)
    below = (drawn[None, :] <= ours[:, None]).double().mean(1)
    distance = (below - torch.arange(1, COUNT + 1) / COUNT).abs().max()
    # the 1 % point of two samples of equal size
    assert float(distance) < 1.63 * math.sqrt(2 / COUNT)


def test_the_flow_of_a_potential_is_that_of_its_points():
    points = PointSet(POINTS, WEIGHTS, dof=3.0)
    potential = PotentialDenoiser(PointPotential(POINTS, WEIGHTS, dof=3.0), dof=3.0)
    x = sampling.student_t_prior((50, 2), 80.0, 3.0, seed=3, dtype=torch.float64)
    sigmas = sampling.get_sigmas_karras(20, 0.01, 80.0).double()
    ours, theirs = (
        sampling.sample_heun(model, x, sigmas, disable=True) for model in (potential, points)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_a_gaussian_start_gives_other_masses_on_the_way():
    """The prior matters: the spread of Gaussian states is wrong for D = 1 at an intermediate level."""
    model = PointSet(POINTS, WEIGHTS, dof=1.0)
    sigmas = sampling.get_sigmas_karras(40, 0.5, 80.0)[:-1].double()
    ends = [
        sampling.sample_heun(
            model,
            sampling.student_t_prior((COUNT, 2), 80.0, dof, seed=3, dtype=torch.float64),
            sigmas,
            disable=True,
        )
        for dof in (1.0, math.inf)
    ]
    far = [float((end.norm(dim=1) > 5).double().mean()) for end in ends]
    assert far[0] > 0.05
    assert far[1] < 0.01


def test_seeds_and_indices_fix_the_samples():
    whole = sampling.student_t_prior((6, 1, 4, 4), 80.0, 128, seed=9)
    assert whole.shape == (6, 1, 4, 4)
    assert whole.dtype == torch.float32
    rest = sampling.student_t_prior((4, 1, 4, 4), 80.0, 128, seed=9, first_sample=2)
    assert torch.equal(whole[2:], rest)
    own = sampling.student_t_prior((3, 1, 4, 4), 80.0, 128, seed=[4, 9, 5])
    assert torch.equal(own[1], whole[0])
    torch.manual_seed(0)
    drawn = sampling.student_t_prior((3, 2), 80.0, 128)
    torch.manual_seed(0)
    assert torch.equal(drawn, sampling.student_t_prior((3, 2), 80.0, 128))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((4,), 80.0, 1.0), {}, r"shape must be \[B, \*shape\]"),
        (((4, 2), 80.0, 0.0), {}, "dof must be positive"),
        (((4, 2), 80.0, 1.0), {"seed": [1, 2]}, "4 samples, got 2 seeds"),
        (((4, 2), 1e30, 1.0), {}, "sigma_max must be from"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        sampling.student_t_prior(*arguments, **options)


def test_a_dtype_of_integers():
    with pytest.raises(TypeError, match="dtype must be a floating dtype"):
        sampling.student_t_prior((4, 2), 80.0, 1.0, dtype=torch.int64)
