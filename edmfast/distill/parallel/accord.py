"""The messages by which the ranks of a run stop together: one of them has failed, or was interrupted.

The other ranks would wait for a rank that leaves, until the timeout of their group. So a rank that has failed
alone takes part in their messages, with NaN as its loss, up to the step in which all ranks look at the signals. No
rank updates its weights meanwhile.

Where the weights are shared out, an evaluation of the loss has messages inside, in which a failed rank cannot take
part. There the ranks ask each other before each evaluation. An error inside it stays that of one rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edmfast.distill.parallel.replicas import Replicas, failure_of


class Accord:
    """The signals of the ranks of one run.

    replicas: the ranks. sharded: they share out the weights. steps: the number of steps of the run. looks:
    looks(n) is true where all ranks look at the signals of step n, counted from one. done: the number of steps
    whose losses are averaged. agreed: all ranks know that the run stops here. inside: this rank is among messages
    that only ranks without an error can send.
    """

    def __init__(
        self, replicas: Replicas, sharded: bool, steps: int, looks: Callable[[int], bool]
    ) -> None:
        self.replicas, self.sharded = replicas, sharded
        self.steps, self.looks, self.done = steps, looks, 0
        self.agreed, self.inside = replicas.size == 1, False

    def before_evaluation(self) -> None:
        """Make sure that all ranks evaluate the loss, where that needs all of them.

        Raises RuntimeError where another rank has failed.
        """
        if not self.sharded:
            return
        self.inside = True
        self._raise_failure(self.replicas.failed(False))

    def average(self, loss: Tensor, gradients: Sequence[Tensor], interrupted: bool) -> Tensor:
        """Replace loss and gradients by their means over all ranks, and return the signals [1 + ranks].

        The first signal is positive where an interrupt was requested on any rank, and the others where that rank
        has failed. They travel with the gradients, and cost no message of their own.
        """
        signals = loss.new_zeros(1 + self.replicas.size)
        signals[0] = float(interrupted)
        self._send(loss, gradients, signals)
        return signals

    def look(self, signals: Tensor) -> None:
        """Raise RuntimeError where the signals say that another rank has failed."""
        self._raise_failure(signals[1:])

    def finish(self) -> None:
        """Wait until all ranks have done their steps. Raises RuntimeError where another rank has failed."""
        self._raise_failure(self.replicas.failed(False))

    def _raise_failure(self, flags: Tensor) -> None:
        if bool(flags.any()):
            self.agreed = True
            raise failure_of(flags)

    def tell(self, error: Exception, losses: Tensor, parameters: Sequence[Tensor]) -> None:
        """Let the other ranks know of an error of this rank, where they do not know and can be told.

        losses: a tensor of the dtype of the losses. parameters: those that have gradients.
        """
        if self.agreed or self.inside:
            return
        # the other ranks may take long, or may be gone, so that the error is shown before
        warnings.warn(
            f"rank {self.replicas.rank} stops with the error {error!r}, and tells the other ranks of it",
            RuntimeWarning,
            stacklevel=4,
        )
        try:
            self._take_part(losses, parameters)
        except RuntimeError:  # the others are gone, and the first error is the one to raise
            return
        self.agreed = True

    def _take_part(self, losses: Tensor, parameters: Sequence[Tensor]) -> None:
        gradients = (
            [] if self.sharded else [torch.zeros_like(parameter) for parameter in parameters]
        )
        while not self.sharded and self.done < self.steps:
            signals = losses.new_zeros(1 + self.replicas.size)
            signals[1 + self.replicas.rank] = 1.0
            self._send(losses.new_full((), torch.nan), gradients, signals)
            if self.looks(self.done):
                return
        self.replicas.failed(True)

    def _send(self, loss: Tensor, gradients: Sequence[Tensor], signals: Tensor) -> None:
        self.inside = True
        # gradients of pieces are averages already
        self.replicas.average([loss, *([] if self.sharded else gradients), signals])
        self.done += 1
        # the norm, the update and the checkpoint of shares need all ranks too
        self.inside = self.sharded
