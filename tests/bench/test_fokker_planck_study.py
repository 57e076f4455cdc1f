"""Test the study of the Fokker–Planck loss: it writes rows and a picture, and the exact denoiser has no gap."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `demo`)")

from bench.studies.fokker_planck import derivatives, measures, run, students


@pytest.mark.slow
def test_a_small_study_writes_rows_and_a_picture(tmp_path, with_threads):
    arguments = ["--modes", "dsm", "--weights", "0", "0.1", "--seeds", "1", "--steps", "3"]
    arguments += ["--count", "64", "--levels", "6"]
    arguments += ["--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]
    with with_threads(1):
        assert run.main([*arguments, "--most", "2"]) == 0
        begun = json.loads((tmp_path / "a.json").read_text())["rows"]
        assert run.main(arguments) == 0
    facts = json.loads((tmp_path / "a.json").read_text())
    assert [run.name_of(row)[:2] for row in facts["rows"]] == [
        ("exact", 0),
        ("dsm", 0),
        ("dsm", 0.1),
    ]
    assert facts["rows"][:2] == begun
    assert len(facts["rows"][1]["residual"]) == len(facts["sigmas"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = run.means(
        [{"ode_sde": 1.0, "ode_data": 2.0, "sde_data": 3.0, "floor": 4.0, "residual": [3.0, 4.0]}]
    )
    assert found["residual"] == pytest.approx(12.5**0.5)


def test_the_exact_denoiser_samples_one_law_by_ode_and_sde():
    found = measures.distances(students.teacher(), 4000, 48, seed=0)
    # distances of sets of one law have a standard deviation of about the floor's half
    assert found["ode_sde"] < 3 * found["floor"]
    assert max(measures.residuals(students.teacher(), 50)) < 1e-2


def test_the_ways_to_differentiate_agree_within_the_noise_of_a_probe():
    torch.manual_seed(0)
    student, _ = students.train("dsm", 0.0, 0, 20)
    rows = {row["way"]: row["errors"] for row in derivatives.compare(student, 64)}
    assert rows.keys() == derivatives.WAYS.keys()
    assert max(rows["loss"]) < 0.2
    assert max(rows["exact"]) < max(rows["loss"])
