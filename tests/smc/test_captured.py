"""Test that captured steps, which overwrite one set of buffers, give the numbers of the eager run.

A stand-in repeats on the CPU what a CUDA graph would repeat on a GPU.
"""

import pytest
import torch

from edmfast import smc
from edmfast._internal.files import read_tensors
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.models.compiling import flat_graph
from edmfast.smc.compiling import captured, compiled
from edmfast.targets import Product, Tempered, Tilted
from tests.grouped import grouped

pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")


class HostGraphs:
    """Captures functions on the CPU; `replays` counts how often one of them was repeated."""

    replays = 0

    def __init__(self, device):
        pass

    def warmed_up(self, call):
        return call()

    def captured(self, step):
        def replay():
            HostGraphs.replays += 1
            step()

        return replay


@pytest.fixture
def capturing(monkeypatch):
    HostGraphs.replays = 0
    monkeypatch.setattr(captured, "CudaGraphs", HostGraphs)
    monkeypatch.setattr(compiled, "captures", lambda device: True)
    monkeypatch.setattr(flat_graph, "compile_graph", lambda graph, *_: graph)
    return HostGraphs


def perceptron():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, 16, 2, embedding_width=8)).double()
    with torch.no_grad():
        model.backbone.output.weight.normal_(std=0.1)
    return model


TABLE = smc.CurvatureMatched(kappa=tuple(0.5 + 0.04 * i for i in range(12)))
RUNS = {
    "ancestral": (lambda mix: Tempered(mix, 2.0), {"proposal": "ancestral"}),
    "probed": (lambda mix: Tempered(mix, 2.0), {"proposal": "curvature_matched"}),
    "table": (lambda mix: Tempered(mix, 2.0), {"proposal": TABLE}),
    "network": (lambda mix: perceptron(), {"proposal": "ancestral", "weights": "energy"}),
    "product": (lambda mix: Product([perceptron(), mix]), {"weights": "energy"}),
    "hybrid": (lambda mix: Tempered(perceptron(), 2.0), {"weights": smc.Hybrid(above=0.5)}),
    "rewards": (lambda mix: Tilted(mix, lambda x0: x0[:, 0], 0.5, ramp=None), {}),
    "correctors": (lambda mix: Tempered(mix, 2.0), {"correctors": smc.MALA()}),
    "genealogy": (lambda mix: Tempered(mix, 2.0), {"genealogy": True}),
}


def run(target, levels, **options):
    settings = {"particles": 60, "populations": 2, "ess_threshold": 0.9, "seed": 2}
    return smc.sample(target, (2,), levels(12), **grouped(**settings | options))


NUMBERS = ("x", "log_weights", "log_z", "ess", "log_weight_sd", "survivors", "acceptance")


@pytest.mark.parametrize("name", RUNS)
def test_captured_runs_equal_eager_ones(name, two_modes, levels, capturing):
    make, options = RUNS[name]
    target = make(two_modes)
    eager = run(target, levels, **options)
    result = run(target, levels, compile=True, **options)
    assert capturing.replays == 12
    assert torch.equal(result.resampled, eager.resampled)
    for field in (*NUMBERS, "ancestors"):
        actual, expected = getattr(result, field), getattr(eager, field)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_what_a_callback_keeps_is_not_overwritten(two_modes, levels, capturing):
    kept = {}
    for compile in (False, True):
        infos = kept[compile] = []
        target = Tempered(two_modes, 2.0)
        run(target, levels, compile=compile, proposal="ancestral", callback=infos.append)
    for actual, expected in zip(kept[True], kept[False], strict=True):
        for name in ("x", "energy", "score", "log_weights", "log_z"):
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-9)


class Interrupted(HostGraphs):
    """Raises KeyboardInterrupt before or after the work of one replay."""

    at, after = 5, False

    def captured(self, step):
        replay = super().captured(step)

        def interrupted():
            if HostGraphs.replays == self.at and not self.after:
                raise KeyboardInterrupt
            replay()
            if HostGraphs.replays == self.at + 1 and self.after:
                raise KeyboardInterrupt

        return interrupted


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [0, 5, 11])
def test_an_interrupt_leaves_a_whole_step(
    two_modes, levels, capturing, monkeypatch, tmp_path, at, after
):
    monkeypatch.setattr(captured, "CudaGraphs", Interrupted)
    monkeypatch.setattr(Interrupted, "at", at)
    monkeypatch.setattr(Interrupted, "after", after)
    path, target = tmp_path / "run.safetensors", Tempered(two_modes, 2.0)
    options = {"proposal": "curvature_matched", "genealogy": True}
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        run(target, levels, compile=True, checkpoint=path, checkpoint_every=100, **options)
    _, metadata = read_tensors(path)
    # the first captured step works on copies, so that the run still holds what it started from
    assert metadata["index"] == (at + 1 if after and at > 0 else at)
    resumed = run(target, levels, resume_from=path, **options)
    eager = run(target, levels, **options)
    assert torch.equal(resumed.ancestors, eager.ancestors)
    for field in ("x", "log_weights", "log_z", "ess", "survivors"):
        actual, expected = getattr(resumed, field), getattr(eager, field)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_a_failed_capture_runs_eagerly_after_one_warning(two_modes, levels, capturing, monkeypatch):
    def fails(self, step):
        raise RuntimeError("no graph here")

    monkeypatch.setattr(HostGraphs, "captured", fails)
    target = Tempered(two_modes, 2.0)
    with pytest.warns(UserWarning, match="compile=True failed.*no graph here") as warned:
        result = run(target, levels, compile=True, proposal="ancestral")
    assert len([w for w in warned if "compile=True" in str(w.message)]) == 1
    assert torch.equal(result.x, run(target, levels, proposal="ancestral").x)
