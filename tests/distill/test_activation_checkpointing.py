"""A run whose blocks recompute their activations has the weights of a plain run, and leaves a plain student."""

import pytest
import torch

from edmfast.distill import DistillConfig, distill
from edmfast.models import DiT, EnergyModel, ResidualMLP, checkpoint_blocks
from edmfast.models.recomputing import blocks
from edmfast.models.recomputing.blocks import recomputing_blocks

SETTINGS = {"mode": "dsm", "steps": 4, "batch_size": 8, "warmup_steps": 1, "difference_weight": 0.0}


def student():
    torch.manual_seed(0)
    network = DiT(1, 4, width=8, depth=3, heads=2, dropout=0.3)
    model = EnergyModel(network).double()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def run(**settings):
    data = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    config = DistillConfig(**SETTINGS, **settings)
    return distill(None, student(), data, config=config, progress=False)


def test_weights_are_those_of_a_plain_run(monkeypatch):
    counts = []

    def count(function, tensors):
        counts.append(len(tensors))
        return original(function, tensors)

    original = blocks.recomputed
    monkeypatch.setattr(blocks, "recomputed", count)
    plain = run()
    assert counts == []
    result = run(activation_checkpointing=True)
    # one forward of three blocks in each of the four steps
    assert len(counts) == 4 * 3
    assert recomputing_blocks(result.model) == []
    torch.testing.assert_close(result.losses, plain.losses, rtol=1e-10, atol=1e-10)
    for actual, expected in zip(result.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def test_a_student_without_blocks_is_refused():
    student = EnergyModel(ResidualMLP(2, 8, 2))
    config = DistillConfig(**SETTINGS, activation_checkpointing=True)
    with pytest.raises(ValueError, match="EnergyModel has no blocks that could recompute"):
        distill(None, student, torch.eye(2).repeat(16, 1), config=config, progress=False)


def test_a_compiled_step_is_refused():
    message = "Choose compile=True for speed.* or activation_checkpointing=True or shard=True for the least"
    with pytest.raises(ValueError, match=message):
        DistillConfig(compile=True, activation_checkpointing=True)
    config = DistillConfig(**SETTINGS, compile=True)
    data = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(ValueError, match=message):
        distill(None, checkpoint_blocks(student()), data, config=config, progress=False)
