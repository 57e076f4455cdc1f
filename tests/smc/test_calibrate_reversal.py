"""Calibration for matched reversals: it tells signal from noise, and spends probes where they pay."""

import itertools
import json

import numpy as np
import pytest
import torch

from edmfast import smc
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.smooth_digits import SIGMA_MIN, load_smooth_digits
from edmfast.smc.pilot import reversal
from edmfast.smc.pilot.probe_table import choose_probes
from edmfast.targets import Product, Tempered, Tilted

D, STEPS = 16, 24


class Denoiser:
    """The denoiser of an exact density, which hides its energy and its trace."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x, sigma):
        return self.model.denoise(x, sigma)


@pytest.fixture(scope="module")
def mixture():
    generator = torch.Generator().manual_seed(4)
    factors = 0.5 * torch.randn(4, D, 3, generator=generator)
    diagonal = torch.full((4, D), 0.01)
    return MixtureOfGaussians(
        torch.randn(4, D, generator=generator), (diagonal, factors), [0.1, 0.2, 0.3, 0.4]
    )


@pytest.fixture(scope="module")
def levels():
    def make(steps, low):
        ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return (20 ** (1 / 7) + ramp * (low ** (1 / 7) - 20 ** (1 / 7))) ** 7

    return make


@pytest.fixture(scope="module")
def cold(mixture):
    return Tempered(Denoiser(mixture), 2.0)


@pytest.fixture(scope="module")
def calibration(cold, levels):
    return smc.calibrate(cold, (D,), levels(STEPS, low=0.05), particles=500, pilot_steps=64)


def run(target, sigmas, weights="auto", shape=(D,)):
    return smc.sample(target, shape, sigmas, particles=500, populations=8, weights=weights, seed=3)


def variance(particles):
    return float(particles.log_weight_sd.square().sum(0).mean())


def test_probes_and_levels_lower_the_variance_at_the_same_cost(mixture, cold, calibration, levels):
    one_each = run(cold, levels(STEPS, low=0.05), smc.Reversal(1))
    calibrated = run(cold, calibration)
    assert calibrated.evaluations.forward == one_each.evaluations.forward
    assert calibrated.evaluations.backward <= one_each.evaluations.backward
    assert variance(calibrated) < 0.65 * variance(one_each)
    assert 0.5 < variance(calibrated) / calibration.weighted_variance < 2
    exact = mixture.power(2, sigma=0.05).factor_masses[0]
    members = mixture.responsibilities(calibrated.x.reshape(-1, D), 0.05).reshape(8, 500, -1)
    masses = (calibrated.weights[..., None] * members).sum((0, 1)) / 8
    assert float((masses - exact).abs().sum()) / 2 < 0.08


def test_a_table_alone_lowers_the_variance_at_the_given_levels(cold, levels):
    sigmas = levels(STEPS, low=0.05)
    table = smc.calibrate(
        cold, (D,), sigmas, particles=500, pilot_steps=64, equalise=False, probes=1.2
    )
    assert table.sigmas == tuple(sigmas.tolist())
    assert sum(table.probes) <= 1.2 * (len(sigmas) - 1)
    assert 0 in table.probes
    assert max(table.probes) > 1
    assert variance(run(cold, table)) < 0.8 * variance(run(cold, sigmas, smc.Reversal(1)))


def test_the_budget_is_kept_and_the_caller_goes_before_the_table(cold, calibration):
    steps = len(calibration.kappa)
    assert len(calibration.probes) == steps
    assert 0.9 * steps < sum(calibration.probes) <= steps
    assert run(cold, calibration).evaluations.backward == sum(calibration.probes)
    assert run(cold, calibration, smc.Reversal(2)).evaluations.backward == 2 * steps


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["power", "product"])
def test_digits_at_the_cost_of_one_probe_each(levels, kind):
    """A calibrated run on the smooth digits has about half the variance of one probe each, and right masses."""
    digits = load_smooth_digits()
    sigmas = levels(32, low=SIGMA_MIN)
    if kind == "power":
        target = Tempered(Denoiser(digits), 2.0)
        truth = digits.power(2, sigma=SIGMA_MIN).factor_masses[0]
    else:
        pair = digits.conditional(3), digits.conditional(8)
        target = Product([Denoiser(part) for part in pair])
        truth = pair[0].product(pair[1], sigma=SIGMA_MIN).factor_masses[0]
        digits = pair[0]
    calibration = smc.calibrate(target, (64,), sigmas, particles=300, pilot_steps=96)
    results = [
        smc.sample(
            target,
            (64,),
            given,
            particles=256,
            populations=8,
            weights=weights,
            ess_threshold=0.4,
        )
        for given, weights in ((sigmas, smc.Reversal(1)), (calibration, "reversal"))
    ]
    one_each, calibrated = results
    assert calibrated.evaluations.backward <= one_each.evaluations.backward
    assert variance(calibrated) < 0.65 * variance(one_each)
    assert variance(calibrated) < 3
    members = digits.responsibilities(calibrated.x.reshape(-1, 64), SIGMA_MIN).reshape(8, 256, -1)
    masses = (calibrated.weights[..., None] * members).sum((0, 1)) / 8
    # 8 populations leave an error of about .04
    assert float((masses - truth).abs().sum()) / 2 < 0.12


def test_signal_and_noise_of_a_correlated_gaussian():
    """All traces of a Gaussian agree, so there is no signal; the noise of a probe is known."""
    size, gamma = 6, 3.0
    covariance = 0.2 * torch.eye(size, dtype=torch.float64) + 0.5
    gaussian = MixtureOfGaussians(torch.zeros(1, size), covariance[None])
    fine = np.geomspace(8.0, 0.1, 97)
    record = reversal.run_pilot(Tempered(Denoiser(gaussian), gamma), (size,), fine, 4000, 1, 0)
    noise = []
    for s, u in itertools.pairwise(fine):
        hessian = -torch.linalg.inv(covariance + s**2 * torch.eye(size))
        kappa = 1 + (s**2 - u**2) * float(hessian.trace()) / size
        beside = float(hessian.square().sum() - hessian.diagonal().square().sum())
        noise.append(2 * ((gamma - 1) / 2 * (s**2 - u**2) / kappa) ** 2 * beside)
        curvature = record.curvatures[len(noise) - 1]
        assert abs(curvature - s**2 * float(hessian.trace()) / size) < 0.01
    # a running mean over five steps, and kappa is no linear function of the trace
    assert record.probe_sd is not None
    np.testing.assert_allclose((record.probe_sd**2).sum(), sum(noise), rtol=0.05)
    np.testing.assert_allclose(record.probe_sd[4:-4] ** 2, noise[4:-4], rtol=0.2)
    assert (record.sd**2 - record.probe_sd**2).sum() < 0.02 * sum(noise)
    assert record.lost_sd.max() < 0.05


def test_models_with_exact_traces_need_no_probes(mixture, levels):
    sigmas = levels(STEPS, low=0.05)
    options = {"particles": 500, "pilot_steps": 64, "weights": "reversal"}
    exact = smc.calibrate(Tempered(mixture, 2.0), (D,), sigmas, **options)
    assert exact.probes is None
    assert exact.probe_sd is None
    probed = smc.calibrate(Tempered(Denoiser(mixture), 2.0), (D,), sigmas, **options)
    assert exact.weighted_variance < probed.weighted_variance
    ratio = variance(run(Tempered(mixture, 2.0), exact, "reversal")) / exact.weighted_variance
    assert 0.5 < ratio < 2


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: Product([a, b]),
        lambda a, b: Tempered(a, torch.tensor([1.5, 3.0])),
        lambda a, b: Tilted(Tempered(a, 2.0), lambda x: x[:, 0], 2.0, gradient="none"),
    ],
)
def test_products_exponents_and_rewards(mixture, levels, make):
    other = MixtureOfGaussians(torch.zeros(1, D), torch.eye(D)[None])
    target = make(Denoiser(mixture), Denoiser(other))
    sigmas = [*levels(12, low=0.05).tolist(), 0.0]
    calibration = smc.calibrate(
        target, (D,), sigmas, particles=300, populations=2, pilot_steps=48, probes=1.2
    )
    assert len(calibration.sigmas) == len(sigmas)
    assert sum(calibration.probes) <= 1.2 * len(calibration.kappa)
    result = smc.sample(target, (D,), calibration, particles=300, populations=2)
    ratio = variance(result) / calibration.weighted_variance
    assert 0.3 < ratio < 3


def test_a_plain_denoiser_has_nothing_to_weigh(mixture, levels):
    sigmas = levels(8, low=0.05)
    options = {"particles": 100, "pilot_steps": 16}
    with pytest.raises(TypeError, match="Denoiser has no energy, and no power or product"):
        smc.calibrate(Denoiser(mixture), (D,), sigmas, **options)
    table = smc.calibrate(Denoiser(mixture), (D,), sigmas, weights="reversal", **options)
    assert table.sigmas == tuple(sigmas.tolist())
    assert set(table.probes) == {0}
    assert table.weighted_variance == 0


@pytest.mark.parametrize(
    ("lost", "noise", "per_step", "counts"),
    [
        # the two least losses are below 0.01 together, and the noise is shared out by v/K
        ([0.004, 0.005, 1.0, 1.0], [9.0, 9.0, 1.0, 2.0], 1.0, (0, 0, 1, 3)),
        ([0.004, 0.007, 1.0, 1.0], [9.0, 9.0, 1.0, 1.0], 1.5, (0, 4, 1, 1)),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 4.0], 2.0, (1, 2, 3)),
        ([1.0, 1.0], [0.0, 0.0], 3.0, (1, 1)),
        ([0.0, 0.0], [1.0, 1.0], 1.0, (0, 0)),
    ],
)
def test_probes_go_where_they_lower_the_noise_most(lost, noise, per_step, counts):
    assert choose_probes(lost, noise, per_step) == counts


def test_files(tmp_path):
    path = tmp_path / "calibration.json"
    calibration = smc.Calibration(
        (2.0, 1.0, 0.5), (0.5, 0.6), (0.2, 0.3), probes=(0, 2), probe_sd=(0.1, 0.2)
    )
    assert "2 probes" in repr(calibration)
    calibration.save(path)
    assert smc.Calibration.load(path) == calibration
    older = json.loads(path.read_text())
    del older["probes"], older["probe_sd"]
    path.write_text(json.dumps(older))
    assert smc.Calibration.load(path).probes is None
    for wrong in ({"probes": [1]}, {"probes": [1, -1]}, {"probes": [1, 0.5]}, {"probe_sd": [0.1]}):
        path.write_text(json.dumps({**older, **wrong}))
        with pytest.raises(ValueError, match=r"not a calibration.*probe"):
            smc.Calibration.load(path)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"weights": "energy"}, TypeError, "no energy"),
        ({"weights": "hybrid"}, ValueError, "'auto', 'energy' or 'reversal', got 'hybrid'"),
        ({"sigma_lo": 0.3}, ValueError, "reversals weigh all levels"),
        ({"probes": -1}, ValueError, "probes must be"),
        ({"probes": 0.1}, ValueError, r"steps need a probe, and probes=0\.1 .* pass probes="),
    ],
)
def test_refusals(cold, levels, options, error, text):
    with pytest.raises(error, match=text):
        smc.calibrate(cold, (D,), levels(8, low=0.05), particles=50, pilot_steps=16, **options)


def test_a_score_that_is_not_finite_is_named_with_its_level(mixture, levels):
    def broken(x, sigma):
        return mixture.denoise(x, sigma) * torch.where(sigma < 1, float("nan"), 1.0)[:, None]

    with pytest.raises(ValueError, match=r"not finite at sigma = 0\.9\d*, for 50 of 50 particles"):
        smc.calibrate(
            Tempered(broken, 2.0), (D,), levels(24, low=0.05), particles=50, pilot_steps=64
        )
