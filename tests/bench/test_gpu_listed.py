"""Test items in child processes: one that fails, crashes or hangs hides none of the others."""

import sys
import time

import pytest

from bench.gpu import listed
from bench.gpu.listed import CRASHED, DONE, FAILED, LATE, LEFT

CHILD = """
import json, os, sys, time
from pathlib import Path
from bench.gpu import listed

def call(name):
    if name == "raises":
        raise ValueError("first line\\nsecond line")
    if name == "breaks the context":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if name == "dies":
        os.kill(os.getpid(), 11)
    if name == "leaves":
        print("the last words", flush=True)
        os._exit(3)
    if name == "hangs":
        time.sleep(60)
    return {"ok": True, "process": os.getpid()}

sys.exit(listed.work(Path(sys.argv[1]), json.loads(sys.argv[-1]), call))
"""


@pytest.fixture
def supervised(tmp_path):
    """Return a function that runs names in children for some seconds."""

    def run(names, seconds=30, limit=10, child=CHILD):
        path = tmp_path / "some" / "items.jsonl"
        command = [sys.executable, "-c", child, str(path)]
        return listed.supervise(command, path, names, time.monotonic() + seconds, lambda _: limit)

    return run


def test_items_are_done_by_one_process(supervised):
    records = supervised(["a", "b", "c"])
    assert [record["state"] for record in records.values()] == [DONE] * 3
    assert len({record["process"] for record in records.values()}) == 1


def test_errors_of_one_item_are_its_own(supervised):
    names = ["a", "raises", "b", "breaks the context", "c", "dies", "d", "leaves", "e"]
    records = supervised(names)
    states = {name: records[name]["state"] for name in names}
    wrong = {"raises": FAILED, "breaks the context": FAILED, "dies": CRASHED, "leaves": CRASHED}
    assert states == dict.fromkeys("abcde", DONE) | wrong
    assert records["raises"]["error"] == "ValueError: first line"
    assert records["dies"]["error"].startswith("SIGSEGV")
    assert records["leaves"]["error"] == "exit status 3: the last words"
    processes = [records[name]["process"] for name in "abcde"]
    assert processes[0] == processes[1]  # an ordinary error needs no other process
    assert len({*processes}) == 4


def test_an_item_that_hangs_is_ended(supervised):
    records = supervised(["a", "hangs", "b"], limit=2)
    assert [records[name]["state"] for name in ("a", "hangs", "b")] == [DONE, LATE, DONE]


def test_the_time_of_all_items_ends(supervised):
    records = supervised(["hangs", "a"], seconds=4, limit=60)
    assert [records[name]["state"] for name in ("hangs", "a")] == [LATE, LEFT]


def test_a_child_that_is_still_starting_has_not_failed(supervised):
    records = supervised(["a", "b"], seconds=1, child="import time; time.sleep(60)")
    assert [record["state"] for record in records.values()] == [LEFT, LEFT]


def test_a_child_that_cannot_start_is_not_started_for_ever(supervised):
    records = supervised(["a", "b"], child="raise SystemExit('no such module')")
    assert {record["state"] for record in records.values()} == {CRASHED}
    assert "no such module" in records["a"]["error"]


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
    path = tmp_path / "items.jsonl"
    assert listed.records(path) == {}
    listed.write(path, "a", DONE, ok=True)
    with path.open("a") as file:
        file.write('{"name": "a", "state": "fai')
    assert listed.records(path)["a"]["state"] == DONE
