"""Log-likelihoods by the probability flow of an interpolant.

Along dx/dt = b(x, t) the log-density changes by -div b, so that with the state x_end that the flow reaches,

    log p(x, t_start) = log p(x_end, t_end) + int div b dt    from t_start to t_end.

The divergence is exact, by one vector-Jacobian product for each element of a state, or Hutchinson's estimate from
random signs that stay the same along the flow.
Sources: Chen et al. 2018, arXiv 1806.07366; Grathwohl et al. 2019, arXiv 1810.01367; Hutchinson 1990.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.inference_mode import as_ordinary, without_inference_mode
from edmfast._internal.numbers import as_int, as_seed
from edmfast._internal.progress import progress_bar
from edmfast.interpolants.arguments import Times, as_schedule, check_states
from edmfast.interpolants.fields import Drift, Fields, drift_of
from edmfast.interpolants.solve import ode_step
from edmfast.interpolants.velocity_denoiser import Velocity
from edmfast.models.calling.foreign import call_reward
from edmfast.models.calling.origin import name_of
from edmfast.models.calling.second_order import second_derivatives
from edmfast.ops import random_signs

_PROBE_STREAM = 15


@dataclass(frozen=True)
class FlowLikelihood:
    """Log-likelihoods by a probability flow, with their parts.

    Attributes:
        log_prob: the log-density of x at times[0], float64 [B], in nats.
        end: the states that the flow reaches at times[-1], like x.
        end_log_prob: the log-density of these under the base, float64 [B], in nats.
        divergence: the integral of div b from times[0] to times[-1], float64 [B], in nats.
    """

    log_prob: Tensor
    end: Tensor
    end_log_prob: Tensor
    divergence: Tensor


def log_likelihood(
    model: Fields | Velocity,
    x: Tensor,
    times: Times,
    *,
    base: Any = None,
    probes: int | None = None,
    method: str = "heun",
    seed: int = 0,
    extra_args: dict[str, Any] | None = None,
    disable: bool | None = None,
) -> FlowLikelihood:
    """Return the log-density of states under the probability flow of an interpolant or a velocity network.

    The error is that of the ODE's method and of the model. Probes add the noise of the trace, which is unbiased.

    Sources: Chen et al. 2018, arXiv 1806.07366; Grathwohl et al. 2019, arXiv 1810.01367 (probes); Albergo, Boffi
    and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        model: an object with drift(x, t), or a velocity network velocity(x, t [B]); its result must have a graph.
        x: the states [B, *shape] at times[0].
        times: [T + 1] within [0, 1], strictly decreasing from the data at 1 to the base at 0, or increasing.
        base: the density at times[-1]: an object with log_prob(x) -> [B], or a function x [B, *shape] -> [B] in
            nats. None is N(0, I).
        probes: the number of random signs for each sample, whose mean estimates the divergence. None takes the
            exact divergence, with as many vector-Jacobian products per call as a state has elements.
        method: "euler", "heun" or "rk4"; see `solve_ode`.
        seed: 64 bits. The probes of sample b depend on (seed, b) alone.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.

    Returns:
        A `FlowLikelihood`.

    Raises:
        TypeError: x is no floating-point tensor, or a number of the wrong type.
        ValueError: an unknown method, arguments of another shape, or a model whose result has no graph.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.
    """
    refuse_run("log_likelihood", model, x)
    check_states(x)
    levels, step, seed = as_schedule(times), ode_step(method), as_seed(seed)
    count = None if probes is None else as_int("probes", probes, least=1)
    log_prob = _log_prob_of(base)
    with without_inference_mode(), torch.no_grad():
        state = as_ordinary(x.detach())
        drift = drift_of(model, dict(extra_args or {}))
        joint = _Joint(name_of(model), drift, *_probes(state, count, seed))
        packed = joint.pack(state, state.new_zeros(len(state), dtype=torch.float64))
        with progress_bar(len(levels) - 1, disable=disable) as bar:
            for t, following in itertools.pairwise(levels):
                packed = step(joint, packed, joint(packed, t), t, following)
                bar.update()
        end, divergence = joint.unpack(packed)
        end_log_prob = log_prob(end).double()
    return FlowLikelihood(end_log_prob + divergence, end, end_log_prob, divergence)


class _Joint:
    """The drift of states and of the integral of its divergence, as one drift of packed tensors [B, D + 1].

    probes: [K, B, *shape]. share: the factor on the sum of their quadratic forms.
    """

    def __init__(self, name: str, drift: Drift, probes: Tensor, share: float) -> None:
        self.name, self.drift, self.probes, self.share = name, drift, probes, share

    def pack(self, state: Tensor, integral: Tensor) -> Tensor:
        """Return [B, D + 1] in float64, which adds up small divergences without loss."""
        return torch.cat([state.flatten(1).double(), integral[:, None]], 1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Return (states [B, *shape] in the dtype of x, the integral float64 [B])."""
        state = packed[:, :-1].reshape(self.probes.shape[1:]).to(self.probes.dtype)
        return state.clone(), packed[:, -1].clone()

    def __call__(self, packed: Tensor, t: float) -> Tensor:
        point, _ = self.unpack(packed)
        with torch.enable_grad(), second_derivatives():
            drift = self.drift(point.requires_grad_(), t)
            if not drift.requires_grad:
                raise ValueError(
                    f"the divergence of the drift differentiates {self.name}, which returns a result without a "
                    "graph: remove torch.no_grad or detach from it"
                )
            total = packed.new_zeros(len(packed))
            for k, probe in enumerate(self.probes):
                more = k + 1 < len(self.probes)
                (product,) = torch.autograd.grad(drift, point, probe, retain_graph=more)
                total += (product.double() * probe.double()).flatten(1).sum(1)
        return self.pack(drift.detach(), self.share * total)


def _probes(state: Tensor, count: int | None, seed: int) -> tuple[Tensor, float]:
    """Return (probes [K, B, *shape], the factor on the sum of their quadratic forms)."""
    dim = state.shape[1:].numel()
    if count is None or count >= dim:
        basis = torch.eye(dim, dtype=state.dtype, device=state.device)
        return basis.reshape(dim, 1, *state.shape[1:]).expand(dim, *state.shape), 1.0
    # a sample is a particle and its probe a population, so that its numbers depend on (seed, b)
    like = state.expand(count, *state.shape)
    return random_signs(like, seed=seed, stream=_PROBE_STREAM), 1 / count


def _log_prob_of(base: Any) -> Callable[[Tensor], Tensor]:
    """Return the function x -> log-density [B] of the base."""
    if base is None:
        return _standard_normal
    method = getattr(base, "log_prob", base)
    if not callable(method):
        raise TypeError(
            f"base must have log_prob(x) -> [B] or be such a function, given {type(base).__name__}"
        )
    return lambda x: call_reward(method, x, "log-density")


def _standard_normal(x: Tensor) -> Tensor:
    flat = x.flatten(1).double()
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))
