"""Triton norms and their derivatives agree with the reference in float64, on any layout, and write every output.

The tolerance is measured: twice the error in the mean square of the reference in the precision of the inputs,
plus a unit in the last place, of at least numbers of size 1, which means are made of.
"""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.ops.norms import reference

kernels = pytest.importorskip("edmfast.ops.norms.triton_ops", exc_type=ImportError)
sizes = pytest.importorskip("edmfast.ops.norms.triton_launch", exc_type=ImportError)

NAMES = ("y", "mean", "rstd", "to_x", "to_scale", "to_shift")
NAMES += ("to_grad", "second", "to_scale second", "to_shift second")
ROWS = {1, 2, 4, 5, 8, 9}
"""Which of them are of scale or of statistics, in float32."""
EPS = 1e-5
# N, C, S, G, M
SHAPES = [
    # groups that a thread of the double backward holds sixteen numbers of
    (2, 8, 1024, 1, 1),
    (3, 32, 256, 2, 3),
    (2, 6, 35, 3, 2),
    (4, 6, 35, 3, 2),
    (2, 6, 35, 2, 1),
    (1, 4, 1, 1, 1),
    (3, 6, 1, 3, 1),
    (9, 96, 1, 1, 3),
    (1, 6, 1500, 1, 1),
    (1, 96, 100, 1, 1),
    (1, 9000, 1, 1, 1),
]


def three_orders(v, b, c, grad, x, scale, shift, groups, centred, silu, module=reference):
    y, mean, rstd = module.group_norm_silu(x, scale, shift, groups, EPS, centred, silu)
    rest = x, scale, shift, mean, rstd, centred, silu
    first = module.group_norm_silu_backward(grad, *rest)
    second = module.group_norm_silu_double_backward(v, b, c, grad, *rest)
    return y, mean, rstd, *first, *second


def poisoned(*arguments, programs=None):
    """Return the kernels with allocations that hold NaN; few programs in a launch take several rows each."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch.Tensor, "new_empty"), (torch, "empty_like")):
            allocate = getattr(owner, name)

            def full(*args, _allocate=allocate, **options):
                return _allocate(*args, **options).fill_(math.nan)

            patch.setattr(owner, name, full)
        if programs is not None:
            patch.setattr(sizes, "_PROGRAMS", programs)
        return three_orders(*arguments, module=kernels)


def in_few_programs(*arguments):
    return poisoned(*arguments, programs=4)


def make(generator, shape, dtype, channels_last=False):
    """Return v, b, c, grad, x, scale, shift, groups."""
    rows, channels, positions, groups, shared = shape

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    v, grad, x = (draw(rows, channels, positions).to(dtype) for _ in range(3))
    if channels_last:
        v, grad, x = (tensor.mT.contiguous().mT for tensor in (v, grad, x))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    b, c, scale, shift = (draw(shared, channels).to(wide) for _ in range(4))
    return v, b, c, grad, x, scale, shift, groups


def assert_close(results, arguments):
    inputs = [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]
    for index, (name, ours, plain, wanted) in enumerate(
        zip(NAMES, results, three_orders(*arguments), three_orders(*inputs), strict=True)
    ):
        assert ours.shape == wanted.shape, name
        assert ours.dtype == plain.dtype, name
        unit = torch.finfo(torch.float32 if index in ROWS else arguments[4].dtype).eps
        error, allowed, size = (
            value.double().square().mean().sqrt()
            for value in (ours - wanted, plain - wanted, wanted)
        )
        assert error <= 2 * allowed + unit * max(1, size), name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_float32_and_bfloat16(run, generator, shape, channels_last):
    if channels_last and shape[2] == 1:
        pytest.skip("one position has one layout")
    for dtype, flags in ((torch.float32, (True, True)), (torch.bfloat16, (False, False))):
        if channels_last:
            flags = flags[0], not flags[1]
        tensors = make(generator, shape, dtype, channels_last)
        results = run(poisoned, *tensors, *flags)
        assert_close(results, (*tensors, *flags))
        for index in (0, 3, 6, 7):
            assert results[index].stride() == tensors[4].stride()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 35, 3, 1), (1, 6, 1000, 1, 1)], ids=str)
def test_float64_is_the_reference(run, generator, shape, centred, silu):
    arguments = *make(generator, shape, torch.float64), centred, silu
    for ours, wanted in zip(run(poisoned, *arguments), three_orders(*arguments), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(40, 96, 1, 1, 2), (14, 6, 5, 3, 2), (33, 4, 1, 2, 1)], ids=str)
def test_several_rows_in_a_program(run, generator, shape):
    """A block of rows ends with the rows that share a row of scale, and the rest of the block is ignored."""
    arguments = *make(generator, shape, torch.float32), True, True
    assert_close(run(in_few_programs, *arguments), arguments)


@pytest.mark.parametrize("shape", [(2, 6, 35, 3, 2), (1, 6, 1500, 1, 1)], ids=str)
@pytest.mark.parametrize("absent", [(1,), (2,)])
def test_absent_cotangents(run, generator, shape, absent):
    arguments = [*make(generator, shape, torch.float32), True, True]
    for index in absent:
        arguments[index] = None
    assert_close(run(poisoned, *arguments), arguments)


@pytest.mark.parametrize("shape", [(2, 6, 35, 1, 1), (1, 6, 1500, 1, 1)], ids=str)
def test_large_means(run, generator, shape):
    """x has an error of a unit in the last place of its mean, and the deviation keeps all other digits."""
    v, b, c, grad, x, *rest = make(generator, shape, torch.float32)
    arguments = v + 1e4, b, c, grad, x + 1e4, *rest, True, True
    results = run(poisoned, *arguments)
    assert_close(results, arguments)
    variance = arguments[4].double().reshape(shape[0], -1).var(1, correction=0)
    wanted = (variance + EPS).rsqrt()
    torch.testing.assert_close(results[2][:, 0].double(), wanted, rtol=5e-7, atol=0.0)


def test_large_arguments_and_nan(run, generator):
    v, b, c, grad, x, scale, shift, groups = make(generator, (2, 6, 35, 3, 2), torch.float32)
    arguments = v, b, c, grad, x, 1000 * scale, 1000 * shift, groups, True, True
    results = run(poisoned, *arguments)
    assert_close(results, arguments)
    x[1, 2, 3] = math.nan
    results, wanted = run(poisoned, *arguments), three_orders(*arguments)
    for ours, truth in zip(results, wanted, strict=True):
        assert torch.equal(ours.isnan(), truth.isnan())
        assert ours.isnan().any()
        assert not ours.isnan().all()


def test_any_strides(run, generator):
    """Any strides give the bits of contiguous tensors, and results are contiguous."""
    v, b, c, grad, x, scale, shift, groups = make(generator, (2, 6, 35, 3, 2), torch.float32)
    options = groups, True, True
    plain = run(poisoned, v, b, c, grad, x, scale, shift, *options)
    views = [
        v.mT.contiguous().mT,
        b.mT.contiguous().mT,
        c.repeat_interleave(2, dim=1)[:, ::2],
        grad.transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat([x, x], 1)[:, :6],
        scale.mT.contiguous().mT,
        shift.repeat(2, 1)[:2],
    ]
    for ours, wanted in zip(run(poisoned, *views, *options), plain, strict=True):
        assert ours.is_contiguous()
        assert torch.equal(ours, wanted)
    expanded = run(poisoned, v, b, c, grad[:1, :, :1].expand_as(x), x, scale, shift, *options)
    same = run(poisoned, v, b, c, grad[:1, :, :1].expand_as(x).clone(), x, scale, shift, *options)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    results = run(poisoned, v, b, c, grad, turned, scale, shift, *options)
    for index, (ours, wanted) in enumerate(zip(expanded, same, strict=True)):
        assert torch.equal(ours, wanted)
        assert torch.equal(results[index], plain[index])
        if index in (0, 3, 6, 7):
            assert results[index].is_contiguous()


@pytest.mark.parametrize("shape", [(0, 6, 4, 3, 1), (0, 6, 4, 3, 0), (2, 6, 0, 3, 1)], ids=str)
def test_empty(run, generator, shape):
    arguments = *make(generator, shape, torch.float32), True, True
    for ours, wanted in zip(run(poisoned, *arguments), three_orders(*arguments), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("shape", [(40, 96, 1, 1, 2), (1, 3, 1500, 1, 1)], ids=str)
def test_deterministic(run, generator, shape):
    arguments = *make(generator, shape, torch.bfloat16), True, True
    for result, other in zip(
        run(in_few_programs, *arguments), run(in_few_programs, *arguments), strict=True
    ):
        assert torch.equal(result, other)


@pytest.mark.parametrize("order", ["forward", "backward", "double_backward"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_tiles_cover_a_group(order, channels_last):
    for dtype in (torch.float64, torch.bfloat16):
        for width in (1, 3, 16, 96, 2048, 20_000):
            for positions in (1, 49, 1024, 100_000):
                tiles = sizes.tiling(order, dtype, 64, 16, 8, width, positions, channels_last)
                assert tiles.parts * tiles.channels * tiles.positions >= width * positions
                assert tiles.rows * tiles.channels * tiles.positions <= 8192
                assert tiles.parts == 1 or tiles.rows * tiles.steps == 1
                assert tiles.rows * tiles.steps <= 64
