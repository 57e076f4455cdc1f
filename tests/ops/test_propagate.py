"""The proposal step agrees with its plain-torch reference and with densities, and refuses bad input."""

import math
import threading

import pytest
import torch

from edmfast.ops import propagate, rng_state, standard_normal
from edmfast.ops.propagate import reference

SHAPES = [(1, 1, 1), (2, 3, 2), (3, 5, 3), (2, 300, 5), (2, 7, 64), (1, 3, 1027), (2, 2, 12288)]


def make(populations, particles, elements, dtype=torch.float32):
    generator = torch.Generator().manual_seed(populations + 7 * particles + elements)
    shape = (populations, particles, elements)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    score = torch.randn(shape, generator=generator, dtype=dtype)
    ancestors = torch.randint(0, particles, shape[:2], generator=generator, dtype=torch.int32)
    coefficients = torch.rand(populations, 3, generator=generator, dtype=torch.float64) + 0.1
    return x, score, ancestors, coefficients, rng_state(5, 7)


def test_the_reference_rounds_square_roots_correctly():
    generator = torch.Generator().manual_seed(3)
    exponent = torch.linspace(-300, 300, 10_000, dtype=torch.float64)
    v = (1 + torch.rand(10_000, generator=generator, dtype=torch.float64)) * 2.0**exponent
    assert reference._square_root(v).tolist() == [math.sqrt(x) for x in v.tolist()]
    ends = torch.tensor([0.0, 1.0, torch.inf], dtype=torch.float64)
    assert torch.equal(reference._square_root(ends), ends)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(shape, dtype):
    inputs = make(*shape, dtype)
    moved, ratio = propagate(*inputs, first_population=2)
    x, score, ancestors, coefficients, rng = inputs
    wanted, wanted_ratio = reference.propagate(x, [score], ancestors, coefficients, rng, None, 2, 0)
    assert torch.equal(moved, wanted)
    # sums of d terms are rounded in the dtype of the state
    torch.testing.assert_close(
        ratio, wanted_ratio, rtol=4e-6 if dtype == torch.float32 else 1e-13, atol=1e-5
    )


def make_several(models, shape, dtype):
    """Return inputs with several scores, and a mask under which some elements of each population stay."""
    x, score, ancestors, _, rng = make(*shape, dtype)
    generator = torch.Generator().manual_seed(1)
    scores = [score.roll(k, 1) for k in range(models)]
    coefficients = torch.rand(shape[0], models + 2, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(shape[0], shape[2], generator=generator) < 0.6
    return x, scores, ancestors, coefficients, rng, mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("models", "masked"), [(1, True), (2, False), (3, True), (8, False)])
def test_several_scores_masks_and_precisions(models, masked, shape, dtype):
    *inputs, mask = make_several(models, shape, dtype)
    mask = mask if masked else None
    moved, ratio = propagate(*inputs, mask=mask, first_population=2)
    wanted, wanted_ratio = reference.propagate(*inputs, mask, 2, 0)
    assert moved.dtype == dtype
    assert torch.equal(moved, wanted)
    assert ratio.dtype == wanted_ratio.dtype
    close = (
        {"rtol": 1e-13, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    )
    torch.testing.assert_close(ratio, wanted_ratio, **close)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("models", "masked"), [(1, False), (3, True)])
def test_coefficients_of_each_particle_are_read_through_the_ancestors(models, masked, shape, dtype):
    x, scores, ancestors, _, rng, mask = make_several(models, shape, dtype)
    generator = torch.Generator().manual_seed(2)
    table = torch.rand(*shape[:2], models + 2, generator=generator, dtype=torch.float64) + 0.1
    inputs, mask = (x, scores, ancestors, table, rng), mask if masked else None
    moved, ratio = propagate(*inputs, mask=mask, first_population=2)
    wanted, wanted_ratio = reference.propagate(*inputs, mask, 2, 0)
    assert torch.equal(moved, wanted)
    close = (
        {"rtol": 1e-13, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    )
    torch.testing.assert_close(ratio, wanted_ratio, **close)
    # each particle moves as in a population whose coefficients are those of its parent
    for n in range(min(shape[1], 3)):
        row = table[torch.arange(shape[0]), ancestors[:, n].long()]
        alike, alike_ratio = propagate(
            x, scores, ancestors, row, rng, mask=mask, first_population=2
        )
        assert torch.equal(moved[:, n], alike[:, n])
        # torch chooses between two logarithms by the size of a tensor, so only the kernels have equal bits
        torch.testing.assert_close(ratio[:, n], alike_ratio[:, n], **close)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 301, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_equal_rows_have_the_bits_of_one_row_for_all(masked, shape, dtype, compiled):
    x, scores, ancestors, coefficients, rng, mask = make_several(2, shape, dtype)
    table = coefficients[:, None].expand(-1, shape[1], -1)
    mask = mask if masked else None
    results = propagate(x, scores, ancestors, table, rng, mask=mask)
    for ours, theirs in zip(
        results, propagate(x, scores, ancestors, coefficients, rng, mask=mask), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_company_and_threads_change_no_bit_where_each_particle_has_coefficients(with_threads):
    for d in (2, 5, 300):
        x, score, ancestors, _, rng = make(4, 301, d)
        generator = torch.Generator().manual_seed(2)
        table = torch.rand(4, 301, 3, generator=generator, dtype=torch.float64) + 0.1
        with with_threads(1):
            whole = propagate(x, score, ancestors, table, rng)
        with with_threads(2):
            again = propagate(x, score, ancestors, table, rng)
        part = propagate(x[2:3], score[2:3], ancestors[2:3], table[2:3], rng, first_population=2)
        for result, other, alone in zip(whole, again, part, strict=True):
            assert torch.equal(result, other)
            assert torch.equal(result[2:3], alone)


def test_masked_elements_stay_and_count_nowhere():
    """Rows of five elements of which three move behave as rows of three, except for the noise they get."""
    x, scores, ancestors, coefficients, rng, _ = make_several(2, (2, 40, 5), torch.float64)
    mask = torch.tensor([[True, False, True, True, False]]).repeat(2, 1)
    moved, ratio = propagate(x, scores, ancestors, coefficients, rng, mask=mask)
    index = ancestors.long()[..., None].expand_as(x)
    start = x.gather(1, index)
    assert torch.equal(moved[:, :, ~mask[0]], start[:, :, ~mask[0]])
    shift = sum(coefficients[:, None, k : k + 1] * s.gather(1, index) for k, s in enumerate(scores))
    v_m, v_l = coefficients[:, None, 2], coefficients[:, None, 3]
    gap, residual = (start - moved)[..., mask[0]], (moved - start - shift)[..., mask[0]]
    forward = residual.square().sum(2) / v_m + 3 * torch.log(v_m)
    backward = gap.square().sum(2) / v_l + 3 * torch.log(v_l)
    torch.testing.assert_close(ratio, 0.5 * (forward - backward), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_half_precision_numbers_are_read_and_written_right(dtype):
    """Every bit pattern passes through unchanged, and sums round to nearest even."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype)[None, None]
    nothing = torch.zeros(1, 1, dtype=torch.int32)
    still = torch.zeros(x.shape[2], dtype=torch.bool)[None]
    kernel = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    kept, _ = propagate(x, torch.zeros_like(x), nothing, kernel, rng_state(0, 0), mask=still)
    assert torch.equal(kept.nan_to_num(7.0), x.nan_to_num(7.0))
    assert torch.equal(kept.isnan(), x.isnan())
    kernel[0, 1] = 1e-300
    score = x.roll(1234, 2)
    moved, _ = propagate(x, score, nothing, kernel, rng_state(0, 0))
    assert torch.equal(moved.nan_to_num(7.0), (x.float() + score.float()).to(dtype).nan_to_num(7.0))


def test_ratio_is_the_density_ratio():
    x, score, ancestors, coefficients, rng = make(3, 50, 6, torch.float64)
    moved, ratio = propagate(x, score, ancestors, coefficients, rng)
    index = ancestors.long()[..., None].expand_as(x)
    start, drift_score = x.gather(1, index), score.gather(1, index)
    drift, v_m, v_l = coefficients[:, None].unbind(-1)

    def log_normal(gap, variance):
        return -0.5 * gap.square().sum(2) / variance - 3.0 * torch.log(2 * math.pi * variance)

    direct = log_normal(start - moved, v_l) - log_normal(
        moved - start - drift[..., None] * drift_score, v_m
    )
    torch.testing.assert_close(ratio, direct, rtol=0, atol=1e-10)


def test_noise_is_the_counter_noise():
    x, _, _, coefficients, rng = make(2, 40, 9, torch.float64)
    coefficients[:, 1] = 1.0
    identity = torch.arange(40, dtype=torch.int32).repeat(2, 1)
    moved, _ = propagate(x, torch.zeros_like(x), identity, coefficients, rng)
    torch.testing.assert_close(moved - x, standard_normal(x, seed=5, step=7), rtol=0, atol=1e-14)


@pytest.mark.parametrize("elements", [2, 5, 1027])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_part_of_a_population_moves_as_in_the_whole(elements, dtype):
    """first_particle continues the counter of another call; parents are gathered before."""
    x, score, ancestors, coefficients, rng = make(2, 300, elements, dtype)
    whole = propagate(x, score, ancestors, coefficients, rng, first_population=1)
    parents = ancestors[:, 137:, None].long().expand(-1, -1, elements)
    here = torch.arange(163, dtype=torch.int32).repeat(2, 1)
    part = propagate(
        x.gather(1, parents),
        score.gather(1, parents),
        here,
        coefficients,
        rng,
        first_population=1,
        first_particle=137,
    )
    assert torch.equal(whole[0][:, 137:], part[0])
    assert torch.equal(whole[1][:, 137:], part[1])


def test_population_does_not_depend_on_company_or_threads(with_threads):
    x, score, ancestors, coefficients, rng = make(4, 3000, 5)
    whole = propagate(x, score, ancestors, coefficients, rng)
    part = propagate(x[2:3], score[2:3], ancestors[2:3], coefficients[2:3], rng, first_population=2)
    assert torch.equal(whole[0][2:3], part[0])
    assert torch.equal(whole[1][2:3], part[1])
    for threads in (1, 4):
        with with_threads(threads):
            again = propagate(x, score, ancestors, coefficients, rng)
        assert torch.equal(whole[0], again[0])
        assert torch.equal(whole[1], again[1])


def test_any_trailing_shape_and_strides():
    x, score, ancestors, coefficients, rng = make(2, 6, 24)
    flat = propagate(x, score, ancestors, coefficients, rng)
    shape = (2, 6, 2, 3, 4)
    images = x.reshape(shape).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    spread = score.reshape(shape).repeat_interleave(2, dim=-1)[..., ::2]
    assert not images.is_contiguous()
    moved, ratio = propagate(images, spread, ancestors, coefficients, rng)
    assert moved.shape == shape
    assert torch.equal(moved.reshape(2, 6, 24), flat[0])
    assert torch.equal(ratio, flat[1])


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty(shape):
    x = torch.empty(shape)
    ancestors = torch.zeros(shape[:2], dtype=torch.int32)
    coefficients = torch.full((shape[0], 3), 0.5, dtype=torch.float64)
    moved, ratio = propagate(x, x, ancestors, coefficients, rng_state(0, 0))
    assert moved.shape == shape
    assert ratio.shape == shape[:2]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_output_element_is_written(shape):
    """Memory that held NaN before holds none afterwards."""
    inputs = make(*shape)
    poisoned = [torch.full(shape, torch.nan) for _ in range(100)]
    places = {tensor.data_ptr() for tensor in poisoned}
    del poisoned
    results = [propagate(*inputs) for _ in range(20)]
    # other allocations take the smallest blocks too often
    assert math.prod(shape) < 64 or any(moved.data_ptr() in places for moved, _ in results)
    for moved, ratio in results:
        assert torch.isfinite(moved).all()
        assert torch.isfinite(ratio).all()


def test_opcheck_and_compile():
    x, score, ancestors, coefficients, rng = make(2, 5, 6)
    inputs = (x, [score], ancestors, coefficients, rng, None, 1, 3)
    torch.library.opcheck(torch.ops.edmfast.propagate.default, inputs)
    arguments = (x, score, ancestors, coefficients, rng)
    compiled = torch.compile(propagate, fullgraph=True)(*arguments, first_population=1)
    plain = propagate(*arguments, first_population=1)
    assert all(torch.equal(a, b) for a, b in zip(compiled, plain, strict=True))


def test_opcheck_where_each_particle_has_coefficients():
    x, score, ancestors, _, rng = make(2, 5, 6)
    table = torch.ones(5, 2, 3, dtype=torch.float64).transpose(0, 1)
    inputs = (x, [score], ancestors, table, rng, None, 1, 3)
    torch.library.opcheck(torch.ops.edmfast.propagate.default, inputs)


def test_releases_the_gil():
    inputs = make(1, 4000, 4096)
    ticks, done = [], threading.Event()

    def count():
        while not done.is_set():
            ticks.append(None)
            done.wait(1e-4)

    counter = threading.Thread(target=count)
    counter.start()
    ticks.clear()
    propagate(*inputs)
    during = len(ticks)
    done.set()
    counter.join()
    assert during >= 3


@pytest.mark.parametrize(
    ("position", "value", "error"),
    [
        (0, torch.zeros(2, 3, 4, dtype=torch.int32), TypeError),
        (1, [], ValueError),
        (1, [torch.zeros(2, 3, 4)] * 9, ValueError),
        (1, [torch.zeros(2, 3, 4)] * 2, ValueError),
        (1, torch.zeros(2, 3, 4, dtype=torch.float64), TypeError),
        (1, torch.zeros(2, 3, 5), ValueError),
        (2, torch.zeros(2, 3, dtype=torch.int64), TypeError),
        (2, torch.zeros(2, 4, dtype=torch.int32), ValueError),
        (3, torch.zeros(2, 3), TypeError),
        (3, torch.zeros(2, 2, dtype=torch.float64), ValueError),
        (3, torch.zeros(2, 3, 2, dtype=torch.float64), ValueError),
        (3, torch.zeros(2, 1, 3, dtype=torch.float64), ValueError),
        (3, torch.zeros(2, 3, 3, 1, dtype=torch.float64), ValueError),
        (4, torch.zeros(3, dtype=torch.int64), ValueError),
        (4, torch.zeros(2), TypeError),
    ],
)
def test_bad_input(position, value, error):
    inputs = list(make(2, 3, 4))
    inputs[position] = value
    with pytest.raises(error):
        propagate(*inputs)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_masked_score_may_be_anything(d, bad):
    x, scores = torch.ones(1, 3, d), torch.ones(1, 3, d)
    scores[..., 0] = bad
    mask = torch.ones(1, d, dtype=torch.bool)
    mask[0, 0] = False
    coefficients = torch.tensor([[0.1, 0.5, 0.7]], dtype=torch.float64)
    arguments = torch.arange(3, dtype=torch.int32)[None], coefficients, rng_state(0, 0)
    moved, ratio = propagate(x, scores, *arguments, mask=mask)
    scores[..., 0] = 0.0
    wanted, wanted_ratio = propagate(x, scores, *arguments, mask=mask)
    assert torch.equal(moved, wanted)
    assert torch.equal(ratio, wanted_ratio)
    assert (moved[..., 0] == 1).all()


def test_bad_mask():
    inputs = make(2, 3, 4)
    with pytest.raises(TypeError, match="bool"):
        propagate(*inputs, mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match="mask"):
        propagate(*inputs, mask=torch.ones(2, 3, dtype=torch.bool))


def test_no_silent_detachment():
    x, *rest = make(1, 3, 2)
    with pytest.raises(RuntimeError, match="no derivative"):
        propagate(x.requires_grad_(), *rest)
    with torch.no_grad():
        propagate(x, *rest)
