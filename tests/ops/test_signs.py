"""Random signs are the signs of the normals of the same counters, and may share draws by patterns."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import random_signs, rng_state, standard_normal
from edmfast.ops.noise.reference import box_muller
from edmfast.ops.signs import reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FIRST = {"first_population": 2**28 - 9, "first_particle": 9}


def signs_of_normals(like, **names):
    normals = standard_normal(like, **names)
    return torch.ones_like(normals).copysign(normals)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 5, 2), (3, 300, 4), (1, 7, 4099), (2, 100, 2, 32), (1, 3, 1025)]
)
def test_they_are_the_signs_of_the_normals(shape, dtype):
    like = torch.empty(shape, dtype=dtype)
    for names in ({}, {"seed": -3, "step": 2**32 - 1, "stream": 15, **FIRST}):
        assert torch.equal(random_signs(like, **names), signs_of_normals(like, **names))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_probes_are_those_of_a_longer_state(count):
    like = torch.empty(2, 7, 3, 5)
    longer = like[:, :, None].expand(2, 7, count, 3, 5)
    ours = random_signs(like, count=count, seed=1, stream=3, **FIRST)
    assert torch.equal(ours, signs_of_normals(longer, seed=1, stream=3, **FIRST))


EDGES = [0, 2**28, 2**29, 2**30, 2**31, 2**32 - 2**30, 2**32 - 2**29, 2**32 - 2**28, 2**32]


def around(edges, width):
    near = torch.arange(-width, width)
    return (torch.tensor(edges)[:, None] + near).flatten() % 2**32


def negative(normals):
    return torch.ones_like(normals).copysign(normals) < 0


@pytest.mark.parametrize("radius", [0, 2**31, 2**32 - 129, 2**32 - 128, 2**32 - 1])
def test_comparisons_of_words_agree_with_box_muller_around_every_edge(radius):
    """Signs change at multiples of a quarter turn."""
    angle = torch.cat([around(EDGES, 2000), torch.arange(0, 2**32, 2**18 - 5)])
    word = torch.full_like(angle, radius)
    ours = reference.negatives(word, angle)
    for got, normals in zip(ours, box_muller(word, angle), strict=True):
        assert torch.equal(got, negative(normals))


def test_a_radius_of_minus_zero_turns_the_signs():
    radius = around([0, 2**31, 2**32 - 128, 2**32], 500)
    angle = torch.full_like(radius, 12345)
    for got, normals in zip(
        reference.negatives(radius, angle), box_muller(radius, angle), strict=True
    ):
        assert torch.equal(got, negative(normals))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 7), (1, 1), (3, 16, 30)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_patterns_have_the_bits_of_the_reference(shape, count, dtype):
    like = torch.empty(2, 3, *shape, dtype=dtype)
    rows, columns = shape[-2:]
    for step in (6, 7):
        rng = rng_state(5, step)
        ours = random_signs(like, count=count, coloured=True, rng=rng, stream=3, **FIRST)
        wanted = reference.signs(like.flatten(2), rng, count, rows, columns, 3, *FIRST.values())
        assert torch.equal(ours, wanted.reshape(ours.shape))


def test_patterns_of_four_probes():
    like = torch.empty(2, 3, 2, 4, 6)
    drawn = random_signs(like, count=2, seed=1, stream=4)
    ours = random_signs(like, count=6, coloured=True, seed=1, stream=4)
    row, column = torch.arange(4)[:, None] % 2, torch.arange(6) % 2
    patterns = [1 - 2 * p for p in (0 * (row + column), row ^ column, row + 0 * column)]
    patterns.append(1 - 2 * (0 * row + column))
    for k in range(6):
        assert torch.equal(ours[:, :, k], drawn[:, :, k // 4] * patterns[k % 4])


def test_single_probes_of_two_levels_share_a_draw():
    like = torch.empty(2, 3, 4, 6)
    first, second, third = (
        random_signs(like, count=1, coloured=True, seed=1, step=step) for step in (6, 7, 8)
    )
    board = 1 - 2 * ((torch.arange(4)[:, None] + torch.arange(6)) % 2)
    assert torch.equal(first[:, :, 0], random_signs(like, seed=1, step=6))
    assert torch.equal(second, first * board)
    assert not torch.equal(third, first)
    assert not torch.equal(third, second)


@pytest.mark.parametrize("coloured", [False, True])
def test_threads_and_company_do_not_matter(compiled, with_threads, coloured):
    like = torch.empty(3, 500, 5, 9)
    names = {"count": 3, "coloured": coloured, "seed": 1}
    with with_threads(1):
        whole = random_signs(like, **names)
    with with_threads(2):
        assert torch.equal(whole, random_signs(like, **names))
    alone = random_signs(like[:1, :1], **names, first_population=2, first_particle=17)
    assert torch.equal(alone[0, 0], whole[2, 17])


def test_shapes_and_memory(poisoned):
    like = torch.empty(2, 6, 3, 4).transpose(2, 3)
    assert torch.equal(random_signs(like), random_signs(torch.empty(like.shape)))
    for shape in [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2), (2, 3)]:
        assert random_signs(torch.empty(shape)).shape == shape
    assert random_signs(torch.empty(2, 3, 0, 2), count=3, coloured=True).shape == (2, 3, 3, 0, 2)


@pytest.mark.parametrize(
    ("like", "changes", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int32), {}, TypeError, "float16.*int32"),
        ((5, 2), {}, TypeError, "like must be a tensor"),
        (torch.zeros(3), {}, ValueError, r"\[P, N, \*shape\].*\(3,\)"),
        (torch.zeros(2, 3, 4), {"coloured": True}, ValueError, r"\[P, N, \.\.\., H, W\]"),
        (torch.zeros(2, 3), {"stream": 16}, ValueError, "stream.*16"),
        (torch.zeros(2, 3), {"count": 0}, ValueError, "count.*0"),
        (torch.zeros(2, 3), {"seed": 2**64}, ValueError, "64 bits"),
    ],
)
def test_errors(like, changes, error, message):
    with pytest.raises(error, match=message):
        random_signs(like, **changes)


def test_opcheck():
    for shape, count, rows, columns in [((1, 1, 1), 1, 0, 0), ((2, 3, 12), 5, 3, 2)]:
        arguments = (torch.empty(shape), rng_state(1, 2), count, rows, columns, 0, 0, 0)
        torch.library.opcheck(torch.ops.edmfast.signs.default, arguments)


def test_compiles_without_a_break():
    def run(x):
        return x + random_signs(x, seed=1, step=2)

    x = torch.zeros(2, 3, 4)
    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))
