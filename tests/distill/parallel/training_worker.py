"""Train on one rank of a process group; test_ranks.py starts this file by torchrun.

python -m torch.distributed.run --nproc-per-node=N training_worker.py FOLDER CASE...

The weights at the end of each case are written to FOLDER/CASE-N.safetensors by rank 0, with the losses, and an
error to FOLDER/CASE-N.txt. The case "killed" ends rank 0 by SIGKILL in the middle.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill, open_data
from edmfast.models import EnergyModel, ResidualMLP, UNet
from tests.process_groups import leave

TEACHER = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])
BASE = DistillConfig(steps=50, batch_size=32, checkpoint_every=10, warmup_steps=5)


class Dropped(torch.nn.Module):
    """A U-Net with dropout, whose masks belong to the rows of the whole batch."""

    def __init__(self):
        super().__init__()
        self.network, self.num_classes = UNet(1, (8,), groups=4, num_classes=3), 3
        self.drop = torch.nn.Dropout(0.3)

    def forward(self, y, c_noise, class_label=None):
        return self.network(self.drop(y), c_noise, class_label=class_label)


def perceptron():
    torch.manual_seed(0)
    return EnergyModel(ResidualMLP(2, width=16, depth=2), sigma_data=0.9)


def images():
    torch.manual_seed(0)
    return torch.randn(40, 1, 4, 4), torch.arange(40) % 3


def items_or_stream(case):
    """Return the samples as items of a list, or as a stream that cannot be indexed, read ahead by threads."""
    items = [*TEACHER.sample(300, seed=1).float()]
    data = items if case == "items" else dict(enumerate(items)).values()
    return open_data(data, workers=2)


def train(case, group, folder):
    """Return the result of a case, trained by this rank."""
    data = TEACHER.sample(500, seed=1).float()
    options = {"progress": False, "group": group}
    if case == "images":
        torch.manual_seed(0 if group is None else dist.get_rank())
        student = EnergyModel(Dropped())
        config = dataclasses.replace(BASE, mode="dsm", steps=8, batch_size=12, label_dropout=0.3)
        return distill(None, student, images(), config=config, **options)
    if case == "losses of energies":
        config = dataclasses.replace(
            BASE, difference_weight=0.05, value_weight=0.05, variance_groups=4
        )
        return distill(TEACHER, perceptron(), data, config=config, **options)
    if case == "time scores":
        config = dataclasses.replace(BASE, mode="dsm", time_score_weight=0.02)
        return distill(None, perceptron(), data, config=config, **options)
    if case in ("killed", "resumed"):
        return killed_or_resumed(case, data, options, folder)
    if case in ("items", "stream"):
        config = dataclasses.replace(BASE, accumulate=2)
        return distill(TEACHER, perceptron(), items_or_stream(case), config=config, **options)
    if case == "compiled":
        config = dataclasses.replace(BASE, compile=True, accumulate=2)
        return distill(TEACHER, perceptron(), data, config=config, **options)
    return distill(TEACHER, perceptron(), data, config=BASE, **options)


def killed_or_resumed(case, data, options, folder):
    """Die in step 26, or go on from the checkpoint of step 20 that was left behind."""
    path = folder / "killed.safetensors"
    config = dataclasses.replace(BASE, checkpoint=path if case == "killed" else None)
    calls = 0

    def teacher(x, sigma):
        nonlocal calls
        calls += 1
        if case == "killed" and calls == 26:
            os.kill(os.getpid(), signal.SIGKILL)
        return TEACHER(x, sigma)

    more = {} if case == "killed" else {"resume_from": path}
    return distill(teacher, perceptron(), data, config=config, **more, **options)


def write(result, path):
    """Write weights and losses."""
    tensors = {name: t.contiguous() for name, t in result.model.state_dict().items()}
    save_file({**tensors, "losses": result.losses}, path)


def errors(group):
    """Return the errors of ranks that were called in ways that cannot work."""
    rank, found = dist.get_rank(), {}
    data = TEACHER.sample(500, seed=1).float()
    cases = {
        "seed": (data, dataclasses.replace(BASE, seed=rank)),
        "their data": (data + rank, BASE),
        "batch_size must divide": (data, dataclasses.replace(BASE, batch_size=33)),
        "whole groups": (data, dataclasses.replace(BASE, difference_weight=0.1)),
    }
    for expected, (samples, config) in cases.items():
        try:
            distill(TEACHER, perceptron(), samples, config=config, progress=False, group=group)
            found[expected] = "no error"
        except ValueError as error:
            found[expected] = str(error)
    return {name: text for name, text in found.items() if name not in text}


def main():
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    for case in cases:
        if case == "errors":
            wrong = errors(dist.group.WORLD)
            if dist.get_rank() == 0:
                (folder / f"errors-{ranks}.txt").write_text(str(wrong))
            continue
        result = train(case, dist.group.WORLD, folder)
        if dist.get_rank() == 0:
            write(result, folder / f"{case}-{ranks}.safetensors")
    leave()


if __name__ == "__main__":
    main()
