"""The preparation of a training run that all objectives share: its ranks, its checkpoint, and resuming."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from edmfast._internal.atomic_write import check_checkpoint
from edmfast._internal.file_kinds import TRAINING_CHECKPOINT
from edmfast.distill.averages.snapshots import prepare_folder
from edmfast.distill.batch import BatchSource
from edmfast.distill.config import DistillConfig
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.parallel import Replicas
from edmfast.distill.parallel.sharding import Sharding
from edmfast.distill.recording import Logger
from edmfast.distill.run import TrainingRun
from edmfast.distill.state import RunState


def prepared_run(
    student: nn.Module,
    make_batch: BatchSource,
    config: DistillConfig,
    *,
    loss: TrainingLoss | None = None,
    resume_from: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    group: dist.ProcessGroup | None = None,
    loggers: Sequence[Logger] = (),
    objective: dict[str, Any] | None = None,
) -> TrainingRun:
    """Return a run that is ready to train, from the start or from a checkpoint.

    On several ranks the students start with the weights of rank 0. loss: the loss around the student, by default
    that of denoisers and energies. objective: its settings, which ranks and checkpoints must share. The other
    arguments are those of `distill`.

    Raises ValueError for ranks that differ in their settings or their data, for a batch that does not divide, and
    for a checkpoint of another run; where one rank alone has an error, the others raise RuntimeError. Raises
    FileExistsError for a file of another run at config.checkpoint
    and for snapshots of another run.
    """
    data = make_batch.data
    replicas = Replicas(group, data.device)
    path = None if config.checkpoint is None else Path(config.checkpoint)
    if path is not None:
        options: dict[str, Any] = {"resume_name": "resume_from", "overwrite": overwrite}
        check = functools.partial(
            check_checkpoint, path, TRAINING_CHECKPOINT, resume_from, **options
        )
        replicas.first_only(check)
    new = resume_from is None
    replicas.first_only(functools.partial(prepare_folder, config, new=new, overwrite=overwrite))
    if replicas.size > 1:
        settings = {**config.trajectory(), "accumulate": config.accumulate, "steps": config.steps}
        settings["checkpoint_every"] = config.checkpoint_every
        settings["snapshot_every"] = config.snapshot_every
        names = {name: [*tensor.shape] for name, tensor in student.state_dict().items()}
        with replicas.together():
            digest = data.digest()
        described = {"their data": digest, "the student": names, "the objective": objective}
        replicas.agree({**settings, **described})
        replicas.share(student.state_dict().values())
    if config.shard and group is None:
        raise ValueError(
            "shard=True shares the weights out over the ranks of a group: pass group=..."
        )
    # the state belongs to the pieces of the weights, so that it is made after them
    sharding = Sharding(student, group) if config.shard and group is not None else None
    try:
        with replicas.together():
            state = RunState(student, [data.size, *data.shape], config, objective, sharding)
            run = TrainingRun(state, make_batch, path, loss, replicas, loggers)
        if resume_from is not None:
            run.resume(resume_from)
    except Exception:
        # all ranks have an error, and are here
        if sharding is not None:
            sharding.release()
        raise
    except BaseException:
        if sharding is not None:
            sharding.abandon()
        raise
    return run
