"""Linear combinations: bits of the reference, laws of the noise, layouts, derivatives and bad inputs."""

from __future__ import annotations

import functools

import pytest
import torch

from edmfast.ops import linear_combination, standard_normal
from edmfast.ops.linear_combination import reference
from edmfast.ops.linear_combination.operator import MAX_TENSORS

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [(1,), (5, 2), (300, 3), (7, 4), (3, 1027), (2, 3, 65, 67), (1, 4100), (0, 3), (3, 0)]
NOTHING = None, None, None, 0, 0


def make(generator, shape, count, dtype=torch.float32):
    tensors = torch.randn(count, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return [*tensors], torch.randn(count, generator=generator, dtype=torch.float64)


def noise(generator, batch, count, each):
    seeds = torch.randint(-(2**62), 2**62, (batch if each else 1,), generator=generator)
    nodes = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    weights = torch.randn(count, generator=generator, dtype=torch.float64)
    return {"seeds": seeds, "nodes": nodes, "weights": weights}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_terms_have_the_bits_of_the_reference(poisoned, generator, shape, dtype):
    for count in range(1, MAX_TENSORS + 1):
        tensors, numbers = make(generator, shape, count, dtype)
        ours = linear_combination(tensors, numbers)
        assert ours.dtype == dtype
        assert torch.equal(ours, reference.linear_combination(tensors, numbers, *NOTHING))
        assert torch.equal(ours, linear_combination(tuple(tensors), tuple(numbers.tolist())))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_noise_has_the_bits_of_the_reference(poisoned, generator, shape, dtype, each, nodes):
    for count in (1, 3):
        tensors, numbers = make(generator, shape, count, dtype)
        names = noise(generator, shape[0], nodes, each)
        first = 0 if each else 2**32 - max(1, shape[0])
        ours = linear_combination(tensors, numbers, **names, stream=15, first_sample=first)
        wanted = reference.linear_combination(tensors, numbers, *names.values(), 15, first)
        assert torch.equal(ours, wanted)


def test_the_noise_is_that_of_standard_normal():
    x = torch.zeros(4, 3, 5, 7)
    nodes = torch.tensor([2**32 - 3, 5 << 32 | 11, -1])
    seeds = torch.tensor([-7])
    for index, (step, population) in enumerate([(2**32 - 3, 0), (11, 5), (2**32 - 1, 2**28 - 1)]):
        weights = torch.zeros(3, dtype=torch.float64)
        weights[index] = 1.0
        ours = linear_combination(
            [x], [1.0], seeds=seeds, nodes=nodes, weights=weights, stream=3, first_sample=9
        )
        wanted = standard_normal(
            x[None], seed=-7, step=step, stream=3, first_population=population, first_particle=9
        )
        assert torch.equal(ours, wanted[0])


def test_samples_with_their_own_seeds_have_the_index_zero():
    x = torch.zeros(3, 70)
    nodes, weights = torch.tensor([4]), torch.ones(1, dtype=torch.float64)
    ours = linear_combination(
        [x], [1.0], seeds=torch.tensor([5, 6, 5]), nodes=nodes, weights=weights
    )
    for row, seed in zip(ours, (5, 6, 5), strict=True):
        assert torch.equal(row, standard_normal(x[None, :1], seed=seed, step=4)[0, 0])


def test_a_literal_sum():
    x, y = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([4.0, 0.25, -1.0])
    ours = linear_combination([x, y, x], (0.5, -2.0, 3.0))
    assert ours.tolist() == [-4.5, -7.5, 3.75]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precisions_round_once(dtype):
    x = torch.full((1,), 1.0, dtype=dtype)
    small = torch.full((1,), torch.finfo(dtype).eps / 4, dtype=dtype)
    # each addition alone would be lost, and the three together round up
    ours = linear_combination([x, small, small, small], [1.0] * 4)
    assert ours.item() == 1.0 + torch.finfo(dtype).eps


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_coefficient_of_zero_keeps_what_is_not_finite(bad):
    x = torch.tensor([bad, 2.0])
    assert linear_combination([torch.ones(2), x], [1.0, 0.0]).isnan().tolist() == [True, False]
    assert linear_combination([x], [0.0]).isnan().tolist() == [True, False]


def test_threads_and_company_do_not_matter(compiled, with_threads, generator):
    for shape in ((50, 6000), (9, 3, 41, 43), (70_000, 3)):
        tensors, numbers = make(generator, shape, 3)
        names = noise(generator, shape[0], 2, False)
        for options in ({}, names):
            with with_threads(1):
                whole = linear_combination(tensors, numbers, **options)
            with with_threads(2):
                assert torch.equal(whole, linear_combination(tensors, numbers, **options))
            at = {"first_sample": 4} if options else {}
            few = linear_combination([t[4:7] for t in tensors], numbers, **options, **at)
            assert torch.equal(few, whole[4:7])


def test_layouts_are_kept_where_all_tensors_share_one(generator):
    tensors, numbers = make(generator, (2, 3, 4, 5), 2)
    wanted = linear_combination(tensors, numbers)
    x, y = (t.contiguous(memory_format=torch.channels_last) for t in tensors)
    last = linear_combination([x, y], numbers)
    assert torch.equal(last, wanted)
    assert last.stride() == x.stride()
    for pair in ([tensors[0], y], [x, tensors[1]]):
        mixed = linear_combination(pair, numbers)
        assert torch.equal(mixed, wanted)
        assert mixed.is_contiguous()
    names = noise(generator, 2, 1, False)
    noisy = linear_combination([x, y], numbers, **names)
    assert torch.equal(noisy, linear_combination(tensors, numbers, **names))
    assert noisy.is_contiguous()


def test_views_of_larger_memory(generator):
    tensors, numbers = make(generator, (6, 5, 8), 3)
    views = [
        lambda t: t[1:, 1:, 1:],
        lambda t: t[::2],
        lambda t: t.transpose(0, 1),
        lambda t: t[:1].expand(4, 5, 8),
        lambda t: torch.as_strided(t, (3, 4), (1, 1)),
        lambda t: t[0, 0, 3:7],
        lambda t: torch._neg_view(t),
    ]
    for view in views:
        ours = linear_combination([view(t) for t in tensors], numbers)
        wanted = linear_combination([view(t).clone() for t in tensors], numbers)
        assert torch.equal(ours, wanted)


def test_the_result_is_never_an_input():
    x = torch.ones(4, 3)
    for numbers in ([1.0], torch.ones(1, dtype=torch.float64)):
        out = linear_combination([x], numbers)
        out.zero_()
        assert x.sum() == 12


@pytest.mark.parametrize("noisy", [False, True])
def test_derivatives(generator, noisy):
    tensors, numbers = make(generator, (2, 3, 5), 3, torch.float64)
    options = noise(generator, 2, 2, False) if noisy else {}
    leaves = [t.requires_grad_() for t in tensors]

    def run(*tensors):
        return linear_combination(tensors, numbers, **options)

    assert torch.autograd.gradcheck(run, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda *t: run(*t) ** 2, leaves)
    some = leaves[0], leaves[1].detach(), leaves[2]
    slopes = torch.autograd.grad(run(*some).sum(), some[::2])
    assert all((slope == numbers[k]).all() for k, slope in zip((0, 2), slopes, strict=True))


def test_transforms_give_the_bits_of_the_operator(generator):
    tensors, numbers = make(generator, (4, 3, 5), 2)
    names = noise(generator, 3, 2, False)
    run = functools.partial(linear_combination, coefficients=numbers, **names)
    mapped = torch.vmap(lambda *t: run(t))(*tensors)
    assert torch.equal(mapped, torch.stack([run([a, b]) for a, b in zip(*tensors, strict=True)]))


@pytest.mark.parametrize("name", ["coefficients", "weights"])
def test_numbers_have_no_derivative(generator, name):
    tensors, numbers = make(generator, (2, 3), 2)
    options = {"coefficients": numbers, **noise(generator, 2, 2, False)}
    options[name].requires_grad_()
    with pytest.raises(RuntimeError, match=f"no derivative in {name}"):
        linear_combination(tensors, **options)
    with torch.no_grad():
        linear_combination(tensors, **options)


X = torch.zeros(2, 3)
LONG = torch.zeros(2, dtype=torch.int64)
WEIGHT = torch.ones(1, dtype=torch.float64)
NOISE = {"seeds": LONG[:1], "nodes": LONG[:1], "weights": WEIGHT}


@pytest.mark.parametrize(
    ("tensors", "numbers", "options", "error", "message"),
    [
        ([], [], {}, ValueError, "1 to 8 tensors are needed, got 0"),
        ([X] * 9, [1.0] * 9, {}, ValueError, "1 to 8 tensors are needed, got 9"),
        ([X, 3], [1.0] * 2, {}, TypeError, r"tensors\[1\] must be a tensor, got int"),
        ([X.long()], [1.0], {}, TypeError, "float16.*int64"),
        ([X, X.double()], [1.0] * 2, {}, TypeError, "float32.*float64"),
        ([X, X[:1]], [1.0] * 2, {}, ValueError, r"one shape.*\(2, 3\), \(1, 3\)"),
        ([X.sum()], [1.0], {}, ValueError, r"\[B, \*shape\]"),
        ([X, X.to("meta")], [1.0] * 2, {}, ValueError, "one device"),
        ([X, X], [1.0], {}, ValueError, "coefficients must be 2 numbers, got 1"),
        ([X], [float("nan")], {}, ValueError, r"coefficients\[0\]"),
        ([X], ["1"], {}, TypeError, r"coefficients\[0\]"),
        ([X], torch.ones(1), {}, TypeError, "coefficients must be float64"),
        ([X], torch.ones(2).double(), {}, ValueError, r"coefficients must be \[1\], got \[2\]"),
        ([X], [1.0], {"seeds": LONG[:1]}, ValueError, "nodes.*weights.*None"),
        ([X], [1.0], NOISE | {"seeds": LONG.int()}, TypeError, "seeds must be int64"),
        (
            [X[:1]],
            [1.0],
            NOISE | {"seeds": LONG},
            ValueError,
            r"seeds must be \[1\] or \[B\] = \[1\]",
        ),
        ([X], [1.0], NOISE | {"nodes": LONG}, ValueError, r"weights must be \[2\], got \[1\]"),
        (
            [X],
            [1.0],
            NOISE | {"seeds": LONG, "first_sample": 1},
            ValueError,
            "first_sample.*2 seeds",
        ),
        ([X], [1.0], NOISE | {"first_sample": 2**32 - 1}, ValueError, r"2\^32.*B = 2"),
        ([X], [1.0], NOISE | {"seeds": [3]}, TypeError, "seeds must be a tensor, got list"),
    ],
)
def test_errors(tensors, numbers, options, error, message):
    with pytest.raises(error, match=message):
        linear_combination(tensors, numbers, **options)


def test_opcheck(generator):
    for shape in ((1,), (2, 3, 5)):
        for grad in (False, True):
            tensors, numbers = make(generator, shape, 3)
            tensors = [t.requires_grad_(grad) for t in tensors]
            for options in (NOTHING, (*noise(generator, shape[0], 2, True).values(), 3, 0)):
                torch.library.opcheck(
                    torch.ops.edmfast.linear_combination.default, (tensors, numbers, *options)
                )


def test_compiles_without_a_break(generator):
    (x, y), numbers = make(generator, (2, 3, 4), 2)
    names = noise(generator, 2, 2, False)

    def run(x, y):
        return linear_combination([x, y], (0.5, 2.0)) + linear_combination(
            [x], numbers[:1], **names
        )

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x, y), run(x, y))
