"""Test `targets.ProposedBy`, the energy of one model with the score of another."""

import pytest
import torch

from edmfast import smc
from edmfast._internal.rows import for_rows
from edmfast.analytic import GaussianMixture
from edmfast.targets import Conditioned, Product, ProposedBy, Tempered, Tilted
from edmfast.targets.gauges import OF_NORMALISED, meaning_of_log_z

TARGET = GaussianMixture([[-1.0], [1.0]], [0.3, 0.3], [0.3, 0.7])
OTHER = GaussianMixture([[-1.1], [0.9]], [0.35, 0.35])
X = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None]


class Shifted:
    """A Gaussian whose mean is the condition `shift` [B]."""

    exponent = 1.0

    def energy_and_score(self, x, sigma, shift):
        away, v = x - shift[:, None].to(x.dtype), 1 + sigma**2
        return away.square().sum(1) / (2 * v), -away / v


def test_the_energy_is_that_of_the_target_and_the_score_that_of_the_model():
    both = ProposedBy(TARGET, OTHER)
    energy, score = both.energy_and_score(X, 0.5)
    assert torch.equal(energy, TARGET.energy_and_score(X, 0.5)[0])
    assert torch.equal(score, OTHER.energy_and_score(X, 0.5)[1])
    assert torch.equal(both.energy(X, 0.5), energy)
    torch.testing.assert_close(both(X, 0.5), X + 0.25 * score)
    assert not both.score_is_exact


def test_it_nests_like_other_targets():
    nested = Tempered(ProposedBy(TARGET, OTHER), 2.0)
    energy, score = nested.energy_and_score(X, 0.5)
    torch.testing.assert_close(energy, 2 * TARGET.energy_and_score(X, 0.5)[0])
    torch.testing.assert_close(score, 2 * OTHER.energy_and_score(X, 0.5)[1])
    assert nested.exponent == 2.0
    assert meaning_of_log_z(Product([ProposedBy(TARGET, TARGET.denoise), TARGET])) == OF_NORMALISED


def test_conditions_and_rows_reach_both_models():
    shift = torch.arange(8, dtype=torch.float64)
    bound = Conditioned(ProposedBy(Shifted(), Shifted()), shift=shift)
    energy, score = bound.energy_and_score(X, 0.5)
    rows = for_rows(bound, 2, 6, 8)
    part = rows.energy_and_score(X[2:6], 0.5)
    assert torch.equal(part[0], energy[2:6])
    assert torch.equal(part[1], score[2:6])
    apart = ProposedBy(Conditioned(Shifted(), shift=shift), Conditioned(Shifted(), shift=-shift))
    part = for_rows(apart, 2, 6, 8)
    assert torch.equal(part.energy(X[2:6], 0.5), apart.energy(X, 0.5)[2:6])
    assert torch.equal(part(X[2:6], 0.5), apart(X, 0.5)[2:6])


@pytest.mark.parametrize("outer", [True, False])
def test_a_run_warns_and_collects_rewards_on_either_side(outer):
    def reward(x):
        return x[:, 0]

    def tilted(model):
        return Tilted(model, reward, 0.1, ramp=None, potential="max")

    target = tilted(ProposedBy(TARGET, OTHER)) if outer else ProposedBy(tilted(TARGET), OTHER)
    with pytest.warns(smc.MixedModelsWarning, match="variance"):
        run = smc.sample(target, (1,), [4.0, 1.0, 0.3], particles=50, proposal="ancestral")
    with pytest.warns(smc.MixedModelsWarning, match="variance"):
        same = smc.sample(
            tilted(ProposedBy(TARGET, OTHER)),
            (1,),
            [4.0, 1.0, 0.3],
            particles=50,
            proposal="ancestral",
        )
    assert torch.equal(run.x, same.x)
    assert torch.equal(run.log_weights, same.log_weights)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="no energy"):
        ProposedBy(TARGET.denoise, OTHER)
    with pytest.raises(TypeError, match="no denoiser"):
        ProposedBy(TARGET, 3.0)
    with pytest.raises(ValueError, match="exponent"):
        ProposedBy(TARGET, Tempered(OTHER, 2.0))


class Scaled(torch.nn.Module):
    """The score of TARGET times a float32 parameter."""

    exponent = 1.0

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.1))

    def energy_and_score(self, x, sigma):
        energy, score = TARGET.energy_and_score(x, sigma)
        return energy, score * self.factor


@pytest.mark.filterwarnings("ignore::edmfast.smc.MixedModelsWarning")
def test_the_states_of_a_run_have_the_dtype_of_the_weighed_target():
    levels = [10.0, 1.0, 0.1]
    run = smc.sample(ProposedBy(TARGET, Scaled()), (1,), levels, particles=8)
    assert run.x.dtype == torch.float64
    # a target without tensors has torch's default dtype, whatever the model of the proposals has
    plain = ProposedBy(Conditioned(Shifted(), shift=torch.zeros(1)), OTHER)
    nested = smc.sample(Tempered(plain, 1.5), (1,), levels, particles=8)
    assert nested.x.dtype == torch.float32


@pytest.mark.filterwarnings("ignore::edmfast.smc.MixedModelsWarning")
def test_conditions_of_the_proposals_do_not_make_several_targets():
    # a shift for each population moves the proposals and not the target that is weighed
    for_populations = Conditioned(Shifted(), shift=torch.linspace(-0.1, 0.1, 4))
    target = ProposedBy(TARGET, for_populations)
    run = smc.sample(target, (1,), [10.0, 1.0, 0.1], particles=16, populations=4)
    assert run.one_target
    for_particles = ProposedBy(TARGET, Conditioned(Shifted(), shift=torch.linspace(-1, 1, 64)))
    assert smc.sample(for_particles, (1,), [10.0, 1.0, 0.1], particles=16, populations=4).one_target
