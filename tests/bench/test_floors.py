"""Test that a floor is the larger of memory time and arithmetic time, and that its measurement returns."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from bench.harness import floors, machine
from bench.harness.timing import Timing


def test_the_slower_resource_decides(case):
    machine_floors = floors.Floors(bandwidth=1e9, gemm={"torch.float32": 1e12})
    assert machine_floors.seconds(case(bytes=2000, flops=0)) == pytest.approx(2e-6)
    assert machine_floors.seconds(case(bytes=2000, flops=10**7)) == pytest.approx(1e-5)
    assert machine_floors.seconds(case(bytes=2000, flops=10**3)) == pytest.approx(2e-6)


def test_measurement(effort, monkeypatch):
    monkeypatch.setattr(floors, "cache_bytes", lambda device: 0)
    measured = floors.measure(torch.device("cpu"), [torch.float32, torch.float32], effort)
    # Any machine copies at 100 MB/s to 100 TB/s and multiplies at 0.1 to 1e6 Gflop/s.
    assert 1e8 < measured.bandwidth < 1e14
    assert list(measured.gemm) == ["torch.float32"]
    assert 1e8 < measured.gemm["torch.float32"] < 1e15


def test_the_matrix_of_the_roof_is_random_and_the_same(effort, monkeypatch):
    """A constant matrix would draw less power on a GPU, and the roof would be too high."""
    matrices = []

    def keep(jobs, copies, device, effort):
        matrices.append(copies[0][0])
        return dict.fromkeys(jobs, Timing(1.0, 1.0, 1.0, 1))

    monkeypatch.setattr(floors, "time_side_by_side", keep)
    monkeypatch.setattr(floors, "cache_bytes", lambda device: 0)
    for _ in range(2):
        floors.measure(torch.device("cpu"), [torch.bfloat16], effort)
    first, second = (a for a in matrices if a.dtype == torch.bfloat16)
    assert torch.equal(first, second)
    assert first.float().std() == pytest.approx(1, abs=0.01)
    assert first.float().mean() == pytest.approx(0, abs=0.01)


def test_cache_is_read_from_the_system(monkeypatch, tmp_path):
    for i, size in enumerate(["48K", "2048K", "96M"]):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(size + "\n")
    monkeypatch.setattr(machine, "_CACHES", tmp_path)
    assert machine.cache_bytes(torch.device("cpu")) == 96 * 2**20
    monkeypatch.setattr(machine, "_CACHES", tmp_path / "missing")
    assert machine.cache_bytes(torch.device("cpu")) == 32 * 2**20


def test_description_of_the_machine():
    assert machine.versions()["torch"] == torch.__version__


def test_a_commit_is_told_by_its_hash(monkeypatch, tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    git("tag", "-a", "v0.1.0", "-m", "one")
    git("commit", "-qm", "two", "--allow-empty")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() == git("rev-parse", "HEAD")[:10]
    (tmp_path / "file").write_text("2")
    assert machine.commit() == git("rev-parse", "HEAD")[:10] + "-dirty"


def test_versions_of_rivals_are_known_without_an_import(monkeypatch):
    def version(name):
        if name == "particles":
            return "0.4"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "particles", None)  # An import would now fail.
    versions = machine.versions()
    assert versions["particles"] == "0.4"
    assert not {"blackjax", "diffusers", "k-diffusion"} & set(versions)


def test_the_extra_installs_the_rivals():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    extra = re.search(r"^bench = \[(.*)\]$", text, re.MULTILINE)[1]
    # k-diffusion has too many dependencies for the extra; bench/README.md says how to add it.
    assert set(machine._RIVALS) - set(re.findall(r'"([\w-]+)>=', extra)) == {"k-diffusion"}
    vectors = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-")
    slug = machine.slug(torch.device("cpu"))
    assert slug.startswith("cpu-")
    assert slug.endswith(f"-{vectors}")
    assert machine.commit()
