"""The documentation reads lines `name: text` of a docstring as parameters."""

from __future__ import annotations

import importlib.util

import pytest

from tests.pages import DOCS


@pytest.fixture
def parameters():
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("parameters", DOCS / "griffe_parameters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lines_of_parameters_become_a_section(parameters):
    text = """Return y.

x: [B], in nats. scale, shift: [C],
    by default 1 and 0.

The result has the dtype of x: no other."""
    wanted = """Return y.

Args:
    x: [B], in nats.
    scale, shift: [C],
        by default 1 and 0.

The result has the dtype of x: no other."""
    assert parameters.with_sections(text, ["x", "scale", "shift"], "Args:") == wanted


def test_choices_become_a_list(parameters):
    text = """scheme: how to draw;
    "systematic"   one uniform,
                   least work
    "stratified"   many"""
    wanted = """Args:
    scheme: how to draw;

        - `"systematic"`: one uniform,
          least work
        - `"stratified"`: many"""
    assert parameters.with_sections(text, ["scheme"], "Args:") == wanted


def test_other_docstrings_stay(parameters):
    text = "Return y: a tensor.\n\nNote: nothing else."
    assert parameters.with_sections(text, ["x"], "Args:") == text
