"""A solver's plan in the coordinates of a scheduler, whose calls return the outputs of a network.

Solvers speak of states x = x_0 + s eps and of denoised states D. A scheduler has samples alpha x and outputs with
D = a sample + b output. Both changes are linear, so they go into the coefficients of the plan, and a step still
has one pass for each of its combinations. Only denoised states that are needed later are computed in a pass of
their own, right after the call, because outputs belong to the caller and may be overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator

from edmfast.diffusers.coordinates import Frame
from edmfast.sampling.engine import Call, Combine, Expression, Plan, Step, register


def translated(plan: Plan, frame: Frame, end: float, raw: bool) -> Plan:
    """Return the plan for samples and outputs of a frame.

    end: the last level s of the run. raw: the machine is fed outputs; otherwise it is fed denoised states, which
        somebody has computed and may have changed, for instance by thresholding.

    The plan keeps its translations, as it is kept itself for the next run over the same levels.
    """
    key = frame, end, raw
    known: Plan | None = plan.prepared.get(key)
    if known is None:
        known = plan.prepared[key] = Plan(tuple(_steps(plan, frame, end, raw)), plan.slope_first)
    return known


def _steps(plan: Plan, frame: Frame, end: float, raw: bool) -> Iterator[Step]:
    scales = {"x": _alpha(frame, plan.steps[0].sigma)} if plan.steps else {}
    calls = [work for step in plan.steps for work in step.work if isinstance(work, Call)]
    done = 0
    for step in plan.steps:
        own = sum(isinstance(work, Call) for work in step.work)
        writer = _Step(step, frame, scales, raw)
        after = calls[done + own].sigma if done + own < len(calls) else end
        yield Step(step.sigma, tuple(writer.work(after)), step.keep, step.sigma_hat)
        scales = writer.kept()
        done += own


def _alpha(frame: Frame, level: float) -> float:
    return frame.alpha(frame.sigma_of_level(level))


class _Step:
    """The translation of one step. scales: the factor alpha of every register that holds samples."""

    def __init__(self, step: Step, frame: Frame, scales: dict[str, float], raw: bool) -> None:
        self.step, self.frame, self.raw = step, frame, raw
        self.scales = dict(scales)
        self.outputs: dict[str, Expression] = {}

    def work(self, after: float) -> Iterator[Call | Combine]:
        """Yield the work of the step. after: the level of the call that follows the step."""
        level = self.step.sigma
        for place, work in enumerate(self.step.work):
            if isinstance(work, Call):
                level = work.sigma
                self.scales[work.out] = 1.0
                yield from self._call(work, place)
                continue
            alpha = _alpha(self.frame, self._level_of(work, place, level, after))
            value = self._value(work.value) * alpha
            yield Combine(work.out, value, work.noise * alpha, work.interval, work.always)
            self.scales[work.out] = alpha
            # The outputs were those of the samples that are gone now.
            self.outputs = {
                name: output
                for name, output in self.outputs.items()
                if work.out not in output.terms and name != work.out
            }

    def kept(self) -> dict[str, float]:
        """Return the scales of the registers at the start of the next step."""
        names = {new: self.scales[old] for new, old in self.step.keep}
        return {"x": self.scales["x"], **names}

    def _call(self, call: Call, place: int) -> Iterator[Call | Combine]:
        if not self.raw:
            yield call
            return
        a, b = self.frame.denoised(self.frame.sigma_of_level(call.sigma))
        if a == 0 and b == 1:
            yield call
            return
        network = f"output of {call.out}"
        denoised = a * register(call.state) + b * register(network)
        yield Call(call.sigma, call.state, network)
        self.outputs[call.out] = denoised
        if self._outlives(call, place):
            yield Combine(call.out, denoised)

    def _outlives(self, call: Call, place: int) -> bool:
        """Return whether the denoised states of a call are needed after its sample is gone, or another call."""
        if any(old == call.out for _, old in self.step.keep):
            return True
        gone = False
        for work in self.step.work[place + 1 :]:
            if isinstance(work, Call):
                gone = True
            elif gone and call.out in work.value.terms:
                return True
            elif work.out == call.state:
                gone = True
        return False

    def _value(self, value: Expression) -> Expression:
        total = Expression({})
        for name, coefficient in value.terms.items():
            term = self.outputs.get(name, register(name) / self.scales.get(name, 1.0))
            total = total + coefficient * term
        return total

    def _level_of(self, work: Combine, place: int, level: float, after: float) -> float:
        """Return the level of the samples that a combination makes, or 0 for what are no samples."""
        later = self.step.work[place + 1 :]
        for following in later:
            if isinstance(following, Call) and following.state == work.out:
                return following.sigma
            if isinstance(following, Combine) and following.out == work.out:
                break
        last = dict(self.step.keep).get("x", "x")
        if work.out == last and not any(item.out == last for item in later):
            return after
        # Samples are averages of samples, and slopes are differences. For what is neither, any level is right,
        # since `scales` remembers the factor; a fitting one keeps the numbers of one size.
        return level if round(sum(work.value.terms.values())) == 1 else 0.0
