"""Test the house rules: matching stems, one schema, imports that go down, short files, no loose ends."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

from edmfast import ops

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edmfast"
FLOOR = {
    "_internal": 0,
    "_version": 0,
    "plotting": 0,
    "_library": 1,
    "_extension": 2,
    "ops": 3,
    "nn": 4,
    "models": 5,
    "analytic": 6,
    "interpolants": 6,
    "targets": 6,
    "distill": 7,
    "smc": 7,
    "sampling": 7,
    "density": 7,
    "diagnostics": 7,
    "_info": 7,
    "demo": 8,
    "evaluation": 8,
    "k_diffusion": 8,
    "diffusers": 8,
    "teachers": 9,
    "__init__": 8,
    "cli": 10,
}
TEXT = {".py", ".cpp", ".cu", ".h", ".md", ".toml", ".yml"}


def sources(*folders):
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    paths += [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    return [path for path in paths if path.suffix in TEXT or path.name == "Makefile"]


FILES = sources("edmfast", "csrc", "tests", "bench", "docs", "examples", ".github")
MODULES = sorted(PACKAGE.rglob("*.py"))


def stems(folder, pattern="*.py", prefix=""):
    names = (path.stem.removeprefix(prefix) for path in (ROOT / folder).glob(pattern))
    return {name for name in names if not name.startswith("_")}


def defined_schemas():
    schemas = {}
    for path in sorted((PACKAGE / "ops").glob("*/operator.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "_extension.define":
                schema = ast.literal_eval(node.args[0])
                schemas[schema.split("(", 1)[0]] = schema
    return schemas


def imported(path):
    """Yield the dotted names of the parts of edmfast that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "edmfast":
                yield from (f"edmfast.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_operator_has_its_stem_in_every_room():
    """Each operator has a folder, kernels, tests and a benchmark of one name."""
    folders = {path.name: path for path in (PACKAGE / "ops").iterdir() if path.name[0] != "_"}
    assert folders
    operators = {*folders}
    for name, folder in folders.items():
        modules = stems(f"edmfast/ops/{name}")
        assert {"operator", "reference"} <= modules, f"{folder} holds {sorted(modules)}"
        exported = ast.parse((folder / "__init__.py").read_text()).body[-1]
        assert isinstance(exported, ast.Assign), f"{folder}/__init__.py does not end with __all__"
        names = {*ast.literal_eval(exported.value)}
        assert names <= {*ops.__all__}, f"{folder} exports {sorted(names)}"
        described = ast.get_docstring(ast.parse((folder / "operator.py").read_text()))
        first_line = described.splitlines()[0]
        assert any(f"`{public}`" in first_line for public in names), f"{folder}: {first_line}"
        # the dispatcher calls the functions of triton_ops
        by_triton = any(module.startswith("triton_") for module in modules)
        assert not by_triton or "triton_ops" in modules, f"{folder} holds {sorted(modules)}"
    # nearly all of attention's time is in matrix products, which torch does
    assert stems("csrc/cpu", "*.cpp") == operators - {"attention"}
    assert stems("csrc/cuda", "*.cu") <= operators
    assert operators <= stems("tests/ops", "test_*.py", "test_")
    assert operators <= stems("bench/cases")
    registry = (ROOT / "bench" / "harness" / "registry.py").read_text()
    assert all(f'"bench.cases.{name}"' in registry for name in operators)
    # the interpreter checks every Triton kernel
    kernels = {path.parent.name for path in (PACKAGE / "ops").glob("*/triton_ops.py")}
    assert kernels <= stems("tests/ops/triton", "test_*.py", "test_")


def test_references_are_plain_torch():
    """No reference imports an operator, a kernel or the library that loads kernels."""
    for path in (PACKAGE / "ops").glob("*/reference.py"):
        modules = {name for name in imported(path) if name.startswith("edmfast")}
        plain = re.compile(r"edmfast\.ops\.(_shared\.\w+|\w+\.(reference|checks))")
        assert all(plain.fullmatch(name) for name in modules), f"{path} imports {modules}"


def test_operators_import_no_circles_even_inside_functions():
    named = {
        name: path
        for name, path in modules_by_name().items()
        if name.startswith("edmfast.ops.") and path.name != "__init__.py"
    }
    below = {}
    for name, path in named.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        modules = {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
        below[name] = (modules | {n.module for n in nodes}) & named.keys()
    while free := {name for name, modules in below.items() if not modules}:
        below = {name: modules - free for name, modules in below.items() if name not in free}
    assert sorted(below) == []


def test_python_and_cpp_define_the_same_schemas():
    text = (ROOT / "csrc" / "ops.cpp").read_text()
    in_cpp = [
        "".join(re.findall(r'"([^"]*)"', call)) for call in re.findall(r"m\.def\(([^;]*)\);", text)
    ]
    assert sorted(in_cpp) == sorted(defined_schemas().values())


@pytest.mark.parametrize("name", sorted(defined_schemas()))
def test_the_live_operator_has_the_schema(name):
    assert ops.__all__
    expected = torch._C.parse_schema(f"edmfast::{defined_schemas()[name]}")
    assert str(getattr(torch.ops.edmfast, name).default._schema) == str(expected)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    here = room(path)
    assert here in FLOOR, f"{here} has no floor: give it one here"
    for name in imported(path):
        if not name.startswith("edmfast."):
            continue
        there = name.split(".")[1]
        if there not in FLOOR or there == here:
            continue
        level = FLOOR[there], FLOOR[here]
        assert level[0] < level[1] or (here == "__init__" and level[0] == level[1]), (
            f"{path.relative_to(ROOT)} imports {name}, which is not below it"
        )


BENCH_FLOOR = {"harness": 0, "rivals": 1, "cases": 2, "studies": 3, "report": 4, "gpu": 4}


def test_benchmarks_import_downwards():
    upward = []
    for path in sorted((ROOT / "bench").glob("*/**/*.py")):
        here = path.relative_to(ROOT / "bench").parts[0]
        # a command may start another one: such imports are inside its main
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "bench":
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                rooms = {name.split(".")[1] for name in names if "." in name} - {here}
                upward += [
                    f"{path}: {node.module}"
                    for there in rooms & {*BENCH_FLOOR}
                    if BENCH_FLOOR[there] >= BENCH_FLOOR[here]
                ]
    assert upward == []


def modules_by_name():
    """Map the dotted name of every module of the package to its file."""
    named = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imported_at_module_level(path, named):
    """Yield the modules that a file imports outside functions, including under TYPE_CHECKING."""
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name if name in named else node.module for name in submodules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += ast.iter_child_nodes(node)


def test_no_module_imports_itself_through_others():
    named = modules_by_name()
    below = {
        name: {*imported_at_module_level(path, named)} & named.keys() - {name}
        for name, path in named.items()
    }
    while free := {name for name, modules in below.items() if not modules}:
        below = {name: modules - free for name, modules in below.items() if name not in free}
    # each remaining module imports itself, or a module that does
    assert sorted(below) == []


def test_the_room_of_sequential_monte_carlo_is_not_crowded():
    entries = {path for path in (PACKAGE / "smc").iterdir() if not path.name.startswith("__")}
    assert len(entries) <= 22, sorted(path.name for path in entries)


def test_files_are_short():
    # a program writes the report of results, whose length grows with the number of cases
    written = {ROOT / "bench" / "RESULTS.md"}
    lengths = {path: len(path.read_text().splitlines()) for path in {*FILES} - written}
    assert {str(path): n for path, n in lengths.items() if n > 500} == {}
    code = sorted(n for path, n in lengths.items() if path.suffix in {".py", ".cpp", ".cu", ".h"})
    assert code[len(code) // 2] <= 180


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(?<![\w.~}\])/])/(?:home|root|work|tmp|mnt)/", "a path of one machine"),
        (r"\b(?:TODO|FIX" + r"ME|XX" + r"X)\b", "an open end: finish it or leave it out"),
        (r"(?i)(?<!pytorch )\bissue (?:number )?\d", "a ticket: say what it is about"),
        (r"\.\./sha" + r"red", "a folder outside the repository"),
    ],
)
def test_no_loose_ends(pattern, why):
    matches = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line) and path != Path(__file__)
    ]
    assert matches == [], why


def test_documents_that_are_named_exist():
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in FILES
        for name in re.findall(r"\b[A-Z]{3,}\.md\b", path.read_text())
    }
    missing = {
        (path, name)
        for path, name in named
        if not ((ROOT / name).exists() or (ROOT / "bench" / name).exists())
    }
    assert missing == set()


def test_every_module_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT))
        for path in [*MODULES, *sorted((ROOT / "bench").rglob("*.py"))]
        if len(path.read_text().splitlines()) > 1
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
