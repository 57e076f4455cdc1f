"""Test the counted flops against the sum over a network's layers."""

from __future__ import annotations

from bench.harness.flops import forward_flops
from bench.harness.networks import BUILDERS, mlp_flops
from edmfast.models import DiT


def test_a_perceptron():
    # The layers that embed the noise level are counted in addition.
    embedding = sum(
        2 * layer.in_features * layer.out_features
        for name, layer in BUILDERS["mlp"]().named_modules()
        if hasattr(layer, "in_features") and ("embedding" in name or "shifts" in name)
    )
    assert embedding > 0
    assert forward_flops("mlp", (64,)) == mlp_flops(1) + embedding


def test_attention_of_a_transformer_counts():
    network, preset = BUILDERS["dit-s"](), DiT.PRESETS["S"]
    tokens = (32 // network.patch) ** 2
    attention = preset["depth"] * 4 * tokens**2 * preset["width"]
    dense = 0
    for name, layer in network.named_modules():
        if hasattr(layer, "in_features"):
            of_the_level = "embedding" in name or "modulation" in name
            dense += 2 * layer.in_features * layer.out_features * (1 if of_the_level else tokens)
    assert forward_flops("dit-s", (4, 32, 32)) == attention + dense
