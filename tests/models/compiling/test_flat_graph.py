"""Flat graphs compile once more for changed sizes, and warn once where compilation fails."""

import shutil
import warnings
from contextlib import nullcontext as nothing

import pytest
import torch

from edmfast.models.compiling import flat_graph
from edmfast.models.compiling.flat_graph import FlatGraph
from edmfast.ops import potential

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)


def step(fixed, inputs):
    """Return a loss made of a gradient, its gradient by the weights, and the inner gradient itself."""
    (x,) = inputs
    with torch.enable_grad():
        weight = fixed[0].detach().requires_grad_()
        x = x.detach().requires_grad_()
        energy, _ = potential(torch.tanh(x @ weight), x, x.new_ones(x.shape[0]))
        (score,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        (gradient,) = torch.autograd.grad(score.square().mean(), weight)
    return gradient, score.detach()


class Called:
    """A FlatGraph whose eager alternative is its own function."""

    def __init__(self, function):
        self.flat = FlatGraph(function, otherwise="it is slow")

    def __call__(self, fixed, inputs, key=None):
        return self.flat(fixed, inputs, lambda: self.flat.function(fixed, inputs), key)


@pytest.fixture
def graphs(monkeypatch):
    traced = []
    compile_ = flat_graph.compile_graph

    def record(graph, *arguments):
        traced.append(graph)
        return compile_(graph, *arguments)

    monkeypatch.setattr(flat_graph, "compile_graph", record)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        yield traced


def close(actual, expected):
    """Assert that tensors are equal up to the order of rounding, in units of the largest element."""
    for a, b in zip(actual, expected, strict=True):
        size = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * size)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_changed_batch_size_compiles_once_more(graphs):
    compiled, weight = Called(step), torch.randn(3, 3)
    for batch, wanted in ((40, 1), (40, 1), (24, 2), (17, 2), (31, 2), (40, 2), (2, 2)):
        x = torch.randn(batch, 3)
        close(compiled([weight], [x]), step([weight], [x]))
        assert len(graphs) == wanted, batch
    # short rows of a recorded potential are plain formulas in a graph, see tests/ops/test_fusing.py
    for graph in graphs:
        assert not any("edmfast" in str(node.target) for node in graph.graph.nodes)


def test_sizes_that_are_equal_by_chance_get_their_own_symbols(graphs):
    """In a batch of 8 rows of 8 numbers, the number of rows is its own symbol."""
    compiled, weight = Called(step), torch.randn(8, 8)
    for batch in (8, 5, 8, 11):
        x = torch.randn(batch, 8)
        close(compiled([weight], [x]), step([weight], [x]))
    assert len(graphs) == 2


@pytest.mark.parametrize("batch", [0, 1])
def test_no_rows_and_one_row(graphs, batch):
    compiled, weight = Called(step), torch.randn(3, 3)
    for size in (4, 6, batch, 5):
        x = torch.randn(size, 3)
        close(compiled([weight], [x])[1:], step([weight], [x])[1:])
    assert len(graphs) == 3


def test_another_dtype_or_order_of_strides_is_another_trace(graphs):
    compiled, weight = Called(step), torch.randn(3, 3)
    x = torch.randn(5, 3)
    for change in (lambda t: t, lambda t: t.double(), lambda t: t.T.contiguous().T):
        arguments = [change(weight)], [change(x)]
        close(compiled(*arguments), step(*arguments))
    assert len(graphs) == 3


def test_changed_weights_are_seen(graphs):
    compiled, x = Called(step), torch.randn(5, 3)
    for _ in range(2):
        weight = torch.randn(3, 3)
        close(compiled([weight], [x]), step([weight], [x]))
    assert len(graphs) == 1


def test_the_callers_key_is_part_of_the_key(graphs):
    scale = {"by": 1.0}
    compiled = Called(lambda _, inputs: (inputs[0] * scale["by"],))
    x = torch.randn(4)
    assert torch.equal(compiled([], [x], 1.0)[0], x)
    scale["by"] = 2.0
    assert torch.equal(compiled([], [x], 2.0)[0], 2 * x)
    assert len(graphs) == 2


def test_autocast_is_part_of_the_key(graphs):
    compiled = Called(lambda _, inputs: (inputs[0] @ inputs[0],))
    x = torch.randn(4, 4)
    assert compiled([], [x])[0].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled([], [x])[0].dtype == torch.bfloat16
    assert compiled([], [x])[0].dtype == torch.float32
    assert len(graphs) == 2


def test_more_sizes_than_graphs_run_without(graphs, monkeypatch):
    monkeypatch.setattr(flat_graph, "MOST_GRAPHS", 1)
    compiled, weight = Called(step), torch.randn(3, 3)
    sizes = (4, 5, 6, 4)
    for batch in sizes:
        x = torch.randn(batch, 3)
        warned = pytest.warns(UserWarning, match="more than 1 sizes") if batch == 5 else nothing()
        with warned:
            close(compiled([weight], [x]), step([weight], [x]))
    assert len(graphs) == 1


def test_failure_warns_once():
    def refuse(fixed, inputs):
        return (inputs[0] * float(inputs[0].sum()),)

    compiled, x = Called(refuse), torch.randn(3)
    with pytest.warns(UserWarning, match="compile=True failed, it is slow: RuntimeError"):
        assert torch.equal(compiled([], [x])[0], refuse([], [x])[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled([], [x])[0], refuse([], [x])[0])


def test_a_wrong_input_raises_what_the_function_raises():
    def check(fixed, inputs):
        raise ValueError("never right")

    compiled = Called(check)
    with pytest.raises(ValueError, match="never"):
        compiled([], [torch.zeros(2)])
    assert not compiled.flat.failed
