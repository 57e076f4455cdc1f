"""Test what a run must refuse or report when it cannot follow the requested law."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest
import torch

from edmfast import Conditioned, Constrained, Guided, Mixture, Product, Tempered, Tilted, ops, smc
from edmfast.analytic import GaussianMixture
from edmfast.distill import distill
from edmfast.smc.checkpoint.fingerprint import fingerprint
from edmfast.targets.constrained import box
from edmfast.targets.measurements import super_resolution
from tests.grouped import grouped

SIGMAS = [8.0, 3.0, 1.0, 0.4, 0.1]
NARROW, WIDE = GaussianMixture([[2.0]], [0.5]), GaussianMixture([[0.0]], [1.0])


def small(target, **options):
    arguments = {"particles": 16, "populations": 3} | options
    return smc.sample(target, (1,), SIGMAS, **grouped(**arguments))


def first(x):
    return x[:, 0]


def denoiser(x, sigma):
    return WIDE(x, sigma)


@pytest.mark.parametrize("gradient", ["none", "exact"])
@pytest.mark.parametrize(
    "around",
    [
        Conditioned,
        lambda tilt: Tempered(tilt, 2.0),
        lambda tilt: Product([tilt, denoiser]),
        lambda tilt: Mixture([tilt, denoiser]),
    ],
)
def test_a_reward_inside_a_target_without_energies_is_refused(around, gradient):
    with pytest.raises(ValueError, match="outermost"):
        small(around(Tilted(denoiser, first, 1.0, gradient=gradient)))
    small(Tilted(Tempered(denoiser, 2.0), first, 1.0))


@pytest.mark.parametrize(
    "target",
    [
        Product([NARROW, WIDE], [3.0, 1.0]),
        Product([NARROW, WIDE], [1.0, -0.5]),
        Guided(WIDE, NARROW, 3.0),
        Tempered(WIDE, 4.0),
        Mixture([Tempered(NARROW, 2.0), Tempered(WIDE, 2.0)]),
    ],
)
def test_superdiff_refuses_exponents(target):
    with pytest.raises(ValueError, match="exponent"):
        small(target, proposal="superdiff")


def test_a_denoiser_with_members_of_its_own_is_no_mixture():
    class Ensemble(torch.nn.Module):
        models = (denoiser, denoiser)

        def forward(self, x, sigma):
            return sum(model(x, sigma) for model in self.models) / 2

    assert torch.equal(
        small(Ensemble(), dtype=torch.float64).x, small(denoiser, dtype=torch.float64).x
    )


def test_the_law_says_what_options_take_away():
    walled = Constrained(WIDE, box(0.5, 9.0), 1.0, hard_below=0.1, of="state")
    assert "but" not in small(walled).law
    assert "weights stop at sigma = 0.3" in small(WIDE, sigma_range=(0.3, math.inf)).law
    assert "one particle" in small(WIDE, resampling="select").law
    assert "unadjusted" in small(WIDE, correctors=smc.ULA(2)).law
    assert "but" not in small(WIDE, correctors=smc.MALA(2)).law


@pytest.mark.parametrize("potential", ["difference", "max"])
@pytest.mark.parametrize("model", [WIDE, denoiser])
def test_an_infinite_reward_does_nothing_before_its_ramp(model, potential):
    def wall(x):
        return torch.where(x[:, 0] < 1e3, -math.inf, 0.0)

    tilt = Tilted(model, wall, 1.0, ramp=(0.2, 0.1), potential=potential)
    seen = []
    with pytest.warns(smc.DegenerateWeightsWarning, match="weights zero"):
        result = small(
            tilt, callback=lambda info: seen.append(info["log_weights"].isfinite().all())
        )
    # The "max" potential rewards along the path, and pays nothing above the ramp either.
    assert [bool(fine) for fine in seen] == [True] * 4 + [False]
    assert (result.degenerate & 1).eq(0).all()


def test_the_best_of_n_is_not_nan():
    def reward(x):
        return torch.where(x[:, 0] > 0, math.nan, x[:, 0])

    result = smc.steer(WIDE, reward, (1,), SIGMAS, prompts=20, candidates=8, method="best_of_n")
    assert result.candidate_rewards.isnan().any()
    assert not result.rewards.isnan().any()


def test_expectations_leave_out_nan_without_weight():
    result = small(WIDE)
    result.x[:, 0], result.log_weights[:, 0] = math.nan, -math.inf
    assert result.expectation(lambda x: x).isfinite().all()


def test_a_proposal_of_the_users_own_resumes(tmp_path):
    class Mine(smc.Proposal):
        def __init__(self, scale):
            self.scale = scale

        def plain_coefficients(self, step, exponent):
            return step.tau2, self.scale * step.tau2, step.tau2

    mine = Mine(1.0)
    whole = small(WIDE, proposal=mine, checkpoint=tmp_path / "run", checkpoint_every=2)
    resumed = small(WIDE, proposal=Mine(1.0), resume_from=tmp_path / "run")
    assert torch.equal(whole.x, resumed.x)
    with pytest.raises(ValueError, match="proposal"):
        small(WIDE, proposal=Mine(0.9), resume_from=tmp_path / "run")


def test_the_energy_of_a_conditioned_sum():
    x = torch.randn(5, 1)
    target = Product([NARROW, WIDE])
    assert torch.equal(Conditioned(target).energy(x, 0.3), target.energy_and_score(x, 0.3)[0])


def test_offsets_with_correctors():
    class Shifted(GaussianMixture):
        def energy_and_score(self, x, sigma):
            energy, score = super().energy_and_score(x, sigma)
            return energy + 0.3 / sigma, score

    mixture = Mixture([GaussianMixture([[0.0]], [1.0]), Shifted([[0.0]], [1.0])])
    calibrated = smc.calibrate_offsets(
        mixture,
        (1,),
        SIGMAS,
        particles=500,
        populations=4,
        correction=smc.MALA(1),
        proposal=smc.NoiseMatched(0.7),
        ess_threshold=1.0,
    )
    for sigma, values in zip(SIGMAS, calibrated.offsets.values, strict=True):
        gained = 0.3 / sigma
        assert values[1] - values[0] == pytest.approx(gained, abs=0.3)


class Holder:
    def __init__(self, place):
        self.place, self.itself = place, self

    def reward(self, x):
        return x[:, self.place]


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (functools.partial(torch.mul, 2), functools.partial(torch.mul, 3)),
        (Holder(0).reward, Holder(1).reward),
        (np.arange(3), np.arange(3) + 1),
        (super_resolution(2), super_resolution(4)),
    ],
)
def test_fingerprints_look_into(value, other):
    assert fingerprint(value) == fingerprint(value)
    assert fingerprint(value) != fingerprint(other)


def test_numbers_of_a_target_do_not_choose_the_dtype_of_states():
    network = torch.nn.Linear(2, 2)

    def denoise(x, sigma):
        return network(x)

    strengths = torch.tensor([0.1, 0.2])
    target = Tilted(denoise, lambda x: x[:, 0], strengths, ramp=None)
    result = smc.sample(target, (2,), [2.0, 1.0], particles=4, populations=2)
    assert result.x.dtype == torch.float32


def test_a_wall_must_stand_while_there_are_weights():
    model = GaussianMixture(torch.zeros(1, 2), [1.0])
    wall = Constrained(model, lambda x: x[:, 0].clamp_min(0), 1.0, hard_below=0.1, ramp=(1.0, 0.5))
    with pytest.raises(ValueError, match="wall"):
        smc.sample(wall, (2,), [2.0, 1.0, 0.5, 0.1], particles=4, sigma_range=(0.4, math.inf))


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (TypeError, r"checkpoint must be a path or an smc\.Checkpoint", {"checkpoint": ["a"]}),
        (TypeError, r"checkpoint must be a path or an smc\.Checkpoint", {"checkpoint": {}}),
        (TypeError, r"checkpoint must be a path or an smc\.Checkpoint", {"checkpoint": True}),
        (TypeError, r"Checkpoint\.path must be a path", lambda: smc.Checkpoint(5)),
        (TypeError, r"resume_from must be", lambda: smc.Checkpoint(resume_from=5)),
        (TypeError, r"overwrite must be True", lambda: smc.Checkpoint("a", overwrite=1)),
        (TypeError, r"correction.*write smc\.MALA\(\)", {"correction": smc.MALA}),
        (TypeError, r"correction must.*smc\.Correction, got 'mala'", {"correction": "mala"}),
        (TypeError, r"correction must.*a list that holds", {"correction": [smc.Correction()]}),
        (TypeError, r"smc\.RunOptions\(batch_size=4\), got dict", {"options": {"batch_size": 4}}),
        (
            TypeError,
            r"dtype must be torch\.float32 or torch\.float64, got the str 'float64'",
            lambda: smc.RunOptions(dtype="float64"),
        ),
        (TypeError, r"got torch\.float16", lambda: smc.RunOptions(dtype=torch.float16)),
        (ValueError, r"device must be.*got 'gpu'", lambda: smc.RunOptions(device="gpu")),
        (TypeError, r"device must be.*got \[\]", lambda: smc.RunOptions(device=[])),
        (TypeError, r"genealogy must be True", lambda: smc.RunOptions(genealogy="yes")),
        (TypeError, r"gather must be True", lambda: smc.Distribution(gather=0)),
        (TypeError, r"group must be a process group", lambda: smc.Distribution(group=3)),
        (TypeError, r"callback must be a function", {"callback": 3}),
        (TypeError, r"instance of Tempered, not the class", lambda: small(Tempered)),
        (TypeError, r"instance of Tempered, not the class", lambda: Product([Tempered, WIDE])),
        (TypeError, r"write Product\(\[a, b\]\)", lambda: Product(NARROW, WIDE)),
        (TypeError, r"a violation must be callable", lambda: Constrained(WIDE, "box", 1.0)),
        (
            TypeError,
            r"pass candidates=",
            lambda: smc.steer(WIDE, first, (1,), SIGMAS, particles=4),
        ),
        (TypeError, r"DistillConfig\(steps", lambda: distill(None, WIDE, SIGMAS, config={})),
        (
            TypeError,
            r"rng_state\(seed, step\).*got 0",
            lambda: ops.resample(torch.zeros(1, 4), 0),
        ),
    ],
)
def test_a_bad_call_says_what_to_write(error, text, make):
    with pytest.raises(error, match=text):
        make() if callable(make) else smc.sample(WIDE, (1,), SIGMAS, particles=4, **make)


def test_flags_may_come_from_numpy():
    options = smc.RunOptions(genealogy=np.bool_(True))
    assert options.genealogy is True
    assert smc.sample(WIDE, (1,), SIGMAS, particles=4, options=options).ancestors is not None


def test_errors_about_files_name_arguments_that_exist(tmp_path):
    path = tmp_path / "run"
    small(WIDE, checkpoint=path, checkpoint_every=1)
    for text in (f"Checkpoint('{path}', resume_from='{path}')", f"('{path}', overwrite=True)"):
        with pytest.raises(FileExistsError, match=re.escape(text)):
            small(WIDE, checkpoint=path)
    with pytest.raises(FileExistsError, match=r"give another path$"):
        small(WIDE).plot(path)


@pytest.mark.parametrize(
    ("target", "sigmas", "text"),
    [
        (NARROW, SIGMAS, r"\(the target is another one or has changed\)"),
        (WIDE, [8.0, 3.0, 1.5, 0.4, 0.1], r"\(sigmas\[2\]: saved 1\.0, now 1\.5\)"),
        (WIDE, SIGMAS[1:], r"\(sigmas: saved 5 levels, now 4\)"),
    ],
)
def test_a_checkpoint_of_another_run_says_how_it_differs(target, sigmas, text, tmp_path):
    path, options = tmp_path / "run", {"particles": 4, "proposal": "noise_matched"}
    smc.sample(WIDE, (1,), SIGMAS, checkpoint=smc.Checkpoint(path, every=1), **options)
    with pytest.raises(ValueError, match=text):
        smc.sample(target, (1,), sigmas, checkpoint=smc.Checkpoint(resume_from=path), **options)


def test_the_short_law_does_not_hide_reservations():
    assert "law: exact," in repr(small(WIDE))
    assert "law: exact with reservations" in repr(small(WIDE, sigma_range=(20.0, math.inf)))
