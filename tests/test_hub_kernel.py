"""Test that build.toml lists every source for the Hugging Face hub, and that exported operators stand alone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMESPACE = "_edmfast_cpu_0a1b2c3"
# kernel-builder writes this file beside the package.
OPS = f"""
import torch
try:
    from . import {NAMESPACE}
except ImportError:
    pass
ops = torch.ops.{NAMESPACE}
def add_op_namespace_prefix(name):
    return "{NAMESPACE}::" + name
"""
# These are the keys of edition 5 of the format that are used here.
GENERAL = {"name", "version", "edition", "license", "backends", "hub", "upstream", "source", "cuda"}
TORCH = {"include", "minver", "maxver", "pyext", "src", "stable-abi", "cxx-flags"}
KERNEL = {
    "cpu": {"backend", "depends", "src", "include", "cxx-flags"},
    "cuda": {"backend", "depends", "src", "include", "cxx-flags", "cuda-flags", "cuda-minver"},
}
ALONE = """
import importlib.abc, importlib.util, json, sys

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "typer", "tqdm", "safetensors", "edmfast"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
folder, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py")
kernel = importlib.util.module_from_spec(spec)
sys.modules[name] = kernel
spec.loader.exec_module(kernel)

import torch
log_weights = torch.tensor([[0.0, -1.0, -torch.inf, 2.0]])
ancestors = kernel.systematic_resample(log_weights, torch.tensor([0.5])).ancestors
x = torch.linspace(-1, 1, 48).reshape(2, 4, 6).requires_grad_()
y = kernel.group_norm(x, 2, torch.ones(4), torch.zeros(4), silu=True)
(slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
(curvature,) = torch.autograd.grad(slope.square().sum(), x)
foreign = {"numpy", "typer", "tqdm", "safetensors", "edmfast"} & set(sys.modules)
sys.meta_path.pop(0)  # torch.compile itself looks for some of them
normals = torch.compile(kernel.standard_normal, fullgraph=True, backend="eager")(
    torch.empty(2, 3, 5), seed=1, step=2
)
status = importlib.import_module(f"{name}._extension").kernel_status()
print(json.dumps({
    "names": sorted(kernel.__all__),
    "ancestors": ancestors.tolist(),
    "sums": [float(t.detach().double().square().sum()) for t in (y, slope, curvature, normals)],
    "status": status,
    "foreign": sorted(foreign),
    "in the usual namespace": sorted(dir(torch.ops.edmfast)),
}))
"""


def configuration():
    toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return toml.loads((ROOT / "build.toml").read_text())


def exporter():
    spec = importlib.util.spec_from_file_location("export", ROOT / "torch-ext" / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "project"
    exporter().export(folder)
    (folder / "torch-ext" / "edmfast" / "_ops.py").write_text(OPS)
    return folder


def run_alone(project):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    package = project / "torch-ext" / "edmfast"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, str(package), "kernel_0a1b2c3"],
        cwd=project.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_configuration_has_known_keys():
    content = configuration()
    assert set(content) == {"general", "torch", "kernel"}
    assert set(content["general"]) <= GENERAL
    assert content["general"]["edition"] == 5
    assert set(content["torch"]) <= TORCH
    backends = [kernel["backend"] for kernel in content["kernel"].values()]
    assert sorted(backends) == sorted(content["general"]["backends"])
    for kernel in content["kernel"].values():
        assert set(kernel) <= KERNEL[kernel["backend"]]
        assert kernel["depends"] == ["torch"]


def test_every_source_is_listed_once_and_exists(project):
    content = configuration()
    lists = [content["torch"]["src"], *(kernel["src"] for kernel in content["kernel"].values())]
    listed = [name for sources in lists for name in sources]
    files = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    # register.cpp is the Python module of a hub build
    used = [path for path in files if path.parent.name != "python"]
    expected = {str(path.relative_to(ROOT)) for path in used} | {"torch-ext/register.cpp"}
    assert sorted(listed) == sorted(expected)
    assert all((project / name).is_file() for name in listed)
    for kernel in content["kernel"].values():
        assert {Path(name).parts[1] for name in kernel["src"]} == {kernel["backend"]}


def test_the_flags_are_those_of_the_usual_build():
    setup = (ROOT / "setup.py").read_text()
    kernels = configuration()["kernel"].values()
    flags = {
        flag for kernel in kernels for name in kernel if "flags" in name for flag in kernel[name]
    }
    usual = flags - {"-DEDMFAST_NAMESPACE=TORCH_EXTENSION_NAME"}
    assert usual
    assert {flag for flag in usual if f'"{flag}"' not in setup} == set()
    assert configuration()["torch"]["stable-abi"] == "2.11"


def test_no_operator_is_registered_in_a_namespace_of_its_own():
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".cpp", ".cu", ".h"}]
    texts = {path: path.read_text() for path in sources if path.name != "library.h"}
    assert [str(path) for path, text in texts.items() if "STABLE_TORCH_LIBRARY" in text] == []


def test_the_operators_import_nothing_but_torch(project):
    import edmfast

    facts = run_alone(project)
    assert facts["names"] == sorted([*edmfast.ops.__all__, "ops"])
    assert facts["foreign"] == []
    assert not {"attention", "noise"} & {*facts["in the usual namespace"]}
    assert facts["ancestors"] == [[1, 3, 3, 3]]
    assert facts["sums"] == pytest.approx(expected(), rel=1e-6)
    assert facts["status"]["cpu"].startswith(("off", NAMESPACE))


def expected():
    import torch

    from edmfast import ops

    x = torch.linspace(-1, 1, 48).reshape(2, 4, 6).requires_grad_()
    y = ops.group_norm(x, 2, torch.ones(4), torch.zeros(4), silu=True)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    normals = ops.standard_normal(torch.empty(2, 3, 5), seed=1, step=2)
    return [float(t.detach().double().square().sum()) for t in (y, slope, curvature, normals)]


def test_the_program_writes_a_project_and_overwrites_none(tmp_path, capsys):
    program = exporter()
    assert program.main([str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "flake.nix").is_file()
    with pytest.raises(SystemExit):
        program.main([str(tmp_path / "new")])
    assert "exists already" in capsys.readouterr().err
