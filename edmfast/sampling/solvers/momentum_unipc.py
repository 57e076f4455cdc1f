"""UniPC with Polyak's heavy ball on the increments of its predictor and of its corrector.

A step of UniPC with denoised states is x' = (sigma_next / sigma) x + (1 - sigma_next / sigma) m, with a
combination m of denoised states. With momentum and a damping beta,

    v = (1 - beta) v + beta m / s,   x' = (sigma_next / sigma) x + (1 - sigma_next / sigma) s v,

where s = sigma_next / sqrt(1 + sigma_next²) is the noise level of the variance-preserving process, in whose units
the increments are averaged. Predictor and corrector have a v each, which starts at its first m / s.
Source: Wizadwongsa et al. 2023, arXiv 2307.11118, whose code leaves the momentum of the predictor without effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edmfast._internal.numbers import as_float
from edmfast.sampling.engine import Call, Combine, Expression, Step, register
from edmfast.sampling.solvers.shared.fields import hold
from edmfast.sampling.solvers.shared.taylor import Point, taylor_step
from edmfast.sampling.solvers.unipc import UniPC

X = register("x")


@dataclass(frozen=True)
class UniPCHeavyBall(UniPC):
    """UniPC with momentum, in one call a step. A step to 0 ends at the denoised states.

    Args:
        order: p, from 1 to 6, and the further arguments of `UniPC`, of which prediction must be "denoised".
        beta: the damping, above 0 and at most 1, which is UniPC itself. With less than 1 the order of accuracy
            is 1.

    Source: Wizadwongsa et al. 2023, arXiv 2307.11118.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    beta: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction != "denoised":
            raise ValueError(
                f"prediction must be 'denoised' for UniPC with momentum, got {self.prediction!r}"
            )
        hold(self, beta=as_float("beta", self.beta, positive=True, most=1))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        last = len(levels) - 2
        kinds = [self._kind(i, last + 1) for i in range(last + 1)]
        started: set[str] = set()
        for i, sigma in enumerate(levels[:-1]):
            known = min(i, self.order)
            points = [
                Point(levels[i - k], X, register(f"D{k}" if k else "D")) for k in range(known + 1)
            ]
            work: list[Call | Combine] = [Call(sigma)]
            base, corrector = "x", kinds[i - 1].corrector if i else None
            if corrector is not None:
                others = {-1: points[0], **dict(enumerate(points[2:], 1))}
                start = register("start")
                moved = taylor_step(start, points[1], sigma, "denoised", corrector, others)
                work += self._damped("start", "c", moved, levels[i - 1], sigma, started)
                base = "c"
            others = dict(enumerate(points[1:], 1))
            moved = taylor_step(
                register(base),
                points[0],
                levels[i + 1],
                "denoised",
                kinds[i].derivatives,
                others,
            )
            work += self._damped(base, "y", moved, sigma, levels[i + 1], started)
            keep = [("x", "y")]
            if i < last:
                keep += [
                    (f"D{k + 1}", f"D{k}" if k else "D") for k in range(min(known + 1, self.order))
                ]
                keep += [("start", base)] if kinds[i].corrector is not None else []
                keep += [(f"v{out}1", self._velocity(out, work)) for out in sorted(started)]
            yield Step(sigma, tuple(work), tuple(keep))

    def _damped(
        self,
        base: str,
        out: str,
        moved: Expression,
        sigma: float,
        sigma_next: float,
        started: set[str],
    ) -> list[Combine]:
        """Return the work of a step that would move to `moved` without momentum. started: known velocities."""
        if sigma_next == 0:
            return [Combine(out, moved)]
        ratio = sigma_next / sigma
        scale = (1 - ratio) * sigma_next / math.sqrt(1 + sigma_next**2)
        # All of a step beside its start are denoised states.
        terms = {name: value for name, value in moved.terms.items() if name != base}
        velocity = Expression(terms) / scale
        if out in started:
            velocity = (1 - self.beta) * register(f"v{out}1") + self.beta * velocity
        started.add(out)
        name = f"v{out}"
        return [
            Combine(name, velocity),
            Combine(out, ratio * register(base) + scale * register(name)),
        ]

    @staticmethod
    def _velocity(out: str, work: list[Call | Combine]) -> str:
        """Return the register that holds a velocity at the end of a step, which may not have changed it."""
        changed = any(isinstance(item, Combine) and item.out == f"v{out}" for item in work)
        return f"v{out}" if changed else f"v{out}1"
