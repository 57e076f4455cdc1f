"""The compiled flat step equals the eager one, and its failure is announced, not fatal."""

import shutil
import warnings

import pytest
import torch

from edmfast.distill import DistillConfig, distill
from edmfast.models import flat

SETTINGS = {"steps": 12, "batch_size": 32, "warmup_steps": 2, "difference_weight": 0.05}


def run(teacher, data, student, **settings):
    config = DistillConfig(**SETTINGS, **settings)
    return distill(teacher, student(8, 1), data, config=config, progress=False)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_losses_equal_eager_ones(teacher, data, student):
    eager = run(teacher, data, student)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        compiled = run(teacher, data, student, compile=True)
    torch.testing.assert_close(compiled.losses, eager.losses, rtol=1e-5, atol=1e-5)
    assert eager.losses[-1] != eager.losses[0]


def test_failure_warns_once_and_training_goes_on(teacher, data, student, monkeypatch):
    def refuse(function, **options):
        raise NotImplementedError("no tracer today")

    monkeypatch.setattr(flat, "make_fx", refuse)
    message = "runs eagerly: NotImplementedError: no tracer today"
    with pytest.warns(UserWarning, match=message) as record:
        fallen_back = run(teacher, data, student, compile=True)
    assert len([entry for entry in record if "eagerly" in str(entry.message)]) == 1
    assert torch.equal(fallen_back.losses, run(teacher, data, student).losses)
