"""Reversal-matched weights on targets whose answers are known: masses, products, guidance, rewards, posteriors."""

import math
import warnings

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.targets import Conditioned, Guided, LinearInverse, Mixture, Product, Tempered, Tilted

DOUBLE = smc.RunOptions(dtype=torch.float64)


class Denoiser:
    """The denoiser of an exact density, which hides its energy and its trace."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x, sigma):
        return self.model.denoise(x, sigma)


def gaussian(mean, std):
    return GaussianMixture([mean], [std])


TWO_MODES = GaussianMixture([[-3.0, 0.0], [3.0, 0.0]], [0.9, 0.3])
LEFT = GaussianMixture([[-2.0], [1.0]], [0.6, 0.5], [0.4, 0.6])
RIGHT = GaussianMixture([[-1.5], [2.0]], [0.7, 0.6], [0.5, 0.5])


def right_mass(run):
    return (run.weights * (run.x[..., 0] > 0)).sum(1)


def cold(steps, levels, populations=12, **options):
    model = Tempered(Denoiser(TWO_MODES), 2.0)
    return smc.sample(
        model,
        (2,),
        levels(steps, low=0.02, high=10.0),
        particles=2000,
        populations=populations,
        options=DOUBLE,
        **options,
    )


@pytest.mark.parametrize(("steps", "tolerance"), [(15, 0.012), (39, 0.006)])
def test_the_mass_of_the_narrow_mode_from_a_denoiser(levels, steps, tolerance):
    run = cold(steps, levels)
    assert run.law.startswith("reversal-matched")
    assert abs(float(right_mass(run).mean()) - 0.9) < tolerance
    assert float(run.log_weight_sd.square().sum(0).mean()) < 0.5


def test_the_bias_falls_with_the_square_of_the_steps(levels):
    """At n steps every tau² falls as 1/n, and so does the error of log Z; its slope in log n is near -1."""
    truth = math.log(0.25 * (1 / 0.81 + 1 / 0.09) / (4 * math.pi))
    # log Z is relative to the start, N(0, (10²/2) I) without its normaliser
    start = math.log(math.pi * 10.0**2)
    errors = [float(cold(steps, levels).log_z.mean()) + start - truth for steps in (10, 40)]
    slope = math.log(errors[1] / errors[0]) / math.log(4)
    assert -1.7 < slope < -0.8


def grid_masses(log_density):
    """Return the masses of three bands of a density on the line, by sums over a fine grid."""
    x = torch.linspace(-12, 12, 240001, dtype=torch.float64)[:, None]
    weights = torch.softmax(log_density(x), 0)
    return torch.stack([weights[band(x)].sum() for band in BANDS])


BANDS = [
    lambda x: x[..., 0] < -0.5,
    lambda x: (x[..., 0] >= -0.5) & (x[..., 0] < 1.2),
    lambda x: x[..., 0] >= 1.2,
]


@pytest.mark.parametrize("kind", ["product", "guided"])
def test_products_and_guidance_of_mixtures(levels, kind):
    left, right = Denoiser(LEFT), Denoiser(RIGHT)
    target = Product([left, right]) if kind == "product" else Guided(left, right, 2.0)
    a, b = (1.0, 1.0) if kind == "product" else (-1.0, 2.0)
    truth = grid_masses(lambda x: a * LEFT.log_prob(x, 0.02) + b * RIGHT.log_prob(x, 0.02))
    run = smc.sample(
        target,
        (1,),
        levels(63, low=0.02, high=20.0),
        particles=1000,
        populations=16,
        seed=1,
        options=DOUBLE,
    )
    masses = torch.stack([(run.weights * band(run.x)).sum(1) for band in BANDS], 1)
    # the error of 64 steps, and what is left of the error of 16,000 particles
    assert float((masses.mean(0) - truth).abs().sum()) / 2 < 0.015


@pytest.mark.parametrize(
    "target",
    [
        lambda a, b: Tempered(a, 0.5),
        lambda a, b: Tempered(a, 3.0),
        lambda a, b: Product([a, b], [1.0, 0.7]),
        lambda a, b: Guided(b, a, 2.0),
        lambda a, b: Product([Tempered(a, 2.0), Guided(b, a, 1.5)]),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_weights_of_gaussians_do_not_vary(levels, target, exact):
    """The reversals of Gaussians of one width are exact, and their products carry each level to the next."""
    a, b = gaussian([0.4, -0.2, 0.1], 0.5), gaussian([-0.1, 0.3, 0.5], 0.5)
    pair = (a, b) if exact else (Denoiser(a), Denoiser(b))
    run = smc.sample(
        target(*pair), (3,), levels(12), particles=50, weights="reversal", options=DOUBLE
    )
    assert float(run.log_weights.std()) < 1e-6
    assert float(run.ess.min()) > 49.999


def test_a_product_of_gaussians_with_other_means(levels):
    """The weights vary, because the means differ, and the moments of the product are right."""
    a, b = Denoiser(gaussian([0.5], 0.5)), Denoiser(gaussian([-0.5], 1.0))
    run = smc.sample(
        Product([a, b]),
        (1,),
        levels(40, low=0.01, high=40.0),
        particles=4000,
        populations=8,
        options=DOUBLE,
    )
    precision = 1 / 0.25 + 1.0
    mean = run.expectation(lambda x: x[..., 0])
    assert abs(float(mean.mean()) - (0.5 / 0.25 - 0.5) / precision) < 0.01
    spread = run.expectation(lambda x: x[..., 0].square()) - mean.square()
    assert abs(float(spread.mean()) - 1 / precision) < 0.01
    log_z = -0.5 * math.log(2 * math.pi * 1.25) - 0.5 / 1.25
    start = 0.5 * math.log(math.pi * 40.0**2)
    assert abs(float(run.log_z.mean()) + start - log_z) < 0.02


def test_exact_traces_and_probes_agree(levels):
    target = Tempered(TWO_MODES, 2.0)
    options = {"particles": 2000, "populations": 4, "options": DOUBLE}
    exact = smc.sample(target, (2,), levels(30, low=0.02, high=10.0), weights="reversal", **options)
    probed = smc.sample(
        target, (2,), levels(30, low=0.02, high=10.0), weights=smc.Reversal(3), **options
    )
    assert "exact traces" in exact.law
    assert "estimated traces" in probed.law
    assert abs(float(right_mass(exact).mean() - right_mass(probed).mean())) < 0.02
    assert exact.evaluations.backward < probed.evaluations.backward


def test_several_probes_have_less_noise(levels):
    rotated = Conditioned(Anisotropic(), shift=torch.zeros(1))
    sd = []
    for probes in (1, 4):
        run = smc.sample(
            Tempered(rotated, 3.0),
            (8,),
            levels(8),
            particles=2000,
            weights=smc.Reversal(probes),
            options=DOUBLE,
        )
        sd.append(float(run.log_weight_sd.square().sum()))
    assert 0.15 < sd[1] / sd[0] < 0.4


class Anisotropic:
    """The denoiser of a Gaussian with correlated elements, N(0, C)."""

    def __call__(self, x, sigma, shift):
        d = x.shape[1]
        covariance = 0.1 * torch.eye(d, dtype=x.dtype) + 0.9
        levels = sigma[:, None, None].square() * torch.eye(d, dtype=x.dtype)
        moved = torch.linalg.solve(covariance + levels, covariance @ x[..., None])
        return moved[..., 0] + shift[:, None]


def test_one_population_has_its_bits_in_any_company(levels):
    whole = cold(12, levels, populations=3)
    alone = cold(12, levels, populations=1)
    assert torch.equal(whole.x[:1], alone.x)
    assert torch.equal(whole.log_weights[:1], alone.log_weights)
    assert torch.equal(whole.log_z[:1], alone.log_z)


def test_a_resumed_run_has_the_bits_of_a_whole_one(levels, tmp_path):
    class Stop(Exception):
        pass

    def stop(info):
        if info["i"] == 6:
            raise Stop

    options = {"weights": smc.Reversal(2)}
    whole = cold(12, levels, populations=2, **options)
    path = tmp_path / "run.safetensors"
    with pytest.warns(UserWarning, match="stopped"), pytest.raises(Stop):
        cold(12, levels, 2, callback=stop, checkpoint=smc.Checkpoint(path, every=3), **options)
    resumed = cold(12, levels, 2, checkpoint=smc.Checkpoint(resume_from=path), **options)
    assert torch.equal(whole.x, resumed.x)
    assert torch.equal(whole.log_weights, resumed.log_weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [smc.Reversal(1), smc.Reversal(None), smc.Hybrid(above=1.0, probes=2)]
)
def test_compiled_steps_agree(levels, weights):
    target = Tempered(TWO_MODES, 2.0)
    options = {"particles": 40, "weights": weights, "options": DOUBLE}
    eager = smc.sample(target, (2,), levels(6), **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        compiled = smc.sample(target, (2,), levels(6), compile=True, **options)
    torch.testing.assert_close(compiled.x, eager.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(compiled.log_weights, eager.log_weights, rtol=1e-9, atol=1e-9)


def test_exponents_of_populations(levels):
    """Each population has its own temperature, and the masses that go with it."""
    gammas = torch.tensor([1.0, 2.0, 3.0])
    run = smc.sample(
        Tempered(Denoiser(TWO_MODES), gammas),
        (2,),
        levels(40, low=0.02, high=10.0),
        particles=8000,
        populations=3,
        options=DOUBLE,
    )
    odds = (0.9 / 0.3) ** (2 * (gammas.double() - 1))
    assert (right_mass(run) - odds / (1 + odds)).abs().max() < 0.03


def test_a_reward_on_top_of_a_power(levels):
    """p² of N(0, 1) times exp(r x) is N(r/2, 1/2); the moves may follow the reward's gradient."""
    model = Tempered(Denoiser(gaussian([0.0], 1.0)), 2.0)
    for gradient in ("none", "approximate"):
        target = Tilted(
            model, lambda x: x[:, 0], 1.2, gradient=gradient, ramp=(2.0, 0.02), data_std=1.0
        )
        run = smc.sample(
            target,
            (1,),
            levels(40, low=0.01, high=20.0),
            particles=4000,
            populations=4,
            options=DOUBLE,
        )
        mean = run.expectation(lambda x: x[..., 0])
        assert abs(float(mean.mean()) - 0.6) < 0.03
        spread = run.expectation(lambda x: x[..., 0].square()) - mean.square()
        assert abs(float(spread.mean()) - 0.5) < 0.03


def test_the_posterior_of_a_cold_prior(levels):
    """The prior p² and an observation of the first element: Gaussian, so the posterior is known."""
    prior = Tempered(Denoiser(gaussian([0.0, 0.0], 1.0)), 2.0)
    target = LinearInverse(
        prior, torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]), 0.5, data_std=0.7, full_below=0.02
    )
    run = smc.sample(
        target,
        (2,),
        levels(40, low=0.01, high=20.0),
        particles=4000,
        populations=4,
        options=DOUBLE,
    )
    precision = 2.0 + 4.0
    mean = run.expectation(lambda x: x)
    assert abs(float(mean[:, 0].mean()) - 4.0 / precision) < 0.03
    assert abs(float(mean[:, 1].mean())) < 0.03


def test_correctors_keep_the_law(levels):
    run = smc.sample(
        Tempered(TWO_MODES, 2.0),
        (2,),
        levels(39, low=0.02, high=10.0),
        particles=1000,
        populations=12,
        weights="reversal",
        correction=smc.MALA(),
        options=DOUBLE,
    )
    error = float(right_mass(run).std()) / math.sqrt(12)
    assert abs(float(right_mass(run).mean()) - 0.9) < 3 * error + 0.006
    assert bool((run.acceptance.nan_to_num(1.0) > 0.2).all())


@pytest.mark.parametrize("above", [0.3, 1000.0, 1e-3])
def test_hybrid_weights(levels, above):
    """Energies above the switch, reversals below it, also where one of the two has all steps."""
    run = smc.sample(
        Tempered(TWO_MODES, 2.0),
        (2,),
        levels(39, low=0.02, high=10.0),
        particles=2000,
        populations=12,
        weights=smc.Hybrid(above=above),
        options=DOUBLE,
    )
    error = float(right_mass(run).std()) / math.sqrt(12)
    assert abs(float(right_mass(run).mean()) - 0.9) < 3 * error + 0.006
    assert ("energies weigh" in run.law) == (above < 10.0)


def test_a_hybrid_run_without_lower_steps_is_the_run_of_energies(levels):
    options = {"particles": 100, "populations": 2, "options": DOUBLE}
    hybrid = smc.sample(
        Tempered(TWO_MODES, 2.0), (2,), levels(10), weights=smc.Hybrid(above=1e-3), **options
    )
    energies = smc.sample(Tempered(TWO_MODES, 2.0), (2,), levels(10), weights="energy", **options)
    assert torch.equal(hybrid.x, energies.x)
    assert torch.equal(hybrid.log_weights, energies.log_weights)


def test_hybrid_weights_are_the_default_of_learned_energies(levels):
    torch.manual_seed(0)
    learned = EnergyModel(ResidualMLP(2, width=8, depth=1), sigma_data=1.0)
    options = {"particles": 20}
    run = smc.sample(Tempered(learned, 2.0), (2,), levels(6), **options)
    assert run.law.startswith("energies weigh the steps to sigma >= 0.6")
    rewarded = Tilted(learned, lambda x: x[:, 0], 1.0)
    for target, more in (
        (rewarded, {}),
        (Tempered(TWO_MODES, 2.0), {}),
        (learned, {"proposal": "euler"}),
        (learned, {"weights": "energy"}),
    ):
        assert smc.sample(target, (2,), levels(6), **options, **more).law.startswith("exact")


def test_a_switch_above_all_levels_leaves_reversals_alone(levels):
    target, options = Tempered(TWO_MODES, 2.0), {"particles": 20, "options": DOUBLE}
    hybrid = smc.sample(target, (2,), levels(6), weights=smc.Hybrid(above=1e3), **options)
    reversal = smc.sample(target, (2,), levels(6), weights="reversal", **options)
    assert torch.equal(hybrid.log_weights, reversal.log_weights)
    assert (hybrid.law, hybrid.log_z_note) == (reversal.law, reversal.log_z_note)


def test_the_law_names_steps_without_probes(levels):
    sigmas = [float(level) for level in levels(4)]
    calibration = smc.Calibration(sigmas, [0.9] * 4, [0.1] * 4)
    target = Tempered(Denoiser(TWO_MODES), 2.0)
    weights = smc.Reversal([0, 0, 1, 1])
    run = smc.sample(target, (2,), calibration, particles=20, weights=weights)
    assert "2 of 4 steps take a mean trace" in run.law
    assert run.evaluations == smc.Evaluations(5, 2)


def test_a_guide_is_not_probed(levels):
    target = Tilted(
        Tempered(Denoiser(TWO_MODES), 2.0), lambda x: x[:, 0], 1.0, gradient="approximate"
    )
    run = smc.sample(target, (2,), levels(8), particles=20)
    assert run.evaluations == smc.Evaluations(2 * 9, 8)


def test_a_calibration_says_where_hybrid_weights_switch(levels):
    """Its sigma_lo is the switch, and where reversals weigh no weights end there."""
    sigmas = [float(level) for level in levels(10, low=0.1)]
    calibration = smc.Calibration(sigmas, [0.9] * 10, [0.1] * 10, sigma_lo=sigmas[6])
    options = {"particles": 50, "options": DOUBLE}
    target = Tempered(TWO_MODES, 2.0)
    hybrid = smc.sample(target, (2,), calibration, weights="hybrid", **options)
    assert f"sigma >= {sigmas[6]:g}" in hybrid.law
    assert "weights stop" not in hybrid.law
    energies = smc.sample(target, (2,), calibration, weights="energy", **options)
    assert "weights stop" in energies.law


def test_negative_exponents_never_break_a_run(levels):
    """Negation makes the combined density locally convex, where P falls below A/2."""
    target = Product([Denoiser(TWO_MODES), Denoiser(gaussian([0.0, 0.0], 1.5))], [2.0, -1.0])
    run = smc.sample(
        target,
        (2,),
        levels(20, low=0.02, high=10.0),
        particles=500,
        populations=2,
        weights=smc.Reversal(1),
        options=smc.RunOptions(dtype=torch.float64, on_degenerate="raise"),
    )
    assert bool(run.x.isfinite().all())
    assert bool(run.log_weights.isfinite().all())


def test_a_denoiser_without_a_graph_is_refused(levels):
    def frozen(x, sigma):
        with torch.no_grad():
            return 0.5 * x

    with pytest.raises(ValueError, match="jacobian_trace"):
        smc.sample(Tempered(frozen, 2.0), (2,), levels(4), particles=4)
    smc.sample(Tempered(frozen, 2.0), (2,), levels(4), particles=4, weights="score")


@pytest.mark.parametrize(
    ("target", "options", "error", "text"),
    [
        (Tempered(Denoiser(LEFT), 2.0), {"weights": smc.Reversal(0)}, ValueError, "calibration"),
        (Tempered(Denoiser(LEFT), 2.0), {"weights": smc.Reversal([1, 1])}, ValueError, "steps"),
        (Denoiser(LEFT), {"weights": "hybrid"}, TypeError, "no energy"),
        (
            Tempered(Denoiser(LEFT), 2.0),
            {"weights": "reversal", "proposal": "ancestral"},
            ValueError,
            "own proposal",
        ),
        (
            Tempered(Tilted(Denoiser(LEFT), lambda x: x[:, 0], 1.0), 2.0),
            {},
            ValueError,
            "inside another target",
        ),
        (
            Mixture([Denoiser(LEFT), Denoiser(RIGHT)]),
            {"weights": "reversal"},
            ValueError,
            "mixture",
        ),
        (Product([Denoiser(LEFT)] * 9), {}, ValueError, "up to 8 models"),
        (
            Tilted(Product([Denoiser(LEFT)] * 8), lambda x: x[:, 0], 1.0, gradient="approximate"),
            {"sigma_range": (0.0, 1.0)},
            ValueError,
            "7 where the moves follow",
        ),
        (LEFT, {"weights": "reversed"}, ValueError, "unknown weights"),
        (LEFT, {"weights": 3}, TypeError, "smc.Reversal"),
    ],
)
def test_refusals(levels, target, options, error, text):
    with pytest.raises(error, match=text):
        smc.sample(target, (1,), levels(4), particles=4, **options)


def test_any_sequence_of_probes_is_taken():
    wanted = (0, 1, 2)
    for probes in ([0, 1, 2], range(3), torch.arange(3), torch.arange(3).numpy()):
        assert smc.Reversal(probes).counts == wanted
    with pytest.raises(TypeError, match=r"Reversal\.probes"):
        smc.Reversal("12")


def test_steps_of_energies_need_no_probes(levels):
    """Only the steps below the switch take probes, so the others may have none."""
    sigmas = levels(6)
    probes = [0, 0, 0, 0, 1, 1]
    weights = smc.Hybrid(above=float(sigmas[4]), probes=probes)
    run = smc.sample(Tempered(TWO_MODES, 2.0), (2,), sigmas, particles=20, weights=weights)
    assert run.law.startswith("energies weigh")


def test_a_model_may_say_that_it_has_no_trace(levels):
    class WithoutTrace(Denoiser):
        jacobian_trace = None

    run = smc.sample(Tempered(WithoutTrace(TWO_MODES), 2.0), (2,), levels(4), particles=20)
    assert "estimated traces" in run.law


@pytest.mark.parametrize("make", [lambda: smc.Reversal(-1), lambda: smc.Hybrid(above=0.0)])
def test_options_check_their_numbers(make):
    with pytest.raises(ValueError, match="must be"):
        make()
