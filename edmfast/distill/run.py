"""The loop over training steps, and the checkpoints written on the way."""

from __future__ import annotations

import functools
import math
import os
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from edmfast._internal.atomic_write import write_or_fall_back
from edmfast._internal.progress import progress_bar
from edmfast.distill.averages.snapshots import Snapshots
from edmfast.distill.batch import Batch, BatchSource
from edmfast.distill.blame import blame, levels_of
from edmfast.distill.config import DistillConfig
from edmfast.distill.first_batch import FIRST_ROWS, check_first_batch, numbers_of
from edmfast.distill.gradients import gradient_function
from edmfast.distill.interrupt import Interrupt
from edmfast.distill.keeping import best_of, keep_best, keep_step
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.parallel import Accord, Replicas, parts_of
from edmfast.distill.recording import Logger
from edmfast.distill.recording.measures import Recorder, memory_gib
from edmfast.distill.state import RunState
from edmfast.distill.teacher_and_student import training_modes
from edmfast.models.patching.dropout import row_seeds
from edmfast.models.recomputing.blocks import blocks_of, checkpointed_blocks, recomputing_blocks

_STEPS_BETWEEN_CHECKS = 20
"""Steps between checks of the losses on a device for which a check makes the host wait."""


class TrainingRun:
    """A training run: the loop over its steps, its checkpoints, and the reports when it stops early.

    path: the checkpoint to write, None to write one only when interrupted. loss: the loss around the student, by
    default that of denoisers and energies. replicas: the ranks of the run, of which the first one writes.
    loggers: receivers of the measures. written: the last checkpoint written. behind: steps were counted since
    another rank failed. not_finite: the run stops because of its numbers.
    """

    def __init__(
        self,
        state: RunState,
        make_batch: BatchSource,
        path: Path | None,
        loss: TrainingLoss | None = None,
        replicas: Replicas | None = None,
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.state, self.make_batch, self.path = state, make_batch, path
        config, device = state.config, state.parameters[0].device
        self.replicas = Replicas(None, device) if replicas is None else replicas
        self.rows = parts_of(
            config.batch_size,
            config.accumulate,
            self.replicas.rank,
            self.replicas.size,
            config.groups_needed,
            config.rows_together,
        )
        recomputing = recomputing_blocks(state.student) or state.sharding is not None
        if config.activation_checkpointing and not recomputing:
            blocks_of(state.student)  # it raises for a student without blocks
        if loss is None:
            loss = TrainingLoss(
                state.student,
                config.difference_weight,
                config.autocast_dtype,
                config.value_weight,
                config.fokker_planck_weight,
                config.time_score_weight,
            )
        module: nn.Module = loss if state.sharding is None else state.sharding.around(loss)
        named = {f"student.{name}": p for name, p in state.trained.items()}
        self.gradients = gradient_function(module, named, compile=config.compile)
        self.snapshots = Snapshots(state, self.replicas.speaks)
        self.check_every = 1 if device.type == "cpu" else _STEPS_BETWEEN_CHECKS
        self.generator_state = make_batch.generator.get_state()
        self.written: Path | None = None
        self.write_failed = False
        self.first: Batch | None = None
        self.interrupt = Interrupt()
        self.behind = self.not_finite = False
        # a method of this object would keep it, and its process group, alive
        self.checks_at = functools.partial(_checks_at, config, self.snapshots, self.check_every)
        sharded = state.sharding is not None
        self.accord = Accord(self.replicas, sharded, config.steps, self.checks_at)
        speaking = loggers if self.replicas.speaks else ()
        self.recorder = Recorder(state, speaking, config.log_every)
        # a bad step is noticed at the next check, and its batch is then drawn again
        self.recent: deque[tuple[int, torch.Tensor]] = deque(maxlen=self.check_every)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Continue from a checkpoint of this run. Raises ValueError where it belongs to another run."""
        # everything is checked on all ranks before the first tensor changes
        with self.replicas.together():
            groups, step = self.state.read(path, functools.partial(self._check, path))
        with self.replicas.together():
            self.generator_state = self.state.take(path, groups, step)
        self.make_batch.generator.set_state(self.generator_state)
        self.written = Path(path)

    def _check(self, path: str | os.PathLike[str], metadata: dict[str, Any], step: int) -> None:
        """Raise ValueError for a checkpoint of other data or of another teacher.

        Checkpoints of earlier versions may lack the entries that are compared.
        """
        state, maker = self.state, self.make_batch
        # the digest finds other data without a call of the teacher
        digest, first = metadata.get("data_digest"), metadata.get("first_batch")
        if digest is not None and digest != maker.data.digest():
            raise ValueError(
                f"{path} belongs to another run: the numbers of its data differ from these"
            )
        kept = {"first_batch": first, "best_loss": metadata.get("best_loss")}
        state.metadata |= {name: value for name, value in kept.items() if value is not None}
        if first is None or step == 0:
            return

        was_training = state.student.training
        with training_modes(state.student, maker.model):
            check_first_batch(path, first, maker.first_batch, len(maker.compared))
        state.student.train(was_training)

    def train(self, interrupt: Interrupt, progress: bool) -> float:
        """Do the remaining steps and return the steps per second; a run that stops early saves what it did.

        Raises what stopped it: KeyboardInterrupt with the place of the checkpoint, or an error.
        """
        try:
            return self._do_or_save(interrupt, progress)
        except BaseException:
            self._give_back()
            raise

    def _do_or_save(self, interrupt: Interrupt, progress: bool) -> float:
        """Do the remaining steps and return the steps per second; a run that stops early saves what it did."""
        state = self.state
        # a rank that stops alone cannot gather the shares of the others
        sharded = state.sharding is not None
        recomputing = state.config.activation_checkpointing and not sharded
        try:
            with checkpointed_blocks(state.student) if recomputing else nullcontext():
                return self.do_remaining_steps(interrupt, progress)
        except KeyboardInterrupt:
            if sharded and not self.accord.agreed:
                raise
            message = self.save_interrupted()
            # the caller may catch the interrupt, so the place of the checkpoint is written as well
            tqdm.write(message, file=sys.stderr)
            raise KeyboardInterrupt(message) from None
        except Exception as error:
            # the message about numbers that are not finite already says what was kept
            if self.not_finite:
                raise
            self.accord.tell(error, state.losses, state.parameters)
            if self.path is not None and (self.accord.agreed or not sharded):
                self.save_after(error)
            raise

    def _give_back(self) -> None:
        """Give the student its whole weights after an error, or NaN where other ranks do not send their shares."""
        if self.accord.agreed:
            self.state.release()
        elif self.state.abandon():
            kept = "there is no checkpoint"
            if self.written:
                kept = f"load_ema reads those of the last checkpoint, {self.written}"
            warnings.warn(
                f"rank {self.replicas.rank} stops alone in a run with shard=True, so that the other ranks do not "
                f"send their shares: the weights of its student are NaN now, and {kept}",
                RuntimeWarning,
                stacklevel=4,
            )

    def do_remaining_steps(self, interrupt: Interrupt, progress: bool) -> float:
        """Do the remaining steps and return the steps per second, NaN for fewer than two."""
        state, steps = self.state, self.state.config.steps
        first, started = state.step, time.perf_counter()
        self.accord.done = first
        progress = progress and self.replicas.speaks
        bar = progress_bar(steps, desc=state.config.mode, initial=first, disable=not progress)
        self.interrupt = interrupt
        # the source of the batches keeps the function, which would keep this run and its process group alive
        alone = self.replicas.size == 1

        def stop_if_requested() -> None:
            # one rank alone must not stop, because the others would wait for its gradients
            if interrupt.requested and alone:
                raise KeyboardInterrupt

        # a pool of paths takes long, so that it must not delay an interrupt
        self.make_batch.between = stop_if_requested
        with bar:
            while state.step < steps:
                # an interrupted step is repeated, so that its draws must be those of the first try
                self.generator_state = self.make_batch.generator.get_state()
                self.recent.append((state.step, self.generator_state))
                # messages between here and the evaluation wait for all ranks
                self.accord.inside = False
                stop_if_requested()
                self._do_step(bar)
                # the clock starts after the first step, which may warm up and compile
                if state.step == first + 1:
                    started = time.perf_counter()
                    self.recorder.start_clock()
                self.recorder.after_step()
        # the last checkpoint is complete on return, and no rank leaves while another one still sends
        self.accord.finish()
        self.replicas.end()
        done = state.step - first - 1
        return done / (time.perf_counter() - started) if done > 0 else float("nan")

    def _do_step(self, bar: Any) -> None:
        state, config = self.state, self.state.config
        loss, gradients, signals = self._loss_and_gradients()
        state.record(loss, gradients)
        if state.step == 0:
            self._warn_of_no_gradient()
        done = state.step + 1
        saving, checking = _saves_at(config, done), self.checks_at(done)
        # a check before each save keeps bad weights out of checkpoints
        if checking:
            if signals is not None:
                self._check_ranks(signals)
            self._check_losses(bar)
        state.update()
        # an error after the step must not save it with the generator of the step before
        self.generator_state = self.make_batch.generator.get_state()
        bar.update()
        if self.snapshots.due(done):
            self.snapshots.write()
        if saving and self.path is not None:
            self._save(self.path, self.generator_state, last=done == config.steps)
        if checking and signals is not None and bool(signals[0] > 0):
            self.accord.agreed = True
            raise KeyboardInterrupt

    def _check_ranks(self, signals: torch.Tensor) -> None:
        """Raise RuntimeError where another rank has failed."""
        try:
            self.accord.look(signals)
        except RuntimeError:
            # the steps since the failure changed no weights, and must not count as done
            bad = self.state.first_bad_step()
            self.behind = bad is not None and bad < self.state.step
            raise

    def _warn_of_no_gradient(self) -> None:
        """Warn where the gradient of the first step is exactly zero, from where no training starts."""
        if self.replicas.speaks and float(self.state.norms[0]) == 0:
            warnings.warn(
                "the gradient of the first step is zero, so that the student may never learn: a potential='norm' "
                "needs a network that does not return zeros, such as one whose last layer has random weights",
                RuntimeWarning,
                stacklevel=2,
            )

    def _loss_and_gradients(self) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """Return the loss [] of the next batch and its gradients, as means over all parts and ranks.

        The third result is None for one rank, and the signals of several ranks; see `Accord.average`.
        """
        state, device = self.state, self.state.parameters[0].device
        # all ranks draw the whole batch, and each evaluates its own rows
        drawn = self.make_batch.draw(state.step)
        total: list[torch.Tensor] = []
        for rows in self.rows:
            self.accord.inside = False
            batch = self.make_batch.part(drawn, rows)
            if state.step == 0 and rows.start == 0:
                names = self.make_batch.compared
                self.first = {name: batch[name][:FIRST_ROWS].clone() for name in names}
            # the masks of dropout follow from seed, step and row, in every resumed run alike
            batch["dropout_seeds"] = row_seeds(state.config.seed, state.step, rows, device)
            self.accord.before_evaluation()
            loss, gradients = self.gradients(batch)
            if len(self.rows) == 1:
                total = [loss, *gradients]
            elif total:
                torch._foreach_add_(total, [loss, *gradients], alpha=1 / len(self.rows))
            else:
                total = [*torch._foreach_div([loss, *gradients], len(self.rows))]
        if self.replicas.size == 1:
            return total[0], total[1:], None
        # a failed rank sends a loss of this dtype
        loss = total[0].to(state.losses.dtype)
        signals = self.accord.average(loss, total[1:], self.interrupt.requested)
        return loss, total[1:], signals

    def _check_losses(self, bar: Any) -> None:
        """Show the recent loss. Raises FloatingPointError where a loss or gradient is not finite."""
        state = self.state
        bad = state.first_bad_step()
        if bad is not None:
            kept = (
                f"the last checkpoint is {self.written}"
                if self.written
                else "there is no checkpoint"
            )
            # the bad gradients must not remain in the caller's parameters
            state.optimiser.zero_grad()
            # the averages of loss and gradients are the same on all ranks
            self.accord.agreed = self.not_finite = True
            state.release()
            cause = self._blame(bad)
            raise FloatingPointError(
                f"step {bad}: loss {state.losses[bad].item():g}, gradient norm "
                f"{state.norms[bad].item():g}; {cause}training stopped, {kept}"
            )
        if not bar.disable:
            # single losses vary with the noise levels of their batch
            recent = state.losses[max(0, state.step - 50) : state.step + 1]
            memory = f"{memory_gib(state.losses.device):.3g} GiB"
            bar.set_postfix(loss=f"{recent.mean().item():.4g}", memory=memory, refresh=False)

    def _blame(self, bad: int) -> str:
        """Return what was not finite in a step that is not long past, followed by a semicolon."""
        for step, generator_state in self.recent:
            if step != bad:
                continue
            self.make_batch.generator.set_state(generator_state)
            try:
                return f"{self._cause(bad)}; "
            # the error about the loss must not be hidden by one of the search
            except Exception as failure:
                return f"the batch could not be made again ({failure!r}); "
        return ""

    def _cause(self, bad: int) -> str:
        """Return what is not finite in the batch that follows from the generator's state."""
        drawn, levels = self.make_batch.draw(bad), []
        for rows in self.rows:
            batch = self.make_batch.part(drawn, rows)
            found = blame(self.state.student, batch, rows)
            if found is not None:
                return found
            levels.append(batch.get("sigma", torch.empty(0)))
        sigma = torch.cat(levels)
        return levels_of(sigma) if len(sigma) else "every row of the batch is finite now"

    def save_interrupted(self) -> str:
        """Write a checkpoint of the steps done, and return a sentence that says where it is."""
        # weights and average belong to different steps within an update
        if not self.state.whole or self.behind:
            return f"interrupted within an update: nothing saved, the last checkpoint is {self.written}"
        name = f"edmfast-distill-{os.getpid()}.safetensors"
        self._save(self.path or Path(tempfile.gettempdir()) / name, self.generator_state, last=True)
        kept = str(self.written)
        return f"interrupted at step {self.state.step}: continue with resume_from={kept!r}"

    def save_after(self, error: Exception) -> None:
        """Write a checkpoint after an error, and warn with its place or with the reason why there is none."""
        try:
            message = self.save_interrupted()
        except Exception as failure:
            message = f"the steps done could not be written: {failure!r}"
        # the other ranks would only say the same
        if self.replicas.speaks:
            warnings.warn(f"training stopped by {error!r}: {message}", RuntimeWarning, stacklevel=4)

    def _describe_data(self) -> None:
        """Add the data's digest and the first batch to the metadata of checkpoints, once, as it takes time."""
        metadata = self.state.metadata
        if "data_digest" not in metadata:
            metadata["data_digest"] = self.make_batch.data.digest()
        if self.first is not None:
            metadata["first_batch"], self.first = numbers_of(self.first), None

    def _best_loss(self, path: Path) -> float | None:
        """Return the mean loss since the last checkpoint where it is the lowest so far, and None otherwise."""
        state, config = self.state, self.state.config
        if not config.keep_best or state.step == 0:
            return None
        # a single loss varies with the noise levels of its batch
        recent = state.losses[max(0, state.step - config.checkpoint_every) : state.step]
        loss = float(recent.mean())
        lowest = state.metadata.get("best_loss", math.inf)
        # a run that continues at another path has no best checkpoint there
        return loss if loss < lowest or not best_of(path).exists() else None

    def _save(self, path: Path, generator: torch.Tensor, *, last: bool) -> None:
        """Write a checkpoint, and warn where that fails: once for those before the last, and for the last.

        The last checkpoint goes to the folder for temporary files where it cannot be written to path. Rank 0
        writes alone, because all ranks have the same state.
        """
        # shares of the state are gathered by all ranks
        shared = self.state.sharding is None and not self.replicas.speaks
        groups = {} if shared else self.state.groups(generator)
        self.accord.inside = False
        if not self.replicas.speaks:
            self.written = path
            return
        self._describe_data()
        failure: OSError | None = None
        best, before = self._best_loss(path), self.state.metadata.get("best_loss")
        if best is not None:
            # the checkpoint must hold it, since a run that resumes from it compares later losses with it
            self.state.metadata["best_loss"] = best
        try:
            if last:
                save = functools.partial(self.state.save, groups=groups)
                self.written, failure = write_or_fall_back(save, path)
            else:
                self.state.save(path, groups)
                self.written = path
            if failure is None:
                keep_step(path, self.state.step, self.state.config.keep_last)
            if failure is None and best is not None:
                keep_best(path)
        except OSError as error:
            failure = error
        if failure is not None and before is not None:
            self.state.metadata["best_loss"] = before
        if failure is None or (self.write_failed and not last):
            return
        self.write_failed = True
        place = (
            f"the last checkpoint is {self.written}" if self.written else "there is no checkpoint"
        )
        warnings.warn(
            f"the checkpoint of step {self.state.step} could not be written to {path} ({failure}): the run goes "
            f"on, {place}",
            RuntimeWarning,
            stacklevel=5,
        )


def _saves_at(config: DistillConfig, done: int) -> bool:
    """Return whether a checkpoint is due after this number of steps."""
    return done % config.checkpoint_every == 0 or done == config.steps


def _checks_at(config: DistillConfig, snapshots: Snapshots, every: int, done: int) -> bool:
    """Return whether the losses and the signals of the ranks are looked at in the step that makes `done` steps."""
    return _saves_at(config, done) or snapshots.due(done) or done % every == 0
