"""Test sequential Monte Carlo with correctors, and waste-free: the laws, the bits and the ancestors."""

import math
import warnings

import pytest
import torch

from edmfast import smc
from edmfast.models import EnergyModel
from edmfast.models.backbones import ResidualMLP
from edmfast.ops import resample, rng_state
from edmfast.smc.correctors.waste_free import chain_slots
from edmfast.targets import ProposedBy, Tempered
from tests.grouped import grouped

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")

SEEDS = 20
MALA = smc.MALA(steps=2)
BOTH = [smc.MALA(), smc.Underdamped(leapfrog_steps=2)]


def network():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=32, depth=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Tempered(model, 1.5)


def narrow(x):
    return (x[..., 0] < -0.2).double()


def within_three_standard_errors(values, truth):
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - truth) < 3 * error, (values.mean(), error, truth)
    return error


def check_law(result, two_modes, square_of, start_log_normaliser, sigmas):
    """Check the mass of the narrow mode, and Z of the squared density, at the last level."""
    exact, log_integral = square_of(two_modes, float(sigmas[-1]))
    z = (-0.2 - exact.means[:, 0]) / exact.stds
    mass = float((exact.weights * 0.5 * (1 + torch.erf(z / math.sqrt(2)))).sum())
    error = within_three_standard_errors(result.expectation(narrow), mass)
    truth = log_integral - start_log_normaliser(float(sigmas[0]), 2.0, 2)
    within_three_standard_errors(torch.exp(result.log_z - truth), 1.0)
    return error


@pytest.mark.parametrize(
    "options",
    [
        {"correctors": MALA},
        {"correctors": MALA, "proposal": "euler", "particles": 1000},
        {"correctors": BOTH, "ess_threshold": 0.9, "resampling": "killing"},
        {"correctors": MALA, "corrector_range": (0.1, 2.0)},
        {"correctors": smc.HMC(leapfrog_steps=2, adapt=False), "ess_threshold": 0.0},
        {"correctors": MALA, "waste_free": 4, "ess_threshold": 1.0},
        {"correctors": MALA, "waste_free": 4, "ess_threshold": 0.9, "particles": 1000},
        {
            "correctors": MALA,
            "waste_free": 2,
            "ess_threshold": 1.0,
            "resampling": "multinomial",
            "particles": 1000,
        },
    ],
    ids=lambda options: " ".join(options),
)
def test_the_law_stays_exact(two_modes, levels, square_of, start_log_normaliser, options):
    sigmas = levels(16)
    options = {"particles": 500, "populations": SEEDS, "seed": 3} | options
    result = smc.sample(Tempered(two_modes, 2.0), (2,), sigmas, **grouped(**options))
    error = check_law(result, two_modes, square_of, start_log_normaliser, sigmas)
    assert error < 0.05
    low, high = options.get("corrector_range", (0.0, math.inf))
    applied = (result.sigmas >= low) & (result.sigmas <= high)
    if "waste_free" in options:
        applied[-1] = False  # Nothing is resampled at the last level.
    assert torch.equal(result.acceptance.isfinite().all((1, 2)), applied)
    assert 0.2 < result.acceptance[applied].mean() < 0.99


def test_waste_free_beats_the_ancestors_alone(two_modes, levels, square_of, start_log_normaliser):
    """Both ways spend as many evaluations on the correctors.

    M particles move L - 1 times; one way uses the last states, waste-free uses all of them.
    """
    sigmas, length, ancestors = levels(12), 8, 125
    target, many = Tempered(two_modes, 2.0), 40
    options = {"populations": many, "ess_threshold": 1.0, "seed": 5}
    alone = smc.sample(
        target,
        (2,),
        sigmas,
        **grouped(particles=ancestors, correctors=smc.MALA(steps=length - 1), **options),
    )
    free = smc.sample(
        target,
        (2,),
        sigmas,
        **grouped(
            particles=ancestors * length, correctors=smc.MALA(), waste_free=length, **options
        ),
    )
    _, log_integral = square_of(two_modes, float(sigmas[-1]))
    truth = log_integral - start_log_normaliser(float(sigmas[0]), 2.0, 2)
    ratios = [torch.exp(run.log_z - truth) for run in (free, alone)]
    within_three_standard_errors(ratios[0], 1.0)
    assert ratios[0].var() < 0.5 * ratios[1].var()
    assert free.expectation(narrow).var() < alone.expectation(narrow).var()


def test_slots_of_the_chains_are_systematic_resampling():
    """Every particle is chosen M w times on average, which a fixed offset would not give."""
    populations, particles, length = 4000, 12, 4
    log_weights = torch.linspace(-2, 0, particles, dtype=torch.float64).expand(populations, -1)
    resampled = resample(log_weights.contiguous(), rng_state(1, 3))
    slots = chain_slots(rng_state(1, 3), populations, particles, length, 0)
    expected = particles // length * torch.softmax(log_weights[0], 0)

    def check(chosen):
        counts = torch.zeros(populations, particles, dtype=torch.float64)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
        assert (counts - expected).abs().max() < 1
        error = counts.std(0) / math.sqrt(populations)
        assert ((counts.mean(0) - expected).abs() < 4 * error).all()

    check(resampled.ancestors.gather(1, slots).long())
    with pytest.raises(AssertionError):
        check(resampled.ancestors[:, ::length].long())


def fields(result):
    return {
        "x": result.x,
        "log_weights": result.log_weights,
        "log_z": result.log_z,
        "ess": result.ess.T,
        "survivors": result.survivors.T,
        "acceptance": result.acceptance.nan_to_num(-1.0).permute(2, 0, 1),
        "ancestors": result.ancestors.transpose(0, 1),
    }


WAYS = {
    "correctors": {"correctors": BOTH},
    "waste-free": {"correctors": BOTH, "waste_free": 4, "ess_threshold": 1.0},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("particles", [4, 52])
def test_population_does_not_depend_on_company(levels, particles, way):
    options = {"particles": particles, "seed": 7, "genealogy": True} | WAYS[way]
    target, sigmas = network(), levels(6)
    many = fields(smc.sample(target, (2,), sigmas, **grouped(populations=4, **options)))
    alone = fields(smc.sample(target, (2,), sigmas, **grouped(populations=1, **options)))
    later = fields(
        smc.sample(target, (2,), sigmas, **grouped(populations=2, first_population=2, **options))
    )
    for name, value in many.items():
        assert torch.equal(value[:1], alone[name]), name
        assert torch.equal(value[2:], later[name]), name


@pytest.mark.parametrize("way", WAYS)
def test_resume_repeats_the_bits(levels, tmp_path, way):
    path = tmp_path / "run.safetensors"
    options = {"particles": 64, "populations": 2, "seed": 1, "genealogy": True} | WAYS[way]
    options.setdefault("ess_threshold", 0.9)
    target, sigmas = network(), levels(7)
    whole = fields(smc.sample(target, (2,), sigmas, **grouped(**options)))

    class Stop(Exception):
        pass

    def stop(info):
        if info["i"] == 5:
            raise Stop

    with pytest.raises(Stop):
        smc.sample(
            target,
            (2,),
            sigmas,
            **grouped(checkpoint=path, checkpoint_every=3, callback=stop, **options),
        )
    resumed = fields(smc.sample(target, (2,), sigmas, **grouped(resume_from=path, **options)))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    other = options | {"correctors": smc.MALA(step_size=0.1)}
    with pytest.raises(ValueError, match="correction"):
        smc.sample(target, (2,), sigmas, **grouped(resume_from=path, **other))


@pytest.mark.parametrize("way", WAYS)
def test_the_recorded_ancestors_lead_to_the_survivors(two_modes, levels, way):
    options = {"ess_threshold": 0.9} | WAYS[way]
    result = smc.sample(
        Tempered(two_modes, 2.0),
        (2,),
        levels(8),
        **grouped(particles=60, populations=3, genealogy=True, **options),
    )
    roots = torch.arange(60).expand(3, -1)
    for t, ancestors in enumerate(result.ancestors):
        roots = roots.gather(1, ancestors.long())
        alive = torch.tensor([len(row.unique()) for row in roots])
        assert torch.equal(result.survivors[t], alive)
    if way == "waste-free":
        chosen = [len(row.unique()) for row in result.ancestors[3]]
        assert max(chosen) <= 15  # At most M of the N particles are chosen.
        assert torch.equal(result.ancestors[3][:, ::4], result.ancestors[3][:, 3::4])


@pytest.mark.parametrize("way", WAYS)
def test_callbacks_see_particles_with_their_weights(two_modes, levels, way):
    """Moved particles have equal weights where they were resampled, and energies belong to the states."""
    target, seen = Tempered(two_modes, 2.0), []
    result = smc.sample(
        target,
        (2,),
        levels(8),
        **grouped(
            particles=60,
            populations=3,
            callback=lambda info: seen.append(dict(info)),
            **({"ess_threshold": 0.7} | WAYS[way]),
        ),
    )
    assert result.resampled.any()
    assert not result.resampled.all()
    for info, resampled in zip(seen, result.resampled, strict=True):
        assert torch.equal((info["log_weights"] == 0).all(1), resampled)
        energy, score = target.energy_and_score(info["x"].flatten(0, 1), info["sigma"])
        torch.testing.assert_close(info["energy"].flatten(), energy)
        torch.testing.assert_close(info["score"].flatten(0, 1), score)


def test_evaluations_are_counted(two_modes, levels):
    calls = []

    class Counting:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            calls.append(len(x))
            return two_modes.energy_and_score(x, sigma)

    options = {"particles": 256, "proposal": "noise_matched", "correctors": BOTH}
    for way in ({}, {"waste_free": 4, "ess_threshold": 1.0}, {"corrector_range": (0.1, 5.0)}):
        calls.clear()
        result = smc.sample(Counting(), (2,), levels(9), **grouped(**options, **way))
        assert result.nfe == math.ceil(sum(calls) / 256)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_compiled_run_equals_the_eager_one(two_modes, levels, way):
    target = Tempered(two_modes, 2.0)
    options = {"particles": 40, "populations": 2, "seed": 2, "ess_threshold": 0.9} | WAYS[way]
    if (
        way == "waste-free"
    ):  # Every move is traced, so a single move of one corrector covers the code.
        options |= {"correctors": smc.Underdamped(leapfrog_steps=2), "waste_free": 2}
    eager = smc.sample(target, (2,), levels(5), **grouped(**options))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        result = smc.sample(target, (2,), levels(5), **grouped(compile=True, **options))
    for name in ("x", "log_weights", "log_z", "ess", "acceptance"):
        actual, expected = getattr(result, name), getattr(eager, name)
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8, equal_nan=True)


def test_particles_keep_the_acceptances(two_modes, levels, tmp_path):
    result = smc.sample(two_modes, (2,), levels(4), particles=8, correction=BOTH)
    result.save(tmp_path / "p.safetensors")
    back = smc.Particles.load(tmp_path / "p.safetensors")
    assert torch.equal(back.acceptance, result.acceptance)
    assert result.acceptance.shape == (5, 2, 1)
    assert smc.sample(two_modes, (2,), levels(4), particles=8).acceptance is None


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"correctors": "mala"}, TypeError, "MALA"),
        ({"correctors": MALA, "corrector_range": (2.0, 1.0)}, ValueError, "Correction.sigma_range"),
        ({"waste_free": 2}, ValueError, "needs correctors"),
        ({"correctors": MALA, "waste_free": 3}, ValueError, "divide the 8"),
        ({"correctors": MALA, "waste_free": 1}, ValueError, "at least 2"),
        ({"correctors": smc.MALA(steps=5000)}, ValueError, "4096"),
        ({"correctors": MALA, "weights": "score"}, ValueError, "scores alone"),
    ],
)
def test_bad_input(two_modes, levels, change, error, text):
    with pytest.raises(error, match=text), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smc.sample(two_modes, (2,), levels(4), **grouped(particles=8, **change))


@pytest.mark.filterwarnings("ignore::edmfast.smc.MixedModelsWarning")
def test_unadjusted_correctors_refuse_the_score_of_another_model(two_modes, levels):
    target = ProposedBy(two_modes, two_modes)
    with pytest.raises(ValueError, match="not the gradient"):
        smc.sample(target, (2,), levels(4), particles=8, correction=smc.ULA())
