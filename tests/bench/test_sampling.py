"""Test that the gates of plain samplers, of image-network runs and of the import accept right results only."""

import dataclasses

import pytest
import torch

from bench.cases import sampler_images as bench_sampler_images
from bench.cases import sampling as bench_sampling
from bench.cases import startup as bench_startup
from bench.rivals import sampler_loops
from bench.rivals import samplers as peers_samplers
from edmfast.models import EnergyModel

CPU = torch.device("cpu")
SMALL = bench_sampler_images.Setup("unet", (1, 8, 8), 3)


def small_inputs():
    return bench_sampling.make_inputs((64, 3, 16, 16), torch.float32, CPU)


@pytest.fixture(scope="module")
def runs():
    (sigmas,) = SMALL.make_inputs((), torch.float32, CPU)
    return [
        make(SMALL, 16, sigmas)
        for make in (bench_sampler_images.run, bench_sampler_images.reference)
    ]


@pytest.mark.parametrize("name", [n for n in bench_sampling.METHODS if n != "euler_ancestral"])
def test_a_sampler_passes_and_another_method_is_stopped(name):
    x, sigmas = small_inputs()
    method = bench_sampling.METHODS[name]
    truth = method.loop(bench_sampling.gaussian, x.double(), sigmas.double())
    bench_sampling.deterministic_check(method.ours(bench_sampling.gaussian, x, sigmas), truth)
    other = sampler_loops.heun if method.loop is sampler_loops.euler else sampler_loops.euler
    with pytest.raises(AssertionError):
        bench_sampling.deterministic_check(other(bench_sampling.gaussian, x, sigmas), truth)


def test_the_law_of_ancestral_sampling_stops_less_noise_and_noise_that_repeats():
    x, sigmas = small_inputs()
    law = bench_sampling.gaussian_law(x, sigmas)
    method = bench_sampling.METHODS["euler_ancestral"]
    samples = method.ours(bench_sampling.gaussian, x, sigmas)
    bench_sampling.check_law(samples, law)
    bench_sampling.check_law(method.loop(bench_sampling.gaussian, x, sigmas), law)
    noise = samples.double() - law.mean
    for wrong, name in ((0.95 * noise, "variance"), (noise + 0.05, "mean")):
        with pytest.raises(AssertionError, match=name):
            bench_sampling.check_law(law.mean + wrong, law)
    with pytest.raises(AssertionError, match="correlation of samples"):
        bench_sampling.check_law(law.mean + noise[:32].repeat_interleave(2, 0), law)


def test_moments_of_a_sample_stop_less_noise():
    sample, other = torch.randn(2, 4096, 8, generator=torch.Generator().manual_seed(0))
    bench_sampling.check_sample(sample, other)
    with pytest.raises(AssertionError, match="order 2"):
        bench_sampling.check_sample(0.85 * sample, other)


@pytest.mark.parametrize("name", bench_sampling.METHODS)
def test_the_network_alone_is_called_as_often(name):
    x, sigmas = small_inputs()
    calls = []

    def counted(state, sigma):
        calls.append(state.shape)
        return bench_sampling.gaussian(state, sigma)

    method = bench_sampling.METHODS[name]
    method.ours(counted, x[:2], sigmas)
    ours, calls[:] = [*calls], []
    bench_sampling.network_alone(counted, method.calls, x[:2], sigmas)
    assert calls == ours


def test_a_run_of_an_image_network_passes_and_wrong_ones_are_stopped(runs):
    result, truth = runs
    bench_sampler_images.check(result, truth)
    changes = (
        {"log_z": result.log_z + 0.2},
        {"ess": result.ess * 1.05},
        {"x": result.x.roll(1, -1)},
    )
    for change in changes:
        with pytest.raises(AssertionError):
            bench_sampler_images.check(dataclasses.replace(result, **change), truth)


def test_image_baselines_call_the_network_as_often_as_the_run(monkeypatch):
    calls, real = [], EnergyModel.energy_and_score

    def counted(self, x, sigma, **condition):
        calls.append((tuple(x.shape), round(float(sigma), 4)))
        return real(self, x, sigma, **condition)

    monkeypatch.setattr(EnergyModel, "energy_and_score", counted)
    (sigmas,) = SMALL.make_inputs((), torch.float32, CPU)
    bench_sampler_images.run(SMALL, 4, sigmas)
    ours, calls[:] = [*calls], []
    bench_sampler_images.network_alone(SMALL, 4, sigmas)
    assert calls == ours
    assert len(ours) == len(sigmas)


def test_samplers_of_absent_projects_are_left_out(monkeypatch):
    peers_samplers.load.cache_clear()
    monkeypatch.setattr(peers_samplers, "find_spec", lambda name: None)
    assert peers_samplers.samplers("euler") == {}
    peers_samplers.load.cache_clear()


def test_a_process_or_an_installation_that_fails_is_stopped():
    with pytest.raises(RuntimeError, match="no_such_module"):
        bench_startup.importing("import no_such_module", torch.zeros(1))
    with pytest.raises(AssertionError, match="instead of 'imported'"):
        bench_startup.check_import("", "imported")
    with pytest.raises(AssertionError, match="False"):
        bench_startup.check_installed(True, "target/edmfast/__init__.py|False")
