"""Train every objective on one rank of a process group; test_ranks.py starts this file by torchrun.

python -m torch.distributed.run --nproc-per-node=N ranks_worker.py FOLDER

Rank 0 writes weights and losses of each case to FOLDER/CASE.safetensors.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from edmfast.analytic import GaussianMixture
from edmfast.distill import (
    DistillConfig,
    distill,
    make_pairs,
    train_pso,
    train_pso_offline,
    train_rectified,
)
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from tests.process_groups import leave

TEACHER = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])
BASE = DistillConfig(steps=20, batch_size=64, warmup_steps=5)
LEVELS = [8.0, 2.0, 0.5, 0.0]
PAIRS = make_pairs(TEACHER, (2,), 128, LEVELS)


def first_coordinate(x):
    return x[:, 0]


def student(group, kind=Denoiser):
    # the ranks start with different weights, and go on with those of rank 0
    torch.manual_seed(0 if group is None else dist.get_rank())
    model = kind(ResidualMLP(2, width=16, depth=2), sigma_data=0.9)
    torch.nn.init.normal_(model.backbone.output.weight, std=0.1)
    return model.double()


def train(case, group, *, shard=False):
    """Return the result of a case, trained by this rank."""
    base = dataclasses.replace(BASE, shard=shard)
    options = {"progress": False, "group": group, "config": base}
    if case == "fokker-planck":
        data = TEACHER.sample(500, seed=1)
        config = dataclasses.replace(base, fokker_planck_weight=0.1, variance_groups=4)
        return distill(TEACHER, student(group, EnergyModel), data, **(options | {"config": config}))
    if case == "rectified":
        return train_rectified(student(group), PAIRS, **options)
    if case == "pso":
        return train_pso(student(group), first_coordinate, (2,), LEVELS, **options)
    samples = TEACHER.sample(100, seed=2)
    return train_pso_offline(student(group), samples + 0.2, samples, sigmas=LEVELS, **options)


CASES = ("fokker-planck", "rectified", "pso", "offline")
SHARED = ("fokker-planck", "rectified", "offline")


def write(result, path):
    """Write weights and losses."""
    tensors = {name: t.contiguous() for name, t in result.model.state_dict().items()}
    save_file({**tensors, "losses": result.losses}, path)


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in CASES:
        result = train(case, dist.group.WORLD)
        if dist.get_rank() == 0:
            write(result, folder / f"{case}.safetensors")
    for case in SHARED:
        result = train(case, dist.group.WORLD, shard=True)
        if dist.get_rank() == 0:
            write(result, folder / f"{case} shared.safetensors")
    leave()


if __name__ == "__main__":
    main()
