"""Test the public names, the time of an import, and the command line."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import edmfast
from edmfast.cli.main import app

IMPORT = """
import time
import torch, numpy, safetensors.torch, tqdm
# the time of this process, which others on the same cores do not lengthen
start = time.process_time()
import edmfast
print(time.process_time() - start)
heavy = {"sklearn", "matplotlib", "scipy", "sympy", "triton", "typer", "pandas"}
import sys
print(sorted(heavy & set(sys.modules) - before))
"""


def test_every_public_name_is_there():
    for name in edmfast.__all__:
        assert getattr(edmfast, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        edmfast.nonsense  # noqa: B018, the access raises


def test_modules_for_other_projects_are_imported_when_they_are_used():
    program = """
import sys
import edmfast
print({"diffusers", "k_diffusion"} <= set(dir(edmfast)))
print([name for name in sys.modules if "diffus" in name and name != "edmfast.ops.diffusion"])
print(edmfast.k_diffusion.sampling.__name__, edmfast.diffusers.__name__, "diffusers" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:3] == [
        "True",
        "[]",
        "edmfast.k_diffusion.sampling edmfast.diffusers False",
    ]


def test_lazy_names_are_public_and_cost_nothing_at_import():
    program = """
import sys
import edmfast
lazy = {"evaluation", "load_teacher", "teachers"}
print(lazy <= set(edmfast.__all__), lazy <= set(dir(edmfast)), "demo" in dir(edmfast))
print([name for name in ("teachers", "evaluation", "demo") if f"edmfast.{name}" in sys.modules])
print(edmfast.load_teacher.__name__, edmfast.evaluation.evaluate.__name__)
from edmfast import load_teacher
print(load_teacher is edmfast.teachers.load_teacher)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:4] == [
        "True True True",
        "[]",
        "load_teacher evaluate",
        "True",
    ]


@pytest.mark.parametrize("name", ["config", "models", "evaluation"])
def test_modules_of_k_diffusion_that_are_not_here(name):
    with pytest.raises(AttributeError, match=f"{name}.*external, layers, sampling and utils"):
        getattr(edmfast.k_diffusion, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        edmfast.k_diffusion.nonsense  # noqa: B018, the access raises


def test_distill_is_the_function_and_its_package_still_imports():
    loss = importlib.import_module("edmfast.distill.loss")
    package = importlib.import_module("edmfast.distill")
    from edmfast.distill import DistillConfig

    assert callable(edmfast.distill)
    assert package.distill is edmfast.distill
    assert DistillConfig is edmfast.DistillConfig
    assert loss.__name__ == "edmfast.distill.loss"
    assert pickle.loads(pickle.dumps(edmfast.distill)) is edmfast.distill


def test_import_is_quick_and_light():
    program = IMPORT.replace("start =", "import sys; before = set(sys.modules)\nstart =", 1)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    seconds, heavy = done.stdout.splitlines()[-2:]
    assert float(seconds) < 1
    assert heavy == "[]"


def test_info_tells_versions_and_kernels():
    facts = edmfast.info()
    assert facts["versions"]["edmfast"] == edmfast.__version__
    assert facts["versions"]["torch"] == str(torch.__version__)
    assert set(facts["kernels"]) == {"cpu", "cuda", "triton"}
    assert facts["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(facts)) == facts


def test_command_line_info():
    plain = CliRunner().invoke(app, ["info"])
    assert plain.exit_code == 0
    assert "kernels:" in plain.output
    as_json = CliRunner().invoke(app, ["info", "--json"])
    assert json.loads(as_json.output)["versions"]["edmfast"] == edmfast.__version__


def test_command_line_demo_passes_its_options(monkeypatch, tmp_path):
    seen = {}
    module = type(sys)("edmfast.demo.run")
    module.run = lambda **options: seen.update(options)
    monkeypatch.setitem(sys.modules, "edmfast.demo.run", module)
    arguments = ["demo", "--quick", "--out", str(tmp_path), "--seed", "3"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == {"out": tmp_path, "quick": True, "retrain": False, "seed": 3}
