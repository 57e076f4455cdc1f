"""Shared-out parameters train as whole ones do, through the double backward, and take half of the memory."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from edmfast._internal.files import read_tensors
from edmfast.distill import DistillConfig, distill
from edmfast.distill.parallel.gather import piece_of
from tests.distill.parallel import sharding_worker as worker
from tests.process_groups import run_ranks

SCRIPT = Path(worker.__file__)
RANKS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def reports(folder):
    """Return what each rank wrote, after one launch for all cases."""
    worker.distilled(worker.HALF, folder, "half by one")
    worker.kept(4, folder / "kept two after one")
    codes, output = run_ranks(SCRIPT, folder, ranks=RANKS)
    assert codes == [0, 0], output[-5000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("case", ["transformer", "perceptron", "chosen"])
def test_training_is_that_of_one_process(reports, case):
    for rank, report in enumerate(reports):
        found = report[case]
        names = ["pieces", "released", "norm"]
        names += ["gradients", "moments", "whole"] if rank == 0 else []
        for name in names:
            assert found[name] < 1e-9, (rank, name, found)
        assert found["names"]
        assert found["same parameters"]
        assert found["forwards"]


def test_each_rank_holds_its_share(reports):
    for report in reports:
        # padding adds a number here and there
        assert 0.5 <= report["transformer"]["numbers"] < 0.52


def test_blocks_free_what_they_gather(reports):
    """Few whole matrices of the six blocks live at once: those of one block, and their gradients."""
    for report in reports:
        assert 1 <= report["live wholes"] <= 3


def test_runs_and_checkpoints_are_those_of_one_process(reports, folder):
    """A run goes on with another number of ranks, and its checkpoint holds whole tensors."""
    expected = worker.distilled(worker.WHOLE, folder, "whole by one")
    runs = [load_file(folder / f"{kind}-{r}.st") for kind in ("whole", "resumed") for r in (0, 1)]
    runs.append(worker.distilled(worker.WHOLE, folder, "one after two", start="half by two"))
    for found in runs:
        assert worker.difference(found, expected) < 1e-9
    checkpoints = ["whole by one", "whole by two", "two after one", "one after two"]
    first, *others = (load_file(folder / f"{name}.safetensors") for name in checkpoints)
    for other in others:
        assert worker.difference(other, first) < 1e-9


def test_averages_and_kept_checkpoints_are_those_of_one_process(reports, folder):
    """The files have the same names, and the best loss goes on with the run."""
    worker.kept(8, folder / "kept whole by one")
    worker.kept(8, folder / "kept half by two", resume=True)
    expected = kept_files(folder / "kept whole by one")
    names = {"run.safetensors", "run.best.safetensors"}
    names |= {f"run.step-{step:08d}.safetensors" for step in (6, 8)}
    widths = worker.KEPT["ema_profiles"]
    names |= {f"step-{step:09d}-{w!r}.safetensors" for step in (2, 4, 6, 8) for w in widths}
    assert {path.name for path in expected} == names
    for name in ("kept whole by two", "kept two after one", "kept half by two"):
        found = kept_files(folder / name)
        assert found.keys() == expected.keys()
        for path, (tensors, metadata) in expected.items():
            assert worker.difference(found[path][0], tensors) < 1e-9, (name, path)
            assert found[path][1]["step"] == metadata["step"]
            if path.name.startswith("run"):
                assert found[path][1]["best_loss"] == pytest.approx(metadata["best_loss"])


def kept_files(folder):
    """Return (tensors, metadata) of the files in a folder, by their places in it."""
    files = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder): read_tensors(path) for path in files}


def test_sharing_out_needs_ranks():
    config = DistillConfig(mode="dsm", shard=True)
    with pytest.raises(ValueError, match="shard=True shares the weights out over the ranks"):
        distill(None, worker.perceptron(), torch.randn(64, 16).double(), config=config)
    with pytest.raises(ValueError, match="compile=True with shard=True"):
        DistillConfig(shard=True, compile=True)


def test_pieces_are_padded():
    tensor = torch.arange(5.0).reshape(1, 5)
    pieces = [piece_of(tensor, rank, 3).tolist() for rank in range(3)]
    assert pieces == [[0, 1], [2, 3], [4, 0]]
    assert piece_of(torch.ones(2, 1), 3, 4).tolist() == [0]
    assert piece_of(torch.tensor(2.0), 0, 1).tolist() == [2]
