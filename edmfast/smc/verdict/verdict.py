"""The verdict on a run's weights: a level, the reasons for it, advice, and what was not judged."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("ok", "doubtful", "degenerate")
"""The levels of a verdict, from the best to the worst."""


@dataclass(frozen=True)
class Verdict:
    """A judgement of the weights of a run, made from the record of the run itself.

    A verdict is true, as a bool, where nothing speaks against the weights. str() gives a readable text.
    """

    level: str
    """"ok", "doubtful" or "degenerate"."""
    reasons: tuple[str, ...] = ()
    """Sentences with the numbers that speak against the weights, the worst one first."""
    advice: tuple[str, ...] = ()
    """Changes that may help, in the order of the reasons."""
    not_judged: tuple[str, ...] = ()
    """Properties of the result that the record of this run gives no evidence of."""

    def __bool__(self) -> bool:
        """Return True where nothing speaks against the weights."""
        return self.level == "ok"

    def __str__(self) -> str:
        """Return the level, then a line for each reason, each advice and each gap."""
        lines = [self.level]
        lines += [f"  {reason}" for reason in self.reasons]
        lines += [f"  try: {step}" for step in self.advice]
        lines += [f"  not judged: {gap}" for gap in self.not_judged]
        return "\n".join(lines)

    @property
    def short(self) -> str:
        """The worst reason and the advice, in one line."""
        if not self.reasons:
            return self.level
        steps = "; or ".join(self.advice)
        return f"the weights of this run are {self.level}: {self.reasons[0]}. You can {steps}."


@dataclass(frozen=True)
class Finding:
    """One observation that speaks against the weights."""

    rank: int
    """The index of a level in `LEVELS`: 1 for doubtful, 2 for degenerate."""
    reason: str
    advice: tuple[str, ...]
