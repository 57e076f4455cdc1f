"""`reversal`: per-particle proposals and log-weights of a plain denoiser's reversal, before the particles move.

For one step from level s to u, with τ² = s² - u², the reversal of model i is close to N(x + τ² s_i, κ_i τ² I)
with ``κ_i = 1 + τ² t_i/d`` and t_i the trace of the Jacobian of its score s_i. For the target ∏ p_i^{a_i} the
proposal is the product of these Gaussians to the powers a_i. With P = Σ a_i/κ_i, A = Σ a_i and
m = Σ (a_i/κ_i) s_i/P it is N(x + τ² m, (τ²/P) I), and the weight depends on x_s only:

log G = -(d/2) [Σ a_i log κ_i + log(P/A)] - (τ²/2) [Σ (a_i/κ_i) |s_i|² - P |m|²].

With negative exponents the last term, with its sign, may be a gain g > 0. It is taken as g/(1 + g/3), because the
tails of the Gaussians exaggerate it.

So particles can be weighed and resampled before they move, and `propagate` moves them by the coefficients that
this operator returns. The weights are exact for isotropic Gaussians and positive exponents; otherwise their error
over a run is O(τ²).
Scores, products and probes are read once, and all sums are float64.

There is no derivative: inputs that require grad raise under grad mode, and inputs with a tangent always do.
Source: He et al. 2025 ("RNE"), arXiv 2506.05668, for the path ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast.ops._shared.dtypes import DTYPES
from edmfast.ops.reversal import reference

# the CUDA kernels hold as many pointers in their arguments
MAX_SCORES = 8


def _fake(
    scores: Sequence[Tensor],
    exponents: Tensor,
    levels: Tensor,
    traces: Tensor | None,
    products: Sequence[Tensor],
    probes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    populations, particles = scores[0].shape[:2]
    shape = (populations, particles)
    return (
        scores[0].new_empty((*shape, len(scores) + 2), dtype=torch.float64),
        scores[0].new_empty(shape, dtype=torch.float64),
    )


_extension.define(
    "reversal(Tensor[] scores, Tensor exponents, Tensor levels, Tensor? traces, Tensor[] products, "
    "Tensor? probes) -> (Tensor, Tensor)",
    reference.reversal,
    _fake,
    triton="reversal",
)
_OPERATOR = torch.ops.edmfast.reversal.default


def reversal(
    scores: Tensor | Sequence[Tensor],
    exponents: Tensor,
    levels: Tensor,
    *,
    traces: Tensor | None = None,
    products: Tensor | Sequence[Tensor] | None = None,
    probes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (coefficients float64 [P, N, M + 2] for `propagate`, log-weights float64 [P, N] in nats).

    scores: [P, N, *shape], or a sequence of 1 to 8 such tensors, float16, bfloat16, float32 or float64, in units
        of 1/x.
    exponents: float64 [P, M], the power of each model in the target. Their sum over the models must be positive,
        which the device does not check.
    levels: float64 [2] = (s, u) with s > u > 0, in units of x, on the device.
    traces: float64 [M, P, N], the trace of the Jacobian of each score, in units of 1/x².
    products, probes: as many tensors [P, N, K, *shape] as scores, the products of the Jacobians with the K >= 1
        probes [P, N, K, *shape], all of the dtype of the scores. They replace traces: the trace of a model is the
        mean over its probes of <v, (grad s) v> (Hutchinson's estimate, for probes of mean 0 and covariance 1).

    The coefficients are (τ² a_i/(κ_i P) for each model, v_M = τ²/P, v_L = τ²/A), with κ_i = 1 + τ² t_i/d clamped
    to [u²/(2 s²), 1.5]. P < A/2 is possible only with negative exponents, where the product is locally far from
    log-concave. There the particle uses one κ for all models, that of the mean trace Σ |a_i| t_i / Σ |a_i|, and
    P = A/κ. Where the differences of the scores add g > 0 to the log-weight, they add g/(1 + g/3). NaN in a trace,
    a score, a product or a probe of a particle makes its log-weight NaN. The bits of a particle depend neither on
    other particles nor on the number of threads.

    Raises TypeError for dtypes, ValueError for shapes, devices, the number of scores or both traces and products,
    RuntimeError for inputs that require grad or carry a tangent.
    Source: He et al. 2025 ("RNE"), arXiv 2506.05668, for the path ratio.
    """
    scores = [scores] if isinstance(scores, Tensor) else [*scores]
    along = [products] if isinstance(products, Tensor) else [*(products or ())]
    _check_scores(scores)
    rows = scores[0].shape[:2]
    _check_numbers(scores, exponents, levels)
    if (traces is None) == (probes is None) or (probes is None and along):
        raise ValueError(
            "either traces, or both products and probes are needed, got "
            + (", ".join(_names(traces, along, probes)) or "none of them")
        )
    if traces is not None:
        _check_traces(traces, scores)
    if probes is not None:
        _check_probes(along, probes, scores)
    refuse_derivatives("reversal", *scores, exponents, levels, traces, *along, probes)
    # an empty population has no first sample to measure
    elements = scores[0][0, 0].numel() if scores[0].numel() else 0
    flat = None
    if probes is not None:
        count = probes.shape[2]
        flat = probes.reshape(*rows, count, elements)
        along = [product.reshape(*rows, count, elements) for product in along]
    coefficients, log_weights = _OPERATOR(
        [score.reshape(*rows, elements) for score in scores],
        exponents,
        levels,
        traces,
        along,
        flat,
    )
    return coefficients, log_weights


def _names(traces: Tensor | None, products: Sequence[Tensor], probes: Tensor | None) -> list[str]:
    present = {"traces": traces is not None, "products": products, "probes": probes is not None}
    return [name for name, is_there in present.items() if is_there]


def _check_scores(scores: Sequence[Tensor]) -> None:
    if not 1 <= len(scores) <= MAX_SCORES:
        raise ValueError(f"1 to {MAX_SCORES} scores are needed, got {len(scores)}")
    dtypes = [score.dtype for score in scores]
    if dtypes[0] not in DTYPES or len({*dtypes}) > 1:
        raise TypeError(
            f"scores must all be float16, bfloat16, float32 or float64, and of one dtype, got {dtypes}"
        )
    shapes = [tuple(score.shape) for score in scores]
    if len(shapes[0]) < 2 or len({*shapes}) > 1:
        raise ValueError(f"scores must be [P, N, *shape] of one shape, got {shapes}")


def _check_numbers(scores: Sequence[Tensor], exponents: Tensor, levels: Tensor) -> None:
    wanted = {"exponents": (len(scores[0]), len(scores)), "levels": (2,)}
    tensors = {"exponents": exponents, "levels": levels}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name} must be float64, got {tensor.dtype}")
        if tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must be {wanted[name]}, got {tuple(tensor.shape)}")
    _check_device(scores, exponents, levels, *scores)


def _check_traces(traces: Tensor, scores: Sequence[Tensor]) -> None:
    wanted = (len(scores), *scores[0].shape[:2])
    if traces.dtype != torch.float64:
        raise TypeError(f"traces must be float64, got {traces.dtype}")
    if tuple(traces.shape) != wanted:
        raise ValueError(f"traces must be [M, P, N] = {wanted}, got {tuple(traces.shape)}")
    _check_device(scores, traces)


def _check_probes(products: Sequence[Tensor], probes: Tensor, scores: Sequence[Tensor]) -> None:
    if len(products) != len(scores):
        raise ValueError(
            f"as many products as scores are needed, got {len(products)} products and {len(scores)} scores"
        )
    dtypes = {tensor.dtype for tensor in (*products, probes)}
    if dtypes != {scores[0].dtype}:
        raise TypeError(
            f"products and probes must have the dtype of scores, {scores[0].dtype}, "
            f"got {sorted(map(str, dtypes))}"
        )
    shape = scores[0].shape
    count = probes.shape[2] if probes.dim() > 2 else 0
    wanted = (*shape[:2], count, *shape[2:])
    shapes = {tuple(tensor.shape) for tensor in (*products, probes)}
    if count < 1 or shapes != {wanted}:
        raise ValueError(
            "products and probes must be [P, N, K, *shape] with K >= 1 and the sizes of scores, "
            f"{tuple(shape)}, got {sorted(shapes)}"
        )
    _check_device(scores, probes, *products)


def _check_device(scores: Sequence[Tensor], *tensors: Tensor) -> None:
    # the kernels would read memory of another device
    if any(tensor.device != scores[0].device for tensor in tensors):
        raise ValueError("all tensors must be on one device")
