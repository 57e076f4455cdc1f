"""weigh_and_resample has the bits of the reference, keeps the laws of weights, and refuses bad input."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.ops import Weights, resample, rng_state, weigh_and_resample
from edmfast.ops.resample.operator import SCHEMES
from edmfast.ops.systematic_resample.operator import COLLAPSED, INFINITE, NAN_SEEN
from edmfast.ops.weigh import operator as weigh
from edmfast.ops.weigh import reference

INF = math.inf


def example(populations, particles, models, generator, dtype=torch.float32, spread=1.0):
    """Return weights in the middle of a run and the increments of the next step.

    Every second population was not resampled.
    """
    random = torch.randn(populations, particles, dtype=torch.float64, generator=generator)
    random[::2] *= 0.1
    first = weigh_and_resample(
        Weights.start(populations, particles), random, [], [], rng_state(3, 0), ess_threshold=0.7
    )
    if particles > 4:
        assert not first.resampled[::2].any()
        assert particles < 60 or first.resampled[1::2].all()
    first = first._replace(log_z=first.log_z + 0.25)
    numbers = torch.randn(2 * models + 1, populations, particles, generator=generator).to(dtype)
    ratio, *energies = numbers * spread
    exponents = torch.rand(populations, models, dtype=torch.float64, generator=generator) + 0.5
    return first, ratio, energies[:models], energies[models:], exponents


def by_reference(before, ratio, now, past, exponents, rng, weigh, threshold, scheme="systematic"):
    names = ("log_weights", "log_z", "ancestors", "root", "resampled", "degenerate")
    state = [getattr(before, name) for name in names]
    index = SCHEMES.index(scheme)
    return Weights(
        *reference.weigh_and_resample(
            *state, ratio, now, past, exponents, rng, weigh, threshold, index, 0
        )
    )


def assert_same(ours, truth):
    for name, value, wanted in zip(Weights._fields, ours, truth, strict=True):
        assert value.dtype == wanted.dtype, name
        if name == "increment_sd":
            torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12, equal_nan=True)
        else:
            same = (value == wanted) | ((value != value) & (wanted != wanted))
            assert bool(same.all()), name


@pytest.mark.parametrize("models", [0, 1, 3, 8])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 7), (17, 64), (33, 5), (4, 65), (2, 3000), (2, 40000)]
)
def test_bits_of_the_reference(shape, models, generator):
    before, ratio, now, past, exponents = example(*shape, models, generator)
    for threshold in (0.0, 0.5, 1.0):
        arguments = (before, ratio, now, past)
        rng = rng_state(5, 2)
        ours = weigh_and_resample(*arguments, rng, exponents=exponents, ess_threshold=threshold)
        assert_same(ours, by_reference(*arguments, exponents, rng, True, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("weigh", [True, False])
def test_every_scheme_dtype_and_mode(dtype, scheme, weigh, generator):
    before, ratio, now, past, _ = example(5, 50, 2, generator, dtype)
    rng = rng_state(1, 4)
    ours = weigh_and_resample(
        before, ratio, now, past, rng, weigh=weigh, scheme=scheme, ess_threshold=0.9
    )
    assert_same(ours, by_reference(before, ratio, now, past, None, rng, weigh, 0.9, scheme))


def test_decides_as_resample_does(generator):
    log_weights = torch.randn(6, 300, dtype=torch.float64, generator=generator) * 2
    rng = rng_state(9, 1)
    ours = weigh_and_resample(
        Weights.start(6, 300), log_weights, [], [], rng, ess_threshold=0.4, first_population=2
    )
    alone = resample(log_weights, rng, ess_threshold=0.4, first_population=2)
    assert torch.equal(ours.log_weights, log_weights)
    for name in ("ancestors", "log_mean", "ess", "resampled", "degenerate"):
        assert torch.equal(getattr(ours, name), getattr(alone, name)), name
    assert torch.equal(ours.log_z, torch.where(alone.resampled, alone.log_mean, 0.0))
    assert torch.equal(ours.root, alone.ancestors)


@pytest.mark.parametrize("shape", [(1, 1), (33, 5), (3, 300), (2, 40_000)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_survivors_are_the_different_roots(scheme, shape, generator):
    weights, spread = Weights.start(*shape), torch.linspace(0.1, 3.0, shape[0]).double()[:, None]
    assert weights.survivors.tolist() == [shape[1]] * shape[0]
    for step in range(4):
        ratio = torch.randn(shape, dtype=torch.float64, generator=generator) * spread
        # at the third step nothing is resampled
        threshold = 0.0 if step == 2 else 0.9
        weights = weigh_and_resample(
            weights, ratio, [], [], rng_state(6, step), scheme=scheme, ess_threshold=threshold
        )
        alive = [len(set(row)) for row in weights.root.tolist()]
        assert weights.survivors.dtype == torch.int64
        assert weights.survivors.tolist() == alive


def test_survivors_of_collapsed_and_infinite_weights():
    values = torch.zeros(3, 20_000, dtype=torch.float64)
    values[0], values[1, 12_345] = -INF, INF
    weights = weigh_and_resample(Weights.start(3, 20_000), values, [], [], rng_state(0, 0))
    assert weights.survivors.tolist() == [20_000, 1, 20_000]


def test_two_steps_against_a_loop(generator):
    """Two steps equal the definition, particle by particle in Python floats."""
    first, ratio, (now,), (past,), _ = example(2, 12, 1, generator, torch.float64)
    second = weigh_and_resample(first, ratio, now, past, rng_state(2, 1), ess_threshold=0.99)
    for p in range(2):
        reset = bool(first.resampled[p])
        for i in range(12):
            parent = int(first.ancestors[p, i])
            wanted = float(ratio[p, i] - (now[p, i] - past[p, parent]))
            wanted += 0.0 if reset else float(first.log_weights[p, i])
            assert second.log_weights[p, i].item() == pytest.approx(wanted, rel=1e-14, abs=1e-14)
            assert second.root[p, i] == first.root[p, second.ancestors[p, i]]


def test_log_z_by_hand():
    """Two particles of weights 1 and 3 that are always resampled add log 2 at every step."""
    weights = Weights.start(1, 2)
    ratio = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    for step in range(3):
        weights = weigh_and_resample(weights, ratio, [], [], rng_state(0, step), ess_threshold=1.0)
        assert weights.resampled
        assert weights.log_z.item() == pytest.approx((step + 1) * math.log(2.0), rel=1e-15)
    last = weigh_and_resample(weights, ratio + 1, [], [], rng_state(0, 3), ess_threshold=0.0)
    assert not last.resampled
    assert (last.log_z + last.log_mean).item() == pytest.approx(4 * math.log(2.0) + 1, rel=1e-15)
    # weights are not reset, so the next increments multiply: (1 + 9)/2
    last = weigh_and_resample(last, ratio, [], [], rng_state(0, 4), ess_threshold=0.0)
    assert last.log_mean.item() == pytest.approx(math.log(5.0) + 1, rel=1e-15)


def test_infinite_energies_are_walls(generator):
    """A particle behind a wall before or after a move has weight zero, and there is no NaN."""
    inf = INF
    before = torch.tensor([[0.0, inf, inf, 0.0]])
    weights = weigh_and_resample(
        Weights.start(1, 4), -before.double(), [], [], rng_state(0, 0), ess_threshold=0.0
    )
    now = torch.tensor([[1.0, inf, 2.0, inf]])
    after = weigh_and_resample(weights, torch.zeros(1, 4), now, before, rng_state(0, 1))
    assert after.log_weights.tolist() == [[-1.0, -inf, -inf, -inf]]
    assert after.degenerate.tolist() == [0]
    assert after.ancestors.tolist() == [[0, 0, 0, 0]]
    assert after.increment_sd.item() == 0.0  # there is one finite increment


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "residual", "killing"])
def test_weighing_first_and_resampling_then_is_the_same(generator, scheme):
    """A GPU does this for the schemes that have no kernel there."""
    before, ratio, now, past, exponents = example(6, 80, 2, generator)
    rng = rng_state(4, 2)
    for add in (True, False):
        together = weigh_and_resample(
            before, ratio, now, past, rng, exponents=exponents, scheme=scheme, weigh=add
        )
        increments = ratio, now, past, exponents, rng, add
        apart = weigh._by_another_scheme(before, increments, scheme, 0.5, 0)
        assert not add or together.resampled.any()
        assert_same(apart, together)


def test_population_does_not_depend_on_what_runs_beside_it(generator):
    before, ratio, now, past, exponents = example(19, 40, 2, generator)
    rng = rng_state(0, 3)
    together = weigh_and_resample(before, ratio, now, past, rng, exponents=exponents)
    for p in (0, 7, 18):
        rows = slice(p, p + 1)
        alone = weigh_and_resample(
            Weights(*(field[rows] for field in before)),
            ratio[rows],
            [energy[rows] for energy in now],
            [energy[rows] for energy in past],
            rng,
            exponents=exponents[rows],
            first_population=p,
        )
        for name, ours, theirs in zip(Weights._fields, alone, together, strict=True):
            assert torch.equal(ours, theirs[rows]), name


@pytest.mark.parametrize("shape", [(40, 30), (3, 5000), (1, 100_000)])
def test_bits_do_not_depend_on_threads(shape, generator, with_threads):
    before, ratio, now, past, exponents = example(*shape, 2, generator)
    results = []
    for threads in (1, 2, 3):
        with with_threads(threads):
            results.append(
                weigh_and_resample(before, ratio, now, past, rng_state(0, 3), exponents=exponents)
            )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_spread_of_increments_far_from_zero(generator):
    """A variance computed as a difference of squares would lose all digits here."""
    increments = torch.randn(2, 5000, dtype=torch.float64, generator=generator) * 1e-3 + 1e6
    outputs = weigh_and_resample(Weights.start(2, 5000), increments, [], [], rng_state(0, 0))
    wanted = increments.std(1, correction=0)
    torch.testing.assert_close(outputs.increment_sd, wanted, rtol=1e-6, atol=0)


def test_bad_weights_are_flagged_and_remembered():
    rng = rng_state(0, 0)
    values = torch.zeros(4, 5, dtype=torch.float64)
    values[0, 1], values[1], values[2, 3] = math.nan, -INF, INF
    weights = weigh_and_resample(Weights.start(4, 5), values, [], [], rng)
    assert weights.degenerate.tolist() == [NAN_SEEN, COLLAPSED, INFINITE, 0]
    assert weights.ancestors[1].tolist() == [0, 1, 2, 3, 4]
    assert weights.ancestors[2].tolist() == [3] * 5
    later = weigh_and_resample(weights, torch.zeros_like(values), [], [], rng)
    assert later.degenerate.tolist() == [NAN_SEEN, COLLAPSED, INFINITE, 0]


def test_strides_and_no_change_of_inputs(generator):
    before, ratio, now, past, exponents = example(4, 33, 2, generator)
    wide = [torch.stack([t, t + 1], dim=2)[:, :, 0] for t in (ratio, *now, *past)]
    copies = [t.clone() for t in (*before, *wide)]
    strided = weigh_and_resample(
        before, wide[0], wide[1:3], wide[3:], rng_state(1, 1), exponents=exponents[0]
    )
    plain = weigh_and_resample(
        before, ratio, now, past, rng_state(1, 1), exponents=exponents[0].expand(4, 2).clone()
    )
    assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((*before, *wide), copies, strict=True))


def test_mixed_dtypes_are_widened(generator):
    before, ratio, (now,), (past,), _ = example(2, 20, 1, generator)
    mixed = weigh_and_resample(before, ratio.double(), now, past, rng_state(1, 1))
    plain = weigh_and_resample(before, ratio, now, past, rng_state(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(mixed, plain, strict=True))


def test_no_populations():
    empty = torch.zeros(0, 4)
    weights = weigh_and_resample(Weights.start(0, 4), empty, empty, empty, rng_state(0, 0))
    assert weights.ancestors.shape == (0, 4)
    assert weights.increment_sd.shape == (0,)


def operands(generator, scheme=0):
    before, ratio, now, past, exponents = example(3, 9, 2, generator)
    names = ("log_weights", "log_z", "ancestors", "root", "resampled", "degenerate")
    state = [getattr(before, name) for name in names]
    return (*state, ratio, now, past, exponents, rng_state(0, 1), True, 0.5, scheme, 0)


def test_opcheck(generator):
    for scheme in range(2):
        torch.library.opcheck(
            torch.ops.edmfast.weigh_and_resample.default, operands(generator, scheme)
        )


def test_compiles_without_a_break(generator):
    def run(before, ratio, now, past, rng):
        return weigh_and_resample(before, ratio * 2, now, past, rng)

    before, ratio, now, past, _ = example(3, 50, 1, generator)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    arguments = before, ratio, now, past, rng_state(0, 1)
    expected, outputs = run(*arguments), compiled(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ratio": torch.zeros(2, 3)}, ValueError, "must be"),
        ({"ratio": torch.zeros(3, 9, dtype=torch.int64)}, TypeError, "floating point"),
        ({"energies": []}, ValueError, "as many"),
        ({"energies": [torch.zeros(3, 9)] * 9}, ValueError, "at most 8 energies"),
        ({"rng": torch.zeros(2)}, TypeError, "int64"),
        ({"exponents": torch.ones(3, 1, dtype=torch.float64)}, ValueError, "exponents"),
        ({"exponents": torch.ones(2)}, ValueError, "float64"),
        ({"scheme": "best"}, ValueError, "unknown scheme"),
        ({"ess_threshold": 1.5}, ValueError, "ess_threshold"),
        ({"ratio": torch.zeros(3, 9, requires_grad=True)}, RuntimeError, "no derivative"),
        ({"first_population": 2**28}, ValueError, "2\\^28"),
    ],
)
def test_errors(change, error, message, generator):
    before, ratio, now, past, _ = example(3, 9, 2, generator)
    arguments = {"ratio": ratio, "energies": now, "energies_before": past, "rng": rng_state(0, 1)}
    with pytest.raises(error, match=message):
        weigh_and_resample(before, **arguments | change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"log_weights": torch.zeros(3, 9)}, TypeError),
        ({"log_weights": torch.zeros(3, 9, dtype=torch.float64, requires_grad=True)}, RuntimeError),
        ({"log_z": torch.zeros(2, dtype=torch.float64)}, ValueError),
        ({"ancestors": torch.zeros(3, 9, dtype=torch.int64)}, TypeError),
        ({"root": torch.zeros(9, 3, dtype=torch.int32)}, ValueError),
        ({"resampled": torch.zeros(3)}, TypeError),
        ({"degenerate": torch.zeros(3, 1, dtype=torch.int32)}, ValueError),
    ],
)
def test_weights_that_are_none(change, error, generator):
    before, ratio, now, past, _ = example(3, 9, 2, generator)
    with pytest.raises(error):
        weigh_and_resample(before._replace(**change), ratio, now, past, rng_state(0, 1))


def test_a_tensor_in_place_of_weights(generator):
    before, ratio, now, past, _ = example(3, 9, 2, generator)
    with pytest.raises(TypeError, match=r"ops\.Weights\.start makes them, got Tensor"):
        weigh_and_resample(before.log_weights, ratio, now, past, rng_state(0, 1))


def test_half_precisions_are_widened(generator):
    before, ratio, now, past, _ = example(3, 40, 1, generator)
    for dtype in (torch.float16, torch.bfloat16):
        halves = [t.to(dtype) for t in (ratio, now[0], past[0])]
        ours = weigh_and_resample(before, *halves, rng_state(0, 1))
        wide = weigh_and_resample(before, *(t.float() for t in halves), rng_state(0, 1))
        assert_same(ours, wide)
