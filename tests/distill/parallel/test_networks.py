"""All networks train alike with recomputation, with shares, in parts and on two ranks."""

from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from edmfast.models import checkpoint_blocks
from edmfast.models.recomputing.blocks import recomputing_blocks
from tests.distill.parallel import networks_worker as worker
from tests.process_groups import run_ranks

SCRIPT = Path(worker.__file__)
RANKS = 2


@pytest.fixture(scope="module")
def plain():
    """Return a function from the name of a network to its plain run in this process."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = worker.train(name, "plain")
        return done[name]

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder with the weights of all runs of two ranks."""
    folder = tmp_path_factory.mktemp("networks")
    codes, output = run_ranks(SCRIPT, folder, ranks=RANKS)
    assert codes == [0, 0], output[-5000:]
    return folder


def difference(found, expected):
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize("name", worker.NETWORKS)
def test_recomputation_changes_rounding_only(name, plain):
    assert len(recomputing_blocks(checkpoint_blocks(worker.student(name)))) > 1
    for setting in ("recomputing", "recomputing parts"):
        assert difference(worker.train(name, setting), plain(name)) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", worker.NETWORKS)
def test_two_ranks_give_the_result_of_one_process(name, plain, folder):
    for setting in worker.SETTINGS:
        for rank in range(RANKS):
            found = load_file(folder / f"{name}-{setting}-{rank}.st")
            assert difference(found, plain(name)) < 1e-9, setting


@pytest.mark.slow
def test_weights_of_edm2_stay_normalised_with_shares(folder):
    for setting in ("plain", "shared"):
        found = load_file(folder / f"edm2-{setting}-0.st")
        weights = [tensor for name, tensor in found.items() if name.endswith("conv_res0.weight")]
        assert len(weights) > 4
        # the average of weights of length 1 is a little shorter
        for weight in weights:
            assert 0.9 < float(weight.square().mean(0).mean().sqrt()) < 1.001
