"""Test that problems publicly reported for compiled models, threads and worker processes do not occur here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from edmfast.models import EnergyModel, ResidualMLP
from edmfast.ops import systematic_resample

needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)


def model():
    torch.manual_seed(0)
    made = EnergyModel(ResidualMLP(3, width=8, depth=1)).eval()
    torch.nn.init.normal_(made.backbone.output.weight, std=0.3)
    return made


@needs_a_compiler
def test_a_compiled_model_sees_new_weights():
    """pytorch 104984, 108863, 129362: compiled or frozen graphs kept using old weights. Here they follow an
    optimiser's step, a loaded state and a parameter that another object replaces.
    """
    compiled, eager = model(), model()
    compiled.compile()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))

    def check():
        eager.load_state_dict(compiled.state_dict())
        from_compiled, from_eager = (
            compiled.energy_and_score(x, 0.5),
            eager.energy_and_score(x, 0.5),
        )
        torch.testing.assert_close(from_compiled, from_eager, rtol=1e-5, atol=1e-5)
        return from_compiled[0]

    before = check()
    with torch.no_grad():
        for parameter in compiled.parameters():
            parameter.add_(0.1)
    stepped = check()
    compiled.load_state_dict({name: t * 0.7 for name, t in compiled.state_dict().items()})
    loaded = check()
    weight = compiled.backbone.output.weight
    compiled.backbone.output.weight = torch.nn.Parameter(weight.detach() * 2)
    replaced = check()
    values = [before, stepped, loaded, replaced]
    for first, second in pairwise(values):
        assert (first - second).abs().max() > 1e-3


class Scaled(ResidualMLP):
    """A perceptron with a plain attribute, like the strength of an adapter."""

    strength = 1.0

    def forward(self, y, c_noise, **condition):
        return self.strength * super().forward(y, c_noise, **condition)


@needs_a_compiler
def test_a_compiled_model_sees_new_attributes():
    """pytorch 120958, diffusers 9279: graphs kept the attributes and adapters they were compiled with. Here
    they follow a strength of the backbone and sigma_data.
    """

    def scaled():
        torch.manual_seed(0)
        made = EnergyModel(Scaled(3, width=8, depth=1)).eval()
        torch.nn.init.normal_(made.backbone.output.weight, std=0.3)
        return made

    compiled, eager = scaled(), scaled()
    compiled.compile()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for strength, sigma_data in ((1.0, 0.5), (2.0, 0.5), (2.0, 0.8)):
        for made in (compiled, eager):
            made.backbone.strength, made.sigma_data = strength, sigma_data
        from_compiled, from_eager = (
            compiled.energy_and_score(x, 0.5),
            eager.energy_and_score(x, 0.5),
        )
        torch.testing.assert_close(from_compiled, from_eager, rtol=1e-5, atol=1e-5)


@needs_a_compiler
def test_other_batches_do_not_compile_again_and_again(monkeypatch):
    """pytorch 172822: every batch size compiled a new graph. Here a dozen sizes of a perceptron compile few."""
    from edmfast.models.compiling import flat_graph

    made, compile_graph = [], flat_graph.compile_graph

    def record(graph, *arguments):
        made.append(graph)
        return compile_graph(graph, *arguments)

    monkeypatch.setattr(flat_graph, "compile_graph", record)
    compiled, eager = model(), model()
    compiled.compile()
    for size in range(1, 40, 3):
        x = torch.randn(size, 3, generator=torch.Generator().manual_seed(size))
        torch.testing.assert_close(
            compiled.energy_and_score(x, 0.5), eager.energy_and_score(x, 0.5), rtol=1e-5, atol=1e-5
        )
    assert len(made) <= 3


def test_operators_work_from_many_threads():
    """pytorch 128535: custom operators failed when called from several threads. Here each gets its own answer."""
    log_weights = torch.randn(16, 200, generator=torch.Generator().manual_seed(0))
    half, energies = torch.full((1,), 0.5), model()

    def work(i):
        ancestors = systematic_resample(log_weights[i][None], half).ancestors
        x = log_weights[i, :3][None].clone().requires_grad_()
        (score,) = torch.autograd.grad(energies.energy(x, 0.5).sum(), x)
        return ancestors, score

    expected = [work(i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for threaded, alone in zip(pool.map(work, range(16)), expected, strict=True):
                assert torch.equal(threaded[0], alone[0])
                assert torch.equal(threaded[1], alone[1])


FORKED = """
import os, sys, torch
from edmfast.ops import standard_normal, systematic_resample
torch.set_num_threads(2)
def work():
    weights = standard_normal(torch.empty(4, 5000), seed=1, step=2)
    return int(systematic_resample(weights, torch.full((4,), 0.5)).ancestors.sum())
expected = work()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if work() == expected else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_worker_does_not_hang():
    """pytorch 46409: workers hung when they were forked from a process that had used its threads. Here the
    operators of a forked worker give the parent's numbers.
    """
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
