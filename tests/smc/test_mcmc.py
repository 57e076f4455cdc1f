"""Test Markov chains at one noise level: their bits, continuation and errors."""

import pytest
import torch

from edmfast import smc
from edmfast.models import EnergyModel
from edmfast.models.backbones import ResidualMLP
from edmfast.targets import Tempered

KINDS = [smc.ULA(), smc.MALA(), smc.HMC(leapfrog_steps=3), smc.Underdamped(leapfrog_steps=3)]


def network():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(5, width=32, depth=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Tempered(model, 1.5)


def start(populations, particles):
    return torch.randn(populations, particles, 5, generator=torch.manual_seed(1))


def traces(result):
    return {
        "states": result.states.transpose(0, 1),
        "energies": result.energies.transpose(0, 1),
        "acceptance": result.acceptance.T,
        "steps": result.step_sizes.T,
    }


@pytest.mark.parametrize("particles", [1, 3, 50])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_a_population_does_not_depend_on_the_others(particles, kind):
    target, x = network(), start(5, particles)
    options = {"transitions": 6, "warmup": 3, "seed": 7}
    many = traces(smc.mcmc(target, x, 0.5, kind, **options))
    alone = traces(smc.mcmc(target, x[:1], 0.5, kind, **options))
    later = traces(smc.mcmc(target, x[3:], 0.5, kind, first_population=3, **options))
    other = traces(smc.mcmc(target, x, 0.5, kind, transitions=6, warmup=3, seed=8))
    for name, value in many.items():
        assert torch.equal(value[:1], alone[name]), name
        assert torch.equal(value[3:], later[name]), name
    assert not torch.equal(many["states"], other["states"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_continuing_repeats_the_bits(kind):
    target, x = network(), start(2, 20)
    whole = smc.mcmc(target, x, 0.5, kind, transitions=9, warmup=3, seed=2)
    first = smc.mcmc(target, x, 0.5, kind, transitions=5, warmup=3, seed=2)
    rest = smc.mcmc(target, first.states[-1], 0.5, kind, transitions=4, seed=2, after=first)
    for name, value in traces(whole).items():
        joined = torch.cat([traces(first)[name], traces(rest)[name]], 1)
        assert torch.equal(value, joined), name
    assert rest.transitions == whole.transitions == 9


def test_draws_never_repeat():
    """Momenta and decisions of all transitions and leapfrog steps come from different counters."""
    seen = []

    class Flat:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            seen.append(x.clone())
            return torch.zeros(len(x), dtype=x.dtype), torch.zeros_like(x)

    kind = smc.Underdamped(leapfrog_steps=4, step_size=1.0, friction=1e3, adapt=False)
    x = torch.zeros(2, 3, 2, dtype=torch.float64)
    smc.mcmc(Flat(), x, 1.0, kind, transitions=6)
    moves = torch.stack(seen).diff(dim=0).flatten()
    assert len(moves.unique()) == len(moves)


def test_result_and_callback():
    states = []
    x = start(2, 10)
    result = smc.mcmc(
        network(),
        x,
        0.5,
        smc.HMC(leapfrog_steps=3),
        transitions=11,
        warmup=3,
        thin=4,
        callback=lambda info: states.append(info["x"]),
    )
    assert result.states.shape == (2, 2, 10, 5)
    assert result.energies.shape == (2, 2, 10)
    assert result.acceptance.shape == result.step_sizes.shape == (11, 2)
    assert (result.nfe, result.seed, len(states)) == (34, 0, 11)
    assert torch.equal(states[6], result.states[0])
    energy = network().energy_and_score(result.states[1].flatten(0, 1), 0.5)[0]
    torch.testing.assert_close(result.energies[1].flatten(), energy)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"x": torch.zeros(3, 2)}, ValueError, r"\[P, N"),
        ({"x": torch.zeros(1, 3, 5).half()}, TypeError, "float32"),
        ({"sigma": 0.0}, ValueError, "sigma"),
        ({"transitions": 2, "warmup": 2}, ValueError, "warmup"),
        ({"thin": 0}, ValueError, "thin"),
        ({"transitions": 1 << 21}, ValueError, "transitions"),
        ({"corrector": "mala"}, TypeError, "MALA"),
        ({"target": torch.nn.Identity()}, TypeError, "no energy"),
        ({"corrector": smc.HMC(leapfrog_steps=5000)}, ValueError, "4096"),
    ],
)
def test_bad_input(change, error, text):
    arguments = {"target": network(), "x": start(1, 3), "sigma": 0.5, "corrector": smc.MALA()}
    arguments |= {"transitions": 2} | change
    with pytest.raises(error, match=text):
        smc.mcmc(**arguments)


def test_continuing_with_another_seed_is_refused():
    first = smc.mcmc(network(), start(2, 3), 0.5, smc.MALA(), transitions=2)
    for change in ({"seed": 1}, {"x": start(3, 3)}):
        arguments = {"x": start(2, 3), "seed": 0} | change
        with pytest.raises(ValueError, match="after"):
            smc.mcmc(
                network(), sigma=0.5, corrector=smc.MALA(), transitions=2, after=first, **arguments
            )
