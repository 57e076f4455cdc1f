"""The results of a model that a run needs after later calls, protected against models that write to them again.

A model may return a buffer that it overwrites at a later call. A copy of every result would cost a third of a step
of a multistep solver on the CPU, so a model is tried first: the run works with copies of its first results, until
each of them has outlived as many calls as the solver keeps results. A model that has left all of them alone may
keep the memory of its results from then on, and one that has not gets copies to the end of the run. A later change
shows in the tensor's version counter, and is an error, because the result is lost.
"""

from __future__ import annotations

from collections import deque

from torch import Tensor

from edmfast.ops._shared.door import same_bits
from edmfast.sampling.engine.plan import Call, Plan


class Results:
    """The kept results of one run.

    lifetime: the number of later calls that a result may have to outlive. copied: copy all of them, for a callback
        that may write to them.
    trusted: the model has left its first results alone.
    """

    def __init__(self, lifetime: int, *, copied: bool = False) -> None:
        self.trusted = False
        self._lifetime, self._copied = lifetime, copied
        self._tried: list[tuple[Tensor, Tensor]] = []
        self._calls, self._survived = 0, 0
        # A state that is computed once more needs results of one more call.
        self._lent: deque[tuple[int, Tensor, int]] = deque(maxlen=lifetime + 1)

    def check(self, *, again: bool = False) -> None:
        """Look after a call what the model has done to its earlier results.

        again: the state of the call must be computed once more, from results that may be one call older.
        Raises RuntimeError where the model has changed a result that is lost.
        """
        self._calls += 1
        oldest = self._calls - self._lifetime - again
        for call, tensor, version in self._lent:
            if call >= oldest and tensor._version != version:
                raise RuntimeError(
                    f"the model changed in place, in its call number {self._calls}, the result of its call "
                    f"number {call}, which the sampler still needs: return new tensors"
                )
        if not self._tried:
            return
        self._survived += 1
        if not all(same_bits(result, copy) for result, copy in self._tried):
            self._copied = True
            self._tried.clear()
        elif self._survived >= self._lifetime:
            self.trusted = True
            self._tried.clear()

    def keep(self, result: Tensor) -> Tensor:
        """Return the result of the last call, or a copy of it where the model may write to it again."""
        if self.trusted:
            self._lent.append((self._calls, result, result._version))
            return result
        copy = result.clone()
        if not self._copied:
            self._tried.append((result, copy))
        return copy


def lifetime_of(plan: Plan) -> int:
    """Return the number of later calls that a result of the plan may have to outlive, at least 1."""
    lifetime: int | None = plan.prepared.get("lifetime")
    if lifetime is None:
        calls = max(sum(isinstance(work, Call) for work in step.work) for step in plan.steps)
        kept = max(len(step.keep) for step in plan.steps)
        lifetime = plan.prepared["lifetime"] = max(1, kept * calls + calls - 1)
    return lifetime
