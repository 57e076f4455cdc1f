"""`edmfast evaluate` reads models, data and features, prints its tables and writes them, and explains mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from edmfast._internal.file_kinds import MIXTURE
from edmfast._internal.files import write_tensors
from edmfast.cli.main import app
from edmfast.evaluation import Evaluation
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, save_model

QUICK = ["--samples", "20", "--nfe", "3,5", "--solvers", "heun, euler", "--bootstrap", "2"]
QUICK += ["--level-states", "4", "--levels", "3,1", "--likelihood-states", "3"]
QUICK += ["--sigma-min", "0.1", "--sigma-max", "20"]


class Rows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(3).flatten(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with saved models, data and features."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    save_model(EnergyModel(ResidualMLP(64, width=8, depth=1), sigma_data=0.75), "energy")
    save_model(Denoiser(ResidualMLP(64, width=8, depth=1), sigma_data=0.75), "denoiser")
    means = torch.stack([torch.full((64,), -0.5), torch.full((64,), 0.5)])
    parts = {"means": means, "covariances": 0.3 * torch.eye(64).expand(2, 64, 64)}
    write_tensors("truth", parts, {"kind": "mixture"}, kind=MIXTURE)
    images = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    np.savez("data.npz", images=images.numpy(), labels=np.arange(50) % 10)
    return tmp_path


def evaluate(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_an_energy_beside_its_teacher_and_the_truth(folder):
    done = evaluate("energy", "--teacher", "truth", "--truth", "truth", "--out", "out", *QUICK)
    assert done.exit_code == 0, done.output
    result = Evaluation.load(folder / "out")
    assert str(result) in done.output
    assert "wrote out/evaluation.json, out/distances.png" in done.output
    assert set(result.distances.column("model")) == {"data", "teacher", "student"}
    assert {3, 5} <= set(result.distances.column("NFE"))
    assert result.settings["solvers"] == ["heun", "euler"]
    assert result.levels.column("sigma") == [3.0, 1.0, 3.0, 1.0]
    assert "error between" in result.levels.columns
    # the same command gives the same numbers
    again = evaluate("energy", "--teacher", "truth", "--truth", "truth", *QUICK)
    assert again.output.strip() == str(result)


def test_a_denoiser_on_a_file_of_bytes(folder):
    done = evaluate("denoiser", "--data", "data.npz", *QUICK)
    assert done.exit_code == 0, done.output
    # images of 8 by 8 pixels have the features of digits
    assert "FD: squared Fréchet distance of 32 features" in done.output
    assert "bits/dim" in done.output
    assert "Fokker-Planck sd" not in done.output


def test_models_of_other_programs(folder):
    model = Denoiser(ResidualMLP(64, width=8, depth=1), sigma_data=0.75)
    torch.save(model.state_dict(), "state.pt")
    (folder / "my_denoisers.py").write_text("def zero(x, sigma):\n    return 0 * x\n")
    only = [*QUICK, "--likelihood-states", "0", "--data", "data.npz"]
    done = evaluate("my_denoisers:zero", "--teacher", "denoiser", *only)
    assert done.exit_code == 0, done.output
    assert "student" in done.output
    done = evaluate("state.pt", *only)
    assert done.exit_code == 2
    assert "is a bare state" in done.stderr


def test_features_from_files(folder):
    torch.jit.script(Rows()).save("rows.pt")
    only = [*QUICK, "--level-states", "0", "--likelihood-states", "0"]
    done = evaluate("denoiser", "--data", "data.npz", "--features", "rows.pt", *only)
    assert "FD: squared Fréchet distance of 8 features" in done.output
    as_bytes = evaluate(
        *("denoiser", "--data", "data.npz", "--features", "rows.pt", "--features-as-bytes", *only)
    )
    assert as_bytes.exit_code == 0, as_bytes.output
    assert as_bytes.output != done.output
    (folder / "my_nets.py").write_text("from torch import nn\n\ndef flat():\n"
                                       "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n")  # fmt: skip
    save_file({"1.weight": torch.randn(5, 64), "1.bias": torch.zeros(5)}, "w.safetensors")
    arguments = ["denoiser", "--data", "data.npz", "--features", "w.safetensors", *only]
    done = evaluate(*arguments, "--features-network", "my_nets:flat")
    assert "FD: squared Fréchet distance of 5 features" in done.output, done.output
    for name in ("my_nets:other", "none:flat", "my_nets"):
        failed = evaluate(*arguments, "--features-network", name)
        assert failed.exit_code == 2
        assert "--features-network" in failed.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "--truth", "truth"], "no file or folder missing"),
        (["energy"], "give --data, --truth or both"),
        (["energy", "--truth", "energy"], "energy holds no mixture of Gaussians"),
        (["energy", "--data", "energy"], "accepted are a folder or .zip"),
        (["energy", "--truth", "truth", "--solvers", "rk4"], "unknown solver 'rk4'"),
        (["energy", "--truth", "truth", "--nfe", "2.5"], "--nfe takes integers such as 5,10,18"),
        (["energy", "--truth", "truth", "--nfe", "x"], "--nfe takes numbers"),
        (["energy", "--truth", "truth", "--levels", "1,2"], "levels that decrease"),
        (["energy", "--truth", "truth", "--features", "none.pt"], "no file none.pt"),
        (["energy", "--truth", "truth", "--features-as-bytes"], "need --features"),
        (["energy", "--truth", "truth", "--device", "abacus"], "no device 'abacus'"),
        (["energy", "--truth", "truth", "--out", "data.npz"], "File exists"),
        (["energy", "--truth", "truth", "--samples", "1"], "samples must be 0 or at least 2"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    done = evaluate(*arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("edmfast evaluate: ")
    assert message in line
