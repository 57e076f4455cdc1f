"""A compiled run of each kind of network has one graph, no fallback, and the losses of an eager run."""

import warnings

import pytest
import torch

from edmfast.distill import DistillConfig, distill
from edmfast.models.compiling.flat_graph import FlatGraph
from tests.distill.parallel import networks_worker as networks
from tests.small_models import dhariwal, edm2, song

# one resolution takes half the time to compile
OPTIONS = {"channel_mult": (1,), "attn_resolutions": (4,), "dropout": 0.2, "label_dim": 3}
SMALLER = {
    "song": lambda: song(**OPTIONS),
    "dhariwal": lambda: dhariwal(**OPTIONS),
    "edm2": lambda: edm2(**OPTIONS),
    "two heads": networks.NETWORKS["two heads"],
}


@pytest.fixture
def traces(monkeypatch):
    """Return a list that grows with every graph that is traced."""
    found, original = [], FlatGraph._trace

    def trace(self, *args):
        found.append(self)
        return original(self, *args)

    monkeypatch.setattr(FlatGraph, "_trace", trace)
    return found


def losses(name, *, compile):
    config = DistillConfig(
        mode="two_heads" if name == "two heads" else "dsm",
        steps=6,
        batch_size=8,
        schedule="constant",
        warmup_steps=0,
        label_dropout=0.2,
        compile=compile,
    )
    data, student = (networks.IMAGES.float(), networks.LABELS), networks.student(name).float()
    return distill(None, student, data, config=config, progress=False).losses


# compiling one network takes a minute
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_a_compiled_network_is_one_graph_and_equals_an_eager_one(name, traces, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, name, SMALLER[name])
    expected = losses(name, compile=False)
    assert traces == []
    with warnings.catch_warnings():
        # a fallback warns
        warnings.filterwarnings("error", message="compile=True")
        torch.testing.assert_close(losses(name, compile=True), expected, rtol=1e-4, atol=0)
        assert len(traces) == 1
        model = networks.student(name).float().eval()
        x, label = networks.IMAGES[:5].float(), networks.LABELS[:5]
        with torch.no_grad():
            wanted = model.energy_and_score(x, 0.4, class_label=label)
            model.compile()
            found = model.energy_and_score(x, 0.4, class_label=label)
            model.energy_and_score(x[:3], 0.7, class_label=label[:3])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    # rows are padded, so that other batch sizes need no graph of their own
    assert len(traces) == 2
