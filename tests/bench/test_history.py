"""Test that a measurement is filed by device, date and commit, and refused when it belongs to no commit."""

from __future__ import annotations

import json

import pytest
import torch

from bench.harness import machine
from bench.report import history, records

HEADER = {
    "device": "cuda",
    "device_name": "Some GPU (R) 7",
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc123",
}


@pytest.fixture
def file(tmp_path):
    def write(**changes):
        path = tmp_path / "bench.json"
        path.write_text(json.dumps(HEADER | changes))
        return str(path)

    return write


def test_it_is_filed(file, tmp_path):
    assert history.main([file(), str(tmp_path / "new" / "history")]) == 0
    path = tmp_path / "new" / "history" / "cuda-some-gpu-r-7" / "2026-01-02-abc123.json"
    assert json.loads(path.read_text()) == HEADER


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quick": True}, "is a quick look"),
        ({"only": "resample"}, "only the cases with 'resample'"),
        ({"complete": False}, "did not come to its end"),
        ({"left_out": ["a"]}, "did not come to its end"),
    ],
)
def test_what_is_no_record_of_a_commit_is_refused(file, tmp_path, changes, why, capsys):
    with pytest.raises(SystemExit) as refused:
        history.main([file(**changes), str(tmp_path / "history")])
    assert refused.value.code == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "history").exists()


def test_what_a_budget_left_out_is_filed_with_its_mark(file, tmp_path, capsys):
    ended = {"quick": False, "only": "", "complete": True, "left_out": ["a", "b"]}
    assert history.main([file(**ended), str(tmp_path / "history")]) == 0
    assert "left 2 cases out" in capsys.readouterr().err
    (record,) = records.load(tmp_path / "history")
    assert record.content["left_out"] == ["a", "b"]


@pytest.mark.parametrize("commit", ["unknown", "abc123-dirty", "v0.1.0-5-gabc123"])
def test_what_nobody_could_repeat_is_refused(file, tmp_path, commit, capsys):
    with pytest.raises(SystemExit):
        history.main([file(commit=commit), str(tmp_path / "history")])
    assert f"of no commit but of {commit!r}" in capsys.readouterr().err
    assert not (tmp_path / "history").exists()


@pytest.mark.parametrize("content", ["{}", "{", "[]"])
def test_other_files_are_refused(tmp_path, content, capsys):
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(SystemExit):
        history.main([str(tmp_path / "bench.json"), str(tmp_path / "history")])
    assert "is no file of bench.run" in capsys.readouterr().err


def test_the_folder_is_that_of_the_results():
    device = torch.device("cpu")
    assert machine.slug(device) == machine.folder("cpu", machine.device_name(device))
