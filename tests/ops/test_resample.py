"""Resampling schemes have the bits of the reference, are unbiased, and keep their promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edmfast.ops import Resampled, resample, rng_state, standard_normal, systematic_resample
from edmfast.ops.noise import reference as noise
from edmfast.ops.resample import reference
from edmfast.ops.resample.operator import SCHEMES
from edmfast.ops.systematic_resample import reference as integers

RNG = rng_state(11, 5)


def plain(log_weights, scheme, count, threshold=1.0, first_population=0):
    index = SCHEMES.index(scheme)
    return Resampled(
        *reference.resample(log_weights, RNG, count, threshold, index, first_population)
    )


def offspring(ancestors, particles):
    counts = torch.zeros(len(ancestors), particles, dtype=torch.int64)
    return counts.scatter_add_(1, ancestors.long(), torch.ones_like(ancestors.long()))


def integer_weights(log_weights):
    """Return the integer weights of one population as Python integers."""
    values = log_weights.double() - log_weights.double().max()
    return integers.quantised_exp(values, integers.fraction_bits(len(values))).tolist()


def sizes(scheme, particles):
    return [particles] if scheme == "killing" else [particles, 1, particles + 3, 5 * particles]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("particles", [1, 2, 7, 64, 1025])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_bits_as_reference(compiled, generator, scheme, particles, scale):
    log_weights = scale * torch.randn(3, particles, generator=generator)
    for count in sizes(scheme, particles):
        ours = resample(log_weights, RNG, scheme=scheme, count=count, first_population=2)
        truth = plain(log_weights, scheme, count, first_population=2)
        for name in ("ancestors", "ess", "resampled", "degenerate"):
            a, b = getattr(ours, name), getattr(truth, name)
            assert torch.equal(a, b), (name, count)
            assert a.dtype == b.dtype, name
        assert ours.ancestors.shape == (3, count)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("particles", [100_003])
def test_same_bits_as_reference_when_large(compiled, generator, scheme, particles):
    log_weights = torch.randn(1, particles, generator=generator)
    ours = resample(log_weights, RNG, scheme=scheme)
    assert torch.equal(ours.ancestors, plain(log_weights, scheme, particles).ancestors)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [7, 3, 20])
def test_offspring_are_unbiased(scheme, count):
    """The mean offspring of 40,000 populations of the same weights are right within 4.5 standard errors."""
    if scheme == "killing" and count != 7:
        return
    log_weights = torch.tensor([0.0, -1.0, -3.0, -0.2, 1.3, -math.inf, -0.7]).repeat(40_000, 1)
    counts = offspring(resample(log_weights, RNG, scheme=scheme, count=count).ancestors, 7).double()
    wanted = count * log_weights[0].double().softmax(0)
    error = counts.std(0) / math.sqrt(len(counts)) + 1e-12
    assert ((counts.mean(0) - wanted).abs() <= 4.5 * error).all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-60, 0, width=32), min_size=1, max_size=30),
    st.integers(1, 60),
    st.sampled_from(["systematic", "ssp"]),
)
def test_offspring_differ_by_less_than_one(values, count, scheme):
    """In Python's integers, |offspring W - M q| < W for every particle."""
    log_weights = torch.tensor(values)
    result = resample(log_weights[None], RNG, scheme=scheme, count=count)
    if not result.resampled:
        return
    q = integer_weights(log_weights)
    counts = offspring(result.ancestors, len(q))[0].tolist()
    assert sum(counts) == count
    assert all(abs(k * sum(q) - count * w) < sum(q) for k, w in zip(counts, q, strict=True))


def test_residual_gives_every_whole_part(generator):
    log_weights = torch.randn(40, generator=generator)
    q = integer_weights(log_weights)
    counts = offspring(resample(log_weights[None], RNG, scheme="residual").ancestors, 40)[0]
    assert all(k >= 40 * w // sum(q) for k, w in zip(counts.tolist(), q, strict=True))


def test_killing_keeps_the_heaviest_where_they_are(generator):
    log_weights = torch.randn(500, 30, generator=generator)
    ancestors = resample(log_weights, RNG, scheme="killing").ancestors
    heaviest = log_weights.argmax(1, keepdim=True)
    assert torch.equal(ancestors.gather(1, heaviest).long(), heaviest)


def test_schemes_are_ordered_by_variance():
    log_weights = torch.linspace(-2, 0, 12).repeat(20_000, 1)
    variance = {
        scheme: offspring(resample(log_weights, RNG, scheme=scheme).ancestors, 12)
        .double()
        .var(0)
        .sum()
        for scheme in SCHEMES
    }
    assert variance["ssp"] < variance["residual"] < variance["multinomial"]
    assert variance["systematic"] < variance["stratified"] < variance["multinomial"]
    assert variance["killing"] < variance["multinomial"]


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "killing"])
def test_ancestors_are_sorted(generator, scheme):
    log_weights = 3 * torch.randn(4, 300, generator=generator)
    ancestors = resample(log_weights, RNG, scheme=scheme, count=1000).ancestors
    assert (ancestors.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_population_does_not_depend_on_company_or_threads(generator, with_threads, scheme):
    log_weights = torch.randn(40, 50, generator=generator)
    whole = resample(log_weights, RNG, scheme=scheme).ancestors
    part = resample(log_weights[30:31], RNG, scheme=scheme, first_population=30).ancestors
    assert torch.equal(whole[30:31], part)
    for threads in (1, 4):
        with with_threads(threads):
            assert torch.equal(whole, resample(log_weights, RNG, scheme=scheme).ancestors)


def test_systematic_is_systematic_resample(generator):
    log_weights = torch.randn(5, 2000, generator=generator)
    point = noise.uniform(RNG, 5, 3)
    for threshold in (0.2, 1.0):
        ours = resample(log_weights, RNG, ess_threshold=threshold, first_population=3)
        other = systematic_resample(log_weights, point, ess_threshold=threshold)
        assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bad_weights(scheme):
    """NaN counts as zero weight, particles at +inf share, and all -inf keeps the order; each is marked."""
    inf, nan = math.inf, math.nan
    log_weights = torch.tensor([[nan, 0.0, -inf, 0.0], [-inf] * 4, [inf, 0.0, inf, 1.0], [nan] * 4])
    result = resample(log_weights, RNG, scheme=scheme)
    assert result.degenerate.tolist() == [1, 2, 4, 3]
    assert result.resampled.tolist() == [True, False, True, False]
    assert set(result.ancestors[0].tolist()) <= {1, 3}
    assert result.ancestors[1].tolist() == [0, 1, 2, 3]
    assert set(result.ancestors[2].tolist()) <= {0, 2}
    if scheme != "killing":
        more = resample(log_weights, RNG, scheme=scheme, count=8).ancestors
        assert more[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_keeps_the_order_above_the_threshold(generator, scheme):
    log_weights = 0.1 * torch.randn(3, 100, generator=generator)
    result = resample(log_weights, RNG, scheme=scheme, ess_threshold=0.5)
    assert not result.resampled.any()
    assert torch.equal(result.ancestors, torch.arange(100, dtype=torch.int32).expand(3, -1))


def test_empty_half_precision_opcheck_and_compile(generator):
    assert resample(torch.empty(0, 3), RNG).ancestors.shape == (0, 3)
    half = torch.randn(2, 50, generator=generator).bfloat16()
    assert torch.equal(resample(half, RNG).ancestors, resample(half.float(), RNG).ancestors)
    log_weights = torch.randn(2, 9, generator=generator)
    for index in range(len(SCHEMES)):
        arguments = (log_weights, RNG, 9, 1.0, index, 0)
        torch.library.opcheck(torch.ops.edmfast.resample.default, arguments)
    compiled = torch.compile(resample, fullgraph=True)(
        log_weights, RNG, scheme="stratified", count=5
    )
    plain_ = resample(log_weights, RNG, scheme="stratified", count=5)
    assert all(torch.equal(a, b) for a, b in zip(compiled, plain_, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scheme": "best"}, ValueError, "unknown scheme"),
        ({"count": 0}, ValueError, "count must be an integer from 1"),
        ({"count": 5, "scheme": "killing"}, ValueError, "killing keeps"),
        ({"count": 5, "ess_threshold": 0.5}, ValueError, "must be 1"),
        ({"ess_threshold": 1.5}, ValueError, "ess_threshold must be .* from 0 to 1"),
        ({"log_weights": torch.zeros(3)}, ValueError, r"\[P, N\]"),
        ({"log_weights": torch.zeros(2, 0)}, ValueError, r"\[P, N\]"),
        ({"log_weights": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "floating"),
        ({"rng": torch.zeros(2)}, TypeError, "int64"),
        ({"rng": torch.zeros(3, dtype=torch.int64)}, ValueError, r"rng \[2\]"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"log_weights": torch.zeros(2, 4), "rng": RNG, **change}
    with pytest.raises(error, match=message):
        resample(arguments.pop("log_weights"), arguments.pop("rng"), **arguments)


def test_populations_stay_inside_their_stream():
    """A population beyond 2^28 would have the counter of another stream."""
    last = 2**28 - 3
    log_weights = torch.zeros(3, 4)
    assert resample(log_weights, rng_state(0, 0), first_population=last).ancestors.shape == (3, 4)
    for first in (last + 1, -1, 2**32):
        with pytest.raises(ValueError, match="first_population"):
            resample(log_weights, rng_state(0, 0), first_population=first)
        with pytest.raises(ValueError, match="first_population"):
            standard_normal(log_weights, first_population=first)
