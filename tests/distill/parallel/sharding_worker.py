"""Train with shared-out parameters on two ranks, and write what differs from one process to a file.

python sharding_worker.py FOLDER, with RANK and WORLD_SIZE in the environment.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from edmfast.distill import DistillConfig, distill
from edmfast.distill.gradients import gradient_function
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.parallel.sharding import Sharding
from edmfast.models import DiT, EnergyModel, ResidualMLP, checkpoint_blocks
from edmfast.models.patching.dropout import row_seeds
from tests.process_groups import leave

STEPS, BATCH = 4, 8


def transformer():
    """Return an energy with dropout, a shared weight, a frozen one, and sizes that no two ranks divide."""
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 4, width=12, depth=3, heads=3, dropout=0.2, embedding_width=7))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    blocks = model.backbone.blocks
    blocks[2].expand.weight = blocks[0].expand.weight
    blocks[1].expand.bias.requires_grad_(False)
    return model.double().train()


def perceptron():
    torch.manual_seed(0)
    return EnergyModel(ResidualMLP(16, width=9, depth=2)).double().train()


def chosen():
    return checkpoint_blocks(transformer(), every=2)


def batches():
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH, 1, 4, 4)
    for _ in range(STEPS):
        x, target = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        sigma = torch.rand(BATCH, generator=generator, dtype=torch.float64) + 0.2
        yield {"x": x, "sigma": sigma, "target": target}


def trained(model, sharding=None, rank=0, ranks=1):
    """Train a model, and return the gradients of the first step, the optimiser and the number of live numbers."""
    loss = TrainingLoss(model, 0.0)
    loss = loss if sharding is None else sharding.around(loss)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = gradient_function(loss, named, compile=False)
    optimiser = torch.optim.Adam(named.values(), lr=1e-2)
    first = None
    for step, batch in enumerate(batches()):
        rows = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        part = {name: tensor[rows] for name, tensor in batch.items()}
        part["dropout_seeds"] = row_seeds(0, step, rows)
        _, found = gradients(part)
        if first is None:
            first = dict(zip(named, (gradient.clone() for gradient in found), strict=True))
        for parameter, gradient in zip(named.values(), found, strict=True):
            parameter.grad = gradient
        optimiser.step()
    moments = {name: optimiser.state[p]["exp_avg_sq"] for name, p in named.items()}
    norm = torch.nn.utils.get_total_norm(first.values())
    return first, moments, norm if sharding is None else sharding.norm([*first.values()])


def difference(actual, expected):
    assert actual.keys() == expected.keys()
    return max(float((actual[name] - expected[name]).abs().max()) for name in expected)


def compare(make, rank, ranks):
    """Return the differences of a model trained by the ranks from one trained by one process."""
    expected = make()
    gradients, moments, norm = trained(expected)
    model = make()
    originals = [*model.parameters()]
    names, forwards = [*model.state_dict()], [vars(m).get("forward") for m in model.modules()]
    sharding = Sharding(model, dist.group.WORLD)
    found = trained(model, sharding, rank, ranks)
    state = sharding.whole(model.state_dict())
    pieces = [*model.parameters()]
    report = {
        "numbers": sum(p.numel() for p in pieces) / sum(p.numel() for p in expected.parameters()),
        "names": [*model.state_dict()] == names,
    }
    whole = [sharding.whole(group) for group in found[:2]]
    parts = sharding.pieces(expected.state_dict())
    report["pieces"] = difference(model.state_dict(), parts)
    sharding.release()
    report["same parameters"] = all(
        a is b for a, b in zip(model.parameters(), originals, strict=True)
    )
    report["forwards"] = [vars(m).get("forward") for m in model.modules()] == forwards
    report["released"] = difference(model.state_dict(), expected.state_dict())
    report["norm"] = float((found[2] - norm).abs())
    if rank == 0:
        report["gradients"] = difference(whole[0], gradients)
        report["moments"] = difference(whole[1], moments)
        report["whole"] = difference(state, expected.state_dict())
    else:
        assert whole == [{}, {}]
        assert state == {}
    return report


IMAGES = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
HALF, WHOLE = 3, 6


def distilled(steps, folder, name, group=None, start=None):
    """Return the weights and losses of a run, whose checkpoint is named after it."""
    config = DistillConfig(
        mode="dsm",
        steps=steps,
        batch_size=8,
        accumulate=2,
        schedule="constant",
        clip_norm=0.5,
        checkpoint=folder / f"{name}.safetensors",
        shard=group is not None,
    )
    model, resume = transformer(), None if start is None else folder / f"{start}.safetensors"
    result = distill(
        None, model, IMAGES, config=config, progress=False, group=group, resume_from=resume
    )
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"losses": result.losses, **weights}


KEPT = {"ema_profiles": (0.05, 0.1), "snapshot_every": 2, "keep_last": 2, "keep_best": True}


def kept(steps, folder, group=None, *, resume=False):
    """Make a run that keeps averages and checkpoints in a folder, or go on with one."""
    folder.mkdir(exist_ok=True)
    path = folder / "run.safetensors"
    config = DistillConfig(
        mode="dsm",
        steps=steps,
        batch_size=8,
        schedule="constant",
        checkpoint=path,
        checkpoint_every=2,
        shard=group is not None,
        **KEPT,
    )
    model = transformer()
    start = path if resume else None
    distill(None, model, IMAGES, config=config, progress=False, group=group, resume_from=start)


def live_wholes():
    """Return the largest number of whole matrices of one kind that lived while a deep student took a step."""
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 4, width=20, depth=6, heads=2, mlp_ratio=3.7)).train()
    sharding = Sharding(model, dist.group.WORLD)
    size, most = torch.Size([74, 20]), 0
    assert sharding.shapes["backbone.blocks.0.expand.weight"] == size

    def watch(*_):
        nonlocal most
        wholes = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == size]
        most = max(most, len({t.untyped_storage().data_ptr() for t in wholes}))

    for block in model.backbone.blocks:
        block.dropout.register_forward_hook(watch)
    loss = sharding.around(TrainingLoss(model, 0.0))
    named = dict(model.named_parameters())
    batch = {name: tensor.float() for name, tensor in next(batches()).items()}
    gradient_function(loss, named, compile=False)(batch)
    sharding.release()
    return most


def main(folder):
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    report = {
        make.__name__: compare(make, rank, ranks) for make in (transformer, perceptron, chosen)
    }
    report["live wholes"] = live_wholes()
    whole = distilled(WHOLE, folder, "whole by two", dist.group.WORLD)
    distilled(HALF, folder, "half by two", dist.group.WORLD)
    resumed = distilled(WHOLE, folder, "two after one", dist.group.WORLD, "half by one")
    kept(8, folder / "kept whole by two", dist.group.WORLD)
    kept(4, folder / "kept half by two", dist.group.WORLD)
    kept(8, folder / "kept two after one", dist.group.WORLD, resume=True)
    save_file(whole, folder / f"whole-{rank}.st")
    save_file(resumed, folder / f"resumed-{rank}.st")
    (folder / f"{rank}.json").write_text(json.dumps(report))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
