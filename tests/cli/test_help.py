"""Help texts are shown as they were written at every width, and name all functions and options."""

from __future__ import annotations

import re

import pytest
import typer
from typer.testing import CliRunner

import edmfast
from edmfast.cli import expressions
from edmfast.cli.main import app
from edmfast.smc.proposals import PROPOSALS

COMMANDS = typer.main.get_command(app).commands


def shown(*arguments, width):
    done = CliRunner().invoke(app, [*arguments, "--help"], terminal_width=width)
    assert done.exit_code == 0
    return " ".join(done.output.split())


def unbroken(text):
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_help_text_is_shown_unchanged(name, width):
    command = COMMANDS[name]
    text = unbroken(shown(name, width=width))
    assert unbroken(command.help) in text
    for parameter in command.params:
        assert unbroken(parameter.help) in text, parameter.name
        for option in parameter.opts:
            assert option in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_brackets_are_not_taken_for_markup(width):
    text = unbroken(shown("sample", width=width))
    assert "product([a,b],[1,0.5])" in text
    assert "Numberofpositivenoiselevels[default:32]." in text


def test_help_and_documentation_name_every_function_of_expressions():
    target = next(p for p in COMMANDS["sample"].params if p.name == "target")
    for name in expressions.FUNCTIONS:
        assert f"{name}(" in target.help, name
        assert f"{name}(" in expressions.__doc__, name


def test_help_names_every_proposal():
    proposal = next(p for p in COMMANDS["sample"].params if p.name == "proposal")
    assert ", ".join(PROPOSALS) in proposal.help


def test_examples_in_the_help_are_understood():
    target = next(p for p in COMMANDS["sample"].params if p.name == "target")
    model = edmfast.EnergyModel(edmfast.models.ResidualMLP(2, width=4, depth=1, num_classes=5))
    known = dict.fromkeys(("model", "a", "b", "base"), model)
    examples = re.findall(r"\w+\([^()]*\)", target.help)
    assert len(examples) == len(expressions.FUNCTIONS)
    for example in examples:
        expressions.parse_target(example, known)


def test_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"edmfast {edmfast.__version__}\n")


def test_no_command_shows_the_help():
    assert "sample" in CliRunner().invoke(app, []).output
