"""The verdict of a run finds bad weights, says what to change, and names what it cannot judge."""

import dataclasses
import math
import re
import warnings

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, ResidualMLP
from edmfast.sampling import get_sigmas_karras
from edmfast.smc.feynman_kac import energy, scores, superdiff
from edmfast.smc.particles import law_notes
from edmfast.smc.verdict.findings import predicted_log_z_sd
from edmfast.smc.verdict.judge import judge
from edmfast.targets import Conditioned, Tempered, Tilted
from tests.grouped import grouped

FAR = GaussianMixture([[-3.0, 0.0], [3.0, 0.0]], [0.9, 0.3])
COLD = Tempered(FAR, 2.0)
GOOD = get_sigmas_karras(20, 0.05, 10.0)


def quiet(target, sigmas, **options):
    options = {"particles": 200, "populations": 4, "on_degenerate": "ignore", **options}
    shape = options.pop("shape", (2,))
    return smc.sample(target, shape, sigmas, **grouped(**options))


def record(particles=100, populations=8, levels=5, **changes):
    """Return the record of a run without a fault, with some fields changed."""
    generator = torch.Generator().manual_seed(0)
    full = torch.full((levels, populations), 0.9 * particles, dtype=torch.float64)
    survivors = torch.full((levels, populations), particles // 2)
    fields = {
        "x": torch.zeros(populations, particles, 2),
        "log_weights": 0.1 * torch.randn(populations, particles, generator=generator).double(),
        "log_z": 0.01 * torch.arange(populations, dtype=torch.float64),
        "ess": full,
        "resampled": torch.zeros_like(full, dtype=torch.bool),
        "log_weight_sd": torch.full_like(full, 0.2),
        "unique_ancestors": survivors[-1],
        "degenerate": torch.zeros(populations, dtype=torch.int32),
        "sigmas": torch.linspace(10, 0.1, levels, dtype=torch.float64),
        "nfe": levels,
        "seed": 0,
        "law": "exact: weights from energies",
        "survivors": survivors,
        "one_target": True,
    }
    return smc.Particles(**{**fields, **changes})


def ess_at(level, value, populations=8, levels=5, only=None):
    ess = torch.full((levels, populations), 90.0, dtype=torch.float64)
    ess[level, slice(None) if only is None else only] = value
    return ess


def test_a_good_run_is_ok_and_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = smc.sample(COLD, (2,), GOOD, particles=500, populations=8)
    assert run.verdict.level == "ok"
    assert run.verdict
    assert str(run.verdict) == "ok"
    assert run.verdict.reasons == run.verdict.advice == ()


def test_a_start_far_from_the_target_is_reported():
    with pytest.warns(smc.DoubtfulWeightsWarning, match="larger sigma_max") as caught:
        run = smc.sample(
            COLD, (2,), get_sigmas_karras(20, 0.05, 0.5), particles=1000, populations=8
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    verdict = run.verdict
    assert verdict.level == "degenerate"
    assert "the start is far from the target" in verdict.reasons[0]
    assert "of 1000 particles at sigma = 0.5" in verdict.reasons[0]
    assert not verdict
    # the result is wrong indeed: the right mass is 0.9
    mass = run.expectation_estimate(lambda x: (x[..., 0] > 0).double())
    assert float(mass.value) < 0.5


def test_one_ancestor_in_every_population_is_reported():
    """With steps that are too large, every population continues from one or two particles, and log Z is wrong."""
    means = torch.zeros(2, 32)
    means[:, 0] = torch.tensor([-3.0, 3.0])
    target = Tempered(GaussianMixture(means, [0.6, 0.5]), 2.0)
    run = quiet(target, get_sigmas_karras(20, 0.1, 20.0), shape=(32,), proposal="ancestral")
    assert run.unique_ancestors.median() <= 2
    verdict = run.verdict
    assert verdict.level == "degenerate"
    reasons = "\n".join(verdict.reasons)
    for part in ("have descendants", "effective sample size falls", "nats"):
        assert part in reasons
    assert any("smc.calibrate" in step for step in verdict.advice)


@pytest.mark.parametrize(
    ("changes", "level", "reason"),
    [
        ({}, "ok", ""),
        ({"ess": ess_at(0, 16.5)}, "ok", ""),
        ({"ess": ess_at(0, 12.0)}, "doubtful", "size is 12 of 100 particles at sigma = 10"),
        ({"ess": ess_at(0, 1.5)}, "degenerate", "size is 1.5 of 100"),
        ({"ess": ess_at(2, 11.0)}, "ok", ""),
        ({"ess": ess_at(2, 8.0)}, "doubtful", "falls to 8 of 100 particles at sigma = 5.05"),
        ({"ess": ess_at(2, 2.0)}, "degenerate", "falls to 2 of 100"),
        ({"unique_ancestors": torch.full((8,), 5)}, "ok", ""),
        ({"unique_ancestors": torch.full((8,), 4)}, "doubtful", "4 of the 100 .*32 in all 8 pop"),
        ({"unique_ancestors": torch.full((8,), 2)}, "degenerate", "2 of the 100"),
        ({"log_z": 2.0 * torch.arange(8.0).double()}, "degenerate", "by 4.9 nats"),
        ({"log_z": 1.0 * torch.arange(8.0).double()}, "doubtful", "rests on 2.2 of 8 populations"),
        ({"degenerate": torch.full((8,), 1).int()}, "degenerate", "NaN in 8 of 8"),
        ({"degenerate": torch.tensor([2] + 7 * [0]).int()}, "doubtful", "zero in 1 of 8"),
        ({"degenerate": torch.full((8,), 2).int()}, "degenerate", "zero in 8 of 8"),
        ({"degenerate": torch.full((8,), 4).int()}, "degenerate", "infinite in 8 of 8"),
    ],
)
def test_bounds(changes, level, reason):
    verdict = record(**changes).verdict
    assert verdict.level == level, verdict
    assert (verdict.reasons == ()) == (level == "ok")
    if reason:
        assert re.search(reason, verdict.reasons[0]), verdict
        assert verdict.advice


def test_the_variance_of_repeated_resampling_adds_up():
    ess = torch.full((60, 8), 12.0, dtype=torch.float64)
    ess[0] = 90.0
    changes = {"ess": ess, "resampled": torch.ones(60, 8, dtype=torch.bool)}
    run = record(levels=60, **changes)
    expected = math.sqrt(((100 / 90 - 1) + 59 * (100 / 12 - 1)) / 100)
    torch.testing.assert_close(predicted_log_z_sd(run), torch.full((8,), expected).double())
    verdict = run.verdict
    assert verdict.level == "doubtful"
    assert "uncertain by ±2.1 nats" in verdict.reasons[0]


def test_heavy_tails_are_found_where_they_matter():
    u = torch.rand(8, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    heavy = {"log_weights": -1.2 * u.log(), "ess": torch.full((5, 8), 300.0).double()}
    verdict = record(particles=1000, **heavy).verdict
    assert verdict.level == "doubtful"
    assert "Pareto k̂ = 1" in verdict.reasons[0]
    light = record(particles=1000, log_weights=u.log(), ess=heavy["ess"])
    assert light.verdict.level == "ok"


def test_one_bad_population_counts_where_each_has_its_own_target():
    ess = ess_at(2, 2.0, only=3)
    assert record(ess=ess).verdict.level == "ok"
    verdict = record(ess=ess, one_target=False).verdict
    assert verdict.level == "degenerate"
    assert any("its own target" in gap for gap in verdict.not_judged)


def test_populations_of_few_particles_are_not_judged_by_their_ess():
    run = record(particles=4, ess=ess_at(2, 1.0), unique_ancestors=torch.ones(8).long())
    assert run.verdict.level == "ok"
    assert any("fewer than 32 particles" in gap for gap in run.verdict.not_judged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("fk", "svdd", "best_of_n"):
            smc.steer(
                FAR.denoise,
                lambda x: 3 * x[:, 0],
                (2,),
                GOOD,
                prompts=6,
                candidates=4,
                method=method,
            )


def test_selection_of_one_particle_is_no_fault():
    target = Tilted(FAR, lambda x: x[:, 0], 1.0, ramp=None)
    run = quiet(target, GOOD, resampling="select", ess_threshold=1.0, weights="score")
    assert run.unique_ancestors.max() == 1
    assert not any("descend" in reason for reason in run.verdict.reasons)


def test_what_leaves_no_trace_is_named():
    plain = quiet(FAR.denoise, GOOD, shape=(2,))
    assert plain.verdict.level == "ok"
    assert "all weights are equal" in plain.verdict.not_judged[0]
    corrected = quiet(Tempered(FAR, 2.0), GOOD, weights="score")
    assert "weights come from scores" in corrected.verdict.not_judged[0]
    single = quiet(COLD, GOOD, populations=1)
    assert any("spread of log Z" in gap for gap in single.verdict.not_judged)


def test_a_file_is_judged_as_the_run_was(tmp_path):
    run = quiet(COLD, get_sigmas_karras(20, 0.05, 0.5))
    run.save(tmp_path / "p")
    assert smc.Particles.load(tmp_path / "p").verdict == run.verdict


def test_warnings_can_be_switched_off():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = quiet(COLD, get_sigmas_karras(20, 0.05, 0.5))
    assert not run.verdict
    assert judge(run, pooled=False).level != "ok"


def test_bad_weights_give_one_warning():
    with pytest.warns(smc.DegenerateWeightsWarning) as caught:
        run = smc.sample(Tilted(FAR, lambda x: x[:, 0] * math.nan, 1.0), (2,), GOOD, particles=50)
    assert [warning.category for warning in caught] == [smc.DegenerateWeightsWarning]
    assert run.verdict.level == "degenerate"


@pytest.mark.parametrize(
    ("target", "populations", "shared"),
    [
        (COLD, 4, True),
        (Tempered(FAR, torch.tensor([1.0, 2.0])), 2, False),
        (Tempered(FAR, torch.tensor([2.0, 2.0])), 2, True),
        (Tilted(FAR, lambda x: x[:, 0], torch.tensor([1.0, 2.0])), 2, False),
        (Tempered(FAR, torch.tensor([1.0, 2.0])), 1, True),
    ],
)
def test_one_target_for_all_populations_or_one_for_each(target, populations, shared):
    if populations == 1:
        target = COLD
    run = quiet(target, GOOD, populations=populations, particles=20)
    assert run.one_target is shared


def test_each_condition_is_its_own_target():
    torch.manual_seed(0)
    network = Denoiser(ResidualMLP(2, 16, 2, num_classes=3))
    options = {"populations": 3, "particles": 10}
    labels = torch.tensor([0, 1, 2])
    assert (
        quiet(Conditioned(network, class_label=labels), GOOD.float(), **options).one_target is False
    )
    assert quiet(Conditioned(network, class_label=1), GOOD.float(), **options).one_target is True
    each = torch.arange(30) % 3
    run = quiet(Conditioned(network, class_label=each), GOOD.float(), **options)
    assert run.one_target is False


def test_normalisers_of_different_targets_are_not_averaged():
    run = quiet(Tempered(FAR, torch.tensor([1.0, 2.0])), GOOD, populations=2)
    with pytest.raises(ValueError, match="needs populations of one target"):
        run.log_z_estimate()
    with pytest.raises(ValueError, match="pooling='equal'"):
        run.expectation_estimate(lambda x: x)
    run.expectation_estimate(lambda x: x, pooling="equal")
    # a file of an earlier version lacks this field
    unknown = dataclasses.replace(run, one_target=None)
    unknown.log_z_estimate()


@pytest.mark.parametrize(("particles", "populations"), [(31, 3), (20, 3), (16, 2)])
def test_a_far_start_is_reported_with_few_particles_too(particles, populations):
    counts = {"particles": particles, "populations": populations}
    with pytest.warns(smc.DoubtfulWeightsWarning, match="larger sigma_max"):
        run = smc.sample(COLD, (2,), get_sigmas_karras(20, 0.05, 0.5), **grouped(**counts))
    assert not run.verdict
    good = smc.sample(COLD, (2,), get_sigmas_karras(20, 0.05, 20.0), **grouped(**counts))
    assert not any("start is far" in reason for reason in good.verdict.reasons)


def test_advice_fits_the_run():
    sigmas = get_sigmas_karras(4, 0.05, 10.0)
    for weights, advised in (("score", False), ("reversal", True)):
        run = smc.sample(
            Tempered(FAR.denoise, 8.0),
            (2,),
            sigmas,
            particles=64,
            populations=2,
            weights=weights,
            options=smc.RunOptions(on_degenerate="ignore"),
        )
        advice = " ".join(run.verdict.advice)
        assert not run.verdict
        assert "MALA" not in advice
        assert ("the levels and probes that smc.calibrate proposes" in advice) == advised
    steered = smc.steer(
        FAR.denoise,
        lambda x: 20 * x[:, 0],
        (2,),
        sigmas,
        candidates=64,
        options=smc.RunOptions(on_degenerate="ignore"),
    )
    assert "smaller strength" in steered.candidates.verdict.advice[0]
    assert "sigma_max" not in " ".join(steered.candidates.verdict.advice)


def test_the_quality_of_a_learned_energy_is_not_judged():
    class Learned:
        def energy_and_score(self, x, sigma):
            return FAR.energy_and_score(x, sigma)

    sigmas = get_sigmas_karras(10, 0.05, 10.0)
    run = smc.sample(Learned(), (2,), sigmas, particles=200, proposal="ancestral")
    assert any("learned energy" in gap for gap in run.verdict.not_judged)
    exact = smc.sample(FAR, (2,), sigmas, particles=200)
    assert not any("learned energy" in gap for gap in exact.verdict.not_judged)


def test_the_phrases_of_laws_are_recognised():
    assert energy.EXACT_LAW.startswith(law_notes.EXACT)
    for text in (scores.PLAIN, superdiff.SUPERPOSED_AND, superdiff.SUPERPOSED_OR):
        assert text.startswith(law_notes.UNWEIGHTED)
    cut = quiet(COLD, GOOD, sigma_range=(1.0, math.inf))
    assert any("below the end of weighting" in gap for gap in cut.verdict.not_judged)
    selected = quiet(COLD, GOOD, resampling="select")
    assert any("single population" in gap for gap in selected.verdict.not_judged)
