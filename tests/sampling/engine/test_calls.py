"""Models that change their input, or reuse their output, give the samples of a model that does neither."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from edmfast import sampling
from edmfast.sampling.engine import calls

SIGMAS = sampling.get_sigmas_karras(8, 0.05, 10.0).double()
SAMPLERS = [sampling.sample_euler, sampling.sample_heun, sampling.sample_dpmpp_2m]


def start():
    return torch.linspace(-3, 3, 10, dtype=torch.float64).reshape(5, 2)


def clean(x, sigma):
    return x.tanh() / (1 + sigma[:, None])


class Changing:
    """A model that changes its input in place from a call on."""

    def __init__(self, first, change):
        self.first, self.change, self.calls = first, change, 0

    def __call__(self, x, sigma):
        result = clean(x, sigma)
        self.calls += 1
        if self.calls > self.first:
            self.change(x)
        return result


def by_numpy(x):
    x.numpy()[:] = 7.0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_a_model_that_changes_its_input(sampler, first):
    model = Changing(first, lambda x: x.mul_(3.0))
    result = sampler(model, start(), SIGMAS, disable=True)
    assert torch.equal(result, sampler(clean, start(), SIGMAS, disable=True))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_model_that_changes_its_input_through_numpy(sampler):
    result = sampler(Changing(0, by_numpy), start(), SIGMAS, disable=True)
    assert torch.equal(result, sampler(clean, start(), SIGMAS, disable=True))


def test_the_noise_of_a_state_that_is_computed_again_is_the_same():
    def run(model):
        return sampling.sample_euler_ancestral(
            model, start(), SIGMAS, noise_sampler=lambda *_: next(draws), disable=True
        )

    noises = torch.randn(20, 5, 2, dtype=torch.float64)
    draws = iter(noises)
    expected = run(clean)
    draws = iter(noises)
    assert torch.equal(run(Changing(3, lambda x: x.zero_())), expected)


def returning_a_buffer():
    buffer = torch.empty(5, 2, dtype=torch.float64)
    return lambda x, sigma: buffer.copy_(clean(x, sigma))


def returning_a_view_of_a_buffer():
    buffer = torch.empty(3, 5, 2, dtype=torch.float64)

    def model(x, sigma):
        buffer[1].copy_(clean(x, sigma))
        return buffer[1]

    return model


def returning_memory_of_numpy():
    buffer = torch.empty(5, 2, dtype=torch.float64).numpy()

    def model(x, sigma):
        buffer[:] = clean(x, sigma).numpy()
        return torch.from_numpy(buffer)

    return model


def keeping_its_last_result():
    kept = []

    def model(x, sigma):
        if kept:
            kept.pop().fill_(9.0)
        kept.append(clean(x, sigma))
        return kept[-1]

    return model


def keeping_a_detached_result():
    kept = []

    def model(x, sigma):
        if kept:
            kept.pop().fill_(9.0)
        result = clean(x, sigma)
        kept.append(result.detach())
        return result

    return model


def returning_its_input():
    return lambda x, sigma: x.copy_(clean(x, sigma))


MODELS = [
    returning_a_buffer,
    returning_a_view_of_a_buffer,
    returning_memory_of_numpy,
    keeping_its_last_result,
    keeping_a_detached_result,
    returning_its_input,
]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("make", MODELS)
def test_a_model_that_keeps_what_it_returns(sampler, make):
    result = sampler(make(), start(), SIGMAS, disable=True)
    assert torch.equal(result, sampler(clean, start(), SIGMAS, disable=True))


def test_a_new_result_is_not_copied():
    assert calls._COUNTS
    for make in (
        lambda: torch.ones(3),
        lambda: torch.ones(3) * 2,
        lambda: torch.ones(4, 3) @ torch.ones(3),
    ):
        result = make()
        assert calls._is_alone(result)
        other = result
        assert not calls._is_alone(result)
        del other
        assert calls._is_alone(result)
        view = result[:1]
        assert not calls._is_alone(result)
        del view
    assert not calls._is_alone(torch.from_numpy(torch.ones(3).numpy()))


def test_the_levels_that_a_model_receives_are_its_own():
    seen = []

    def model(x, sigma):
        seen.append(sigma.clone())
        result = clean(x, sigma)
        sigma.zero_()
        return result

    result = sampling.sample_dpmpp_2m(model, start(), SIGMAS, disable=True)
    assert torch.equal(result, sampling.sample_dpmpp_2m(clean, start(), SIGMAS, disable=True))
    assert torch.equal(torch.stack(seen)[:, 0], SIGMAS[:-1])


def in_a_ring(size):
    """Return a model that returns one of so many buffers in turn."""
    buffers = itertools.cycle([torch.empty(5, 2, dtype=torch.float64) for _ in range(size)])
    return lambda x, sigma: next(buffers).copy_(clean(x, sigma))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_model_with_several_buffers(size):
    for sampler in (
        sampling.sample_dpmpp_2m,
        sampling.sample_lms,
        functools.partial(sampling.sample_dpmpp_3m_sde, eta=0.0),
        functools.partial(sampling.sample_dpmpp_2m_sde, seed=3),
    ):
        result = sampler(in_a_ring(size), start(), SIGMAS, disable=True)
        assert torch.equal(result, sampler(clean, start(), SIGMAS, disable=True))


def test_a_result_that_stays_as_it_is_is_copied_only_at_first(monkeypatch):
    copies = []
    real = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda t: copies.append(t) or real(t))
    kept = start().tanh()
    long = sampling.get_sigmas_karras(40, 0.05, 10.0).double()
    sampling.sample_dpmpp_2m(lambda x, sigma: kept, start(), long, disable=True)
    # the first state, and the first result
    assert len(copies) == 2


def test_a_result_that_is_changed_late_is_an_error():
    kept = start().tanh()
    calls = []

    def model(x, sigma):
        calls.append(sigma)
        return kept.mul_(0.5) if len(calls) == 5 else kept

    with pytest.raises(RuntimeError, match="in its call number 5, the result of its call number 4"):
        sampling.sample_dpmpp_2m(model, start(), SIGMAS, disable=True)
    # a solver without memory needs no earlier result
    calls.clear()
    sampling.sample_euler(model, start(), SIGMAS, disable=True)


def test_a_state_is_not_computed_again_from_results_that_are_lost():
    ring, calls = in_a_ring(2), []

    def model(x, sigma):
        calls.append(sigma)
        result = ring(x, sigma)
        return (x.zero_(), result)[1] if len(calls) == 6 else result

    with pytest.raises(RuntimeError, match="in its call number 6, the result of its call number 4"):
        sampling.sample_dpmpp_2m(model, start(), SIGMAS, disable=True)


@pytest.mark.parametrize("sampler", [sampling.sample_heun, sampling.sample_dpm_2])
def test_a_model_that_writes_to_an_earlier_input_is_told(sampler):
    inputs = []

    def model(x, sigma):
        if len(inputs) > 2:
            inputs[-1].zero_()
        inputs.append(x)
        return clean(x, sigma)

    with pytest.raises(RuntimeError, match="an earlier call, which the sampler still needs"):
        sampler(model, start(), SIGMAS, disable=True)


def test_a_model_may_write_to_an_earlier_input_that_is_done_with():
    inputs = []

    def model(x, sigma):
        if len(inputs) > 2:
            inputs[-1].zero_()
        inputs.append(x)
        return clean(x, sigma)

    result = sampling.sample_euler(model, start(), SIGMAS, disable=True)
    assert torch.equal(result, sampling.sample_euler(clean, start(), SIGMAS, disable=True))
