"""CUDA kernels have the bits of the CPU kernels wherever no sum of floats is involved.

R, the inner products of score_gram and the standard deviation of increments are summed in another order, and they
are compared to a tolerance.
"""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import _extension
from edmfast.ops import (
    Weights,
    curvature,
    curvature_matched,
    propagate,
    random_signs,
    resample,
    reversal,
    rng_state,
    score_gram,
    standard_normal,
    systematic_resample,
    weigh_and_resample,
)
from edmfast.ops.resample.operator import SCHEMES

INF, NAN = math.inf, math.nan
FLOATS = (torch.float32, torch.float64)
# these lie around 8192, from where several blocks share a population, and around tile borders
LARGE = [
    (1, 8191),
    (2, 8192),
    (3, 8193),
    (5, 12_289),
    (2, 65_535),
    (1, 65_536),
    (3, 65_537),
    (1, 1_000_003),
]


def why_not() -> str:
    if not torch.cuda.is_available():
        return "no CUDA device"
    status = _extension.kernel_status()["cuda"]
    return f"CUDA kernels {status}" if status.startswith("off") else ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_not()), reason=why_not() or "live")]


@pytest.fixture(autouse=True)
def poisoned():
    """Make allocations hold NaN or the largest integer, so that an unwritten output cannot pass."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(False)


def check_resample(log_weights, uniform, threshold=1.0):
    """Compare every output of the two devices, and return those of the GPU on the CPU."""
    host = systematic_resample(log_weights.cpu(), uniform.cpu(), ess_threshold=threshold)
    device = systematic_resample(log_weights, uniform, ess_threshold=threshold)
    assert device.ancestors.is_cuda
    device = type(device)(*(output.cpu() for output in device))
    for name in ("ancestors", "log_mean", "ess", "resampled", "degenerate"):
        assert torch.equal(getattr(device, name), getattr(host, name)), name
    return device


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (3, 5, 17), (2, 300, 4, 9), (1, 2, 5003)])
def test_noise_has_the_bits_of_the_cpu(dtype, shape):
    like = torch.empty(shape, dtype=dtype)
    keys = {"seed": 2**63 + 5, "step": 7, "stream": 3, "first_population": 11, "first_particle": 9}
    host = standard_normal(like, **keys)
    assert torch.equal(standard_normal(like.cuda(), **keys).cpu(), host)


def test_noise_is_normal_beyond_a_block_of_threads():
    noise = standard_normal(torch.empty(4, 1000, 1000, device="cuda"), seed=1, step=0)
    assert abs(noise.mean().item()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.var().item() - 1) < 5 * math.sqrt(2 / noise.numel())


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 300, 4, 9), (1, 2, 64, 65)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_signs_have_the_bits_of_the_cpu(dtype, shape, count):
    like = torch.empty(shape, dtype=dtype)
    keys = {"seed": 5, "stream": 3, "first_population": 11, "first_particle": 9, "count": count}
    for step in (6, 7):
        for coloured in (False, True):
            names = {**keys, "step": step, "coloured": coloured}
            host = random_signs(like, **names)
            assert torch.equal(random_signs(like.cuda(), **names).cpu(), host)


@pytest.mark.parametrize("d", [1, 8, 9, 2048, 2049, 12_288])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16])
def test_curvature(generator, d, dtype):
    products = torch.randn(2, 37, d, generator=generator, dtype=torch.float64).to(dtype)
    probes = torch.randn(2, 37, d, generator=generator, dtype=torch.float64).to(dtype)
    host = curvature(products, probes, 1.5)
    device = curvature(products.cuda(), probes.cuda(), 1.5)
    size = curvature(products.abs(), probes.abs(), 1.5)
    # the products are exact in float64, and each sum of d of them rounds d times at most
    assert ((device.cpu() - host).abs() <= d * torch.finfo(torch.float64).eps * size).all()
    assert torch.equal(curvature(products[1:].cuda(), probes[1:].cuda(), 1.5), device[1:])


@pytest.mark.parametrize("shape", [(3, 1), (2, 33), (5, 1000), (2, 1025), (1, 32_768), *LARGE])
def test_matched_coefficients_have_the_bits_of_the_cpu(generator, shape):
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    ancestors = torch.randint(0, shape[1], shape, generator=generator, dtype=torch.int32)
    levels = torch.tensor([1.3, 0.9], dtype=torch.float64)
    for exponent in (1.5, torch.rand(shape[0], generator=generator, dtype=torch.float64) + 0.5):
        there = exponent.cuda() if isinstance(exponent, torch.Tensor) else exponent
        host = curvature_matched(values, ancestors, levels, exponent)
        device = curvature_matched(values.cuda(), ancestors.cuda(), levels.cuda(), there)
        assert torch.equal(device.cpu(), host)


def propagate_inputs(generator, shape, dtype):
    populations, particles = shape[:2]
    return (
        torch.randn(shape, generator=generator, dtype=dtype).cuda(),
        torch.randn(shape, generator=generator, dtype=dtype).cuda(),
        torch.randint(0, particles, shape[:2], generator=generator, dtype=torch.int32).cuda(),
        (torch.rand(populations, 3, generator=generator, dtype=torch.float64) + 0.2).cuda(),
        rng_state(12, 3, "cuda"),
    )


def on_host(arguments):
    return [argument.cpu() for argument in arguments]


# these d, odd ones too, cover every number of threads per row
@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 63, 65, 257, 2047, 2049, 12_288])
@pytest.mark.parametrize("dtype", FLOATS)
def test_propagate(generator, d, dtype):
    arguments = propagate_inputs(generator, (2, 37, d), dtype)
    first = {"first_population": 4, "first_particle": 1000}
    moved, ratio = propagate(*arguments, **first)
    host_moved, host_ratio = propagate(*on_host(arguments), **first)
    assert torch.equal(moved.cpu(), host_moved)
    # m and a few products are rounded, in sums of d terms of size one to ten
    scale = torch.finfo(dtype).eps * (10 * d + host_ratio.abs())
    assert ((ratio.cpu() - host_ratio).abs() <= 4 * scale).all()


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [2, 65, 12_288])
def test_propagate_with_several_scores_and_a_mask(generator, d, dtype):
    x, score, ancestors, _, rng = propagate_inputs(generator, (2, 37, d), torch.float32)
    scores = [score.to(dtype), score.roll(1, 1).to(dtype), x.roll(1, 2).to(dtype)]
    kernel = torch.rand(2, 5, dtype=torch.float64, device="cuda") + 0.1
    mask = torch.rand(2, d, device="cuda") < 0.6
    arguments = (x.to(dtype), scores, ancestors, kernel, rng)
    moved, ratio = propagate(*arguments, mask=mask)
    host = (x.to(dtype).cpu(), [s.cpu() for s in scores], *on_host(arguments[2:]))
    host_moved, host_ratio = propagate(*host, mask=mask.cpu())
    assert torch.equal(moved.cpu(), host_moved)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert ((ratio.cpu() - host_ratio).abs() <= 4 * eps * (10 * d + host_ratio.abs())).all()


def test_propagate_reads_through_strides(generator):
    x, score, ancestors, coefficients, rng = propagate_inputs(generator, (6, 9, 16), torch.float32)
    views = (x[::2, ::3], score.flip(2)[::2, ::3], ancestors[::2, ::3] % 3, coefficients[::2], rng)
    moved, ratio = propagate(*views)
    expected = propagate(*on_host(views))
    assert torch.equal(moved.cpu(), expected[0])
    torch.testing.assert_close(ratio.cpu(), expected[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("d", [1, 2, 8, 9, 33, 2048, 2049])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16])
def test_score_gram(generator, d, dtype):
    for count in range(1, 9):
        scores = torch.randn(count, 2, 37, d, generator=generator, dtype=torch.float64).to(dtype)
        noise = torch.randn(2, 37, d, generator=generator, dtype=torch.float64).to(dtype)
        host = score_gram(scores, noise)
        sizes = score_gram(scores.abs(), noise.abs())
        device = score_gram(scores.cuda(), noise.cuda())
        for got, wanted, size in zip(device, host, sizes, strict=True):
            assert ((got.cpu() - wanted).abs() <= d * torch.finfo(torch.float64).eps * size).all()
        assert torch.equal(device[0], device[0].mT)
        assert torch.equal(score_gram(scores.cuda())[0], device[0])
        assert torch.equal(score_gram(scores[:, 1:].cuda())[0], device[0][1:])


@pytest.mark.parametrize("d", [2, 65, 12_288])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16])
def test_propagate_with_coefficients_of_each_particle(generator, d, dtype):
    x, score, ancestors, _, rng = propagate_inputs(generator, (2, 37, d), dtype)
    table = torch.rand(2, 37, 3, dtype=torch.float64, device="cuda") + 0.1
    arguments = (x, score, ancestors, table, rng)
    moved, ratio = propagate(*arguments)
    host_moved, host_ratio = propagate(*on_host(arguments))
    assert torch.equal(moved.cpu(), host_moved)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert ((ratio.cpu() - host_ratio).abs() <= 4 * eps * (10 * d + host_ratio.abs())).all()
    equal_rows = table[:, :1].expand_as(table)
    ours = propagate(x, score, ancestors, equal_rows, rng)
    theirs = propagate(x, score, ancestors, table[:, 0].contiguous(), rng)
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("d", [1, 2, 8, 9, 33, 1024, 1025])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16])
def test_reversal(generator, d, dtype):
    levels = torch.tensor([1.0, 0.7], dtype=torch.float64, device="cuda")
    for models in range(1, 9):
        scores = torch.randn(models, 2, 37, d, generator=generator).to("cuda", dtype)
        probes = torch.randn(2, 37, 2, d, generator=generator).to("cuda", dtype)
        products = -0.8 * torch.rand(models, *probes.shape, device="cuda").to(dtype) * probes
        exponents = torch.full((2, models), -0.05, dtype=torch.float64, device="cuda")
        exponents[:, 0] = 1.5
        given = {"products": [*products], "probes": probes}
        device = reversal([*scores], exponents, levels, **given)
        host = reversal(
            [*scores.cpu()],
            exponents.cpu(),
            levels.cpu(),
            products=[*products.cpu()],
            probes=probes.cpu(),
        )
        for ours, wanted in zip(device, host, strict=True):
            torch.testing.assert_close(ours.cpu(), wanted, rtol=1e-11, atol=1e-12 * d)
        again = reversal(
            [*scores[:, 1:]],
            exponents[1:],
            levels,
            products=[*products[:, 1:]],
            probes=probes[1:],
        )
        assert all(torch.equal(part, whole[1:]) for part, whole in zip(again, device, strict=True))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 2), (19, 32), (40, 33), (7, 1000), (2, 1025), *LARGE]
)
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 300.0])
def test_resample_has_the_bits_of_the_cpu(generator, dtype, shape, spread):
    log_weights = spread * torch.randn(shape, generator=generator, dtype=dtype).cuda()
    uniform = torch.rand(shape[0], generator=generator, dtype=torch.float64).cuda()
    for threshold in (0.0, 0.5, 1.0):
        check_resample(log_weights, uniform, threshold)


def test_one_particle_takes_every_slot():
    log_weights = torch.full((1, 50_000), -1000.0, device="cuda")
    log_weights[0, 31_234] = 0.0
    result = check_resample(log_weights, torch.tensor([0.7], device="cuda"))
    assert (result.ancestors == 31_234).all()


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("where", [0.0, 0.4, 1.0])
def test_one_particle_of_many_takes_every_slot(shape, where):
    at = int(where * (shape[1] - 1))
    log_weights = torch.full(shape, -1000.0, device="cuda")
    log_weights[:, at] = 0.0
    uniform = torch.linspace(0, 0.999, shape[0], dtype=torch.float64, device="cuda")
    assert (check_resample(log_weights, uniform).ancestors == at).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", LARGE)
def test_uneven_large_populations(generator, shape, dtype):
    """Some tiles of particles own many tiles of slots, and others own none."""
    noise = torch.randn(shape, generator=generator, dtype=dtype)
    particle = torch.arange(shape[1])
    uniform = torch.rand(shape[0], generator=generator, dtype=torch.float64).cuda()
    half_in_one = torch.where(particle == shape[1] // 3, math.log(shape[1]), 0.1 * noise)
    most_in_front = torch.where(particle < shape[1] // 64, noise + 8, noise)
    few = torch.where(particle % 997 == 5, noise, -INF)
    at_the_edge = torch.where(particle % 7 == 0, -42.0, torch.full_like(noise, -43.6))
    at_the_edge[:, 11] = 0
    for weights in (half_in_one, most_in_front, few, at_the_edge):
        check_resample(weights.cuda(), uniform)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("particles", [8193, 100_000])
def test_bad_weights_in_large_populations(generator, particles, dtype):
    """The populations of one call are all of different kinds."""
    weights = torch.randn(8, particles, generator=generator, dtype=dtype)
    weights[0] = -INF
    weights[1] = NAN
    weights[2, ::3] = NAN
    weights[3, 5::1000] = INF
    weights[4, 1:] = -INF
    weights[5, -1] = INF
    weights[6] = 1e30
    uniform = torch.rand(8, generator=generator, dtype=torch.float64).cuda()
    result = check_resample(weights.cuda(), uniform)
    assert result.degenerate.tolist() == [2, 3, 1, 4, 0, 4, 0, 0]
    # it is contiguous, but does not start at a multiple of 16 bytes
    shifted = weights.cuda().flatten()[1:-7].view(8, particles - 1)
    check_resample(shifted, uniform, 0.5)


def test_addresses_beyond_31_bits():
    shape, at = (3, 2**30 - 5), 2**30 - 77
    if torch.cuda.mem_get_info()[0] < 50 * 2**30:
        pytest.skip("needs 50 GiB of device memory")
    log_weights = torch.full(shape, -1000.0, device="cuda")
    log_weights[:, at] = 0.0
    uniform = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64, device="cuda")
    result = systematic_resample(log_weights, uniform)
    assert (result.ancestors.aminmax().min, result.ancestors.aminmax().max) == (at, at)
    log_weights.zero_()
    result = systematic_resample(log_weights, uniform, ess_threshold=0.5)
    assert not result.resampled.any()
    assert result.ancestors[:, -1].tolist() == [shape[1] - 1] * shape[0]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0, -1.0, NAN])
@pytest.mark.parametrize(
    "log_weights",
    [
        [NAN, 0.0, 0.0, NAN],
        [-INF, 0.0, -INF, -INF],
        [-INF] * 4,
        [NAN] * 4,
        [NAN, -INF, NAN, -INF],
        [INF, 0.0, INF, 700.0],
        [NAN, INF, -INF, 0.0],
    ],
)
def test_bad_weights(log_weights, uniform):
    weights = torch.tensor([log_weights], device="cuda")
    check_resample(weights, torch.tensor([uniform], device="cuda"))


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "ssp"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 1000), (1, 100_003)])
def test_schemes_have_the_bits_of_the_cpu(generator, scheme, shape):
    log_weights = torch.randn(shape, device="cuda")
    rng = rng_state(3, 8, "cuda")
    for count in {shape[1], shape[1] if scheme == "killing" else 2 * shape[1] + 1}:
        device = resample(log_weights, rng, scheme=scheme, count=count, first_population=2)
        host = resample(
            log_weights.cpu(), rng.cpu(), scheme=scheme, count=count, first_population=2
        )
        for name in ("ancestors", "ess", "resampled", "degenerate"):
            assert torch.equal(getattr(device, name).cpu(), getattr(host, name)), name


def weigh_inputs(generator, shape, models, dtype):
    """Return weights in the middle of a run and the increments of a step, on the CPU."""
    start = torch.randn(shape, dtype=torch.float64, generator=generator)
    before = weigh_and_resample(
        Weights.start(*shape), start, [], [], rng_state(1, 0), ess_threshold=0.4
    )
    ratio, *energies = torch.randn(2 * models + 1, *shape, generator=generator).to(dtype)
    return before, ratio, energies[:models], energies[models:], rng_state(2, 6)


def on_device(tree):
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.cuda(), tree)


@pytest.mark.parametrize("scheme", ["systematic", "stratified"])
@pytest.mark.parametrize(
    ("models", "dtype"), [(0, torch.float32), (1, torch.float64), (8, torch.float32)]
)
@pytest.mark.parametrize("shape", [(3, 1), (33, 32), (5, 33), (3, 2000), *LARGE])
def test_weigh(generator, shape, models, dtype, scheme):
    arguments = weigh_inputs(generator, shape, models, dtype)
    exponents = torch.rand(shape[0], models, dtype=torch.float64, generator=generator)
    for threshold in (0.0, 0.6, 1.0):
        options = {"ess_threshold": threshold, "first_population": 3, "scheme": scheme}
        host = weigh_and_resample(*arguments, exponents=exponents, **options)
        device = weigh_and_resample(*on_device(arguments), exponents=exponents.cuda(), **options)
        for name, ours, theirs in zip(Weights._fields, device, host, strict=True):
            if name == "increment_sd":
                torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-9, atol=1e-12)
            else:
                assert torch.equal(ours.cpu(), theirs), name


def test_sequential_scheme_is_refused():
    with pytest.raises(NotImplementedError, match="sequential"):
        resample(torch.zeros(1, 4, device="cuda"), rng_state(0, 0, "cuda"), scheme="ssp")


def test_resample_strides(generator):
    base = torch.randn(40, 60, generator=generator).cuda()
    uniform = torch.rand(120, generator=generator).cuda()[::2]
    for view in (base.T, base[::2, 1::3], base[:1].expand(9, 60)):
        check_resample(view, uniform[: view.shape[0]])


def test_empty():
    rng = rng_state(0, 0, "cuda")
    for shape in [(0, 5, 3), (2, 0, 3), (2, 3, 0)]:
        x = torch.zeros(shape, device="cuda")
        assert standard_normal(x, seed=0, step=0).shape == shape
        coefficients = torch.ones(shape[0], 3, dtype=torch.float64, device="cuda")
        ancestors = torch.zeros(shape[:2], dtype=torch.int32, device="cuda")
        moved, ratio = propagate(x, x, ancestors, coefficients, rng)
        assert moved.shape == shape
        assert torch.equal(ratio, torch.zeros(shape[:2], device="cuda"))
        gram, along = score_gram(x[None], x)
        assert torch.equal(gram, torch.zeros(*shape[:2], 1, 1, dtype=torch.float64, device="cuda"))
        assert torch.equal(along, gram[..., 0])
    result = systematic_resample(torch.zeros(0, 5, device="cuda"), torch.zeros(0, device="cuda"))
    assert result.ancestors.shape == (0, 5)


def test_operators_name_what_is_on_the_wrong_device():
    x = torch.zeros(1, 2, 4, device="cuda")
    with pytest.raises(RuntimeError, match="rng must be on the CUDA device"):
        torch.ops.edmfast.noise(x, rng_state(0, 0), 0, 0, 0)


@pytest.mark.parametrize("particles", [500, 20_000])
def test_a_step_can_be_captured(generator, particles):
    """A CUDA graph replays a step, which neither waits for the host nor allocates by values."""
    x, score, _, coefficients, rng = propagate_inputs(generator, (3, particles, 12), torch.float32)
    weights, _, (now,), (past,), _ = on_device(
        weigh_inputs(generator, (3, particles), 1, torch.float32)
    )

    def step():
        moved, ratio = propagate(x, score, weights.ancestors, coefficients, rng)
        return moved, *weigh_and_resample(weights, ratio, now, past, rng)

    torch.utils.deterministic.fill_uninitialized_memory = False
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = step()
    now.mul_(3)
    rng[1] += 1
    graph.replay()
    for ours, theirs in zip(replayed, step(), strict=True):
        assert torch.equal(ours, theirs)
