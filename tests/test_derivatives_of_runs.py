"""Runs have no derivatives: torch.func and forward mode raise an error or get the right derivative."""

import pytest
import torch
import torch.autograd.forward_ad as forward_mode

from edmfast import diagnostics, log_density, sampling, smc
from edmfast.analytic import GaussianMixture
from edmfast.targets import Tempered

F64 = torch.float64
MODEL = GaussianMixture([[0.5, -1.0], [1.0, 0.5]], [0.4, 0.6])
SIGMAS = torch.tensor([3.0, 1.0, 0.3], dtype=F64)
X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
V = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=F64)


class Shifted(torch.nn.Module):
    """A target that has a parameter."""

    exponent = 1.0

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def energy_and_score(self, x, sigma):
        return MODEL.energy_and_score(x - self.shift, sigma)


SAMPLERS = {
    "euler": lambda x: sampling.sample_euler(MODEL, x, SIGMAS, disable=True),
    "heun": lambda x: sampling.sample_heun(MODEL, x, SIGMAS, disable=True),
    "dpmpp_2m": lambda x: sampling.sample_dpmpp_2m(MODEL, x, SIGMAS, disable=True),
    "ancestral": lambda x: sampling.sample_euler_ancestral(MODEL, x, SIGMAS, disable=True),
    "edm": lambda x: sampling.edm_sampler(MODEL, x, num_steps=3),
    "edm2": lambda x: sampling.edm2_sampler(MODEL, x, num_steps=3, dtype=F64),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_carry_tangents_and_refuse_gradients(name):
    def sample(x):
        torch.manual_seed(0)
        return SAMPLERS[name](x)

    expected = (sample(X + 1e-5 * V) - sample(X - 1e-5 * V)) / 2e-5
    with forward_mode.dual_level():
        tangent = forward_mode.unpack_dual(sample(forward_mode.make_dual(X, V))).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match="would give zeros"):
        torch.func.grad(lambda x: sample(x).sum())(X)
    leaf = X.clone().requires_grad_()
    # As in k-diffusion the result has no graph, and torch raises an error where it is differentiated.
    assert not sample(leaf).requires_grad


def test_levels_with_a_tangent_are_refused():
    with (
        forward_mode.dual_level(),
        pytest.raises(RuntimeError, match="sigmas, which carry a tangent"),
    ):
        sigmas = forward_mode.make_dual(SIGMAS, SIGMAS)
        sampling.sample_euler(MODEL, X, sigmas, disable=True)


def log_z(shift):
    return smc.sample(
        Shifted(shift), (2,), SIGMAS.tolist(), particles=8, options=smc.RunOptions(dtype=F64)
    ).log_z


def chain(shift):
    chains = smc.mcmc(Shifted(shift), X[None], 1.0, smc.MALA(step_size=0.1), transitions=2)
    return chains.states


RUNS = {
    "sample": log_z,
    "score law": lambda shift: (
        smc.sample(
            Tempered(Shifted(shift), 2.0),
            (2,),
            SIGMAS.tolist(),
            particles=8,
            options=smc.RunOptions(dtype=F64),
            weights="score",
        ).log_z
    ),
    "mcmc": chain,
    "asymmetry": lambda shift: (
        diagnostics.field_asymmetry(lambda x: x.square() - shift, X + shift).asymmetry
    ),
    "circulation": lambda shift: (
        diagnostics.rectangle_circulation(lambda x: x.square(), X + shift, sides=1.0).value
    ),
    "heat equation": lambda shift: (
        diagnostics.fokker_planck(MODEL, [X + shift], SIGMAS[:1]).residuals
    ),
    "log-density": lambda shift: log_density(MODEL, X + shift, SIGMAS, paths=2).mean,
    "log-density of a model": lambda shift: log_density(Shifted(shift), X, SIGMAS, paths=2).mean,
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_refuse_both(name):
    run, zero, tangent = RUNS[name], torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    assert run(zero).isfinite().all()
    with forward_mode.dual_level(), pytest.raises(RuntimeError, match="tangent"):
        run(forward_mode.make_dual(zero, tangent))
    with pytest.raises(RuntimeError, match="tangent"):
        torch.func.jvp(run, (zero,), (tangent,))
    with pytest.raises(RuntimeError, match="would give zeros"):
        torch.func.grad(lambda shift: run(shift).sum())(zero)
