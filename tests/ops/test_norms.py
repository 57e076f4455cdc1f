"""Test group, layer and RMS norm with two derivatives: float64, any place in a batch, any layout in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bench.studies import norm_memory
from edmfast.ops import group_norm, layer_norm, rms_norm
from edmfast.ops.norms import reference

DOUBLE = torch.float64
OPERATORS = ("group_norm_silu", "group_norm_silu_backward", "group_norm_silu_double_backward")
HALVES = (torch.float16, torch.bfloat16)
SHAPES = [  # N, C, S, groups
    (0, 6, 35, 3),
    (1, 6, 35, 1),
    (2, 6, 35, 6),
    (31, 6, 1, 1),
    (31, 8, 4, 2),
    (3, 64, 64, 16),
    (2, 4, 2100, 2),
    (1000, 12, 5, 3),
    (9, 2101, 1, 1),
]


def draw(generator, *shape, dtype=DOUBLE):
    return torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype)


def operands(generator, shape, sets, dtype=DOUBLE, last=False):
    """Return along, scale_along, shift_along, grad, x, scale, shift; states [N, C, S], numbers [M, C]."""
    n, c, s, _ = shape
    wide = DOUBLE if dtype == DOUBLE else torch.float32
    v, grad, x = (
        draw(generator, n, s, c, dtype=dtype).mT if last else draw(generator, n, c, s, dtype=dtype)
        for _ in range(3)
    )
    scale_along, shift_along, scale, shift = (
        draw(generator, sets, c, dtype=wide) for _ in range(4)
    )
    return v, scale_along, shift_along, grad, x, scale, shift


def three_orders(module, arrays, groups, centred=True, silu=True):
    """Return the outputs of the three operators of a module in one tuple."""
    *along, grad, x, scale, shift = arrays
    forward, backward, double = (getattr(module, name) for name in OPERATORS)
    y, mean, rstd = forward(x, scale, shift, groups, 1e-5, centred, silu)
    kept = grad, x, scale, shift, mean, rstd, centred, silu
    return y, mean, rstd, *backward(*kept), *double(*along, *kept)


def ours(*arguments, **options):
    return three_orders(torch.ops.edmfast, *arguments, **options)


def truth_of(arrays, groups, **options):
    wide = [None if tensor is None else tensor.double() for tensor in arrays]
    return three_orders(reference, wide, groups, **options)


def size_of(value):
    return value.abs().amax().clamp(min=1) if value.numel() else 1.0


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_equals_float64(generator, shape, dtype, last):
    eps = torch.finfo(dtype).eps
    for sets in {1, shape[0]} - ({0} if shape[0] else set()):
        for centred, silu in ((True, True), (True, False), (False, True)):
            arrays = operands(generator, shape, sets, dtype, last)
            options = {"centred": centred, "silu": silu}
            outputs = ours(arrays, shape[3], **options)
            for value, wanted in zip(outputs, truth_of(arrays, shape[3], **options), strict=True):
                assert value.dtype == dtype
                error = (value.double() - wanted).abs()
                assert bool((error <= 30 * eps * size_of(wanted)).all())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(3, 8, 40, 2), (5, 12, 7, 3)], ids=str)
def test_half_precision_is_no_worse_than_the_plain_formula(generator, shape, last, dtype):
    def plain(x, scale, shift):
        return F.silu(F.group_norm(x, shape[3], scale[0].to(dtype), shift[0].to(dtype)))

    def chain(function, v, scale_along, shift_along, grad, x, scale, shift):
        leaves = [tensor.detach().requires_grad_() for tensor in (grad, x, scale, shift)]
        y = function(*leaves[1:])
        first = torch.autograd.grad(y, leaves[1:], leaves[0], create_graph=True)
        return y, *first, *torch.autograd.grad(first, leaves, (v, scale_along, shift_along))

    arrays = operands(generator, shape, 1, dtype, last)
    wide = [tensor.double() for tensor in arrays]
    truth = chain(lambda x, a, b: F.silu(F.group_norm(x, shape[3], a[0], b[0])), *wide)
    low = chain(plain, *arrays)
    outputs = chain(lambda x, a, b: group_norm(x, shape[3], a[0], b[0], silu=True), *arrays)
    for value, other, wanted in zip(outputs, low, truth, strict=True):
        error = (value.double() - wanted).abs().max()
        assert error <= 2 * (other.double() - wanted).abs().max() + 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("last", [False, True])
def test_half_precisions_are_computed_in_float32(generator, last, dtype):
    shape = 3, 8, 40, 4
    arrays = operands(generator, shape, 1, dtype, last)
    wide = ours([tensor.float() for tensor in arrays], 4)
    for value, wanted in zip(ours(arrays, 4), wide, strict=True):
        assert torch.equal(value, wanted.to(value.dtype))


def test_absent_cotangents_are_zero(generator):
    arrays = [*operands(generator, (4, 6, 40, 3), 1)]
    for chosen in ([1], [2], [1, 2]):
        without, zeros = [*arrays], [*arrays]
        for i in chosen:
            without[i], zeros[i] = None, torch.zeros_like(arrays[i])
        for value, wanted in zip(ours(without, 3), ours(zeros, 3), strict=True):
            assert torch.equal(value, wanted)


CALLS = {
    "group": lambda x, *weights: group_norm(x, 2, *weights, eps=1e-3, silu=True),
    "group, steered": lambda x, w, b, s, t: group_norm(x, 2, w, b, scale=s, shift=t, silu=True),
    "layer": lambda x, w, b, s, t: layer_norm(x.mT, w, b, scale=s, shift=t),
    "layer, silu": lambda x, s, t: layer_norm(x.mT, scale=s, shift=t, silu=True),
    "rms": lambda x, w, s: rms_norm(x.mT, w, scale=s, silu=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_gradcheck(generator, name):
    vectors = {"group": 2, "rms": 1, "layer, silu": 0}.get(name, 2)
    steers = {"group": 0, "rms": 1}.get(name, 2)
    x = draw(generator, 2, 4, 3).requires_grad_()
    numbers = [draw(generator, 4).requires_grad_() for _ in range(vectors)]
    numbers += [draw(generator, 2, 4).requires_grad_() for _ in range(steers)]
    assert torch.autograd.gradcheck(CALLS[name], (x, *numbers))
    assert torch.autograd.gradgradcheck(CALLS[name], (x, *numbers))


def test_first_gradients_require_grad_and_a_third_derivative_raises(generator):
    x, w, b = (draw(generator, *shape).requires_grad_() for shape in ((2, 4, 9), (4,), (4,)))
    y = group_norm(x, 2, w, b, silu=True)
    first = torch.autograd.grad(y.square().sum(), (x, w, b), create_graph=True)
    assert all(gradient.requires_grad for gradient in first)
    (second,) = torch.autograd.grad(first[0].square().sum(), x, create_graph=True)
    assert second.requires_grad
    with pytest.raises(RuntimeError, match="third"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("chosen", [[0], [1], [2], [1, 2]])
def test_second_derivatives_of_some_of_the_gradients(generator, chosen):
    x, w, b = (draw(generator, *shape).requires_grad_() for shape in ((2, 4, 9), (4,), (4,)))
    results = []
    for norm in (
        lambda: group_norm(x, 2, w, b, silu=True),
        lambda: F.silu(F.group_norm(x, 2, w, b)),
    ):
        first = torch.autograd.grad(norm().sin().sum(), (x, w, b), create_graph=True)
        results.append(torch.autograd.grad(sum(first[i].sin().sum() for i in chosen), (x, w, b)))
    for value, wanted in zip(*results, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("last", [False, True])
def test_opcheck(generator, last):
    arrays = operands(generator, (3, 4, 6, 2), 1, torch.float32, last)
    *along, grad, x, scale, shift = arrays
    inputs = [tensor.detach().requires_grad_() for tensor in (x, scale, shift)]
    operators = [getattr(torch.ops.edmfast, name).default for name in OPERATORS]
    torch.library.opcheck(operators[0], (*inputs, 2, 1e-5, True, True))
    _, mean, rstd = operators[0](x, scale, shift, 2, 1e-5, True, True)
    rest = mean, rstd, True, True
    torch.library.opcheck(operators[1], (grad.requires_grad_(), *inputs, *rest))
    grad = grad.detach()
    for cotangents in (along, [along[0], None, None]):
        torch.library.opcheck(operators[2], (*cotangents, grad, x, scale, shift, *rest))


def test_compiles_without_a_break(generator):
    x, w = draw(generator, 3, 4, 5, 6, dtype=torch.float32), draw(generator, 4, dtype=torch.float32)
    s = draw(generator, 3, 4, dtype=torch.float32)

    def both(x, w, s):
        tokens = layer_norm(group_norm(x, 2, w, silu=True).movedim(1, -1), w, scale=s)
        return rms_norm(tokens * 2)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for arrays in (x, x.to(memory_format=torch.channels_last)):
        assert torch.equal(compiled(arrays, w, s), both(arrays, w, s))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2000, 6, 5, 2), (300, 6, 37, 3)], ids=str)
def test_bits_depend_neither_on_the_batch_nor_on_the_threads(
    generator, with_threads, shape, silu, last
):
    n = shape[0]
    arrays = operands(generator, shape, n, torch.float32, last)
    with with_threads(1):
        whole = ours(arrays, shape[3], silu=silu)
    for threads in (1, 2):
        with with_threads(threads):
            for rows in (slice(0, 1), slice(7, 40), slice(3, n)):
                part = ours([tensor[rows] for tensor in arrays], shape[3], silu=silu)
                for value, wanted in zip(part, whole, strict=True):
                    assert torch.equal(value, wanted[rows])


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("numbers", [7, 384, 2101])
def test_a_token_has_the_same_bits_among_others_as_alone(generator, numbers, centred):
    arrays = operands(generator, (13, numbers, 1, 1), 1, torch.float32)
    options = {"centred": centred, "silu": False}
    # results like x and the statistics; the others are sums over tokens
    of_rows = [0, 1, 2, 3, 6, 7]
    whole = ours(arrays, 1, **options)
    for row in range(13):
        along, *several, grad, x, scale, shift = arrays
        v, g, one = (tensor[row : row + 1] for tensor in (along, grad, x))
        alone = ours([v, *several, g, one, scale, shift], 1, **options)
        for which in of_rows:
            assert torch.equal(alone[which], whole[which][row : row + 1]), which


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sets", [1, 2])
def test_sums_over_rows_do_not_depend_on_the_threads(generator, with_threads, sets, last):
    arrays = operands(generator, (1000, 8, 40, 4), sets, torch.float32, last)
    results = []
    for threads in (1, 2):
        with with_threads(threads):
            results.append(ours(arrays, 4))
    for first_bits, second_bits in zip(*results, strict=True):
        assert torch.equal(first_bits, second_bits)


@pytest.mark.parametrize("order", ["positions", "channels", "channels last"])
def test_an_element_has_the_same_bits_wherever_it_lies(order):
    """An element has the same bits in a whole vector and in the remainder, in every layout."""
    n, c, s = {"positions": (1, 2, 101), "channels": (3, 101, 2), "channels last": (2, 101, 3)}[
        order
    ]
    x = torch.ones(n, c, s)
    x[:, :, ::2] = -1.0
    if order == "channels last":
        x = x.mT.contiguous().mT
    scale, shift = torch.full((1, c), 0.7), torch.full((1, c), 0.3)
    y, mean, rstd = torch.ops.edmfast.group_norm_silu(x, scale, shift, 1, 1e-5, True, True)
    kept = x, x, scale, shift, mean, rstd, True, True
    to_x, *_ = torch.ops.edmfast.group_norm_silu_backward(*kept)
    to_grad, second, *_ = torch.ops.edmfast.group_norm_silu_double_backward(x, None, None, *kept)
    for values in (y, to_x, to_grad, second):
        assert len(values.unique()) == 2


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("last", [False, True])
def test_a_large_mean_costs_no_digits(generator, last, centred):
    shape = 2, 8, 400, 2
    arrays = [*operands(generator, shape, 1, torch.float32, last)]
    arrays[4] = arrays[4] + 1e4
    y, mean, rstd = ours(arrays, 2, centred=centred)[:3]
    truth = truth_of(arrays, 2, centred=centred)[:3]
    # the mean is rounded to float32, by at most half of 2^-10
    torch.testing.assert_close(y.double(), truth[0], rtol=1e-5, atol=5e-3)
    torch.testing.assert_close(mean.double(), truth[1], rtol=6e-8, atol=0)
    torch.testing.assert_close(rstd.double(), truth[2], rtol=1e-5, atol=0)


def test_nan_stays_in_its_group(generator):
    x = draw(generator, 2, 4, 40, dtype=torch.float32)
    x[0, 1, 3] = torch.nan
    y = group_norm(x, 2, silu=True)
    assert y[0, :2].isnan().all()
    assert y[0, 2:].isfinite().all()
    assert y[1].isfinite().all()


def test_channels_last_stays_and_is_not_copied(generator, monkeypatch):
    x = draw(generator, 2, 6, 5, 7).to(memory_format=torch.channels_last)
    seen, operator = [], torch.ops.edmfast.group_norm_silu
    monkeypatch.setattr(
        torch.ops.edmfast,
        "group_norm_silu",
        lambda x, *rest: (seen.append(x), operator(x, *rest))[1],
    )
    y = group_norm(x, 3)
    assert seen[0].data_ptr() == x.data_ptr()
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, F.group_norm(x, 3))


@pytest.mark.usefixtures("compiled")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_three_orders_keep_nothing_but_what_is_given_and_answered():
    """At batch 32 a state takes 16 MiB; only x, grad, its cotangent, to_x and the two last results are kept."""
    assert norm_memory.peak(32, "ours") < 7 * 16


def test_strides(generator):
    base = draw(generator, 4, 12, 6, 10)
    w = draw(generator, 12)[::2]
    shift = draw(generator, 1, 6).expand(4, 6)
    for x in (
        base[:, ::2],
        base[:, :6].transpose(2, 3),
        base[:, :6, 1:5, 3:],
        base[:1, :6].expand(4, -1, -1, -1),
        base[:, :1, :1].expand(-1, 6, 6, -1),
    ):
        assert not x.is_contiguous()
        outputs = group_norm(x, 3, w, shift=shift)
        torch.testing.assert_close(outputs, F.group_norm(x, 3, w) + shift[:, :, None, None])
        x = x.detach().requires_grad_()
        outputs, wanted = (
            torch.autograd.grad(norm(x, 3, w).sum(), x)[0] for norm in (group_norm, F.group_norm)
        )
        torch.testing.assert_close(outputs, wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer_norm(x), F.layer_norm(x, x.shape[-1:]))


@pytest.mark.parametrize("shape", [(3, 5, 24), (2, 3, 5, 24), (7, 24), (0, 5, 24)])
def test_layer_and_rms_norm_are_torchs(generator, shape):
    x, w, b = draw(generator, *shape), draw(generator, 24), draw(generator, 24)
    s, t = draw(generator, shape[0], 24), draw(generator, shape[0], 24)
    column = (shape[0], *[1] * (len(shape) - 2), 24)
    torch.testing.assert_close(layer_norm(x, w, b), F.layer_norm(x, (24,), w, b))
    torch.testing.assert_close(rms_norm(x, w), F.rms_norm(x, (24,), w, 1e-6))
    steered = F.layer_norm(x, (24,), w, b) * (1 + s.view(column)) + t.view(column)
    torch.testing.assert_close(layer_norm(x, w, b, scale=s, shift=t), steered)
    shared = layer_norm(x, scale=w[None], shift=b[None], silu=True)
    torch.testing.assert_close(shared, F.silu(F.layer_norm(x, (24,)) * (1 + w) + b))


def test_numbers_of_a_layer_and_of_a_sample(generator):
    """The scale and shift of a sample enter as (N w + b) (1 + scale) + shift; absent ones are 0."""
    x, w, b = draw(generator, 3, 6, 4, 5), draw(generator, 6), draw(generator, 6)
    s, t = draw(generator, 3, 6), draw(generator, 3, 6)
    wanted = F.group_norm(x, 2, w, b) * (1 + s[:, :, None, None]) + t[:, :, None, None]
    torch.testing.assert_close(group_norm(x, 2, w, b, scale=s, shift=t), wanted)
    torch.testing.assert_close(group_norm(x, 2), F.group_norm(x, 2))
    torch.testing.assert_close(group_norm(x, 2, bias=b), F.group_norm(x, 2, None, b))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 4, 3, dtype=torch.int64)}, TypeError, "int64"),
        ({"weight": torch.zeros(4).double()}, TypeError, "no wider than torch.float32"),
        ({"weight": torch.zeros(4, dtype=torch.int64)}, TypeError, "int64"),
        ({"weight": torch.zeros(3)}, ValueError, r"weight must be \[4\]"),
        ({"scale": torch.zeros(3, 4)}, ValueError, r"scale must be \[2 or 1, 4\]"),
        ({"shift": torch.zeros(4)}, ValueError, r"shift must be \[2 or 1, 4\]"),
        ({"bias": torch.zeros(4, device="meta")}, ValueError, "on cpu"),
        ({"x": torch.zeros(4)}, ValueError, r"\[B, C, \*spatial\]"),
        ({"x": torch.zeros(2, 4, 0)}, ValueError, "positive sizes"),
        ({"groups": 3}, ValueError, "divide the 4 channels"),
        ({"groups": 0}, ValueError, "divide the 4 channels"),
        ({"eps": -1.0}, ValueError, "eps"),
        ({"eps": float("nan")}, ValueError, "eps"),
    ],
)
def test_errors(change, error, message):
    with pytest.raises(error, match=message):
        group_norm(**{"x": torch.zeros(2, 4, 3), "groups": 2} | change)


def test_errors_of_the_norms_of_tokens():
    for norm in (layer_norm, rms_norm):
        with pytest.raises(ValueError, match=r"\[B, \*tokens, C\]"):
            norm(torch.zeros(3))
        with pytest.raises(ValueError, match=r"weight must be \[3\]"):
            norm(torch.zeros(2, 3), torch.zeros(2))
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(norm, (torch.zeros(2, 3),), (torch.ones(2, 3),))
