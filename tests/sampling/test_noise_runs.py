"""Runs over a Brownian path converge to one result as their steps double, and follow the solver's default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture
from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.engine.compiled import runs_of

NORMAL = GaussianMixture([[0.5, -1.0, 2.0]], [0.7])
X = 8.0 * torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


class SmallNetwork(torch.nn.Module):
    """A denoiser that a graph can hold."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.4))

    def forward(self, x, sigma):
        return (self.scale * x).tanh() / (1 + sigma[:, None])


@dataclass(frozen=True)
class ReverseSde(Solver):
    """Euler-Maruyama steps of dx = -2 (D - x) / sigma dsigma + sqrt(2 sigma) dW, the reverse SDE in sigma."""

    independent: bool = False

    @property
    def brownian(self):
        return not self.independent

    def steps(self, levels):
        x, denoised = register("x"), register("D")
        for sigma, after in pairwise(levels):
            move = 2 * (after - sigma) / sigma * (x - denoised)
            root = math.sqrt(2 * sigma * (sigma - after))
            yield Step(sigma, (Call(sigma), Combine("x", x + move, root, (sigma, after))))


def grid(steps):
    return torch.exp(torch.linspace(math.log(8.0), math.log(0.5), steps + 1, dtype=torch.float64))


def solved(steps, solver=None, **options):
    solver = solver or ReverseSde()
    return sampling.sample(NORMAL, X, grid(steps), solver, disable=True, **options)


def errors(solver):
    finest = solved(640, solver, seed=7)
    return [
        (solved(steps, solver, seed=7) - finest).square().mean().sqrt() for steps in (20, 40, 80)
    ]


def test_the_distance_to_the_finest_run_of_a_path_shrinks():
    along_a_path = errors(ReverseSde())
    assert all(after < 0.7 * before for before, after in pairwise(along_a_path))
    # Independent noise has no common path, so that more steps bring no nearer result.
    assert min(errors(ReverseSde(independent=True))) > 5 * along_a_path[-1]


def test_the_solver_says_which_noise_is_the_default():
    path = sampling.BrownianTreeNoiseSampler(X, 0.5, 8.0, seed=7)
    assert torch.equal(solved(10, noise_sampler=path), solved(10, seed=7))
    single = sampling.noise_sampler(X, seed=7)
    apart = ReverseSde(independent=True)
    assert torch.equal(solved(10, apart, noise_sampler=single), solved(10, apart, seed=7))
    assert not torch.equal(solved(10, apart, seed=7), solved(10, seed=7))


@pytest.mark.slow
def test_one_graph_serves_the_paths_of_every_grid_of_a_length():
    """Increments have other numbers of nodes on other grids, and a graph has room for all of them."""
    model = SmallNetwork()
    runs = []
    for last in (0.5, 0.3):
        levels = torch.exp(torch.linspace(math.log(8.0), math.log(last), 4))
        arguments = model, X[:2].float(), levels, ReverseSde()
        eager = sampling.sample(*arguments, seed=7, disable=True)
        runs.append(sampling.sample(*arguments, seed=7, disable=True, compile=True))
        torch.testing.assert_close(runs[-1], eager, rtol=1e-5, atol=1e-5)
    assert not torch.equal(*runs)
    graphs = runs_of(model).graphs.values()
    assert sum(len(flat.graphs) for flat in graphs) == 1


def test_torch_seed_repeats_a_run_along_a_path():
    torch.manual_seed(3)
    first = solved(10)
    assert not torch.equal(solved(10), first)
    torch.manual_seed(3)
    assert torch.equal(solved(10), first)


def test_seeds_of_samples_do_not_depend_on_batch_mates():
    seeds = [*range(100, 116)]
    whole = solved(10, seed=seeds)
    part = sampling.sample(NORMAL, X[3:5], grid(10), ReverseSde(), disable=True, seed=seeds[3:5])
    assert torch.equal(part, whole[3:5])


def test_a_seed_beside_a_sampler_is_refused():
    path = sampling.BrownianTreeNoiseSampler(X, 0.5, 8.0, seed=7)
    with pytest.raises(ValueError, match="give noise_sampler or seed, got both"):
        solved(10, noise_sampler=path, seed=7)


def test_a_foreign_sampler_gets_the_same_path_as_its_wrapper():
    """A function of the user is called with the levels of each draw as tensors."""
    path, levels = sampling.BrownianTreeNoiseSampler(X, 0.5, 8.0, seed=7), []

    def foreign(sigma, sigma_next):
        levels.append((float(sigma), float(sigma_next)))
        return path(sigma, sigma_next)

    torch.testing.assert_close(solved(10, noise_sampler=foreign), solved(10, noise_sampler=path))
    assert levels == list(pairwise(grid(10).tolist()))
