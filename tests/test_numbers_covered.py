"""Every number that a public function or constructor takes is in a table of `tests.spellings`."""

from __future__ import annotations

import importlib
import inspect
import re

import edmfast
from edmfast import analytic, diagnostics, evaluation, interpolants, models, ops, sampling, smc
from edmfast.distill import objectives
from edmfast.k_diffusion import utils
from edmfast.sampling import guidance, solvers
from edmfast.targets import constrained as constraints
from edmfast.targets import measurements

TABLES = (
    "density",
    "diagnostics",
    "distill",
    "evaluation",
    "distill.objectives",
    "interpolants",
    "k_diffusion",
    "models",
    "models.backbones",
    "ops",
    "sampling",
    "sampling.guidance",
    "sampling.solvers",
    "smc",
    "teachers",
)
# Functions return these, and users do not construct them.
RESULTS = {
    "ChainResult",
    "ConservativityReport",
    "DistillResult",
    "Evaluations",
    "FrechetDistance",
    "Likelihood",
    "Particles",
}
# These numbers may be tensors, and then the results are tensors.
MIXED = {("get_ancestral_step", "sigma_from"), ("get_ancestral_step", "sigma_to")}
NUMBER = re.compile(r"\b(int|float|Exponent|Bound|Strength|Numbers)\b")


def tables():
    return [importlib.import_module(f"tests.{table}.test_numbers").CASES for table in TABLES]


def public():
    for module in (
        edmfast,
        smc,
        sampling,
        guidance,
        solvers,
        ops,
        models,
        analytic,
        diagnostics,
        utils,
        interpolants,
        evaluation,
        objectives,
    ):
        yield from ((name, getattr(module, name)) for name in module.__all__)
    for module in (constraints, measurements):
        for name, member in vars(module).items():
            if inspect.isfunction(member) and member.__module__ == module.__name__:
                yield name, member


def test_every_number_is_in_a_table():
    held = {(case.entry.split(".")[-1], case.argument) for cases in tables() for case in cases}
    numbers = set()
    for name, member in public():
        warning = inspect.isclass(member) and issubclass(member, Warning)
        if name.startswith("_") or name in RESULTS or warning or not callable(member):
            continue
        for parameter in inspect.signature(member).parameters.values():
            if NUMBER.search(str(parameter.annotation)):
                numbers.add((name, parameter.name))
    assert len(numbers) >= 210
    assert numbers - held - MIXED == set()


def test_the_tables_hold_each_number_once():
    for cases in tables():
        names = [(case.entry, case.argument) for case in cases]
        assert len(set(names)) == len(names)
