"""An error on one rank stops all ranks, which keep whole students and a checkpoint where that is possible.

A process takes seconds to start, so that one launch makes all runs.
"""

import json
import math
from pathlib import Path

import pytest
import torch.distributed as dist

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from tests.distill.parallel import failing_worker as worker
from tests.process_groups import run_ranks

SCRIPT = Path(worker.__file__)
RANKS = 2
SHARDS = ["False", "True"]
OTHER_FAILED = "RuntimeError: rank 1 of the group failed, and the error there says why"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def reports(folder):
    """Return what each rank wrote. A rank that waits for another one makes this time out."""
    _, output = run_ranks(SCRIPT, folder, ranks=RANKS)
    found = [folder / f"{rank}.json" for rank in range(RANKS)]
    assert all(path.exists() for path in found), output[-5000:]
    return [json.loads(path.read_text()) for path in found]


def both(reports, shard, case):
    """Return the reports of a case, after a check that both ranks have the same whole student."""
    found = [report[shard][case] for report in reports]
    for report in found:
        assert report["same shapes"]
        assert report["own forwards"]
        assert math.isclose(report["weights"], found[0]["weights"], rel_tol=1e-12)
    return found


@pytest.mark.parametrize("shard", SHARDS)
def test_an_error_of_one_teacher_stops_all_ranks(reports, shard):
    first, second = both(reports, shard, "teacher")
    assert first["error"] == OTHER_FAILED
    assert second["error"] == "ValueError: the teacher fails"
    # the weights are those of the steps done, and the first rank has saved them
    assert first["weights"] != first["started"]
    assert "interrupted at step 3: continue with" in first["warnings"][-1]
    assert "rank 1 stops with the error ValueError('the teacher fails')" in second["warnings"][0]
    first, second = both(reports, shard, "first")
    assert first["error"] == "ValueError: the teacher fails"
    assert (
        second["error"] == "RuntimeError: rank 0 of the group failed, and the error there says why"
    )
    for report in both(reports, shard, "both"):
        assert report["error"] == "ValueError: the teacher fails"


@pytest.mark.parametrize("shard", SHARDS)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(reports, shard):
    expected = both(reports, shard, "none resumed")[0]
    assert expected["error"] == "none"
    for name in ("teacher", "first", "interrupt"):
        for report in both(reports, shard, f"{name} resumed"):
            assert report["error"] == "none"
            assert math.isclose(report["weights"], expected["weights"], rel_tol=1e-12)


@pytest.mark.parametrize("shard", SHARDS)
def test_an_interrupt_of_one_rank_stops_all_after_the_step(reports, shard):
    for report in both(reports, shard, "interrupt"):
        assert report["error"].startswith("KeyboardInterrupt: interrupted at step 4: continue with")


@pytest.mark.parametrize("shard", SHARDS)
def test_numbers_that_are_not_finite_leave_whole_students(reports, shard):
    stopped = both(reports, shard, "teacher")[0]
    for report in both(reports, shard, "not finite"):
        assert report["error"].startswith("FloatingPointError: step 3: loss nan, gradient norm nan")
        assert math.isclose(report["weights"], stopped["weights"], rel_tol=1e-12)


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize(("case", "step"), [("save", 2), ("last save", 5)])
def test_a_first_rank_that_cannot_save_stops_all(reports, shard, case, step):
    first, second = both(reports, shard, case)
    assert first["error"] == "ValueError: the save fails"
    assert f"interrupted at step {step}" in first["warnings"][-1]
    assert (
        second["error"] == "RuntimeError: rank 0 of the group failed, and the error there says why"
    )


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize(
    ("case", "error"), [("data", "TypeError: data must have"), ("resume", "FileNotFoundError")]
)
def test_an_error_before_the_run_changes_no_student(reports, shard, case, error):
    first, second = both(reports, shard, case)
    assert first["error"] == OTHER_FAILED
    assert second["error"].startswith(error)
    assert first["weights"] == first["started"]


def test_an_error_before_the_training_of_an_interpolant_stops_all_ranks(reports):
    first, second = (report["interpolant"] for report in reports)
    assert first == OTHER_FAILED
    assert second.startswith("TypeError: data must have the dtype")


def test_an_error_of_one_student_stops_all_ranks(reports):
    assert [report["student"][0] for report in reports] == [
        OTHER_FAILED,
        "ValueError: the student fails",
    ]


def test_a_failed_rank_takes_part_until_all_ranks_look(reports):
    first, second = (report["looks"] for report in reports)
    losses = [1.5] * 3 + [math.nan] * 3
    assert str(first) == str(
        [losses, True, "rank 1 of the group failed, and the error there says why"]
    )
    assert second == [losses[:3], True, "own"]


def test_an_error_within_an_evaluation_of_shares_leaves_marked_weights(reports):
    errors = [report["inside"] for report in reports]
    assert errors[0]["error"].startswith("RuntimeError")
    assert errors[1]["error"] == "ValueError: the student fails"
    for rank, report in enumerate(errors):
        assert math.isnan(report["weights"])
        assert report["same shapes"]
        assert f"rank {rank} stops alone in a run with shard=True" in report["warnings"][-1]
        # the checkpoint of two steps is there, and mends the student
        assert report["loaded"] == report["kept"]
        assert math.isfinite(report["loaded"])
