"""The stochastic samplers of EDM and EDM2 under the arguments of the NVlabs functions.

Both run algorithm 2 of Karras et al. 2022, arXiv 2206.00364, on the grid of equation 5: churn, then a step of
Heun's method. EDM2 (Karras et al. 2024, arXiv 2312.02696) adds guidance by a second network (arXiv 2406.02507),
D = D_guide + guidance (D_net - D_guide).

The networks are called as net(x, sigma [B]) or net(x, sigma [B], labels), so NVlabs networks fit, and so does
every denoiser of this package (bind its conditions with `edmfast.Conditioned`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.conditions import explained
from edmfast.models.calling.returned import check_denoised
from edmfast.models.protocols import Denoiser
from edmfast.sampling.checks import check_state, checked_end
from edmfast.sampling.engine import (
    Combine,
    Solver,
    Step,
    plan_of,
    register,
    requests_of,
)
from edmfast.sampling.engine.calls import Evaluate
from edmfast.sampling.engine.run import run_plan
from edmfast.sampling.noise import noise_of_run
from edmfast.sampling.noise.foreign import like_states
from edmfast.sampling.schedules.sigmas import karras_levels
from edmfast.sampling.solvers.heun import heun_work
from edmfast.sampling.steps import as_churn, churn_factors

RandnLike = Callable[[Tensor], Tensor]


@without_gradients
def edm_sampler(
    net: Denoiser,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like: RandnLike = torch.randn_like,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    *,
    seed: int | Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Sample with EDM's sampler, in 2 num_steps - 1 calls of the network.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2; the arguments are those of NVlabs' edm_sampler.

    Args:
        net: the denoiser. Its attributes `sigma_min`, `sigma_max` and `round_sigma` are respected where it has
            them.
        latents: standard normals [B, *shape], which are scaled by the first noise level here.
        class_labels: the third argument of the network; with None it is called without one.
        randn_like: the noise source, called at every step. By default the noise is counter-based: that of sample k
            depends on k and torch's seed alone.
        num_steps: the number of positive noise levels, at least 1.
        sigma_min: the smallest positive noise level, in units of the data.
        sigma_max: the largest noise level.
        rho: the exponent of the grid, see `get_sigmas_karras`.
        S_churn: the strength of the churn, 0 for none: gamma = min(S_churn / num_steps, sqrt(2) - 1).
        S_min: the least noise level at which there is churn.
        S_max: the largest noise level at which there is churn.
        S_noise: a factor on the fresh noise.
        seed: the seed of the counter-based noise, an integer or one for each sample [B]; by default a draw of
            torch's generator.

    Returns:
        The samples [B, *shape] in float64, without gradients. The network gets float32, or float64 where the
            latents are float64.

    Raises:
        TypeError: latents that are not floating point, or arguments that are no numbers.
        ValueError: latents of another shape or not finite, a number of steps, noise range or churn that is out of
            range, labels of another number of rows, or a network that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    check_state(latents, "latents")
    sigma_min = max(as_float("sigma_min", sigma_min), _bound_of(net, "sigma_min", 0.0))
    sigma_max = min(as_float("sigma_max", sigma_max), _bound_of(net, "sigma_max", math.inf))
    S_churn, S_min, S_max, S_noise = as_churn("S", S_churn, S_min, S_max, S_noise)
    # NVlabs' sampler steps in float64 and calls the network in float32; float64 latents ask for
    # more.
    network_dtype = torch.float64 if latents.dtype == torch.float64 else torch.float32
    check_level("sigma_max", as_float("sigma_max", sigma_max, positive=True), network_dtype)
    rounded = getattr(net, "round_sigma", lambda sigma: sigma)
    grid = rounded(
        karras_levels(num_steps, sigma_min, sigma_max, rho, "num_steps").to(latents.device)
    ).double()
    # Read once, so that a step never waits for the device.
    # The final 0 is appended after the rounding, which might move it.
    levels = [*grid.tolist(), 0.0]
    # The network may have rounded a level out of the range that its dtype can square.
    _check_levels(levels, network_dtype)
    gammas = grid.new_tensor(churn_factors(levels, S_churn, S_min, S_max))
    # The network rounds raised levels too, so the noise added must match the level that it is told.
    raised = rounded(grid + gammas * grid).double().tolist()
    denoise = _cast(net, network_dtype, torch.float64, {"class_labels": class_labels})
    # EDM calls its noise source at every step, which a source of the caller may count on.
    every_step = randn_like is not torch.randn_like
    return _integrate(
        denoise, latents.double(), levels, raised, S_noise, randn_like, seed, every_step=every_step
    )


@without_gradients
def edm2_sampler(
    net: Denoiser,
    noise: Tensor,
    labels: Tensor | None = None,
    gnet: Denoiser | None = None,
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    guidance: float = 1,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    dtype: torch.dtype = torch.float32,
    randn_like: RandnLike = torch.randn_like,
    *,
    seed: int | Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Sample with EDM2's sampler, in 2 num_steps - 1 calls of the network and as many of the guiding network.

    Sources: Karras et al. 2024, arXiv 2312.02696 and arXiv 2406.02507; the arguments are those of NVlabs'
    edm_sampler of EDM2.

    Args:
        net: the denoiser.
        noise: standard normals [B, *shape], which are scaled by the first noise level here.
        labels: the third argument of both networks; with None they are called without one.
        gnet: the guiding network, needed and called only where guidance != 1.
        num_steps: the number of positive noise levels, at least 1.
        sigma_min: the smallest positive noise level, in units of the data.
        sigma_max: the largest noise level.
        rho: the exponent of the grid, see `get_sigmas_karras`.
        guidance: the weight of `net` against `gnet`: D = D_gnet + guidance (D_net - D_gnet). 1 is no guidance.
        S_churn: the strength of the churn, 0 for none: gamma = min(S_churn / num_steps, sqrt(2) - 1).
        S_min: the least noise level at which there is churn.
        S_max: the largest noise level at which there is churn.
        S_noise: a factor on the fresh noise.
        dtype: the dtype of the states, of the networks' input and of the result.
        randn_like: the noise source, called at churned steps. By default the noise is counter-based: that of
            sample k depends on k and torch's seed alone.
        seed: the seed of the counter-based noise, an integer or one for each sample [B]; by default a draw of
            torch's generator.

    Returns:
        The samples [B, *shape] in `dtype`, without gradients.

    Raises:
        TypeError: noise that is not floating point, or arguments that are no numbers.
        ValueError: noise of another shape or not finite, a number of steps, noise range or churn that is out of
            range, guidance without a guiding network, or a network that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    check_state(noise, "noise")
    guidance = as_float("guidance", guidance)
    S_churn, S_min, S_max, S_noise = as_churn("S", S_churn, S_min, S_max, S_noise)
    check_level("sigma_max", as_float("sigma_max", sigma_max, positive=True), dtype)
    levels = [*karras_levels(num_steps, sigma_min, sigma_max, rho, "num_steps").tolist(), 0.0]
    _check_levels(levels, dtype)
    gammas = churn_factors(levels, S_churn, S_min, S_max)
    raised = [sigma * (1 + gamma) for sigma, gamma in zip(levels, gammas, strict=False)]
    model = _cast(net, dtype, dtype, {"labels": labels})
    # At 1 the guide's share is 0, so its evaluations would be wasted.
    if guidance != 1:
        if gnet is None:
            raise ValueError(f"guidance={guidance} needs a guiding network gnet, got None")
        model = _guided(model, _cast(gnet, dtype, dtype, {"labels": labels}), guidance)
    return _integrate(
        model, noise.to(dtype), levels, raised, S_noise, randn_like, seed, every_step=False
    )


def _integrate(
    denoise: Denoiser,
    latents: Tensor,
    levels: list[float],
    raised: list[float],
    s_noise: float,
    randn_like: RandnLike,
    seed: int | Sequence[int] | Tensor | None,
    *,
    every_step: bool,
) -> Tensor:
    """Run algorithm 2 from unit noise over levels [T + 1], with step i starting from raised[i]."""
    # torch.randn_like is only the default of NVlabs' signature; its numbers would depend on the
    # batch.
    source = None
    if randn_like is not torch.randn_like:
        # An error about the noise names the caller's own function, not the one made here.

        def source(*_: float) -> Tensor:
            return like_states(randn_like(latents), randn_like, latents)

    plan = plan_of(_Algorithm2(tuple(raised), s_noise, every_step), tuple(levels))
    noise = noise_of_run(source, latents, seed=seed, calls=len(requests_of(plan)))
    evaluate = Evaluate(denoise, {}, latents)
    return checked_end(run_plan(plan, evaluate, latents * levels[0], latents, noise))


@dataclass(frozen=True)
class _Algorithm2(Solver):
    """Heun's method from raised levels, which the network may have rounded, with fresh noise up to them."""

    raised: tuple[float, ...]
    s_noise: float
    every_step: bool

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, sigma_hat, sigma_next in zip(levels, self.raised, levels[1:], strict=False):
            # round_sigma of a network may round a raised level below the level itself.
            fresh = self.s_noise * math.sqrt(max(sigma_hat**2 - sigma**2, 0.0))
            noisy = self.every_step or sigma_hat > sigma
            churn = Combine("x", register("x"), fresh, (sigma, sigma_next), always=noisy)
            work = (churn,) if noisy else ()
            yield Step(sigma, (*work, *heun_work(sigma_hat, sigma_next)), sigma_hat=sigma_hat)


def _bound_of(net: Denoiser, name: str, absent: float) -> float:
    """Return a network's own bound of the noise level, or `absent` where it has none."""
    return as_float(f"the network's {name}", getattr(net, name, absent), finite=False)


def _check_levels(levels: list[float], dtype: torch.dtype) -> None:
    for i, level in enumerate(levels[:-1]):
        check_level(f"noise level {i} of the grid", level, dtype)


def _cast(
    net: Denoiser, inside: torch.dtype, outside: torch.dtype, labels: dict[str, Tensor | None]
) -> Denoiser:
    """Return the network as a denoiser that takes and returns the dtype `outside` and computes in `inside`.

    labels: the labels, or None, under the name that errors give them.
    """
    extra = {name: label for name, label in labels.items() if label is not None}

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        check_condition_rows(net, extra, len(x))
        states, copies = x.to(inside), [label.clone() for label in extra.values()]
        try:
            returned = net(states, sigma.to(inside), *copies)
        except RuntimeError as error:
            clearer = explained(error, net, states, extra)
            if clearer is error:
                raise
            # A RuntimeError would be explained once more, with the name of this function.
            kind = TypeError if isinstance(clearer, TypeError) else ValueError
            raise kind(str(clearer)) from error
        return check_denoised(net, returned, states).to(outside)

    return denoiser


def _guided(model: Denoiser, guide: Denoiser, weight: float) -> Denoiser:
    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        # The first of two networks works on copies, because it may change what it gets.
        reference = guide(x.clone(), sigma.clone())
        # Single operations keep the bits of a sample in any batch, as fused lerp may not.
        return reference + (model(x, sigma) - reference) * weight

    return denoiser
