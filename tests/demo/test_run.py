"""Test a whole run of the demonstration, and an interrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edmfast._internal.tables import Section, render
from edmfast.demo import run as demo
from edmfast.demo.budget import Budget
from edmfast.models import EnergyModel, load_model

_TINY = Budget(
    distill_steps=5,
    distill_batch=16,
    value_paths=16,
    steps=6,
    particles=32,
    populations=2,
    composed_populations=1,
    mixture_seeds=2,
    mixture_particles=50,
    exact_particles=50,
)


@pytest.mark.slow
def test_leaves_pictures_an_energy_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections: list[Section] = []

    def render_and_keep(shown: list[Section]) -> str:
        sections.extend(shown)
        return render(shown)

    monkeypatch.setattr(demo, "QUICK", _TINY)
    monkeypatch.setattr(demo, "render", render_and_keep)
    table = demo.run(tmp_path / "out", quick=True)
    assert table in capsys.readouterr().out
    for part in "abcdef":
        assert f"({part}) " in table
        pictures = [*(tmp_path / "out").glob(f"{part}_*.png")]
        assert len(pictures) == (2 if part in "cd" else 1)
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert isinstance(load_model(tmp_path / "out" / "energy.safetensors"), EnergyModel)
    for section in sections:
        explained = " ".join(section.notes)
        # a column for each noise level is explained once, by σ
        columns = {"σ" if name.startswith("σ ") else name for name in section.header[1:]}
        assert all(f"{name}:" in explained or f"{name}, " in explained for name in columns)
        has_gap = any(cell in (None, "-") for row in section.rows for cell in row)
        assert not has_gap or "-: " in explained


def test_interrupted_training_leaves_a_checkpoint_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edmfast.distill.state import RunState

    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "QUICK", _TINY)
    # the parts before the training take their time
    for part in ("report_model", "report_low_temperature", "report_composition"):
        monkeypatch.setattr(demo, part, lambda *arguments, **options: [])
    monkeypatch.setattr(RunState, "update", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"energy\.checkpoint\.safetensors"):
        demo.run(tmp_path, quick=True)
    assert (tmp_path / "energy.checkpoint.safetensors").is_file()
