"""Every objective on two ranks gives the weights of one process with the same batch."""

from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from tests.distill.objectives import ranks_worker as worker
from tests.process_groups import torchrun

SCRIPT = Path(worker.__file__)


@pytest.mark.slow
def test_two_ranks_give_the_result_of_one_process(tmp_path):
    finished = torchrun(2, SCRIPT, tmp_path)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    for case in worker.CASES:
        worker.write(worker.train(case, None), tmp_path / "alone.safetensors")
        alone = load_file(tmp_path / "alone.safetensors")
        for name in (case, f"{case} shared") if case in worker.SHARED else (case,):
            found = load_file(tmp_path / f"{name}.safetensors")
            assert alone.keys() == found.keys()
            difference = max(float((found[key] - alone[key]).abs().max()) for key in alone)
            # in float64, which leaves only the order of sums, and that magnified by Adam
            assert difference < 1e-9, name
