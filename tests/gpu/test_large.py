"""Operators work at sizes whose offsets exceed 31 bits, and their memory grows with the length only.

On the CPU all sizes are 2^12 times smaller.
"""

from __future__ import annotations

import pytest
import torch

from edmfast import ops


@pytest.fixture
def large(device):
    return 1 if device == "cuda" else 2**12


def test_resampling_of_many_particles(device, large, generator, room):
    room(4)
    particles = 2**26 // large + 1
    weights = torch.randn(1, particles, generator=generator)
    uniform = torch.tensor([0.3], dtype=torch.float64)
    results = ops.systematic_resample(weights.to(device), uniform.to(device))
    wanted = ops.systematic_resample(weights, uniform)
    for name, ours, theirs in zip(wanted._fields, results, wanted, strict=True):
        assert torch.equal(ours.cpu(), theirs), name


def test_noise_beyond_31_bits(device, large, room):
    room(12)
    rows = (2**31 // 1031 + 5_000) // large + 20
    noise = ops.standard_normal(torch.empty(1, rows, 1031, device=device), seed=3, step=1)
    tail = ops.standard_normal(
        torch.empty(1, 7, 1031, device=device), seed=3, step=1, first_particle=rows - 7
    )
    assert torch.equal(noise[:, -7:], tail)
    assert noise[0, -1].std() > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_proposals_beyond_31_bits(dtype, device, large, room):
    """The last particles of a large call equal the last particles of a small one."""
    room(16 if dtype == torch.bfloat16 else 30)
    rows = (2**31 // 1031 + 5_000) // large + 20
    x = torch.arange(rows, device=device).remainder_(97).to(dtype)[None, :, None]
    x = x.expand(1, rows, 1031).contiguous()
    ancestors = torch.arange(rows, dtype=torch.int32, device=device)[None].contiguous()
    numbers = torch.tensor([[0.3, 0.2, 0.4]], dtype=torch.float64, device=device)
    rng = ops.rng_state(5, 6, device)
    moved, ratio = ops.propagate(x, x, ancestors, numbers, rng)
    few = x[:, -7:].contiguous()
    identity = torch.arange(7, dtype=torch.int32, device=device)[None]
    wanted, wanted_ratio = ops.propagate(few, few, identity, numbers, rng, first_particle=rows - 7)
    assert torch.equal(moved[:, -7:], wanted)
    assert torch.equal(ratio[:, -7:], wanted_ratio)


def test_inner_products_beyond_31_bits(device, large, room):
    room(14)
    rows = (2**31 // 1031 + 5_000) // large + 20
    scores = torch.arange(rows, device=device).remainder_(13).to(torch.bfloat16)
    scores = scores[None, None, :, None].expand(1, 1, rows, 1031).contiguous()
    gram, along = ops.score_gram(scores, scores[0])
    wanted = 1031 * torch.arange(rows - 9, rows, device=device).remainder(13).double() ** 2
    assert torch.equal(gram[0, -9:, 0, 0], wanted)
    assert torch.equal(along[0, -9:, 0], wanted)


def test_potentials_beyond_31_bits(device, large, room):
    room(30)
    rows = (2**31 // 1031 + 5_000) // large + 20
    y = torch.arange(rows, device=device).remainder_(13).float()[:, None].expand(rows, 1031)
    y = y.contiguous()
    energy, cotangent = ops.potential(y, y, torch.full((rows,), 0.25, device=device))
    wanted = 1031 * (0.5 - 0.25) * y[-9:, 0].double() ** 2
    torch.testing.assert_close(energy[-9:].double(), wanted, rtol=1e-6, atol=0)
    assert torch.equal(cotangent[-9:], 0.25 * y[-9:])


def test_norms_beyond_31_bits(device, large, room):
    room(20)
    rows = (2**31 // 4096 + 1_000) // large + 20
    x = torch.arange(4096, device=device).to(torch.bfloat16).remainder_(31)
    x = x.expand(rows, 4096).contiguous()
    results = ops.layer_norm(x)
    torch.testing.assert_close(results[-5:], ops.layer_norm(x[-5:]), rtol=0.01, atol=0.01)
    assert results[-1].float().std() > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_grows_with_the_length():
    """The memory of attention and its derivatives in bfloat16 grows four times when the length does."""
    peaks = []
    for length in (8192, 32_768):
        tensors = [
            torch.randn(1, 8, length, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
            for _ in range(3)
        ]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = ops.attention(*tensors)
        first = torch.autograd.grad(out.float().square().sum(), tensors, create_graph=True)
        torch.autograd.grad(sum(output.float().square().sum() for output in first), tensors)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del out, first, tensors
    assert peaks[1] < 4.5 * peaks[0], peaks
