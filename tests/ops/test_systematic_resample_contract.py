"""Resampling keeps its promises about threads, batches, strides, bad weights and bad arguments."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.ops import resample, rng_state, systematic_resample
from edmfast.ops.systematic_resample import reference
from edmfast.ops.systematic_resample.operator import COLLAPSED, INFINITE, NAN_SEEN

INF, NAN = math.inf, math.nan


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("shape", [(1, 100_003), (3, 40_000), (900, 64)], ids=str)
def test_threads_do_not_matter(generator, with_threads, shape):
    log_weights = 3 * torch.randn(shape, generator=generator)
    uniform = torch.rand(shape[0], generator=generator)
    with with_threads(1):
        outcome = systematic_resample(log_weights, uniform)
    with with_threads(2):
        assert equal(outcome, systematic_resample(log_weights, uniform))


@pytest.mark.parametrize("particles", [5, 64, 20_000])
def test_populations_do_not_see_each_other(generator, particles):
    log_weights = 2 * torch.randn(7, particles, generator=generator)
    log_weights[2] = -INF
    log_weights[5, 1] = NAN
    uniform = torch.rand(7, generator=generator)
    together = systematic_resample(log_weights, uniform, ess_threshold=0.5)
    for p in range(7):
        alone = systematic_resample(log_weights[p : p + 1], uniform[p : p + 1], ess_threshold=0.5)
        assert equal(alone, [output[p : p + 1] for output in together])


def test_strides_do_not_matter(generator):
    base = torch.randn(40, 30, generator=generator)
    uniform = torch.rand(60, generator=generator)
    views = [base.T, base[::2, 1::3], base[:1].expand(9, 30), base.flip(0)]
    for view in views:
        u = uniform[::2][: view.shape[0]]
        if u.shape[0] < view.shape[0]:
            u = uniform[: view.shape[0]]
        expected = systematic_resample(view.contiguous(), u.contiguous())
        assert equal(systematic_resample(view, u), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(generator, dtype):
    log_weights = torch.randn(2, 500, generator=generator).to(dtype)
    uniform = torch.tensor([0.1, 0.9])
    expected = systematic_resample(log_weights.float(), uniform)
    assert equal(systematic_resample(log_weights, uniform), expected)


@pytest.mark.parametrize("flush", [False, True])
def test_denormal_inputs(generator, flush):
    """Subnormal log-weights act as zeros up to rounding, whatever the processor does with them."""
    log_weights = torch.randn(1, 1000, generator=generator) * 1e-42
    torch.set_flush_denormal(flush)
    try:
        result = systematic_resample(log_weights, torch.tensor([0.5]))
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(result.ancestors[0], torch.arange(1000, dtype=torch.int32))
    assert result.ess.item() == 1000


def test_weights_below_the_denormals_are_zero():
    log_weights = torch.tensor([[0.0, -720.0, -740.0, -1e308]], dtype=torch.float64)
    result = systematic_resample(log_weights, torch.tensor([0.99]))
    assert result.ancestors.tolist() == [[0, 0, 0, 0]]
    assert result.degenerate.item() == 0


@pytest.mark.parametrize(
    ("log_weights", "ancestors", "flags", "ess"),
    [
        ([NAN, 0.0, 0.0, NAN], [1, 1, 2, 2], NAN_SEEN, 2.0),
        ([-INF, 0.0, -INF, -INF], [1, 1, 1, 1], 0, 1.0),
        ([-INF] * 4, [0, 1, 2, 3], COLLAPSED, 0.0),
        ([NAN] * 4, [0, 1, 2, 3], NAN_SEEN | COLLAPSED, 0.0),
        ([NAN, -INF, NAN, -INF], [0, 1, 2, 3], NAN_SEEN | COLLAPSED, 0.0),
        ([INF, 0.0, INF, 700.0], [0, 0, 2, 2], INFINITE, 2.0),
        ([NAN, INF, -INF, 0.0], [1, 1, 1, 1], NAN_SEEN | INFINITE, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bad_weights(log_weights, ancestors, flags, ess, dtype):
    weights = torch.tensor([log_weights], dtype=dtype)
    for outputs in (
        systematic_resample(weights, torch.tensor([0.5])),
        reference.systematic_resample(weights, torch.tensor([0.5]).double(), 1.0),
    ):
        results, log_mean, size, resampled, degenerate = outputs
        assert results.tolist() == [ancestors]
        assert size.item() == ess
        assert degenerate.item() == flags
        assert resampled.item() == (not flags & COLLAPSED)
        if flags & COLLAPSED:
            assert log_mean.item() == -INF
        elif flags & INFINITE:
            assert log_mean.item() == INF


def test_no_population_at_all():
    result = systematic_resample(torch.zeros(0, 5), torch.zeros(0))
    assert result.ancestors.shape == (0, 5)
    assert result.ess.shape == (0,)


@pytest.mark.parametrize(
    ("log_weights", "uniform", "threshold", "error", "message"),
    [
        (
            torch.zeros(2, 3, dtype=torch.int64),
            torch.zeros(2),
            1.0,
            TypeError,
            "log_weights.*int64",
        ),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), 1.0, TypeError, "uniform.*bool"),
        (torch.zeros(3), torch.zeros(3), 1.0, ValueError, r"\[P, N\].*\(3,\)"),
        (torch.zeros(2, 3, 4), torch.zeros(2), 1.0, ValueError, r"\(2, 3, 4\)"),
        (torch.zeros(2, 0), torch.zeros(2), 1.0, ValueError, "N >= 1"),
        (torch.zeros(2, 3), torch.zeros(3), 1.0, ValueError, r"\[P\] = \[2\].*\(3,\)"),
        (torch.zeros(2, 3), torch.tensor(0.5), 1.0, ValueError, "uniform must be"),
        (torch.zeros(2, 3), torch.zeros(2, device="meta"), 1.0, ValueError, "uniform is on meta"),
        (torch.zeros(2, 3), torch.zeros(2), -0.1, ValueError, "threshold.*-0.1"),
        (torch.zeros(2, 3), torch.zeros(2), 1.5, ValueError, "threshold.*1.5"),
        (torch.zeros(2, 3), torch.zeros(2), NAN, ValueError, "threshold.*nan"),
        (torch.zeros(1, 1).expand(1, 2**31), torch.zeros(1), 1.0, ValueError, r"2\^31"),
    ],
)
def test_errors(log_weights, uniform, threshold, error, message):
    with pytest.raises(error, match=message):
        systematic_resample(log_weights, uniform, ess_threshold=threshold)


def test_opcheck(generator):
    for shape in [(1, 1), (3, 17), (2, 20_000)]:
        arguments = (
            torch.randn(shape, generator=generator),
            torch.rand(shape[0], dtype=torch.float64, generator=generator),
            0.5,
        )
        torch.library.opcheck(torch.ops.edmfast.systematic_resample.default, arguments)


def test_compiles_without_a_break(generator):
    def run(log_weights, uniform):
        return systematic_resample(log_weights * 2, uniform, ess_threshold=0.5)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in [(2, 100), (5, 33)]:
        log_weights = torch.randn(shape, generator=generator)
        uniform = torch.rand(shape[0], generator=generator)
        assert equal(compiled(log_weights, uniform), run(log_weights, uniform))


def test_gradients_are_refused():
    log_weights = torch.zeros(1, 4, requires_grad=True)
    rng = rng_state(0, 0)
    for call in (
        lambda: systematic_resample(log_weights, torch.tensor([0.5])),
        lambda: resample(log_weights, rng),
    ):
        with pytest.raises(RuntimeError, match="no derivative"):
            call()
        with torch.no_grad():
            assert not call().log_mean.requires_grad
