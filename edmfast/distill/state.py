"""The changing state of a training run: weights, their average, the optimiser, and the losses so far."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edmfast.distill.averages.profiles import Profiles
from edmfast.distill.checkpoint import copy_group, describe, read_checkpoint, write_checkpoint
from edmfast.distill.config import DistillConfig
from edmfast.distill.parallel.sharding import Sharding

Groups = dict[str, dict[str, torch.Tensor]]
"""Named tensors by the name of their group."""


class RunState:
    """The state of a run: Adam (Kingma & Ba 2014, arXiv 1412.6980) and moving averages of the weights.

    A module of the student that has a method `after_update` is called by it after every step of Adam, with its
    whole parameters.

    losses and norms: [steps], on the device, written up to `step`. norms are those of the gradients.
    objective: the settings of another objective than that of `distill`, as JSON can hold them, which a checkpoint
    must share. sharding: the shares of the ranks where the student's parameters are pieces; each state then
    belongs to pieces. whole: False while an update is half done. metadata: further entries for the checkpoints of
    this run.
    """

    def __init__(
        self,
        student: nn.Module,
        data_shape: list[int | None],
        config: DistillConfig,
        objective: dict[str, Any] | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        self.student, self.config, self.data_shape = student, config, data_shape
        self.objective, self.sharding = objective, sharding
        # frozen parameters take part in the forward only
        self.trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
        self.parameters = [*self.trained.values()]
        self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.profiles = Profiles(self.parameters, config.ema_profiles)
        # a network that keeps its weights normalised does so after each step
        found = ((module, getattr(module, "after_update", None)) for module in student.modules())
        self.after_update = [(module, method) for module, method in found if callable(method)]
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=config.learning_rate, betas=config.betas, fused=True
        )
        first = self.parameters[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        # the losses stay on the device until the end, since reading one would wait for it
        self.losses = torch.full((config.steps,), torch.nan, dtype=dtype, device=first.device)
        self.norms = torch.full_like(self.losses, torch.nan)
        self.step = 0
        self.whole = True
        self._checked = 0
        self.metadata: dict[str, Any] = {}

    def record(self, loss: torch.Tensor, gradients: list[torch.Tensor]) -> None:
        """Record a step's loss, and its gradients clipped to the largest norm."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # fused Adam reads both in the order of memory and ignores strides, while the double
            # backward of a convolution returns transposed weights
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        norm_of = torch.nn.utils.get_total_norm if self.sharding is None else self.sharding.norm
        norm = norm_of(gradients)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        self.losses[self.step] = loss
        self.norms[self.step] = norm
        if norm.device.type != "cpu":
            # a bad step is noticed later there, and must not change the weights until then; Adam reads this
            # attribute, which gradient scalers set, but does not declare it
            finite = loss.isfinite() & norm.isfinite()
            self.optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]

    def first_bad_step(self) -> int | None:
        """Return the first recorded step whose loss or gradient is not finite, or None. Waits for the device."""
        recorded = slice(self._checked, self.step + 1)
        bad = ~(self.losses[recorded].isfinite() & self.norms[recorded].isfinite())
        if bool(bad.any()):
            return int(bad.int().argmax()) + self._checked
        self._checked = self.step + 1
        return None

    @torch.no_grad()
    def update(self) -> None:
        """Apply the recorded gradients by one step of Adam, and update the average."""
        self.whole = False
        # the rate follows from the step alone, so that a resumed run needs no scheduler
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for module, method in self.after_update:
            if self.sharding is None:
                method()
            else:
                self.sharding.call_whole(module, method)
        # lerp_ moves the average by one minus the decay
        weight = 1 - self.config.ema_decay_at(self.step)
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], weight)
        self.step += 1
        self.profiles.update(self.step)
        self.whole = True

    @torch.no_grad()
    def use_ema(self) -> None:
        """Give the student its averaged weights, as a whole."""
        for parameter, average in zip(self.parameters, self.ema, strict=True):
            parameter.copy_(average)
        self.release()

    def release(self) -> None:
        """Give the student its whole weights where each rank holds a share of them. All ranks must call."""
        sharding, self.sharding = self.sharding, None
        if sharding is not None:
            sharding.release()

    def abandon(self) -> bool:
        """Give the student weights of NaN where each rank holds a share of them, and return whether it does."""
        sharding, self.sharding = self.sharding, None
        if sharding is not None:
            sharding.abandon()
        return sharding is not None

    def groups(self, generator: torch.Tensor) -> Groups:
        """Return the tensors of a checkpoint of the steps done, by group.

        generator: the state of the generator before the next step. Where each rank holds a share, all ranks must
        call, and only the first one receives tensors.
        """
        names = [*self.trained]
        moments = [self.optimiser.state[parameter] for parameter in self.parameters]
        groups = {
            "student": self.student.state_dict(),
            "ema": dict(zip(names, self.ema, strict=True)),
            "run": {"losses": self.losses[: self.step], "generator": generator},
            **self.profiles.groups(names),
        }
        if self.step:
            for group, key in (("first_moment", "exp_avg"), ("second_moment", "exp_avg_sq")):
                groups[group] = {n: m[key] for n, m in zip(names, moments, strict=True)}
        if self.sharding is not None:
            # all ranks gather in the order of the dictionary
            groups |= {g: self.sharding.whole(named) for g, named in groups.items() if g != "run"}
        return groups

    def save(self, path: str | os.PathLike[str], groups: Groups) -> None:
        """Write a checkpoint. groups: from `groups`."""
        write_checkpoint(path, groups, {"step": self.step, **self.identity(), **self.metadata})

    def read(
        self, path: str | os.PathLike[str], check: Callable[[dict[str, Any], int], None]
    ) -> tuple[Groups, int]:
        """Return the tensors of a checkpoint and its step. Raises ValueError for another run's checkpoint.

        check: called with the metadata and the step; it raises for another run.
        """
        groups, metadata = read_checkpoint(path, self.identity())
        step = metadata.get("step")
        run = groups.get("run", {})
        if not isinstance(step, int) or step < 0 or not {"losses", "generator"} <= run.keys():
            raise ValueError(f"{path} is incomplete: no step, losses or generator state")
        if step > self.config.steps or run["losses"].shape != (step,):
            raise ValueError(
                f"{path} is at step {step}, while this run ends at step {self.config.steps}"
            )
        check(metadata, step)
        return groups, step

    @torch.no_grad()
    def take(self, path: str | os.PathLike[str], groups: Groups, step: int) -> torch.Tensor:
        """Continue from what `read` returned, and return the state of the generator."""
        run = groups["run"]
        if self.sharding is not None:
            groups |= {g: self.sharding.pieces(named) for g, named in groups.items() if g != "run"}
        names = [*self.trained]
        copy_group(path, groups, "student", self.student.state_dict().items())
        copy_group(path, groups, "ema", zip(names, self.ema, strict=True))
        self.profiles.load(path, groups, names)
        if step:
            moments = [
                {
                    "step": torch.tensor(float(step)),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
                for parameter in self.parameters
            ]
            for group, key in (("first_moment", "exp_avg"), ("second_moment", "exp_avg_sq")):
                targets = zip(names, (moment[key] for moment in moments), strict=True)
                copy_group(path, groups, group, targets)
            # Adam takes its state by index, in the order of its parameters
            settings = self.optimiser.state_dict()["param_groups"]
            state: dict[str, Any] = {"state": dict(enumerate(moments)), "param_groups": settings}
            self.optimiser.load_state_dict(state)
        self.losses[:step] = run["losses"].to(self.losses)
        self.step = self._checked = step
        return run["generator"]

    def identity(self) -> dict[str, Any]:
        """Return the descriptions that another run must share to continue this one."""
        named = {} if self.objective is None else {"objective": self.objective}
        return {
            **named,
            "student": describe(
                self.student, {} if self.sharding is None else self.sharding.shapes
            ),
            "config": self.config.trajectory(),
            "data": self.data_shape,
        }
