"""Test DPM-Solver-v3: its two known special cases, Gaussians, fitted statistics, and the file of statistics."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import analytic, sampling
from edmfast.sampling import DPMSolverV3Statistics, fit_dpm_solver_v3, sample_dpm_solver_v3
from edmfast.sampling.solvers import Derivative, DynamicThreshold, TaylorSchedule, TaylorStep
from tests.sampling.solvers.problem import karras, mixture, start, truth

DOUBLE = torch.float64


def constant(l, s, b=0.0, levels=(25.0, 2.0, 0.1)):  # noqa: E741, the source's name
    ones = torch.ones(len(levels), 2, dtype=DOUBLE)
    return DPMSolverV3Statistics(torch.tensor(levels, dtype=DOUBLE), l * ones, s * ones, b * ones)


def taylor(steps, prediction, order, corrector):
    """Return the solver whose derivatives are exact for polynomials through the same evaluations."""
    kinds = []
    for i in range(steps):
        points = tuple(range(1, min(order, i + 1)))
        rules = tuple(Derivative(points) for _ in points)
        ends = (Derivative((*points, -1)),) * (len(points) + 1)
        kinds.append(TaylorStep(prediction, rules, ends if corrector and i < steps - 1 else None))
    return TaylorSchedule(tuple(kinds))


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("l", "s", "prediction"), [(1, 0, "denoised"), (0, -1, "epsilon")])
def test_two_statistics_are_the_predictions(l, s, prediction, order, corrector):  # noqa: E741, the source's name
    got = sample_dpm_solver_v3(
        mixture,
        start(8),
        karras(7),
        constant(l, s),
        disable=True,
        order=order,
        corrector=corrector,
        lower_order_final=False,
    )
    solver = taylor(7, prediction, order, corrector)
    want = sampling.sample(mixture, start(8), karras(7), solver, disable=True)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


MEAN = torch.tensor([1.0, -2.0], dtype=DOUBLE)
VARIANCE = torch.tensor([0.25, 0.04], dtype=DOUBLE)


def gaussian(x, sigma):
    noise = torch.as_tensor(sigma, dtype=DOUBLE).reshape(-1, 1) ** 2
    return (VARIANCE * x + noise * MEAN) / (VARIANCE + noise)


def logspace(high, low, count):
    return torch.linspace(math.log(high), math.log(low), count, dtype=DOUBLE).exp()


def test_statistics_of_a_gaussian_are_known():
    sigmas = logspace(20.0, 0.05, 160)
    data = torch.randn(32, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    fitted = fit_dpm_solver_v3(gaussian, data, sigmas, seed=0, step=1e-3)
    square = sigmas[:, None] ** 2
    torch.testing.assert_close(fitted.l, square / (square + VARIANCE), rtol=1e-9, atol=1e-12)
    # f = -l m does not depend on the state, so s = 0 and b = -m dl/dlambda.
    assert (fitted.s == 0).all()
    want = 2 * square * VARIANCE / (square + VARIANCE) ** 2 * MEAN
    assert (fitted.b - want)[1:-1].abs().max() < 1e-4


def test_a_gaussian_is_solved_in_two_steps():
    data = torch.zeros(8, 2, dtype=DOUBLE)
    fitted = fit_dpm_solver_v3(gaussian, data, logspace(20.0, 0.05, 400), seed=0)
    x, grid = start(8), torch.tensor([20.0, 1.0, 0.05], dtype=DOUBLE)
    want = MEAN + (x - MEAN) * torch.sqrt((VARIANCE + 0.05**2) / (VARIANCE + 400))
    got = sample_dpm_solver_v3(gaussian, x, grid, fitted, disable=True)
    assert (got - want).abs().max() < 3e-4
    euler = sampling.sample_euler(gaussian, x, grid, disable=True)
    assert (euler - want).abs().max() > 0.3


@pytest.fixture(scope="module")
def mixture_statistics():
    clean = analytic.GaussianMixture([[-1.0, 0.3], [0.8, -0.5], [0.1, 1.0]], [0.3, 0.4, 0.25])
    data = clean.double().sample(256, seed=5)
    return fit_dpm_solver_v3(mixture, data, logspace(25.0, 0.15, 150), seed=0)


def error(statistics, steps, order):
    got = sample_dpm_solver_v3(
        mixture,
        start(),
        karras(steps),
        statistics,
        disable=True,
        order=order,
        corrector=False,
        lower_order_final=False,
    )
    return (got - truth()).abs().mean().item()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_fitted_statistics_keep_the_order(mixture_statistics, order):
    errors = [error(mixture_statistics, steps, order) for steps in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_fitted_statistics_lower_the_error(mixture_statistics):
    fitted = error(mixture_statistics, 16, 1)
    for prediction in (constant(1, 0), constant(0, -1)):
        assert error(prediction, 16, 1) > 1.8 * fitted


class EnergyOnly:
    """The energy of a mixture without a denoiser."""

    def __init__(self, model):
        self.model = model

    def energy_and_score(self, x, sigma):
        return self.model.energy_and_score(x, sigma)


def test_an_energy_gives_the_diagonal_of_its_hessian():
    model = analytic.GaussianMixture([[-1.0, 0.3], [0.8, -0.5]], [0.5, 0.7]).double()
    data = model.sample(16, seed=1)
    sigmas = torch.tensor([3.0, 0.8, 0.2], dtype=DOUBLE)
    fitted = fit_dpm_solver_v3(EnergyOnly(model), data, sigmas, seed=4)
    noise = torch.randn(data.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    for k, sigma in enumerate(sigmas.tolist()):

        def energy(x, sigma=sigma):
            return model.energy(x[None], sigma)[0]

        hessians = [torch.func.hessian(energy)(x) for x in data + sigma * noise]
        want = sigma**2 * torch.stack(hessians).diagonal(dim1=1, dim2=2).mean(0)
        torch.testing.assert_close(fitted.l[k], want, rtol=1e-9, atol=1e-12)
    denoised = fit_dpm_solver_v3(model, data, sigmas, seed=4, batch_size=5)
    for name in ("l", "s", "b"):
        got, want = getattr(denoised, name), getattr(fitted, name)
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_random_signs_estimate_the_diagonal():
    data = torch.randn(64, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    sigmas = torch.tensor([2.0, 0.5], dtype=DOUBLE)
    exact = fit_dpm_solver_v3(mixture, data, sigmas, seed=1)
    rough = fit_dpm_solver_v3(mixture, data, sigmas, seed=1, probes=64)
    assert (exact.l - rough.l).abs().max() < 0.02
    assert (exact.l - rough.l).abs().max() > 0


def test_conditions_go_with_their_rows():
    shifts = torch.linspace(-1, 1, 12, dtype=DOUBLE)[:, None]

    def model(x, sigma, shift):
        return gaussian(x - shift, sigma) + shift

    data = shifts + torch.zeros(12, 2, dtype=DOUBLE)
    sigmas = torch.tensor([2.0, 0.5], dtype=DOUBLE)
    options = {"seed": 1, "extra_args": {"shift": shifts}}
    whole = fit_dpm_solver_v3(model, data, sigmas, **options)
    parts = fit_dpm_solver_v3(model, data, sigmas, batch_size=5, **options)
    torch.testing.assert_close(parts.s, whole.s, rtol=1e-9, atol=1e-10)


def test_a_step_to_zero_ends_at_the_denoised_states_and_calls_are_counted():
    seen, calls = [], []

    def model(x, sigma):
        calls.append(float(sigma[0]))
        return mixture(x, sigma)

    grid = torch.cat([karras(5), karras(1)[:1] * 0])
    got = sample_dpm_solver_v3(
        model, start(4), grid, constant(0.8, -0.1), callback=seen.append, disable=True
    )
    torch.testing.assert_close(got, seen[-1]["denoised"], rtol=0, atol=0)
    assert calls == pytest.approx(karras(5).tolist())
    assert [info["i"] for info in seen] == list(range(6))


def test_it_thresholds_and_keeps_the_dtype():
    x, grid = start(4).float(), karras(5).float()
    threshold = DynamicThreshold(maximum=0.1)
    got = sample_dpm_solver_v3(mixture_like, x, grid, constant(1, 0), disable=True)
    assert got.dtype == torch.float32
    bounded = sample_dpm_solver_v3(
        mixture_like, x, grid, constant(1, 0), disable=True, threshold=threshold
    )
    assert bounded.abs().max() < got.abs().max()


def mixture_like(x, sigma):
    return x / (1 + sigma[:, None] ** 2) + 1


def test_the_file_of_statistics(tmp_path):
    statistics = constant(0.5, -0.25, 0.125)
    path = tmp_path / "v3.safetensors"
    statistics.save(path)
    loaded = DPMSolverV3Statistics.load(path)
    for name in ("sigmas", "l", "s", "b"):
        assert torch.equal(getattr(loaded, name), getattr(statistics, name))
    statistics.save(path)
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not a file of ours")
    with pytest.raises(FileExistsError):
        statistics.save(other)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        DPMSolverV3Statistics.load(other)
    with pytest.raises(FileNotFoundError):
        DPMSolverV3Statistics.load(tmp_path / "missing")


def fields(**changed):
    ones = torch.ones(2, 3)
    return {"sigmas": torch.tensor([2.0, 1.0]), "l": ones, "s": ones, "b": ones} | changed


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"sigmas": [2.0, 1.0]}, TypeError, "sigmas must be a floating-point tensor"),
        ({"sigmas": torch.tensor([1.0, 2.0])}, ValueError, "decrease strictly"),
        ({"sigmas": torch.tensor([[1.0, 2.0]])}, ValueError, r"sigmas must be \[K\]"),
        ({"s": torch.ones(3, 3)}, ValueError, "s must be"),
        ({"l": torch.ones(2)}, ValueError, "l must be"),
        ({"b": torch.full((2, 3), math.nan)}, ValueError, "b must be finite"),
    ],
)
def test_bad_statistics_are_refused(changed, error, words):
    with pytest.raises(error, match=words):
        DPMSolverV3Statistics(**fields(**changed))


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="statistics must be DPMSolverV3Statistics"):
        sample_dpm_solver_v3(mixture, start(4), karras(3), None)
    with pytest.raises(ValueError, match=r"statistics are of states of shape \(3,\)"):
        sample_dpm_solver_v3(
            mixture, start(4), karras(3), DPMSolverV3Statistics(**fields()), disable=True
        )
    with pytest.raises(ValueError, match="sigmas must be positive"):
        fit_dpm_solver_v3(mixture, start(4), torch.tensor([1.0, 0.0], dtype=DOUBLE), seed=0)
    with pytest.raises(TypeError, match="data must be"):
        fit_dpm_solver_v3(mixture, [1.0], karras(3), seed=0)
