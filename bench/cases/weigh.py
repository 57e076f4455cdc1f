"""Time the weight update of one step, [P, N], from increments to ancestors, against plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.harness import orders
from bench.harness.laws import check_systematic
from bench.harness.registry import Case
from edmfast.ops import Weights, rng_state, weigh_and_resample


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Weights, Tensor, Tensor, Tensor, Tensor]:
    """Return weights after a resampling, R, the energies after and before the move, and the state of the noise."""
    generator = torch.Generator().manual_seed(0)
    first, ratio, now, past = torch.randn(4, *shape, dtype=dtype, generator=generator)
    weights = weigh_and_resample(
        Weights.start(shape[0], shape[1]), first, [], [], rng_state(0, 0), ess_threshold=1.0
    )
    on_device = Weights(*(tensor.to(device) for tensor in weights))
    return on_device, ratio.to(device), now.to(device), past.to(device), rng_state(0, 1, device)


def ours(weights: Weights, ratio: Tensor, now: Tensor, past: Tensor, rng: Tensor) -> Weights:
    return weigh_and_resample(weights, ratio, now, past, rng, ess_threshold=1.0)


def eager(weights: Weights, ratio: Tensor, now: Tensor, past: Tensor, rng: Tensor) -> Weights:
    """The step as a user would write it without a kernel, in float64 where it matters; its uniforms have no
    counter."""
    populations, n = ratio.shape
    index = weights.ancestors.long()
    increments = (ratio - (now - past.gather(1, index))).double()
    log_weights = torch.where(
        weights.resampled[:, None], increments, weights.log_weights + increments
    )
    probability = log_weights.softmax(1)
    ess = 1.0 / probability.square().sum(1)
    log_mean = log_weights.logsumexp(1) - math.log(n)
    resampled = ess < n
    uniform = torch.rand(populations, 1, dtype=torch.float64, device=ratio.device)
    ends = torch.ceil(n * probability.cumsum(1) - uniform).long().clamp_(0, n)
    # rounding may leave the last sum below 1, and the last slots without an owner
    ends[:, -1] = n
    counts = ends.diff(dim=1, prepend=ends.new_zeros(populations, 1))
    identity = torch.arange(n, device=ratio.device)
    every = identity.repeat(populations)
    chosen = torch.repeat_interleave(every, counts.flatten(), output_size=populations * n)
    ancestors = torch.where(resampled[:, None], chosen.view(populations, n), identity)
    root = weights.root.gather(1, ancestors)
    return Weights(
        log_weights,
        weights.log_z + torch.where(resampled, log_mean, 0.0),
        ancestors.int(),
        root,
        ess,
        log_mean,
        resampled,
        weights.degenerate | log_weights.isnan().any(1),
        increments.std(1, correction=0),
        1 + (root[:, 1:] != root[:, :-1]).sum(1),
    )


_graph = orders.compiled_forward(eager)


def compiled(weights: Weights, ratio: Tensor, now: Tensor, past: Tensor, rng: Tensor) -> Weights:
    return Weights(*_graph(weights, ratio, now, past, rng))


def reference(weights: Weights, ratio: Tensor, now: Tensor, past: Tensor, rng: Tensor) -> Weights:
    """Compute in float64, with the expected offspring in place of the ancestors, and the roots before."""
    truth = eager(weights, ratio.double(), now.double(), past.double(), rng)
    expected = ratio.shape[1] * truth.log_weights.softmax(1)
    return truth._replace(ancestors=expected, root=weights.root)


def check(result: Weights, truth: Weights) -> None:
    for name in ("log_weights", "log_z", "ess", "log_mean", "increment_sd"):
        ours, wanted = getattr(result, name), getattr(truth, name)
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5, msg=name)
    assert torch.equal(result.resampled, truth.resampled)
    assert torch.equal(result.degenerate, truth.degenerate)
    # the increments are rounded to float32 before the sum
    check_systematic(result.ancestors, truth.ancestors, tolerance=1e-3)
    assert torch.equal(result.root, truth.root.gather(1, result.ancestors.long())), "wrong roots"
    alive = torch.tensor([row.unique().numel() for row in result.root.cpu()])
    assert torch.equal(result.survivors.cpu(), alive), "wrong survivors"


def make_case(populations: int, particles: int) -> Case:
    return Case(
        name=f"weigh/{populations}x{particles}",
        shape=(populations, particles),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"eager torch": eager, "compile": compiled},
        reference=reference,
        check=check,
        goal=4.0,
        # in: R, two energies, ancestors, roots; out: log-weights, ancestors, roots
        bytes=36 * populations * particles,
    )


CASES = [make_case(1, 10**5), make_case(1, 10**6), make_case(256, 16), make_case(64, 1024)]
