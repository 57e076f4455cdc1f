"""`log_likelihood` against exact densities, its independence of the batch, references, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from edmfast import EnergyModel, sampling
from edmfast.analytic import GaussianMixture
from edmfast.models import ResidualMLP

MIXTURE = GaussianMixture([[-1.0, -0.2, 0.3], [1.0, 0.2, -0.3]], [0.3, 0.2])
LOW, HIGH = 0.05, 500.0
X = MIXTURE.sample(6, sigma=LOW, seed=1)
EXACT = MIXTURE.log_prob(X, LOW)


class Traced:
    """The mixture as a denoiser of another project that offers its exact trace, which counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        return MIXTURE.denoise(x, sigma)

    def jacobian_trace(self, x, sigma):
        return MIXTURE.jacobian_trace(x, sigma)


class Shifted(Traced):
    """The mixture moved by a condition [B, 1], with an energy whose constant depends on level and condition."""

    def __call__(self, x, sigma, shift=0.0):
        return super().__call__(x - shift, sigma) + shift

    def jacobian_trace(self, x, sigma, shift=0.0):
        return MIXTURE.jacobian_trace(x - shift, sigma)

    def energy_and_score(self, x, sigma, shift=0.0):
        energy, score = MIXTURE.energy_and_score(x - shift, sigma)
        return energy + 7.0 + 3 * (shift + 0 * x[:, :1])[:, 0], score


def run(model, x=X, **options):
    return sampling.log_likelihood(model, x, LOW, HIGH, **options)


def test_an_exact_mixture_answers_itself():
    value, info = run(MIXTURE)
    assert torch.equal(value, EXACT)
    assert info == {"fevals": 1}


def test_exact_traces_converge_to_the_density():
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        model = Traced()
        value, info = run(model, atol=tolerance, rtol=tolerance)
        assert info["fevals"] == model.calls
        errors.append(float((value - EXACT).abs().max()))
        calls.append(model.calls)
    assert calls == sorted(calls)
    # What remains at the end is that the density at the highest level is not quite N(0, sigma_max² I).
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_random_signs_are_exact_for_an_isotropic_gaussian():
    normal = GaussianMixture([[0.0, 0.0, 0.0]], [0.7])
    value, _ = run(lambda x, sigma: normal.denoise(x, sigma), atol=1e-7, rtol=1e-7, seed=3)
    torch.testing.assert_close(value, normal.log_prob(X, LOW), rtol=0, atol=2e-5)


def test_random_signs_are_unbiased():
    many = X[:2].repeat_interleave(400, 0)
    value, _ = run(lambda x, sigma: MIXTURE.denoise(x, sigma), many, seed=5)
    values = value.reshape(2, 400)
    spread = values.std(1) / math.sqrt(400)
    assert (spread > 0.001).all()
    assert ((values.mean(1) - EXACT[:2]).abs() < 4 * spread + 2e-3).all()


def denoiser(x, sigma):
    return MIXTURE.denoise(x, sigma)


@pytest.mark.parametrize("model", [Traced(), denoiser], ids=["exact", "signs"])
def test_a_sample_has_the_same_result_in_every_batch(model):
    seeds = [4, 5, 6, 7, 8, 9]
    whole, _ = run(model, seed=seeds)
    alone = torch.cat([run(model, X[[b]], seed=[seeds[b]])[0] for b in range(6)])
    torch.testing.assert_close(alone, whole, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="for each of the 6 samples, got 2 seeds"):
        run(model, seed=[1, 2])


def test_one_seed_gives_every_sample_signs_of_its_own():
    value, _ = run(denoiser, X[:1].repeat(6, 1), seed=2)
    assert len(value.round(decimals=6).unique()) > 1
    assert torch.equal(run(denoiser, X[:1].repeat(3, 1), seed=2)[0], value[:3])


def test_torchs_seed_repeats_a_run():
    torch.manual_seed(0)
    first, _ = run(denoiser)
    second, _ = run(denoiser)
    torch.manual_seed(0)
    assert torch.equal(run(denoiser)[0], first)
    assert not torch.equal(second, first)


def test_a_learned_energy_is_differentiated_twice():
    # A fresh model of this kind is the exact energy of N(0, sigma_data² I).
    model = EnergyModel(ResidualMLP(3, width=8)).double()
    value, _ = run(model, 0.5 * X, atol=1e-7, rtol=1e-7)
    normal = GaussianMixture([[0.0, 0.0, 0.0]], [0.5])
    torch.testing.assert_close(value, normal.log_prob(0.5 * X, LOW), rtol=0, atol=2e-5)


def test_a_reference_gives_exact_differences_of_energy():
    model = Shifted()
    value, info = run(model, reference=X[0])
    difference = value - EXACT
    torch.testing.assert_close(difference, difference[:1].expand(6), rtol=0, atol=1e-12)
    assert difference.abs().max() < 1e-2
    # Two calls are those of the energy.
    assert info["fevals"] == model.calls + 2


def test_a_reference_is_taken_with_the_condition_of_each_row():
    shift = torch.tensor([0.0, 0.0, 0.2, 0.2, 0.4, 0.4], dtype=torch.float64)[:, None]
    tight = {"atol": 1e-6, "rtol": 1e-6, "extra_args": {"shift": shift}}
    value, _ = run(Shifted(), X + shift, reference=X[0], **tight)
    difference = (value - EXACT).reshape(3, 2)
    # Rows with one condition have one constant.
    torch.testing.assert_close(difference[:, 0], difference[:, 1], rtol=0, atol=1e-12)
    assert difference.abs().max() < 5e-3


def test_float32_keeps_its_dtype():
    value, _ = run(Traced(), X.float())
    assert value.dtype == torch.float32
    assert (value - EXACT).abs().max() < 2e-2


def test_inference_mode():
    with torch.inference_mode():
        inside, _ = run(denoiser, X.clone(), seed=1)
    assert torch.equal(inside, run(denoiser, seed=1)[0])


def test_nan_of_a_model_is_reported_for_its_samples_alone():
    def model(x, sigma):
        # The first sample breaks at once, and the second one on its way.
        broken = torch.tensor([True, False, False, False, False, False]) | (
            (sigma > 1) & (torch.arange(6) == 1)
        )
        return torch.where(broken[:, None], math.nan, MIXTURE.denoise(x, sigma))

    with pytest.warns(sampling.NonFiniteWarning, match="2 of 6 samples are not finite"):
        value, _ = run(model, seed=1)
    assert value[:2].isnan().all()
    torch.testing.assert_close(value[2:], run(denoiser, seed=1)[0][2:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": lambda x, s: (x, s)}, TypeError, "tuple"),
        ({"model": lambda x, s: x[:, :1]}, ValueError, r"\[6, 1\]"),
        ({"model": lambda x, s: x.detach()}, ValueError, "returns a result without a graph"),
        ({"x": X[0]}, ValueError, r"x must be \[B, \*shape\]"),
        ({"x": X / 0}, ValueError, "x must be finite"),
        (
            {"model": lambda x, s: 0 * x + torch.randn_like(x), "atol": 1e-13, "rtol": 0.0},
            ValueError,
            "atol = 1e-13 and rtol = 0 are too small",
        ),
        ({"atol": 0.0}, ValueError, "atol must be positive"),
        ({"reference": X[0]}, TypeError, "a reference needs a model with an energy"),
        ({"extra_args": {"label": 1}}, TypeError, "label"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    options = {"model": denoiser, "x": X} | options
    with pytest.raises(error, match=message):
        run(**options)


def test_bad_levels_and_references_are_refused():
    with pytest.raises(ValueError, match=r"sigma_min must be below sigma_max, got sigma_min=2.0"):
        sampling.log_likelihood(denoiser, X, 2.0, 2.0)
    with pytest.raises(ValueError, match=r"reference must be one state \[3\], got \[6, 3\]"):
        run(Shifted(), reference=X)
    with pytest.raises(ValueError, match="reference must be finite"):
        run(Shifted(), reference=X[0] / 0)


def test_derivatives_of_the_call_are_refused():
    with pytest.raises(RuntimeError, match="log_likelihood runs without gradients"):
        torch.func.grad(lambda x: run(denoiser, x, seed=1)[0].sum())(X)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        with pytest.raises(RuntimeError, match="log_likelihood"):
            run(denoiser, dual, seed=1)
    leaf = X.clone().requires_grad_()
    assert not run(denoiser, leaf, seed=1)[0].requires_grad


def test_a_model_for_data_parallelism_is_called_without_its_wrapper(tmp_path, monkeypatch):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x, sigma):
            return self.factor * MIXTURE.denoise(x, sigma)

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = DistributedDataParallel(Network())
        # The forward of the wrapper may wait for other processes, which need other numbers of calls.
        monkeypatch.setattr(DistributedDataParallel, "forward", None)
        value, _ = run(model, seed=1)
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(value, run(Network(), seed=1)[0])
