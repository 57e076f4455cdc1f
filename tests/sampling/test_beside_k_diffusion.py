"""Every function runs beside the installed k-diffusion's: a small network, in-place callbacks, calls and keys.

Both get the same noise. In float64 they agree to rounding. In float32 the coefficients of k-diffusion are
rounded too, so they agree to a few digits less.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edmfast import sampling
from tests.installed import k_diffusion

CHURN = {"s_churn": 5.0, "s_tmin": 0.1, "s_tmax": 8.0, "s_noise": 1.003}
ETA = {"eta": 0.6, "s_noise": 1.01}
GRID = [
    *[
        (f"sample_{name}", options)
        for name in ("euler", "heun", "dpm_2")
        for options in ({}, CHURN)
    ],
    ("sample_dpmpp_2m", {}),
    *[("sample_lms", {"order": order}) for order in (1, 2, 3, 4, 5)],
    *[
        (f"sample_{name}", options)
        for name in (
            *("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"),
            *("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"),
        )
        for options in ({}, ETA, {"eta": 0.0}, {"eta": 1.7})
    ],
    ("sample_dpmpp_sde", {"r": 0.3}),
    ("sample_dpmpp_2m_sde", {"solver_type": "heun"}),
]
RANGE = [
    *[("sample_dpm_fast", {"n": n, "eta": eta}) for n in (1, 2, 3, 7, 9) for eta in (0.0, 0.7)],
    *[
        ("sample_dpm_adaptive", options)
        for options in (
            {},
            {"order": 2},
            ETA,
            {"order": 2, "eta": 1.0},
            {"pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1, "accept_safety": 0.9},
            {"rtol": 0.01, "atol": 0.001, "h_init": 0.5},
        )
    ],
]


class Network(nn.Module):
    """A perceptron in the preconditioning of Karras et al., with a condition."""

    def __init__(self, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        sizes = [(32, 9), (32, 32), (8, 32)]
        draws = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
        self.weights = [(w / w.shape[1] ** 0.5).to(dtype) for w in draws]
        self.calls = 0

    def forward(self, x, sigma, shift=0.0):
        self.calls += 1
        level = sigma.reshape(-1, 1, 1)
        scale = (level**2 + 0.25) ** 0.5
        h = torch.cat([(x / scale).flatten(1), sigma.log()[:, None] / 4], 1)
        for weight in self.weights:
            h = torch.tanh(h @ weight.T)
        return x * 0.25 / scale**2 + 0.5 * level / scale * (h.reshape(x.shape) + shift)


def noises(seed=7):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 2, 4, dtype=torch.float64, generator=generator) for _ in range(60)]


def read(_seen):
    pass


def preview(seen):
    seen["denoised"].clamp_(-0.3, 0.3)


def inpaint(seen):
    seen["x"][:, 0] = 0.25


def both(seen):
    seen["x"].mul_(1.05)
    seen["denoised"].mul_(0.9)


def outcome(package, name, options, dtype, callback, monkeypatch, **grid):
    """Return (the result, the model calls, what the callback saw)."""
    draws = (noise.to(dtype) for noise in noises())
    options = dict(options, disable=True, extra_args={"shift": 0.1})
    x = 10 * noises(11)[0].to(dtype)
    kept = x.clone()
    if "s_churn" in options and package is not sampling:
        # k-diffusion draws the noise of the churn at every step, and ours where it is needed.
        monkeypatch.setattr(torch, "randn_like", lambda _: next(draws))
    elif "s_churn" in options:
        table = [*zip(grid["sigmas"].tolist(), draws, strict=False)]

        def noise_of_step(sigma, _):
            place = next(k for k, (level, _) in enumerate(table) if level == float(sigma))
            return table.pop(place)[1]

        options["noise_sampler"] = noise_of_step
    elif "eta" in options or any(part in name for part in ("ancestral", "sde")):
        options["noise_sampler"] = lambda *_: next(draws)
    model, seen = Network(dtype), []

    def observe(report):
        callback(report)
        seen.append(
            {
                key: value.clone() if torch.is_tensor(value) else value
                for key, value in report.items()
            }
        )

    result = getattr(package, name)(model, x, **grid, **options, callback=observe)
    if package is sampling:
        assert torch.equal(x, kept)
    return result, model.calls, seen


def compare(ours, theirs, tolerance):
    x, calls, seen = ours
    expected, their_calls, their_seen = theirs
    assert (calls, len(seen)) == (their_calls, len(their_seen))
    assert x.dtype == expected.dtype
    torch.testing.assert_close(x, expected, rtol=tolerance, atol=tolerance)
    for mine, other in zip(seen, their_seen, strict=True):
        assert mine.keys() == other.keys()
        for key, value in other.items():
            torch.testing.assert_close(
                torch.as_tensor(mine[key]).double(),
                torch.as_tensor(value).double(),
                rtol=tolerance,
                atol=tolerance,
                msg=lambda text, key=key: f"{key}: {text}",
            )


@pytest.fixture(scope="module")
def kd():
    return k_diffusion("sampling")


@pytest.mark.parametrize("callback", [read, preview, inpaint, both])
@pytest.mark.parametrize(("name", "options"), GRID, ids=str)
def test_samplers_on_a_grid(kd, name, options, callback, monkeypatch):
    grid = {"sigmas": sampling.get_sigmas_karras(7, 0.05, 10.0).double()}
    ours, theirs = (
        outcome(package, name, options, torch.float64, callback, monkeypatch, **grid)
        for package in (sampling, kd)
    )
    compare(ours, theirs, 1e-10)


@pytest.mark.parametrize(("name", "options"), GRID, ids=str)
def test_samplers_in_float32(kd, name, options, monkeypatch):
    grid = {"sigmas": sampling.get_sigmas_karras(7, 0.05, 10.0)}
    ours, theirs = (
        outcome(package, name, options, torch.float32, both, monkeypatch, **grid)
        for package in (sampling, kd)
    )
    compare(ours, theirs, 3e-5)


@pytest.mark.parametrize("callback", [read, preview, inpaint, both])
@pytest.mark.parametrize(("name", "options"), RANGE, ids=str)
def test_samplers_over_a_range(kd, name, options, callback, monkeypatch):
    span = {"sigma_min": 0.05, "sigma_max": 10.0}
    ours, theirs = (
        outcome(package, name, options, torch.float64, callback, monkeypatch, **span)
        for package in (sampling, kd)
    )
    compare(ours, theirs, 1e-10)


def draws_nothing(case):
    name, options = case
    return not options.get("eta", "sde" in name or "ancestral" in name)


@pytest.mark.parametrize(("name", "options"), [*filter(draws_nothing, [*GRID, *RANGE])], ids=str)
def test_rising_noise(kd, name, options, monkeypatch):
    rising = sampling.get_sigmas_karras(7, 0.05, 2.0).double()[:-1].flip(0)
    span = {"sigma_min": 2.0, "sigma_max": 0.05}
    grid = span if (name, options) in RANGE else {"sigmas": rising}
    ours, theirs = (
        outcome(package, name, options, torch.float64, inpaint, monkeypatch, **grid)
        for package in (sampling, kd)
    )
    compare(ours, theirs, 1e-10)


@pytest.mark.parametrize(("name", "options"), GRID, ids=str)
def test_a_grid_that_ends_above_zero(kd, name, options, monkeypatch):
    grid = {"sigmas": sampling.get_sigmas_karras(5, 0.05, 10.0).double()[:-1]}
    ours, theirs = (
        outcome(package, name, options, torch.float64, both, monkeypatch, **grid)
        for package in (sampling, kd)
    )
    compare(ours, theirs, 1e-10)


@pytest.mark.parametrize("end", [[], [0.0]], ids=["positive", "zero"])
@pytest.mark.parametrize(("name", "options"), GRID, ids=str)
def test_a_last_level_that_is_there_twice(kd, name, options, end, monkeypatch):
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.3, 0.3, *end], dtype=torch.float64)
    theirs = outcome(kd, name, options, torch.float64, read, monkeypatch, sigmas=sigmas)
    if theirs[0].isfinite().all():
        ours = outcome(sampling, name, options, torch.float64, read, monkeypatch, sigmas=sigmas)
        compare(ours, theirs, 1e-10)
    elif name == "sample_lms":
        with pytest.raises(
            ValueError, match=r"no step where a level is there twice, got sigmas\[3\]"
        ):
            outcome(sampling, name, options, torch.float64, read, monkeypatch, sigmas=sigmas)
    else:
        # A step without length is the limit of short ones here, where k-diffusion divides 0 by 0.
        x, *_ = outcome(sampling, name, options, torch.float64, read, monkeypatch, sigmas=sigmas)
        assert x.isfinite().all()


def test_the_counts_of_an_adaptive_run(kd):
    answers = [
        package.sample_dpm_adaptive(
            Network(torch.float64), 10 * noises(1)[0], 0.05, 10.0, disable=True, return_info=True
        )
        for package in (sampling, kd)
    ]
    torch.testing.assert_close(answers[0][0], answers[1][0], rtol=1e-10, atol=1e-10)
    assert answers[0][1] == answers[1][1]


def test_the_steps_of_the_solver_object(kd):
    times = [torch.tensor(t, dtype=torch.float64) for t in (-2.0, -1.2)]
    for step, options in (("1", {}), ("2", {"r1": 0.4}), ("3", {"r1": 0.3, "r2": 0.8})):
        results = []
        for package in (sampling, kd):
            solver = package.DPMSolver(Network(torch.float64))
            states, cache = getattr(solver, f"dpm_solver_{step}_step")(
                noises(1)[0], *times, **options
            )
            again, _ = getattr(solver, f"dpm_solver_{step}_step")(
                noises(1)[0], *times, **options, eps_cache=cache
            )
            assert torch.equal(again, states)
            results.append((states, {key: cache[key] for key in sorted(cache)}, solver.model.calls))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
        assert results[0][1].keys() == results[1][1].keys()
        assert results[0][2] == results[1][2] == int(step)


def test_log_likelihood(kd):
    # The Jacobian is diagonal, so that random signs of any seed give its exact trace.
    def model(x, sigma, shift):
        level = sigma.reshape(-1, 1, 1) ** 2
        return (x + shift * level * torch.tanh(x / (1 + level))) / (1 + level)

    x = noises()[0]
    options = {"extra_args": {"shift": 0.5}, "atol": 1e-8, "rtol": 1e-8}
    ours, info = sampling.log_likelihood(model, x, 0.05, 50.0, **options)
    theirs, their_info = kd.log_likelihood(model, x, 0.05, 50.0, **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert info.keys() == their_info.keys()
