"""Train every kind of network on two ranks, with recomputation and with shares, and write the weights to files.

python networks_worker.py FOLDER, with RANK and WORLD_SIZE in the environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from edmfast.distill import DistillConfig, distill
from edmfast.models import DiT, EnergyModel, TwoHeads, UNet
from tests.process_groups import leave
from tests.small_models import dhariwal, edm2, song

IMAGES = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(5)).double()
LABELS = torch.arange(24) % 3
NETWORKS = {
    "song": lambda: song(label_dim=3, dropout=0.2),
    "dhariwal": lambda: dhariwal(label_dim=3, dropout=0.2),
    "edm2": lambda: edm2(label_dim=3, dropout=0.2),
    "two heads": lambda: DiT(
        1, 4, width=8, depth=2, heads=2, num_classes=3, dropout=0.2, out_channels=2
    ),
    "two heads of a U-Net": lambda: UNet(1, (8, 8), groups=4, num_classes=3, out_channels=2),
    "two heads of a SongUNet": lambda: song(label_dim=3, out_channels=2),
}
SETTINGS = {
    "plain": {},
    "recomputing": {"activation_checkpointing": True},
    "shared": {"shard": True},
    "shared parts": {"shard": True, "accumulate": 2},
    "recomputing parts": {"activation_checkpointing": True, "accumulate": 2},
}


def student(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            # layers of zeros would hide what is behind them
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
    wrapped = TwoHeads(network) if name.startswith("two heads") else EnergyModel(network)
    return wrapped.double()


def train(name, setting, group=None, steps=4):
    """Return the weights and the losses of a run."""
    two_heads = name.startswith("two heads")
    config = DistillConfig(
        mode="two_heads" if two_heads else "dsm",
        steps=steps,
        batch_size=8,
        schedule="constant",
        warmup_steps=0,
        label_dropout=0.2,
        **SETTINGS[setting],
    )
    model = student(name)
    result = distill(None, model, (IMAGES, LABELS), config=config, progress=False, group=group)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"losses": result.losses, **weights}


def main(folder):
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    for name in NETWORKS:
        for setting in SETTINGS:
            save_file(
                train(name, setting, dist.group.WORLD), folder / f"{name}-{setting}-{rank}.st"
            )
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
