"""The loop of a sampler: it checks the start, calls the model and the callback, and feeds the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from edmfast._internal.progress import progress_bar
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback, first_state, report
from edmfast.sampling.checks import check_start, checked_end
from edmfast.sampling.engine.calls import Evaluate
from edmfast.sampling.engine.checked_plan import plan_of
from edmfast.sampling.engine.compiled import runs_of
from edmfast.sampling.engine.draws import node_table
from edmfast.sampling.engine.machine import Machine, requests_of
from edmfast.sampling.engine.plan import Call, Plan, Solver
from edmfast.sampling.engine.results import Results, lifetime_of
from edmfast.sampling.noise import (
    BrownianPath,
    Independent,
    NoiseSampler,
    draws_of,
    is_source,
    noise_of_run,
)
from edmfast.sampling.noise.brownian import COMMON_NODES


def run(
    solver: Solver,
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    noise_sampler: NoiseSampler | None = None,
    seed: Any = None,
    rising: bool = True,
    compile: bool = False,
) -> Tensor:
    """Return the states at sigmas[-1] after a solver's plan, with k-diffusion's arguments and effects.

    noise_sampler: a function (sigma, sigma_next) -> standard normals like x, or None for noise from counters.
    seed: an integer, or one for each sample, of the noise from counters; None takes one draw of torch's generator.
    rising: the solver also takes levels that increase strictly.
    compile: run all steps as one compiled graph, with noise from counters and without a callback.
    Raises and warns as the samplers say.
    """
    levels = check_start(x, sigmas, rising=rising, repeated=True)
    plan = plan_of(solver, tuple(levels))
    requests = requests_of(plan)
    noise = noise_of_run(noise_sampler, x, seed=seed, path=solver.brownian, calls=len(requests))
    condition = dict(extra_args or {})

    def eager() -> Tensor:
        evaluate = Evaluate(model, condition, x)
        return run_plan(plan, evaluate, x, sigmas, noise, callback, disable, solver.threshold)

    if not compile:
        return checked_end(eager())
    if callback is not None or not is_source(noise):
        name = "callback" if callback is not None else "noise_sampler"
        raise ValueError(
            f"compile=True runs all steps as one graph, which cannot call the {name}: leave out one of the two"
        )
    # Draws of equal sizes let all grids of one length share a graph.
    least = COMMON_NODES if isinstance(noise, BrownianPath) else 0
    table = node_table(noise, requests, least)
    graph = runs_of(model)
    return checked_end(graph.run(plan, model, x, noise, table, solver.threshold, condition, eager))


def run_plan(
    plan: Plan,
    evaluate: Evaluate,
    x: Tensor,
    sigmas: Tensor,
    noise: Independent | BrownianPath | NoiseSampler,
    callback: Callback | None = None,
    disable: bool | None = True,
    threshold: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the states at the end of a plan that starts from x, step by step.

    sigmas: the levels for the callback. A foreign noise sampler receives levels of their dtype and device.
    """
    draws = draws_of(noise, requests_of(plan), x, sigmas)
    machine = Machine(plan, first_state(x, callback), draws, threshold)
    evaluate.results = Results(lifetime_of(plan), copied=callback is not None)
    levels = _levels_of_calls(plan, x)
    reported = -1
    with progress_bar(len(plan.steps), disable=disable) as bar:
        while (call := machine.next_call()) is not None:
            step = machine.step
            state = machine.registers[call.state]
            kept = call.kept or callback is not None
            held = [] if evaluate.careful else _versions(machine, state)
            denoised, unchanged = evaluate(state, next(levels), machine.again(), kept=kept)
            _refuse_changes(held)
            if unchanged is not state:
                machine.replace(state, unchanged)
            if callback is not None and reported < step:
                reported = step
                denoised = _reported(callback, machine, plan, sigmas, denoised)
            machine.feed(denoised)
            if machine.step > step:
                bar.update()
    return machine.registers["x"]


def _versions(machine: Machine, state: Tensor) -> list[tuple[Tensor, int]]:
    """Return the registers besides the state of a call, with their versions before it."""
    others = (tensor for tensor in machine.registers.values() if tensor is not state)
    return [(tensor, tensor._version) for tensor in others]


def _refuse_changes(held: list[tuple[Tensor, int]]) -> None:
    """Raise RuntimeError where a call has changed a register, which may be an earlier input of the model."""
    if any(tensor._version != version for tensor, version in held):
        raise RuntimeError(
            "the model changed in place an input or a result of an earlier call, which the sampler still needs: "
            "let it write to copies of its own"
        )


def _reported(
    callback: Callback, machine: Machine, plan: Plan, sigmas: Tensor, denoised: Tensor
) -> Tensor:
    """Call the callback at the machine's step, and return the denoised states with which the step goes on."""
    i, x = machine.step, machine.registers["x"]
    step = plan.steps[i]
    sigma_hat = (
        sigmas[i] if step.sigma_hat == step.sigma else sigmas[i] * (step.sigma_hat / step.sigma)
    )
    if not plan.slope_first:
        report(callback, x, i, sigmas[i], sigma_hat, denoised)
        return denoised
    # The slope is a function of these copies, which the callback cannot reach.
    start, result = x.clone(), denoised.clone()
    report(callback, x, i, sigmas[i], sigma_hat, denoised)
    machine.registers["x"], machine.moved = start, x - start
    return result


def _levels_of_calls(plan: Plan, x: Tensor) -> Iterator[Tensor]:
    """Return the noise levels [B] of all calls. Each has its own memory, because a model may write to it."""
    sigmas = [work.sigma for step in plan.steps for work in step.work if isinstance(work, Call)]
    return iter(x.new_tensor(sigmas)[:, None].repeat(1, len(x)).unbind())
