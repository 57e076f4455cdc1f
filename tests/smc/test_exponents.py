"""Test one exponent for each population, the proposal of another model, and genealogies."""

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.targets import Guided, ProposedBy, Tempered
from tests.grouped import grouped

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")


@pytest.mark.parametrize("proposal", ["curvature_matched", "noise_matched", "euler"])
@pytest.mark.parametrize("weights", ["energy", "score"])
def test_every_population_has_its_own_temperature(two_modes, levels, proposal, weights):
    gammas = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    options = {"particles": 300, "seed": 5, "dtype": torch.float64, "weights": weights}
    if weights == "energy":
        options["proposal"] = proposal
    sigmas = [*levels(12).tolist(), 0.0]
    together = smc.sample(
        Tempered(two_modes, gammas), (2,), sigmas, **grouped(populations=3, **options)
    )
    for p, gamma in enumerate(gammas.tolist()):
        alone = smc.sample(
            Tempered(two_modes, gamma), (2,), sigmas, **grouped(first_population=p, **options)
        )
        if weights == "score" and gamma == 1.0:
            # A single model of exponent 1 is sampled by another kernel.
            continue
        torch.testing.assert_close(together.x[p], alone.x[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.log_z[p], alone.log_z[0], rtol=1e-9, atol=1e-9)
    nested = Tempered(Guided(two_modes, two_modes, 3.0), gammas)
    again = smc.sample(nested, (2,), sigmas, **grouped(populations=3, **options))
    if weights == "energy":
        torch.testing.assert_close(again.log_z, together.log_z, rtol=1e-6, atol=1e-6)


def test_numbers_of_exponents_and_populations_must_agree(two_modes, levels):
    with pytest.raises(ValueError, match="populations"):
        smc.sample(
            Tempered(two_modes, torch.tensor([1.0, 2.0])),
            (2,),
            levels(4),
            particles=4,
            populations=3,
        )


def test_proposal_of_another_model_keeps_the_law(levels):
    target = GaussianMixture(torch.tensor([[-1.0], [1.0]]), [0.3, 0.3], [0.3, 0.7])
    other = GaussianMixture(torch.tensor([[-1.1], [0.9]]), [0.35, 0.35])
    with pytest.warns(smc.MixedModelsWarning, match="variance"):
        result = smc.sample(
            ProposedBy(target, other),
            (1,),
            levels(30),
            particles=1000,
            populations=20,
            options=smc.RunOptions(dtype=torch.float64),
        )
    mass = result.expectation(lambda x: (x[..., 0] < 0).double())
    assert abs(mass.mean() - 0.3) < 3 * mass.std() / 20**0.5
    plain = smc.sample(target, (1,), levels(30), particles=1000, populations=20)
    assert result.log_weight_sd.square().sum() > plain.log_weight_sd.square().sum()
    with pytest.raises(ValueError, match="exponent"):
        ProposedBy(target, Tempered(other, 2.0))


@pytest.mark.parametrize("resampling", ["systematic", "killing", "select"])
def test_genealogy_is_what_the_roots_say(two_modes, levels, resampling):
    result = smc.sample(
        Tempered(two_modes, 2.0),
        (2,),
        levels(12),
        particles=40,
        populations=3,
        resampling=resampling,
        ess_threshold=0.95,
        options=smc.RunOptions(genealogy=True),
    )
    assert result.ancestors.shape == (13, 3, 40)
    assert bool(result.resampled.any())
    roots = torch.arange(40).repeat(3, 1)
    for level in range(13):
        roots = roots.gather(1, result.ancestors[level].long())
        distinct = [len(row.unique()) for row in roots]
        assert result.survivors[level].tolist() == distinct
    assert torch.equal(result.survivors[-1], result.unique_ancestors)
