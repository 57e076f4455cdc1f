"""Hostile expressions and options quickly give one line of error and exit code 2."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from edmfast.analytic import GaussianMixture
from edmfast.cli.expressions import ExpressionError, parse_target
from edmfast.cli.main import app
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, save_model

MODELS = {"a": GaussianMixture([[0.0, 1.0]], [0.5]), "b": GaussianMixture([[1.0, 0.0]], [0.7])}
TOKENS = [
    *("a", "b", "c", "tempered", "product", "mixture", "guided", "conditioned", "(", ")", "[", "]"),
    *(
        ",",
        "=",
        "1",
        "0.5",
        "-",
        "+",
        "**",
        "*",
        "10**10**10",
        "1e999",
        "1e308",
        "nan",
        "inf",
        "9" * 400,
    ),
    *(
        "0x" + "f" * 300,
        "1j",
        "True",
        "None",
        "'x'",
        '"""a\nb"""',
        "b'x'",
        "f'{a}'",
        "...",
        "\\\n",
        "\n",
    ),
    *(
        "__import__('os').system('false')",
        "a.__class__",
        "a[0]",
        "lambda: a",
        "gamma=",
        "class_label=",
    ),
    *(
        "exec('1')",
        "{}",
        "{a: b}",
        "{*()}",
        "not a",
        "a if b else a",
        "(yield)",
        "await a",
        "a := b",
    ),
    *(
        "[x for x in (a,)]",
        "#",
        ";",
        "\x00",
        "\ud800",
        "é",
        "𝐚",
        " ",
        "\t",
        "@",
        "print(1)",
        "import os",
    ),
]
DEEP = [
    "tempered(" * 2000 + "a" + ",1)" * 2000,
    "(" * 5000 + "a" + ")" * 5000,
    "-" * 9000 + "1",
    "[" * 3000 + "]" * 3000,
    "a" + ".a" * 4000,
    "a" + "(a)" * 3000,
    "not " * 2400 + "a",
    "a" + "+a" * 4000,
    "conditioned(a, x=0x" + "f" * 9000 + ")",
    "conditioned(a, x=" + "9" * 9000 + ")",
    "tempered(a, " + "9" * 4000 + ")",
    "tempered(a, 1e999)",
    "tempered(a, [1e999])",
    "tempered(a, [[1], [1, 2]])",
    "product([a, b], [1, [1, 2], [1, 2, 3]])",
    "product([product([product([a, b])])])",
    "conditioned(a, __class__=1)",
    "conditioned(a, self=1)",
    "conditioned(a, x=[])",
    "conditioned(model=a)",
    "guided(a, b, [1, [2]])",
    "mixture([a, b], [1e308, 1e308])",
    "mixture([a, b], [0, 0])",
    "mixture([], [])",
    "tempered(" * 33 + "a" + ", 1)" * 33,
]


def parse(text):
    """Return the target or None. Any error but an ExpressionError of one line fails the test."""
    try:
        return parse_target(text, MODELS)
    except ExpressionError as error:
        message = str(error)
    assert "\n" not in message, text
    return None


@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_deep_and_huge_expressions(text):
    target = parse(text)
    assert target is None or hasattr(target, "energy_and_score")


def test_random_expressions_are_targets_or_refused():
    random.seed(0)
    valid = ["tempered(a, 2)", "product([a, b], [1, [0.5, 2]])", "guided(a, b, 1.5)"]
    for _ in range(4000):
        if random.random() < 0.5:
            text = "".join(random.choice(TOKENS) for _ in range(random.randint(1, 12)))
        else:
            text = random.choice(valid)
            for _ in range(random.randint(1, 3)):
                at = random.randrange(len(text) + 1)
                text = text[:at] + random.choice(TOKENS) + text[at + random.randint(0, 2) :]
        parse(text)


def test_nesting_as_deep_as_is_allowed_runs():
    target = parse("tempered(" * 32 + "a" + ", 1)" * 32)
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(target.energy_and_score(x, 1.0)[0], MODELS["a"].energy_and_score(x, 1.0)[0])


HOSTILE_NUMBERS = [
    "0",
    "-1",
    "-0.0",
    "nan",
    "inf",
    "-inf",
    "1e-400",
    "1e308",
    str(2**63),
    "9" * 30,
    "x",
    "",
]
POOL = {
    "--target": [
        *DEEP[:9],
        "exit()",
        "model.x",
        "10**10**10",
        "",
        "nan",
        "product([model] , [1e308])",
    ],
    "--shape": ["0", "-1,2", "2,2", "1000000000", "1" * 400, "2,", "x", "", "1,1,1,1", "2.0"],
    "--steps": ["0", "-3", "1", "2", "1000000000", "9" * 25, "1.5", "x"],
    "--sigma-max": HOSTILE_NUMBERS,
    "--sigma-min": HOSTILE_NUMBERS,
    "--weighted-above": HOSTILE_NUMBERS,
    "--particles": ["0", "-1", "1", "1000000000000", str(2**31), "9" * 30, "x"],
    "--populations": ["0", "-1", "1000000000", str(2**28), "9" * 30, "x"],
    "--class-label": [
        "0..999999999",
        "-1",
        "5",
        "nan",
        "1e400",
        str(2**63),
        "9" * 5000,
        "",
        ",",
        "..",
        "2..0",
    ],
    "--condition": [
        "x",
        "=",
        "x=",
        "x=1",
        "class_label=0..1e9",
        "sigma=1",
        "x y=1",
        "class_label=0.5",
        "\x00=1",
    ],
    "--proposal": ["", "heun", "__class__", "feynman_kac", "superdiff"],
    "--pilot-steps": ["0", "1", "-5", "10000000000", "x"],
    "--calibration": ["missing", "folder", "junk", "empty", "json", "model", "no/where", "\x00"],
    "--checkpoint": ["folder", "no/where", "c" * 300, ""],
    "--resume": ["missing", "folder", "junk", "empty", "model", "json"],
    "--out": ["folder", "no/where", "p" * 300, "", "/", "model/below"],
    "--png": ["folder", "no/where", "p" * 300, ""],
    "--seed": ["-1", str(2**63), str(2**64), "9" * 30, "1.5", "x", str(2**64 - 1)],
    "--device": [
        "",
        "nowhere",
        "cuda:99",
        "meta",
        "cpu:" + "9" * 30,
        "cpu:-1",
        "mps",
        "xla",
        "cpu\n",
    ],
    "--model": [
        "b",
        "b=",
        "=model",
        "b=missing",
        "b=folder",
        "b=junk",
        "model=model",
        "tempered=model",
        "1=model",
    ],
    "--calibrate": [None],
    "--nonsense": [None, "1"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    save_model(EnergyModel(ResidualMLP(2, width=8, depth=1, num_classes=3)), "model")
    save_model(Denoiser(ResidualMLP(2, width=8, depth=1)), "denoiser")
    Path("folder").mkdir()
    Path("junk").write_bytes(os.urandom(500))
    Path("empty").write_bytes(b"")
    Path("json").write_text('{"edmfast": "calibration", "sigmas": [1e999, -1], "kappa": "x"}')
    return tmp_path


def run(arguments, folder):
    before = sorted(folder.iterdir())
    done = CliRunner().invoke(app, ["sample", *arguments])
    assert done.exit_code in (0, 2), (arguments, done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), arguments
    assert "Traceback" not in done.output
    if done.exit_code == 2:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(("edmfast sample: ", "Error: ")), (arguments, done.stderr)
        assert "unexpected" not in last, (arguments, last)
        assert len(last) < 1000 + sum(map(len, arguments))
        assert sorted(folder.iterdir()) == before, arguments
    return done


BASE = {"--sigma-max": "2", "--sigma-min": "0.5", "--steps": "2", "--particles": "4", "--out": "p"}


def flat(options):
    return [part for name, value in options.items() for part in (name, value) if part is not None]


@pytest.mark.parametrize("option", POOL)
def test_every_hostile_value_of_an_option(folder, option):
    base = BASE
    if option == "--calibration":  # a calibration brings its own noise levels
        base = {name: value for name, value in BASE.items() if name in ("--particles", "--out")}
    for value in POOL[option]:
        run(["model", *flat(base | {option: value})], folder)


def test_hostile_options_together(folder):
    random.seed(1)
    for _ in range(150):
        chosen = {name: random.choice(POOL[name]) for name in random.sample(sorted(POOL), 3)}
        model = random.choice(["model", "denoiser", "missing", "folder", "junk", "empty"])
        (folder / "p").unlink(missing_ok=True)
        run([model, *flat(BASE | chosen)], folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--class-label": "0..999999999"}, "class_label takes at most 1000000 values"),
        ({"--class-label": "0..9", "--condition": "y=1..1000000000000"}, "y takes at most 1000000"),
        ({"--condition": "class_label=" + str(2**63)}, "finite numbers of at most 64 bits"),
        ({"--condition": "sigma=1"}, "sigma is no condition"),
        ({"--condition": "y=nan"}, "finite numbers of at most 64 bits"),
        ({"--shape": "1000000000"}, "GiB at least"),
        ({"--shape": "1" * 400}, "need more than any machine's memory"),
        ({"--particles": "2000000000"}, "2000000000 particles of shape (2,)"),
        ({"--populations": "200000000"}, "200000000 populations of 4 particles"),
        ({"--steps": "1000000000"}, "--steps must be from 1 to 100000, got 1000000000"),
        (
            {"--pilot-steps": "1000000", "--calibrate": None},
            "--pilot-steps must be from 1 to 100000",
        ),
        ({"--particles": "-5"}, "--particles must be at least 1, got -5"),
        ({"--populations": "0"}, "--populations must be at least 1, got 0"),
        ({"--device": "meta"}, "no device 'meta'"),
        ({"--calibrate": None, "--proposal": "heun"}, "unknown proposal 'heun'"),
        ({"--calibrate": None, "--calibration": "no/where"}, "there is no folder"),
        ({"--seed": str(2**64)}, "--seed must fit 64 bits"),
    ],
)
def test_limits_are_checked_before_anything_is_allocated(folder, monkeypatch, options, message):
    monkeypatch.setattr("edmfast.smc.sample", None)
    monkeypatch.setattr("edmfast.smc.calibrate", None)
    monkeypatch.setattr("edmfast._internal.memory._available", lambda: 4 * 2**30)
    done = run(["model", *flat(BASE | options)], folder)
    assert done.exit_code == 2
    assert message in done.stderr
