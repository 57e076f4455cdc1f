"""Test correctors against closed forms: they keep the law of the target, find it, and adapt their step size."""

import functools
import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.ops import rng_state
from edmfast.smc.correctors import correct, start_log_steps
from edmfast.targets import Tempered

SEEDS = 20
SIGMA = 0.4
ADJUSTED = {
    "mala": smc.MALA(step_size=1.6),
    "hmc": smc.HMC(leapfrog_steps=3, step_size=1.5),
    "underdamped": smc.Underdamped(leapfrog_steps=3, step_size=1.5),
}


@pytest.fixture(scope="module")
def squared(square_of):
    """Return (target, exact samples)."""
    mixture = GaussianMixture(torch.tensor([[-0.6, 0.0], [0.6, 0.0]]), [0.1, 0.5], [0.5, 0.5])
    return Tempered(mixture, 2.0), square_of(mixture, SIGMA)[0]


def statistics(x):
    """Return per population [P]: two moments, the mass of the narrow mode, and a quantity of the tails."""
    narrow = (x - x.new_tensor([-0.6, 0.0])).square().sum(-1) < 0.3**2
    functions = {
        "mean": x[..., 0],
        "square": x.square().sum(-1),
        "narrow": narrow.double(),
        "fourth": x.square().sum(-1).square(),
    }
    return {name: value.mean(1) for name, value in functions.items()}


@functools.cache
def truth_of(exact):
    return statistics(exact.sample(1_000_000, seed=99)[None])


def check_law(x, exact):
    """Check that every statistic of x [P, N, 2] is within three standard errors of that of a million exact
    samples.
    """
    truth = truth_of(exact)
    for name, value in statistics(x).items():
        error = value.std() / math.sqrt(len(value))
        assert abs(value.mean() - truth[name]) < 3 * error, name


def chains(exact, n=1500):
    return exact.sample(SEEDS * n, seed=5).reshape(SEEDS, n, 2)


@pytest.mark.parametrize("name", sorted(ADJUSTED))
def test_adjusted_kinds_keep_the_law(squared, name):
    target, exact = squared
    start = chains(exact)
    result = smc.mcmc(target, start, SIGMA, ADJUSTED[name], transitions=12, thin=12, seed=1)
    assert 0.3 < result.acceptance.mean() < 0.8
    assert torch.equal(result.step_sizes[0], result.step_sizes[-1])
    check_law(result.states[-1], exact)
    moved = (result.states[-1] != start).any(-1).double().mean()
    assert moved > 0.95


def faulty(target, x, steps, fault):
    """Make Langevin or Hamiltonian moves with one of the errors found in public code."""
    generator = torch.Generator().manual_seed(1)
    h = 1.6 * SIGMA / math.sqrt(2)

    def field(x):
        energy, score = target.energy_and_score(x.flatten(0, 1), SIGMA)
        return energy.reshape(x.shape[:2]), score.reshape(x.shape)

    energy, score = field(x)
    for _ in range(steps):
        v = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        half = v + 0.5 * h * score
        proposed = x + h * half
        new_energy, new_score = field(proposed)
        after = half + 0.5 * h * new_score
        kinetic = 0.5 * (after.square() - v.square()).sum(-1)
        if (
            fault == "variance"
        ):  # The ratio takes h² instead of 2 h² for the variance of the proposal.
            kinetic = 0.5 * kinetic
        if fault == "in place":  # Both kinetic terms use the last momenta.
            kinetic = torch.zeros_like(kinetic)
        ratio = energy - new_energy - kinetic
        if fault == "batch":
            ratio = ratio.mean(1, keepdim=True)
        uniform = torch.rand(ratio.shape, generator=generator, dtype=x.dtype)
        accepted = (uniform.log() < ratio).expand(x.shape[:2])
        x = torch.where(accepted[..., None], proposed, x)
        energy = torch.where(accepted, new_energy, energy)
        score = torch.where(accepted[..., None], new_score, score)
    return x


@pytest.mark.parametrize("fault", ["variance", "in place", "batch"])
def test_faults_of_public_code_are_seen(squared, fault):
    target, exact = squared
    check_law(faulty(target, chains(exact), 12, None), exact)
    with pytest.raises(AssertionError):
        check_law(faulty(target, chains(exact), 12, fault), exact)


@pytest.mark.parametrize("name", sorted(ADJUSTED))
def test_adjusted_kinds_are_exact_for_any_field(squared, name):
    target, exact = squared

    class Turned:
        """A target with the same energy and a field that is not its gradient."""

        exponent, score_is_exact = 2.0, False

        def energy_and_score(self, x, sigma):
            energy, score = target.energy_and_score(x, sigma)
            return energy, 0.7 * score + 1.5 * x.flip(1) * x.new_tensor([1.0, -1.0])

    result = smc.mcmc(Turned(), chains(exact), SIGMA, ADJUSTED[name], transitions=12, thin=12)
    check_law(result.states[-1], exact)
    for corrector in (smc.ULA(), smc.Underdamped(adjusted=False)):
        with pytest.raises(ValueError, match="not the gradient"):
            smc.mcmc(Turned(), chains(exact), SIGMA, corrector, transitions=1)


@pytest.mark.parametrize("corrector", [smc.ULA, smc.Underdamped])
def test_the_bias_of_unadjusted_kinds_is_the_known_one(corrector):
    """On N(0, v) the variance is v / (1 - h²/(4 v)), where h = step_size sigma / sqrt(A)."""
    options = {} if corrector is smc.ULA else {"adjusted": False, "leapfrog_steps": 2}
    target = Tempered(GaussianMixture(torch.zeros(1, 4), [0.3]), 2.0)
    v = (0.3**2 + SIGMA**2) / 2
    x = math.sqrt(v) * torch.randn(SEEDS, 400, 4, generator=torch.manual_seed(0)).double()
    kind = corrector(step_size=1.3, **options)
    result = smc.mcmc(target, x, SIGMA, kind, transitions=25, thin=25)
    variance = result.states[-1].square().mean((1, 2))
    error = variance.std() / math.sqrt(SEEDS)
    h2 = (1.3 * SIGMA) ** 2 / 2
    assert abs(variance.mean() - v / (1 - h2 / (4 * v))) < 3 * error
    assert variance.mean() - v > 20 * error


@pytest.mark.parametrize("first", [0.05, 20.0])
@pytest.mark.parametrize("kind", [smc.MALA, smc.HMC, smc.Underdamped])
def test_adaptation_finds_the_acceptance_and_the_law(squared, kind, first):
    target, exact = squared
    x = torch.full((SEEDS, 300, 2), 1.0, dtype=torch.float64)
    options = {} if kind is smc.MALA else {"leapfrog_steps": 2}
    corrector = kind(step_size=first, **options)
    result = smc.mcmc(target, x, SIGMA, corrector, transitions=90, warmup=60, thin=30)
    acceptance = result.acceptance[60:].mean(0)
    assert (acceptance - corrector.acceptance).abs().max() < 0.06
    assert not torch.equal(result.step_sizes[0], result.step_sizes[59])
    assert torch.equal(result.step_sizes[60], result.step_sizes[-1])
    check_law(result.states[-1], exact)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("kind", [*ADJUSTED.values(), smc.ULA(step_size=0.8)])
def test_walls_and_faults_are_never_entered(value, kind):
    """N(0, 1) cut off at 0.5 has mean -phi(0.5)/Phi(0.5); the unadjusted kind has another."""

    class Cut:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            energy = 0.5 * x.square().sum(1)
            outside = x[:, 0] > 0.5
            score = -x.masked_fill(outside[:, None], math.nan)
            return energy.masked_fill(outside, value), score

    x = torch.zeros(SEEDS, 300, 1, dtype=torch.float64)
    result = smc.mcmc(Cut(), x, 1.0, kind, transitions=60, warmup=20, thin=40)
    assert (result.states <= 0.5).all()
    assert torch.isfinite(result.energies).all()
    if kind.adjusted:
        mean = result.states[-1].mean((1, 2))
        density = math.exp(-0.125) / math.sqrt(2 * math.pi)
        truth = -density / (0.5 * (1 + math.erf(0.5 / math.sqrt(2))))
        assert abs(mean.mean() - truth) < 3 * mean.std() / math.sqrt(SEEDS)


def test_a_weightless_chain_comes_back_from_behind_a_wall():
    class Half:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            energy = 0.5 * x.square().sum(1)
            return energy.masked_fill(x[:, 0] > 1.0, math.inf), -x

    x = torch.full((1, 200, 1), 1.5)
    result = smc.mcmc(Half(), x, 1.0, smc.MALA(step_size=1.0), transitions=20)
    assert (result.states[-1] < 1.0).double().mean() > 0.9
    assert torch.isfinite(result.acceptance).all()


def test_the_step_is_of_the_scale_of_the_level(squared):
    """The step scales with sigma/sqrt(A), also with one exponent for each population."""
    target, exact = squared
    x = chains(exact, 50)
    energy, score = target.energy_and_score(x.flatten(0, 1), SIGMA)
    state = (x, energy.reshape(x.shape[:2]), score.reshape(x.shape))

    def evaluate(x):
        energy, score = target.energy_and_score(x.flatten(0, 1), SIGMA)
        return energy.reshape(x.shape[:2]), score.reshape(x.shape)

    for exponent in (2.0, torch.full((SEEDS,), 2.0, dtype=torch.float64)):
        corrected = correct(
            [smc.ULA(step_size=0.3)],
            evaluate,
            *state,
            sigma=SIGMA,
            exponent=exponent,
            log_steps=start_log_steps([smc.ULA(step_size=0.3)], x),
            rng=rng_state(3, 7),
        )
        h = 0.3 * SIGMA / math.sqrt(2)
        z = (corrected[0] - x - 0.5 * h**2 * state[2]) / h
        assert abs(z.std() - 1) < 0.05
        assert torch.equal(corrected[4], torch.ones(1, SEEDS, dtype=torch.float64))


def test_correct_is_traceable(squared):
    """One graph of plain operators serves every level, and the host reads no value."""
    target, exact = squared
    x = chains(exact, 20)
    kinds = [smc.MALA(steps=2), smc.Underdamped(leapfrog_steps=2)]

    def evaluate_at(sigma):
        def evaluate(x):
            energy, score = target.energy_and_score(x.flatten(0, 1), sigma)
            return energy.reshape(x.shape[:2]), score.reshape(x.shape)

        return evaluate

    def step(x, energy, score, sigma, log_steps, rng):
        return correct(
            kinds,
            evaluate_at(sigma),
            x,
            energy,
            score,
            sigma=sigma,
            exponent=2.0,
            log_steps=log_steps,
            rng=rng,
        )

    def inputs(sigma, level):
        sigma = torch.tensor(sigma, dtype=torch.float64)
        field = evaluate_at(sigma)(x)
        return x, *field, sigma, start_log_steps(kinds, x), rng_state(1, level)

    graph = make_fx(step)(*inputs(SIGMA, 3))
    names = {str(node.target) for node in graph.graph.nodes}
    assert not any("_local_scalar_dense" in name for name in names)
    other = inputs(0.9, 8)
    for traced, eager in zip(graph(*other), step(*other), strict=True):
        assert torch.equal(traced, eager)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: smc.MALA(steps=0), "steps"),
        (lambda: smc.MALA(step_size=0.0), "step_size"),
        (lambda: smc.MALA(acceptance=1.0), "acceptance"),
        (lambda: smc.HMC(leapfrog_steps=0), "leapfrog_steps"),
        (lambda: smc.Underdamped(friction=-1.0), "friction"),
        (lambda: smc.ULA(step_size=math.nan), "step_size"),
    ],
)
def test_bad_correctors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
