"""Test that the plain reference gives the same bits where kernels are missing, after one warning that says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edmfast
from edmfast import info

PROGRAM = """
import hashlib, json, torch
from edmfast import info, ops
g = torch.Generator().manual_seed(0)
weights = 3 * torch.randn(3, 20_000, generator=g)
result = ops.systematic_resample(weights, torch.rand(3, generator=g), ess_threshold=0.5)
x, score = torch.randn(2, 3, 100, 5, generator=g)
index = result.ancestors[:, :100] % 100
kernel = 0.5 + torch.rand(3, 3, dtype=torch.float64, generator=g)
moved, _ = ops.propagate(x, score, index, kernel, ops.rng_state(1, 2))
outputs = [*result[:1], *result[2:], ops.standard_normal(torch.empty(2, 9, 30), seed=1, step=2), moved]
digest = hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in outputs)).hexdigest()
print(json.dumps({"digest": digest, "kernels": info()["kernels"]}))
"""


def run(**environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("EDMFAST_")}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:edmfast", "-c", PROGRAM],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_reference_gives_the_same_bits_and_says_why():
    normal, _ = run()
    plain, warned = run(EDMFAST_REFERENCE="1")
    assert plain["digest"] == normal["digest"]
    assert "EDMFAST_REFERENCE=1" in plain["kernels"]["cpu"]
    assert "EDMFAST_REFERENCE=1" in plain["kernels"]["cuda"]
    assert "RuntimeWarning" not in warned


def test_missing_library_warns_once_and_still_answers():
    hidden = PROGRAM.replace(
        "from edmfast",
        "import pathlib\n"
        "glob = pathlib.Path.glob\n"
        "pathlib.Path.glob = lambda p, s: iter(()) if s.startswith('_C') else glob(p, s)\n"
        "from edmfast",
        1,
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=True, timeout=120
    )
    status = json.loads(done.stdout.splitlines()[-1])["kernels"]["cpu"]
    assert status.startswith("off: no compiled library")
    assert done.stderr.count("plain-torch reference") == 1


ON_A_GPU = """
import json, pathlib, sys, torch
glob = pathlib.Path.glob
pathlib.Path.glob = lambda p, s: iter(()) if s.startswith("_cuda") else glob(p, s)
torch.version.cuda, torch.cuda.is_available = "13.0", lambda: True
from edmfast import _extension, ops
from edmfast.ops.noise.reference import noise
has = torch._C._dispatch_has_kernel_for_dispatch_key
names = [
    *("attention", "attention_backward", "attention_double_backward", "attention_jvp"),
    *("curvature", "curvature_matched", "group_norm_silu", "linear_combination", "signs"),
    *("group_norm_silu_backward", "group_norm_silu_double_backward", "mlp_potential"),
    *("mlp_potential_backward", "noise", "potential"),
    *("potential_assemble", "potential_assemble_backward", "potential_backward"),
    *("potential_double_backward", "potential_field", "propagate", "reversal", "score_gram"),
    *("systematic_resample", "weigh_and_resample", "signs", "curvature", "curvature_matched"),
]
facts = {
    "status": _extension.kernel_status(),
    "registered": [name for name in names if has(f"edmfast::{name}", "CUDA")],
    "imported": "triton" in sys.modules,
}
if facts["registered"]:
    inputs = torch.empty(2, 3, 5), ops.rng_state(1, 2), 0, 0, 0
    facts["same"] = torch.equal(_extension._triton("noise", "noise")(*inputs), noise(*inputs))
print(json.dumps(facts))
"""


@pytest.mark.parametrize("reference", ["0", "1"])
def test_triton_stands_in_for_a_missing_cuda_library(reference):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", ON_A_GPU],
        env=os.environ | {"TRITON_INTERPRET": "1", "EDMFAST_REFERENCE": reference, "CC": "cc"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    assert not facts["imported"]
    if reference == "1":
        assert facts["registered"] == []
        assert "EDMFAST_REFERENCE=1" in facts["status"]["triton"]
    else:
        assert facts["registered"] == [
            "attention",
            "attention_backward",
            "attention_double_backward",
            "attention_jvp",
            "curvature",
            "curvature_matched",
            "group_norm_silu",
            "linear_combination",
            "signs",
            "group_norm_silu_backward",
            "group_norm_silu_double_backward",
            "mlp_potential",
            "mlp_potential_backward",
            "noise",
            "potential",
            "potential_assemble",
            "potential_assemble_backward",
            "potential_backward",
            "potential_double_backward",
            "potential_field",
            "propagate",
            "reversal",
            "systematic_resample",
            "weigh_and_resample",
            "signs",
            "curvature",
            "curvature_matched",
        ]
        assert set(facts["registered"]) == set(facts["status"]["triton"].split(", "))
        assert facts["status"]["cuda"].startswith("off: no compiled library")
        assert facts["same"]


WITH_A_LIBRARY = """
import torch
library = torch.library.Library("edmfast", "IMPL", "CUDA")
library.impl("noise", lambda *given: None)
torch.version.cuda, torch.cuda.is_available = "13.0", lambda: True
from edmfast import _extension, ops
print(_extension.kernel_status()["triton"])
"""


def test_triton_leaves_to_the_cuda_library_what_that_has():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITH_A_LIBRARY],
        env=os.environ | {"CC": "cc"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    live = done.stdout.strip().split(", ")
    assert "noise" not in live
    assert {"attention", "propagate"} <= set(live)


def test_what_was_built_is_there():
    """An editable install goes on after a failed CUDA build, so the recorded claim and the files must agree."""
    facts = info()
    libraries = {path.name.split(".")[0] for path in Path(edmfast.__file__).parent.glob("_*.so")}
    assert ("_C" in libraries) == facts["built"].startswith(("C++ and", "CUDA skipped"))
    assert ("_cuda" in libraries) == facts["built"].startswith("C++ and CUDA")
