"""Test that compile=True makes one flat graph per mode of the step and gives the numbers of the eager run."""

import warnings

import pytest
import torch

from edmfast import smc
from edmfast._internal.files import read_tensors
from edmfast.models.compiling import flat_graph
from edmfast.targets import Tempered
from tests.grouped import grouped

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")


@pytest.fixture
def graphs(monkeypatch):
    """Collect the graphs that are compiled."""
    compiled = []
    compile_ = flat_graph.compile_graph

    def record(graph, *arguments):
        compiled.append(graph)
        return compile_(graph, *arguments)

    monkeypatch.setattr(flat_graph, "compile_graph", record)
    return compiled


TABLE = smc.CurvatureMatched(kappa=tuple(0.5 + 0.04 * i for i in range(12)))


@pytest.mark.parametrize("proposal", ["curvature_matched", "ancestral", TABLE])
def test_compiled_run_equals_the_eager_one(two_modes, levels, graphs, proposal):
    target = Tempered(two_modes, 2.0)
    options = {
        "particles": 200,
        "populations": 3,
        "proposal": proposal,
        "sigma_range": (0.05, 5.0),
        "ess_threshold": 0.9,
        "seed": 2,
    }
    eager = smc.sample(target, (2,), levels(12), **grouped(**options))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        result = smc.sample(target, (2,), levels(12), **grouped(compile=True, **options))
    assert eager.resampled.any()
    assert torch.equal(result.resampled, eager.resampled)
    assert torch.equal(result.unique_ancestors, eager.unique_ancestors)
    for name in ("x", "log_weights", "log_z", "ess", "log_weight_sd"):
        actual, expected = getattr(result, name), getattr(eager, name)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    # The modes are with and without resampling, and with and without weights.
    assert 2 <= len(graphs) <= 4
    for graph in graphs:
        names = [str(node.target) for node in graph.graph.nodes]
        assert names.count("edmfast.weigh_and_resample.default") == 1
        assert names.count("edmfast.propagate.default") == 1


def test_the_same_ancestors_in_single_precision(two_modes, levels, tmp_path):
    """After every level the genealogy and the next ancestors are those of the eager run."""
    genealogies = {}
    for compile in (False, True):
        path = tmp_path / f"{compile}.safetensors"
        options = {"checkpoint": path, "checkpoint_every": 1, "ess_threshold": 0.9}
        records = genealogies[compile] = []

        def record(info, path=path, records=records):
            if info["i"]:
                tensors, _ = read_tensors(path)
                records.append([tensors[f"weights.{name}"] for name in ("ancestors", "root")])

        smc.sample(
            Tempered(two_modes, 2.0),
            (2,),
            levels(12),
            **grouped(
                particles=500,
                populations=4,
                seed=5,
                dtype=torch.float32,
                compile=compile,
                callback=record,
                **options,
            ),
        )
    assert len(genealogies[True]) == 12
    for actual, expected in zip(genealogies[True], genealogies[False], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


class Unfit:
    """A target that leaves torch, so that no tracer can follow it."""

    exponent = 1.0

    def energy_and_score(self, x, sigma):
        energy = torch.from_numpy(0.5 * (x.numpy() ** 2).sum(1)) / (1 + float(sigma) ** 2)
        return energy, -x / (1 + float(sigma) ** 2)


def test_what_cannot_be_traced_runs_eagerly_after_one_warning(levels):
    options = {"particles": 50, "proposal": "ancestral", "dtype": torch.float64}
    with pytest.warns(UserWarning, match="compile=True failed") as warned:
        result = smc.sample(Unfit(), (2,), levels(6), **grouped(compile=True, **options))
    assert len([w for w in warned if "compile=True" in str(w.message)]) == 1
    eager = smc.sample(Unfit(), (2,), levels(6), **grouped(**options))
    assert torch.equal(result.x, eager.x)
    assert torch.equal(result.log_weights, eager.log_weights)


class Tuned(torch.nn.Module):
    """A Gaussian target whose width is a plain attribute times a buffer."""

    exponent = 1.0

    def __init__(self):
        super().__init__()
        self.width = 1.0
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))

    def energy_and_score(self, x, sigma):
        variance = self.width * self.factor + sigma**2
        return x.square().sum(1) / (2 * variance), -x / variance


@pytest.mark.parametrize("what", ["width", "factor"])
def test_a_target_that_a_callback_changes_is_noticed(levels, monkeypatch, what):
    monkeypatch.setattr(flat_graph, "compile_graph", lambda graph, *_: graph)

    def run(compile):
        target = Tuned()

        def change(info):
            if info["i"] == 3:
                if what == "width":
                    target.width = 4.0
                else:
                    target.factor.mul_(4)

        options = {"particles": 50, "proposal": "ancestral", "dtype": torch.float64}
        return smc.sample(
            target, (2,), levels(8), **grouped(compile=compile, callback=change, **options)
        )

    with pytest.warns(UserWarning, match="changed during a compiled run") as warned:
        result = run(True)
    assert len([w for w in warned if "compiled run" in str(w.message)]) == 1
    torch.testing.assert_close(result.log_z, run(False).log_z)
