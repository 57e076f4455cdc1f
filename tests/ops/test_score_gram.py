"""Inner products of scores equal float64, the weight formulas made of them hold, and bad input is refused."""

import pytest
import torch

from edmfast.ops import score_gram
from edmfast.ops.score_gram import reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIZES = [1, 2, 3, 4, 5, 7, 8, 16, 17, 250, 264, 1000, 1003]


def make(count, populations, particles, elements, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count + 10 * particles + elements)
    shape = (count, populations, particles, elements)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return scores, torch.randn(shape[1:], generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_float64(elements, dtype):
    for count in range(1, 9):
        scores, noise = make(count, 2, 7, elements, dtype)
        gram, along = score_gram(scores, noise)
        truth, truth_along = reference.score_gram(scores, noise)
        # only the order of the float64 sums may differ
        scale = elements * torch.finfo(torch.float64).eps
        size = reference.score_gram(scores.abs(), noise.abs())
        assert ((gram - truth).abs() <= scale * size[0]).all()
        assert ((along - truth_along).abs() <= scale * size[1]).all()
        assert torch.equal(gram, gram.mT)
        alone, nothing = score_gram(scores)
        assert nothing is None
        assert torch.equal(alone, gram)


def test_a_pair_does_not_depend_on_the_other_scores():
    for elements in (2, 17, 1003):
        scores, noise = make(8, 1, 5, elements)
        gram, along = score_gram(scores, noise)
        for count in range(1, 8):
            part, part_along = score_gram(scores[:count], noise)
            assert torch.equal(part, gram[..., :count, :count])
            assert torch.equal(part_along, along[..., :count])


def test_literal_values():
    scores = torch.tensor([[[[1.0, 2.0, 3.0]]], [[[-1.0, 0.5, 4.0]]]])
    gram, along = score_gram(scores, torch.tensor([[[2.0, 0.0, -1.0]]]))
    assert gram.tolist() == [[[[14.0, 12.0], [12.0, 17.25]]]]
    assert along.tolist() == [[[-1.0, -6.0]]]


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_products_of_narrow_types_are_exact(dtype):
    """The square of 1 + eps needs twice the digits of the dtype; float64 scores round once."""
    eps = torch.finfo(dtype).eps
    for elements in (1, 3, 8, 16):
        gram, _ = score_gram(torch.full((1, 1, 1, elements), 1 + eps, dtype=dtype))
        assert gram.item() == elements * (1 + eps) ** 2


def test_half_precisions_keep_every_value():
    """Each of the 65,536 patterns, with subnormals and infinities, gives its float64 square."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        scores = bits.view(dtype).reshape(1, 1, -1, 1)
        wanted = scores[0, ..., 0].double().square()
        gram, _ = score_gram(scores)
        torch.testing.assert_close(gram[..., 0, 0], wanted, rtol=0, atol=0, equal_nan=True)


def test_corrector_weights():
    """The score-only weight and its three cases agree between G and the vectors themselves."""
    scores, _ = make(2, 3, 40, 17, torch.float64)
    first, second = scores
    gram, _ = score_gram(scores)
    squares = gram.diagonal(dim1=-2, dim2=-1)
    delta = 0.3

    def weight(a):
        a = torch.tensor(a, dtype=torch.float64)
        return delta * (torch.einsum("i,pnij,j->pn", a, gram, a) - (a * squares).sum(-1))

    def close(a, direct):
        torch.testing.assert_close(weight(a), direct, rtol=1e-12, atol=1e-12)

    a = (0.7, -1.9)
    mean = a[0] * first + a[1] * second
    diagonal = a[0] * first.square().sum(-1) + a[1] * second.square().sum(-1)
    close(a, delta * (mean.square().sum(-1) - diagonal))
    gamma, w, tau2 = 2.5, 3.0, 2 * delta
    close((gamma, 0.0), 0.5 * gamma * (gamma - 1) * tau2 * first.square().sum(-1))
    close((w, 1 - w), 0.5 * w * (w - 1) * tau2 * (first - second).square().sum(-1))
    close((1.0, 1.0), tau2 * (first * second).sum(-1))


def test_superdiff_and_weight():
    """For SuperDiff's AND of two models, kappa from G and n equals kappa from the vectors."""
    scores, z = make(2, 2, 30, 5, torch.float64)
    gram, along = score_gram(scores, z)
    gap = scores[0] - scores[1]
    delta = 0.2
    direct = 0.5 - (gap * z).sum(-1) * (2 * delta) ** 0.5 / (2 * delta * gap.square().sum(-1))
    square = gram[..., 0, 0] - 2 * gram[..., 0, 1] + gram[..., 1, 1]
    kappa = 0.5 - (along[..., 0] - along[..., 1]) * (2 * delta) ** 0.5 / (2 * delta * square)
    torch.testing.assert_close(kappa, direct, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("elements", [2, 5, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_company_and_threads_change_no_bit(elements, dtype, with_threads):
    scores, noise = make(3, 5, 401, elements, dtype)
    with with_threads(1):
        gram, along = score_gram(scores, noise)
    with with_threads(2):
        for got, wanted in zip(score_gram(scores, noise), (gram, along), strict=True):
            assert torch.equal(got, wanted)
    for p in range(5):
        part, part_along = score_gram(scores[:, p : p + 1], noise[p : p + 1])
        assert torch.equal(part, gram[p : p + 1])
        assert torch.equal(part_along, along[p : p + 1])
    single, _ = score_gram(scores[:, 3:4, 77:78])
    assert torch.equal(single[0, 0], gram[3, 77])


@pytest.mark.parametrize("elements", [1, 2, 3, 4, 5, 17, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_nothing_beside_its_inputs(elements, dtype):
    """NaN before and behind both inputs does not reach the results."""
    scores, noise = make(3, 2, 7, elements, dtype)

    def bury(tensor):
        around = torch.full((tensor.numel() + 64,), torch.nan, dtype=dtype)
        around[32:-32] = tensor.flatten()
        return around[32:-32].view(tensor.shape)

    for got, wanted in zip(
        score_gram(bury(scores), bury(noise)), score_gram(scores, noise), strict=True
    ):
        assert torch.equal(got, wanted)


def test_nan_stays_in_its_particle():
    for elements in (3, 11):
        scores, noise = make(3, 1, 6, elements)
        clean = score_gram(scores, noise)
        scores[1, 0, 4, elements - 1] = torch.nan
        hit = torch.zeros(1, 6, 3, 3, dtype=torch.bool)
        hit[0, 4, 1, :] = hit[0, 4, :, 1] = True
        hit_along = torch.zeros(1, 6, 3, dtype=torch.bool)
        hit_along[0, 4, 1] = True
        outputs = zip(score_gram(scores, noise), clean, (hit, hit_along), strict=True)
        for got, before, wanted in outputs:
            assert torch.equal(got.isnan(), wanted)
            assert torch.equal(got[~wanted], before[~wanted])


def test_any_trailing_shape_and_strides():
    scores, noise = make(3, 2, 6, 24)
    flat = score_gram(scores, noise)
    images = scores.reshape(3, 2, 6, 2, 3, 4).permute(1, 2, 4, 5, 3, 0).contiguous()
    spread = noise.reshape(2, 6, 2, 3, 4).repeat_interleave(2, dim=-1)[..., ::2]
    for got, wanted in zip(score_gram(images.permute(5, 0, 1, 4, 2, 3), spread), flat, strict=True):
        assert torch.equal(got, wanted)
    expanded, _ = score_gram(scores[:1].expand(4, -1, -1, -1))
    assert torch.equal(expanded, flat[0][..., :1, :1].expand(-1, -1, 4, 4))
    numbers, _ = score_gram(scores[..., 0])
    assert torch.equal(numbers[..., 0, 1], scores[0, ..., 0].double() * scores[1, ..., 0].double())


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(2, 0, 3, 2), (2, 2, 0, 2), (2, 2, 3, 0)])
def test_empty(shape):
    gram, along = score_gram(torch.empty(shape), torch.empty(shape[1:]))
    assert torch.equal(gram, torch.zeros(*shape[1:3], 2, 2, dtype=torch.float64))
    assert torch.equal(along, torch.zeros(*shape[1:3], 2, dtype=torch.float64))


@pytest.mark.parametrize("with_noise", [False, True])
def test_opcheck_and_compile(with_noise):
    scores, noise = make(3, 2, 5, 6)
    arguments = (scores, noise) if with_noise else (scores, None)
    torch.library.opcheck(torch.ops.edmfast.score_gram.default, arguments)
    compiled = torch.compile(score_gram, fullgraph=True)(*arguments)
    plain = score_gram(*arguments)
    assert torch.equal(compiled[0], plain[0])
    assert torch.equal(compiled[1], plain[1]) if with_noise else compiled[1] is None


@pytest.mark.parametrize(
    ("scores", "displacement", "error", "message"),
    [
        (torch.zeros(2, 3, 4, 5, dtype=torch.int32), None, TypeError, "int32"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.complex64), None, TypeError, "complex64"),
        (torch.zeros(2, 3), None, ValueError, r"\[M, P, N, \*shape\]"),
        (torch.zeros(0, 3, 4, 5), None, ValueError, "1 to 8 scores are needed, got 0"),
        (torch.zeros(9, 3, 4, 5), None, ValueError, "1 to 8 scores are needed, got 9"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(3, 4, 6), ValueError, r"\(3, 4, 6\)"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), ValueError, r"\(3, 4, 5\)"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(3, 4, 5).double(), TypeError, "float64"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(3, 4, 5, device="meta"), ValueError, "meta"),
    ],
)
def test_bad_input(scores, displacement, error, message):
    with pytest.raises(error, match=message):
        score_gram(scores, displacement)


def test_no_silent_detachment():
    scores, noise = make(2, 1, 3, 4)
    scores.requires_grad_()
    with pytest.raises(RuntimeError, match="no derivative"):
        score_gram(scores, noise)
    with torch.no_grad():
        score_gram(scores, noise)
