"""Reversal-matched weights equal their reference and the exact ratios of Gaussians; bad input is refused."""

import math

import pytest
import torch

from edmfast.ops import propagate, reversal, rng_state
from edmfast.ops.reversal import reference

F64 = torch.float64
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIZES = [1, 2, 3, 5, 16, 17, 64, 250, 1003, 2100]
LEVELS = torch.tensor([1.3, 1.0], dtype=F64)


def make(models, probes, shape, dtype=torch.float32):
    """Return (scores, exponents, levels, products, probes) with traces between about -d/s² and 0."""
    generator = torch.Generator().manual_seed(models + 3 * probes + math.prod(shape))

    def normal(*sizes):
        return torch.randn(sizes, generator=generator, dtype=F64)

    populations, particles, elements = shape
    scores = [normal(*shape).to(dtype) for _ in range(models)]
    noise = normal(populations, particles, probes, elements)
    slopes = [-0.6 * torch.rand(noise.shape, generator=generator, dtype=F64) for _ in scores]
    exponents = 0.5 + torch.rand(populations, models, generator=generator, dtype=F64)
    if models > 1:
        exponents[:, -1] *= -0.2
    return (
        scores,
        exponents,
        LEVELS,
        [(slope * noise).to(dtype) for slope in slopes],
        noise.to(dtype),
    )


def bounded(gain):
    """Return what the differences of scores add to a log-weight, whose gain stays below 3 nats."""
    return torch.where(gain > 0, gain / (1 + gain / 3), gain)


def run(scores, exponents, levels, products, probes):
    return reversal(scores, exponents, levels, products=products, probes=probes)


def truth(scores, exponents, levels, products, probes):
    return reference.reversal(scores, exponents, levels, None, products, probes)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_float64(elements, dtype):
    for models, probes in ((1, 1), (2, 3), (3, 1), (8, 2)):
        inputs = make(models, probes, (2, 7, elements), dtype)
        coefficients, log_weights = run(*inputs)
        wanted, wanted_log_weights = truth(*inputs)
        # only the order of the float64 sums may differ
        torch.testing.assert_close(coefficients, wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            log_weights, wanted_log_weights, rtol=1e-11, atol=1e-12 * elements
        )


@pytest.mark.parametrize("models", [1, 2, 8])
def test_given_traces_take_the_place_of_probes(models):
    scores, exponents, levels, products, probes = make(models, 2, (3, 5, 9))
    traces = reference.traces_of(products, probes)
    ours = reversal(scores, exponents, levels, traces=traces)
    torch.testing.assert_close(
        ours, run(scores, exponents, levels, products, probes), rtol=1e-12, atol=1e-13
    )
    wanted = reference.reversal(scores, exponents, levels, traces, [], None)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)


def test_formula():
    """The outputs are those of the definition, written with squares instead of differences."""
    scores, a, levels, products, probes = make(3, 2, (2, 6, 11), F64)
    coefficients, log_weights = run(scores, a, levels, products, probes)
    s, u = levels.tolist()
    variance, d = s * s - u * u, 11
    stacked, a = torch.stack(scores), a.T[..., None]
    trace = torch.stack([(p * probes).sum(3).mean(2) for p in products])
    kappa = 1 + variance * trace / d
    assert ((kappa > 0.5 * u * u / (s * s)) & (kappa < 1.5)).all()
    precision, total = (a / kappa).sum(0), a.sum(0)
    assert (precision >= total / 2).all()
    mean = ((a / kappa)[..., None] * stacked).sum(0) / precision[..., None]
    volume = (a * kappa.log()).sum(0) + (precision / total).log()
    spread = (a / kappa * stacked.square().sum(3)).sum(0) - precision * mean.square().sum(2)
    torch.testing.assert_close(log_weights, bounded(-0.5 * variance * spread) - 0.5 * d * volume)
    torch.testing.assert_close(
        coefficients[..., :3], (variance * a / kappa / precision).movedim(0, 2)
    )
    torch.testing.assert_close(coefficients[..., 3], variance / precision)
    torch.testing.assert_close(coefficients[..., 4], (variance / total).expand(2, 6))


def gaussians(x, s, means, deviations):
    """Return the scores and traces of isotropic Gaussians under noise of level s."""
    widths = [c * c + s * s for c in deviations]
    scores = [(mean - x) / width for mean, width in zip(means, widths, strict=True)]
    d = x.shape[2]
    traces = torch.stack([torch.full(x.shape[:2], -d / width, dtype=F64) for width in widths])
    return scores, traces


def log_normal(x, mean, variance):
    d = x.shape[2]
    return -0.5 * (x - mean).square().sum(2) / variance - 0.5 * d * math.log(2 * math.pi * variance)


@pytest.mark.parametrize("by_probes", [False, True])
@pytest.mark.parametrize(
    ("exponents", "deviations"),
    [
        ([1.0], [0.7]),
        ([2.5], [0.7]),
        ([1.0, 1.0], [0.7, 0.7]),
        ([3.0, -2.0], [0.7, 0.7]),
        ([1.0, 1.0], [0.7, 0.4]),
        ([2.0, 1.5, 0.5], [0.7, 0.4, 1.1]),
        ([2.0, -1.0], [0.5, 0.9]),
        ([3.0, -0.5, -0.8], [0.4, 1.0, 1.3]),
    ],
)
def test_weights_of_gaussians_are_the_exact_log_ratios(exponents, deviations, by_probes):
    """For isotropic Gaussians, log π_u(x_u) - log π_s(x_s) + log N(x_s; x_u, v_L) - log M(x_u|x_s) is the weight.

    π is the product of the densities to their powers. The weight does not depend on where the particle moves, and
    not even on where it is if the Gaussians have one width. With negative exponents the differences of the scores
    may add a gain g > 0, which is bounded as g/(1 + g/3).
    """
    generator = torch.Generator().manual_seed(4)
    s, u, d = 0.9, 0.6, 5
    x = 2 * torch.randn(2, 40, d, generator=generator, dtype=F64)
    means = torch.randn(len(exponents), d, generator=generator, dtype=F64)
    scores, traces = gaussians(x, s, means, deviations)
    a = torch.tensor([exponents] * 2, dtype=F64)
    if by_probes:
        probes = torch.randint(0, 2, (2, 40, 3, d), generator=generator).to(F64) * 2 - 1
        products = [trace[..., None, None] / d * probes for trace in traces]
        given = {"products": products, "probes": probes}
    else:
        given = {"traces": traces}
    coefficients, log_weights = reversal(scores, a, torch.tensor([s, u], dtype=F64), **given)
    identity = torch.arange(40, dtype=torch.int32).repeat(2, 1)
    moved, ratio = propagate(x, scores, identity, coefficients, rng_state(1, 2))

    def density(x, level):
        return sum(
            power * log_normal(x, mean, c * c + level * level)
            for power, mean, c in zip(exponents, means, deviations, strict=True)
        )

    # the ratio of the normalised densities, with the log-ratio of the backward and the forward kernel
    exact = density(moved, u) - density(x, s) + ratio
    kappa = [(c * c + u * u) / (c * c + s * s) for c in deviations]
    precision = sum(power / k for power, k in zip(exponents, kappa, strict=True))
    volume = sum(power * math.log(k) for power, k in zip(exponents, kappa, strict=True))
    volume += math.log(precision / sum(exponents))
    gain = exact + 0.5 * d * volume
    assert bool((gain > 1e-9).any()) == (min(exponents) < 0)
    wanted = bounded(gain) - 0.5 * d * volume
    torch.testing.assert_close(log_weights, wanted, rtol=0, atol=1e-10)
    if min(exponents) > 0:
        torch.testing.assert_close(log_weights, exact, rtol=0, atol=1e-10)
    if len({*deviations}) == 1:
        constant = log_weights[0, 0].item()
        assert (log_weights - constant).abs().max() < 1e-12
    if exponents == [1.0]:
        assert log_weights.abs().max() == 0


def far_from_log_concave():
    """Return the exponents and traces of a particle whose product is narrow enough and of one whose is not."""
    s, u = LEVELS.tolist()
    variance, d = s * s - u * u, 4
    a = torch.tensor([[3.0, -2.0]], dtype=F64)
    kappa = torch.tensor([[[0.9, 1.4]], [[0.8, 0.5]]], dtype=F64)  # P = 0.83, and then -1.86
    return a, d * (kappa - 1) / variance, variance, d


def test_one_curvature_serves_all_where_the_product_would_be_too_wide():
    a, traces, variance, d = far_from_log_concave()
    scores = [*torch.randn(2, 1, 2, d, generator=torch.Generator().manual_seed(1), dtype=F64)]
    coefficients, log_weights = reversal(scores, a, LEVELS, traces=traces)
    plain, common = traces[:, 0, 0], (0.6 * traces[0] + 0.4 * traces[1])[0, 1]
    kappa = 1 + variance * plain / d
    precision = (a[0] / kappa).sum()
    assert precision > 0.5
    wanted = torch.stack([*(variance * a[0] / kappa / precision), variance / precision])
    torch.testing.assert_close(coefficients[0, 0, :3], wanted)
    kappa = 1 + variance * common / d
    wanted = torch.stack([*(variance * a[0]), variance * kappa, torch.tensor(variance, dtype=F64)])
    torch.testing.assert_close(coefficients[0, 1], wanted)
    first, second = (score[0, 1] for score in scores)
    # A = 1, so that only the spread of the scores is left of the weight
    spread = 3 * -2 * (first - second).square().sum() / kappa
    torch.testing.assert_close(log_weights[0, 1], bounded(-0.5 * variance * spread))
    torch.testing.assert_close(
        (coefficients, log_weights), reference.reversal(scores, a, LEVELS, traces, [], None)
    )


def test_a_curvature_at_its_bounds():
    s, u = LEVELS.tolist()
    traces = torch.tensor([[[-1e9, 1e9, 0.0]]], dtype=F64)
    a = torch.tensor([[2.0]], dtype=F64)
    coefficients, log_weights = reversal(torch.zeros(1, 3, 6), a, LEVELS, traces=traces)
    kappa = torch.tensor([[0.5 * u * u / (s * s), 1.5, 1.0]], dtype=F64)
    torch.testing.assert_close(coefficients[..., 1], (s * s - u * u) * kappa / 2)
    torch.testing.assert_close(log_weights, -3 * kappa.log())


@pytest.mark.parametrize("elements", [2, 5, 300])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("models", [1, 3])
def test_company_and_threads_change_no_bit(models, elements, dtype, with_threads):
    scores, a, levels, products, probes = inputs = make(models, 2, (5, 101, elements), dtype)
    with with_threads(1):
        whole = run(*inputs)
    with with_threads(2):
        for ours, theirs in zip(run(*inputs), whole, strict=True):
            assert torch.equal(ours, theirs)
    for p in (slice(0, 1), slice(3, 4)):
        part = run([x[p] for x in scores], a[p], levels, [x[p] for x in products], probes[p])
        for ours, theirs in zip(part, whole, strict=True):
            assert torch.equal(ours, theirs[p])
    few = slice(77, 78)
    single = run(
        [x[:, few] for x in scores], a, levels, [x[:, few] for x in products], probes[:, few]
    )
    for ours, theirs in zip(single, whole, strict=True):
        assert torch.equal(ours, theirs[:, few])


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("elements", [3, 17, 40])
def test_nan_stays_in_its_particle(models, elements):
    clean = make(models, 2, (2, 6, elements))
    wanted = run(*clean)
    hit = torch.zeros(2, 6, dtype=torch.bool)
    hit[1, 4] = True
    for place in (0, 3, 4):
        inputs = make(models, 2, (2, 6, elements))
        tensor = inputs[place] if place == 4 else inputs[place][-1]
        tensor[1, 4, ..., elements - 1] = torch.nan
        coefficients, log_weights = run(*inputs)
        assert torch.equal(log_weights.isnan(), hit)
        assert torch.equal(log_weights[~hit], wanted[1][~hit])
        assert torch.equal(coefficients[~hit], wanted[0][~hit])
    scores, a, levels, products, probes = clean
    traces = reference.traces_of(products, probes)
    traces[0, 1, 4] = torch.nan
    assert torch.equal(reversal(scores, a, levels, traces=traces)[1].isnan(), hit)


@pytest.mark.parametrize("elements", [1, 3, 17, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_nothing_beside_its_inputs(elements, dtype):
    def bury(tensor):
        around = torch.full((tensor.numel() + 64,), torch.nan, dtype=tensor.dtype)
        around[32:-32] = tensor.flatten()
        return around[32:-32].view(tensor.shape)

    scores, a, levels, products, probes = inputs = make(2, 3, (2, 3, elements), dtype)
    buried = [*map(bury, scores)], bury(a), bury(levels), [*map(bury, products)], bury(probes)
    for ours, theirs in zip(run(*buried), run(*inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_any_trailing_shape_and_strides():
    scores, a, levels, products, probes = inputs = make(2, 3, (2, 6, 24))
    flat = run(*inputs)
    turned = [
        score.reshape(2, 6, 2, 3, 4).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        for score in scores
    ]
    assert not turned[0].is_contiguous()
    spread = [
        product.reshape(2, 6, 3, 2, 3, 4).repeat_interleave(2, dim=-1)[..., ::2]
        for product in products
    ]
    results = reversal(
        turned,
        a.T.contiguous().T,
        levels.repeat_interleave(2)[::2],
        products=spread,
        probes=probes.reshape(2, 6, 3, 2, 3, 4),
    )
    for ours, theirs in zip(results, flat, strict=True):
        assert torch.equal(ours, theirs)
    traces = reference.traces_of(products, probes)
    by_traces = reversal(scores, a, levels, traces=traces)
    for ours, theirs in zip(
        reversal(turned, a, levels, traces=traces.mT.contiguous().mT), by_traces, strict=True
    ):
        assert torch.equal(ours, theirs)
    numbers, alone = reversal(scores[0][..., 0], a[:, :1], levels, traces=traces[:1])
    assert numbers.shape == (2, 6, 3)
    assert alone.shape == (2, 6)


def test_one_tensor_is_one_model():
    (score,), a, levels, (product,), probes = make(1, 2, (2, 3, 5))
    ours = reversal(score, a, levels, products=product, probes=probes)
    for mine, theirs in zip(ours, run([score], a, levels, [product], probes), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
@pytest.mark.parametrize("by_probes", [False, True])
def test_empty(shape, by_probes):
    scores = [torch.empty(shape)] * 2
    a = torch.ones(shape[0], 2, dtype=F64)
    products = torch.empty(*shape[:2], 3, shape[2])
    traces = torch.zeros(2, *shape[:2], dtype=F64)
    given = {"products": [products] * 2, "probes": products} if by_probes else {"traces": traces}
    coefficients, log_weights = reversal(scores, a, LEVELS, **given)
    variance = (LEVELS[0].square() - LEVELS[1].square()).item()
    wanted = torch.full((*shape[:2], 4), variance / 2, dtype=F64)
    torch.testing.assert_close(coefficients, wanted)
    assert torch.equal(log_weights, torch.zeros(shape[:2], dtype=F64))


@pytest.mark.parametrize("by_probes", [False, True])
@pytest.mark.parametrize("models", [1, 3])
def test_opcheck_and_compile(models, by_probes):
    scores, a, levels, products, probes = make(models, 2, (2, 5, 6))
    traces = reference.traces_of(products, probes)
    arguments = (None, products, probes) if by_probes else (traces, [], None)
    # views promise strides that the results do not have
    turned = [score.transpose(0, 1).contiguous().transpose(0, 1) for score in scores]
    torch.library.opcheck(torch.ops.edmfast.reversal.default, (turned, a, levels, *arguments))
    given = {"products": products, "probes": probes} if by_probes else {"traces": traces}
    compiled = torch.compile(reversal, fullgraph=True)(scores, a, levels, **given)
    for ours, theirs in zip(compiled, reversal(scores, a, levels, **given), strict=True):
        assert torch.equal(ours, theirs)


ROW = torch.zeros(2, 3, 4)
PROBE = torch.zeros(2, 3, 5, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": []}, ValueError, "1 to 8 scores are needed, got 0"),
        ({"scores": [ROW] * 9}, ValueError, "1 to 8 scores are needed, got 9"),
        ({"scores": [ROW.int()] * 2}, TypeError, "int32"),
        ({"scores": [ROW, ROW.double()]}, TypeError, "of one dtype"),
        ({"scores": [ROW, ROW[..., :3]]}, ValueError, "of one shape"),
        ({"scores": [ROW[0, 0]] * 2}, ValueError, r"\[P, N, \*shape\]"),
        ({"exponents": torch.ones(2, 2)}, TypeError, "exponents must be float64"),
        ({"exponents": torch.ones(2, 3, dtype=F64)}, ValueError, r"exponents must be \(2, 2\)"),
        ({"levels": torch.ones(2)}, TypeError, "levels must be float64"),
        ({"levels": torch.ones(3, dtype=F64)}, ValueError, r"levels must be \(2,\)"),
        ({"levels": torch.ones(2, dtype=F64, device="meta")}, ValueError, "one device"),
        ({"traces": torch.zeros(2, 2, 3, dtype=F64)}, ValueError, "got traces, products, probes"),
        ({"probes": None}, ValueError, "got products"),
        ({"probes": None, "products": None}, ValueError, "got none of them"),
        ({"products": None}, ValueError, "got 0 products and 2 scores"),
        ({"products": [PROBE]}, ValueError, "got 1 products and 2 scores"),
        ({"products": [PROBE, PROBE.double()]}, TypeError, "float64"),
        ({"products": [PROBE, PROBE[:, :, :4]]}, ValueError, r"\(2, 3, 4, 4\)"),
        ({"probes": ROW, "products": [ROW] * 2}, ValueError, r"K >= 1"),
        ({"probes": PROBE[:, :, :0], "products": [PROBE[:, :, :0]] * 2}, ValueError, "K >= 1"),
        ({"probes": PROBE.to("meta")}, ValueError, "one device"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {
        "scores": [ROW] * 2,
        "exponents": torch.ones(2, 2, dtype=F64),
        "levels": LEVELS,
        "products": [PROBE] * 2,
        "probes": PROBE,
    } | change
    with pytest.raises(error, match=message):
        reversal(**arguments)


@pytest.mark.parametrize(
    ("traces", "error", "message"),
    [
        (torch.zeros(2, 2, 3), TypeError, "traces must be float64"),
        (torch.zeros(2, 3, 2, dtype=F64), ValueError, r"\[M, P, N\] = \(2, 2, 3\)"),
        (torch.zeros(2, 2, 3, dtype=F64, device="meta"), ValueError, "one device"),
    ],
)
def test_bad_traces(traces, error, message):
    with pytest.raises(error, match=message):
        reversal([ROW] * 2, torch.ones(2, 2, dtype=F64), LEVELS, traces=traces)


def test_no_silent_detachment():
    scores, a, levels, products, probes = make(2, 1, (1, 3, 4))
    products[1].requires_grad_()
    with pytest.raises(RuntimeError, match="no derivative"):
        run(scores, a, levels, products, probes)
    with torch.no_grad():
        run(scores, a, levels, products, probes)
