"""Every operator agrees with the CPU or a formula in float64, at sizes of several tiles and in all dtypes.

`tests/ops/test_derivatives.py` checks one small size; here are odd sizes, other layouts and several models.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from bench.harness.three_tf32 import arithmetic_of
from bench.report import derivatives
from edmfast import ops
from edmfast.ops.mlp_potential import reference as perceptrons
from edmfast.ops.resample.operator import SCHEMES

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *HALVES)


def attention_of(length, keys, d, e):
    return ((1, 2, length, d), (1, 2, keys, d), (1, 2, keys, e))


def perceptron_of(rows, d, width):
    weights = ((width, d), (width,), (width, width), (d, width), (d,))
    return ((rows, d), (rows, 4), (rows, width), *weights)


LARGER = {
    "attention": [attention_of(150, 77, 64, 40), attention_of(70, 135, 128, 128)],
    "group_norm": [((3, 6, 31, 33), (6,), (6,)), ((2, 48, 127), (48,), (48,))],
    "layer_norm": [((2, 37, 200), (2, 200), (2, 200))],
    "mlp_potential": [perceptron_of(75, 5, 40), perceptron_of(130, 33, 64)],
    "potential": [((5, 2051), (5, 2051), (5,)), ((1029, 3), (1029, 3), (1029,))],
    "potential_assemble": [((5, 2051),) * 3 + ((5, 3),)],
    "rms_norm": [((2, 37, 200), (200,))],
}
CASES = [(name, shapes) for name, several in LARGER.items() for shapes in several]


def weights_scaled(name, tensors):
    """Scale weights of networks as an initialisation does, so that large sums do not saturate silu."""
    if name != "mlp_potential":
        return tensors
    return [t / t.shape[1] ** 0.5 if t.dim() == 2 and i > 2 else t for i, t in enumerate(tensors)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "shapes"), CASES, ids=lambda value: str(value)[:40])
def test_two_orders(name, shapes, dtype, device):
    """The error is at most twice that of the formula in plain torch, in the same dtype and arithmetic.

    Kernels of float32 take products of matrices by three TF32 products on a GPU, and so does the formula: see
    `bench.harness.three_tf32`, which derives their error.
    """
    case = derivatives.CASES[name]._replace(shapes=shapes)
    if dtype not in case.dtypes:
        pytest.skip("not a dtype of the operator")
    drawn = weights_scaled(name, derivatives._draw(case))
    inputs = [tensor.to(dtype) for tensor in drawn]
    truth = derivatives._orders(case.plain, [tensor.double() for tensor in inputs], 2)
    with arithmetic_of(name, dtype, device):
        plain = derivatives._orders(case.plain, inputs, 2)
    ours = derivatives._orders(case.ours, [tensor.to(device) for tensor in inputs], 2)
    # in float64 the reference is no more exact, and derivatives of sums of thousands amplify its error
    floor = (2**20 if dtype == torch.float64 else 8) * torch.finfo(dtype).eps
    assert len(ours) == 3
    for order, values in enumerate(ours):
        for value, same, wanted in zip(values, plain[order], truth[order], strict=True):
            assert value.device.type == device
            error = (value.cpu().double() - wanted).abs().max()
            usual = (same.double() - wanted).abs().max()
            size = wanted.abs().max().clamp(min=1.0)
            assert error <= 2 * usual + floor * size, (order, error, usual, size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_group_norm_of_channels_last(dtype, generator, device):
    x = torch.randn(2, 24, 9, 13, generator=generator, dtype=torch.float64).to(dtype)
    scale, shift = torch.randn(2, 2, 24, generator=generator, dtype=torch.float64).to(dtype)
    last = x.to(device).contiguous(memory_format=torch.channels_last)
    y = ops.group_norm(last, 4, scale=scale.to(device), shift=shift.to(device), silu=True)
    assert y.is_contiguous(memory_format=torch.channels_last)
    normal = functional.group_norm(x.double(), 4)
    wanted = functional.silu(
        normal * (1 + scale.double())[..., None, None] + shift[..., None, None]
    )
    eps = torch.finfo(dtype).eps
    assert (y.cpu().double() - wanted).abs().max() <= (64 if eps < 1e-10 else 4) * eps * 16


def assert_as_near(results, plain, truth):
    """Check that float32 results are at most twice as far from the truth as the formula in their arithmetic."""
    results = results.cpu().double()
    usual, size = (plain.double() - truth).abs().max(), truth.abs().max().clamp(min=1.0)
    allowed = 2 * usual + 8 * torch.finfo(torch.float32).eps * size
    assert (results - truth).abs().max() <= allowed, (results - truth).abs().max() / allowed


@pytest.mark.parametrize(("causal", "masked"), [(True, False), (False, True), (True, True)])
def test_attention_of_views_with_masks(causal, masked, generator, device):
    """Heads may come before positions, as views of the [B, L, H, D] of a network."""
    q, k, v = torch.randn(3, 2, 99, 3, 16, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 99, generator=generator) < 0.7 if masked else None
    arguments = [t.float().to(device).transpose(1, 2) for t in (q, k, v)]
    there = None if mask is None else mask.to(device)
    results = ops.attention(*arguments, causal=causal, key_mask=there)
    allowed = torch.ones(2, 1, 99, 99, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    if mask is not None:
        allowed = allowed & mask[:, None, None]

    def formula(dtype):
        a, b, c = (t.float().to(dtype).transpose(1, 2) for t in (q, k, v))
        scores = (a @ b.mT / 4).masked_fill(~allowed, -torch.inf)
        return torch.softmax(scores, -1).nan_to_num(0.0) @ c

    with arithmetic_of("attention", torch.float32, device):
        plain = formula(torch.float32)
    assert_as_near(results, plain, formula(torch.float64))


@pytest.mark.parametrize("shared", [False, True])
def test_several_perceptrons(shared, generator, device):
    """K models of one shape in one launch equal the formula of every model."""
    models, rows, d, width, depth = 3, 70, 12, 32, 2

    def draw(*shape):
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    def network():
        layers = [draw(width, width) for _ in range(depth)]
        return ops.Perceptron(draw(width, d), draw(width), layers, draw(d, width), draw(d))

    of = 1 if shared else rows
    networks = [network() for _ in range(models)]
    inputs = draw(rows, d), draw(models, of, 4), [draw(of, depth * width) for _ in range(models)]
    there = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), (*inputs, networks))
    results = ops.mlp_potentials(*there)

    def formula(dtype):
        entry, entry_bias, layers, exit, exit_bias = zip(*networks, strict=True)
        lists = [*entry], [*entry_bias], [one for several in layers for one in several]
        operands = *inputs, *lists, [*exit], [*exit_bias]
        wide = tree_map_only(torch.Tensor, lambda tensor: tensor.to(dtype), operands)
        return perceptrons.mlp_potential(*wide, False)[:2]

    with arithmetic_of("mlp_potential", torch.float32, device):
        plain = formula(torch.float32)
    for ours, same, truth in zip(results, plain, formula(torch.float64), strict=True):
        for model in range(models):
            assert_as_near(ours[model], same[model], truth[model])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_random_numbers_have_the_bits_of_the_cpu(dtype, device):
    like = torch.empty(3, 41, 7, dtype=dtype)
    keys = {"seed": 2**63 + 5, "step": 7, "stream": 9, "first_population": 4, "first_particle": 8}
    assert torch.equal(
        ops.standard_normal(like.to(device), **keys).cpu(), ops.standard_normal(like, **keys)
    )


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "ssp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resampling_has_the_bits_of_the_cpu(scheme, dtype, generator, device):
    weights = torch.randn(5, 777, generator=generator, dtype=torch.float64).to(dtype)
    weights[2] = -torch.inf
    weights[3, ::5] = torch.nan
    rng = ops.rng_state(3, 9)
    results = ops.resample(weights.to(device), rng.to(device), scheme=scheme, ess_threshold=0.9)
    wanted = ops.resample(weights, rng, scheme=scheme, ess_threshold=0.9)
    for name, ours, theirs in zip(wanted._fields, results, wanted, strict=True):
        assert torch.equal(ours.cpu(), theirs), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("models", [1, 3, 8])
def test_a_step_has_the_bits_of_the_cpu(models, dtype, generator, device):
    """Two steps of propagate and weigh give the same states, weights, ancestors and roots."""
    shape = 3, 300
    x, *scores = torch.randn(models + 1, *shape, 10, generator=generator, dtype=torch.float64).to(
        dtype
    )
    energies = torch.randn(2, models, *shape, generator=generator, dtype=torch.float64).to(dtype)
    numbers = torch.rand(3, models + 2, generator=generator, dtype=torch.float64) / 4 + 0.1
    powers = torch.rand(3, models, generator=generator, dtype=torch.float64)
    results = {}
    for place in ("cpu", device):
        weights, state, history = ops.Weights.start(*shape, device=place), x.to(place), []
        for step in range(2):
            rng = ops.rng_state(6, step, place)
            state, ratio = ops.propagate(
                state, [s.to(place) for s in scores], weights.ancestors, numbers.to(place), rng
            )
            weights = ops.weigh_and_resample(
                weights,
                # the CPU sums it in another order, so it is not compared
                torch.zeros_like(ratio),
                [*energies[step].to(place)],
                [*energies[1 - step].to(place)],
                rng,
                exponents=powers.to(place),
                ess_threshold=0.8,
            )
            history += [state, *weights[:-1]]
        results[place, "history"] = [tensor.cpu() for tensor in history]
        assert weights.resampled.any()
    for ours, theirs in zip(results[device, "history"], results["cpu", "history"], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("models", [1, 3, 8])
def test_reversals(models, dtype, generator, device):
    """Weights, and the step that they are the weights of, agree with the CPU."""
    shape = 2, 19, 50
    scores = [*torch.randn(models, *shape, generator=generator, dtype=torch.float64).to(dtype)]
    probes = torch.randn(2, 19, 2, 50, generator=generator, dtype=torch.float64)
    slopes = -torch.rand(models, *probes.shape, generator=generator, dtype=torch.float64)
    exponents = torch.rand(2, models, generator=generator, dtype=torch.float64) + 0.5
    exponents[:, 1:] *= -0.04
    levels = torch.tensor([1.0, 0.7], dtype=torch.float64)
    inputs = scores, exponents, levels, [*(slopes * probes).to(dtype)], probes.to(dtype)
    results = []
    for place in ("cpu", device):
        there = tree_map_only(torch.Tensor, lambda tensor, place=place: tensor.to(place), inputs)
        vectors, powers, steps, products, directions = there
        given = {"products": products, "probes": directions}
        table, log_weights = ops.reversal(vectors, powers, steps, **given)
        identity = torch.arange(19, dtype=torch.int32, device=place).repeat(2, 1)
        moved, _ = ops.propagate(vectors[0], vectors, identity, table, ops.rng_state(1, 2, place))
        results.append((table.cpu(), log_weights.cpu(), moved.cpu()))
    (table, log_weights, moved), (ours, our_weights, our_moves) = results
    torch.testing.assert_close(ours, table, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(our_weights, log_weights, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(our_moves, moved, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_with_coefficients_of_each_particle(dtype, generator, device):
    x, *scores = torch.randn(3, 3, 40, 10, generator=generator, dtype=torch.float64).to(dtype)
    ancestors = torch.randint(0, 40, (3, 40), generator=generator, dtype=torch.int32)
    table = torch.rand(3, 40, 4, generator=generator, dtype=torch.float64) + 0.1
    inputs = x, scores, ancestors, table, ops.rng_state(1, 2)
    there = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)
    moved, ratio = ops.propagate(*there)
    wanted, wanted_ratio = ops.propagate(*inputs)
    assert torch.equal(moved.cpu(), wanted)
    torch.testing.assert_close(ratio.cpu(), wanted_ratio, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inner_products_of_scores(dtype, generator, device):
    scores = torch.randn(4, 2, 19, 3, 50, generator=generator, dtype=torch.float64).to(dtype)
    gram, along = ops.score_gram(scores.to(device), scores[0].to(device).flip(1))
    wide = scores.double().flatten(3)
    wanted = torch.einsum("apnd,bpnd->pnab", wide, wide)
    torch.testing.assert_close(gram.cpu(), wanted, rtol=1e-12, atol=1e-10)
    moved = wide[0].flip(1)
    torch.testing.assert_close(
        along.cpu(), torch.einsum("apnd,pnd->pna", wide, moved), rtol=1e-12, atol=1e-10
    )
