"""The machine that executes a plan. It stops at every model call, and goes on when it is fed the denoised states.

    machine = Machine(plan, x, draws)
    while (call := machine.next_call()) is not None:
        machine.feed(denoiser(machine.registers[call.state], call.sigma))
    x = machine.registers["x"]

A sampler runs this loop at once. Another caller may feed one result at a time, and may replace registers in
between: the machine does nothing of the next step before it is asked for its call. It reads no value of a tensor,
so a step on an accelerator never waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.ops.linear_combination import linear_combination
from edmfast.sampling.engine import host
from edmfast.sampling.engine.draws import Coefficients, Draw
from edmfast.sampling.engine.plan import Call, Combine, Plan, Step


class Pass(NamedTuple):
    """A combination that is ready to run.

    names: the registers that it reads. coefficients: floats for states on the CPU, and a tensor elsewhere.
    noisy: it adds fresh noise.
    moved: the factor of what a callback adds to the start of the step, 1 for states and 0 for slopes.
    """

    out: str
    names: tuple[str, ...]
    coefficients: Coefficients
    noisy: bool
    moved: float


class End(NamedTuple):
    """The end of a step: the registers that are kept, by their new and their old names."""

    keep: tuple[tuple[str, str], ...]


Item = Call | Pass | End


class Machine:
    """One run of a plan over states x [B, *shape].

    Args:
        plan: the steps.
        x: the states at the first level, [B, *shape]. They are read and never changed.
        draws: the fresh noise of the plan, in the order of its requests; see `requests_of`.
        threshold: a function that is applied to the denoised states of every call, or None.
        items: the work of the plan with coefficients of the caller's own, for a trace.

    Attributes:
        registers: the tensors by name; "x" holds the states.
        step: the number of the step that the machine is in, from 0.
        moved: what a callback added to the start of the present step, or None. The runner of a plan whose slopes
            come first sets it, and it enters all states of the step.

    Raises:
        RuntimeError: denoised states that no call waits for.
    """

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        draws: Iterator[Draw] | None = None,
        threshold: Callable[[Tensor], Tensor] | None = None,
        items: list[Item] | None = None,
    ) -> None:
        self.registers: dict[str, Tensor] = {"x": x}
        self.step = 0
        self.moved: Tensor | None = None
        self._threshold = threshold
        self._draws = iter(()) if draws is None else draws
        self._items = prepared(plan, x.device) if items is None else items
        self._next = 0
        # Only calls on the CPU go without a copy of the state, see `calls`.
        self._remembers = host.is_host(x.device)
        self._last: Callable[[], Tensor] | None = None
        self._last_out = ""

    def next_call(self) -> Call | None:
        """Return the next model call after the work before it, or None where the plan has ended."""
        while self._next < len(self._items):
            item = self._items[self._next]
            if isinstance(item, Call):
                return item
            self._do(item)
        return None

    def feed(self, denoised: Tensor) -> None:
        """Take the denoised states of the next call, and work until another call or until the step has ended.

        Raises RuntimeError where no call is pending.
        """
        call = self._items[self._next] if self._next < len(self._items) else None
        if not isinstance(call, Call):
            raise RuntimeError(
                "feed takes the denoised states of the call that next_call has returned, and none is pending"
            )
        self.registers[call.out] = self._threshold(denoised) if self._threshold else denoised
        self._next += 1
        while not isinstance(item := self._items[self._next], Call):
            self._do(item)
            if isinstance(item, End):
                return

    def again(self) -> Callable[[], Tensor] | None:
        """Return a function that computes the state of the next call once more, None where no pass has made it.

        A model may have changed the state in place. The function holds what the state was made of.
        """
        call = self._items[self._next]
        made = isinstance(call, Call) and self._last_out == call.state
        return self._last if made else None

    def replace(self, tensor: Tensor, by: Tensor) -> None:
        """Put another tensor into every register that holds `tensor`."""
        for name, value in self.registers.items():
            if value is tensor:
                self.registers[name] = by

    def _do(self, item: Pass | End) -> None:
        self._next += 1
        registers = self.registers
        if isinstance(item, End):
            kept = {new: registers[old] for new, old in item.keep}
            self.registers = {"x": registers["x"], **kept}
            # The states of the next call may have been made under another name.
            if ("x", self._last_out) in item.keep:
                self._last_out = "x"
            self.step += 1
            self.moved = None
            return
        tensors = [registers[name] for name in item.names]
        draw = next(self._draws) if item.noisy else None
        moved = self.moved if item.moved else None
        made = partial(_combined, tensors, item.coefficients, draw, moved)
        registers[item.out] = made()
        if self._remembers:
            self._last, self._last_out = made, item.out


def _combined(
    tensors: list[Tensor], coefficients: Coefficients, draw: Draw | None, moved: Tensor | None
) -> Tensor:
    combine = linear_combination if draw is None else draw.combined
    result = combine(tensors, coefficients)
    return result if moved is None else result.add_(moved)


def requests_of(plan: Plan) -> list[tuple[float, tuple[float, float]]]:
    """Return the coefficient and the interval of noise levels of every draw of a plan, in order."""
    return [
        (work.noise, work.interval)
        for step in plan.steps
        for work in step.work
        if isinstance(work, Combine) and work.draws
    ]


def prepared(plan: Plan, device: torch.device) -> list[Item]:
    """Return the work of all steps as one list, with coefficients for states on a device. The plan keeps it."""
    items: list[Item] | None = plan.prepared.get(device)
    if items is None:
        items = []
        slopes: set[str] = set()
        for step in plan.steps:
            for k, work in enumerate(step.work):
                if isinstance(work, Call):
                    items.append(replace(work, kept=_is_kept(work.out, step, k)))
                else:
                    item = _pass_of(work, device, slopes)
                    slopes = slopes - {item.out} if item.moved else slopes | {item.out}
                    items.append(item)
            slopes = {new for new, old in step.keep if old in slopes}
            items.append(End(step.keep))
        plan.prepared[device] = items
    return items


def _is_kept(name: str, step: Step, k: int) -> bool:
    """Return whether the result of the call that is work number k of a step is read after a later call."""
    later_call = False
    for work in step.work[k + 1 :]:
        if isinstance(work, Call):
            later_call = True
        elif later_call and name in work.value.terms:
            return True
    return any(old == name for _, old in step.keep)


def _pass_of(combine: Combine, device: torch.device, slopes: set[str]) -> Pass:
    """Return a combination that is ready to run. slopes: the registers that hold slopes."""
    terms = combine.value.terms
    # A term without weight would cost a pass over its tensor; one term must stay to give the shape.
    names = tuple(name for name, value in terms.items() if value) or tuple(terms)[:1]
    coefficients: Coefficients = tuple(terms[name] for name in names)
    # A kernel on an accelerator reads its coefficients there, so that no step copies from the host.
    if not host.is_host(device):
        coefficients = torch.tensor(coefficients, dtype=torch.float64, device=device)
    # States are averages of states plus slopes, so the coefficients of states sum to 1; those of a
    # slope sum to 0. `plan_of` refuses other sums where a callback may move the start.
    moved = float(round(sum(value for name, value in terms.items() if name not in slopes)))
    return Pass(combine.out, names, coefficients, combine.draws, moved)
