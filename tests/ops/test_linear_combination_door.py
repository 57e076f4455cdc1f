"""The door past the dispatcher serves plain calls with the operator's bits, and leaves all others alone."""

from __future__ import annotations

import io

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from edmfast.ops import linear_combination
from edmfast.ops._shared.door import opened, same_bits
from edmfast.ops.linear_combination import operator as combination

OPERATOR = torch.ops.edmfast.linear_combination.default
F64, LONG = torch.float64, torch.int64
NOTHING = None, None, None, 0, 0
X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
NUMBERS = torch.tensor([0.5, -2.0], dtype=F64)


@pytest.fixture
def door(compiled):
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no table of DLPack")
    assert combination._DOOR is not None
    return combination._DOOR


def noise(nodes=3, seeds=1):
    return torch.arange(seeds) - 1, torch.arange(nodes) << 31, torch.linspace(-1, 2, nodes).double()


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (3, 5000), (1, 1, 7), (200_000,)], ids=str)
def test_it_has_the_bits_of_the_operator(door, generator, shape, dtype):
    x, y = torch.randn(2, *shape, generator=generator, dtype=F64).to(dtype)
    pair = NUMBERS.tolist()
    for options in (NOTHING, (*noise(), 3, 7), (*noise(2, shape[0]), 15, 0)):
        wanted = OPERATOR([x, y], NUMBERS, *options)
        for tensors, numbers in (([x, y], NUMBERS), ((x, y), pair), ([x, y], tuple(pair))):
            ours = door(tensors, numbers, *options)
            assert torch.equal(ours, wanted)
            assert ours.stride() == wanted.stride()
            assert ours.data_ptr() not in (x.data_ptr(), y.data_ptr())


def test_it_keeps_dense_layouts(door):
    images = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for x in (images, images.transpose(0, 2), torch.ones(3, 1, 4).as_strided((3, 1, 4), (4, 9, 1))):
        ours = door([x, x], NUMBERS, *NOTHING)
        assert ours.stride() == OPERATOR([x, x], NUMBERS, *NOTHING).stride()
        assert torch.equal(ours, -1.5 * x)
    assert door([images], [1.0], *noise(), 0, 0) is None


def test_it_takes_integers_for_coefficients(door):
    assert torch.equal(door([X, X], (1, 2), *NOTHING), 3 * X)
    assert door([X], (True,), *NOTHING) is None
    assert door([X], (10**400,), *NOTHING) is None


class Sub(torch.Tensor):
    """A subclass, which may mean anything by its operators."""


def freed():
    tensor = X.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize(
    "x",
    [
        X.to("meta"),
        X.clone().as_subclass(Sub),
        torch.nn.Parameter(X, requires_grad=False),
        torch._neg_view(X),
        torch.complex(X, X).conj().imag,
        X.to_sparse(),
        X[:0],
        X.sum(),
        X.int(),
        X.to(torch.cfloat),
        X[:, ::2],
        X[:1].expand(2, 3, 4),
        torch._efficientzerotensor(2, 3, 4),
        freed(),
        3.0,
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_leaves_other_tensors_to_the_dispatcher(door, x):
    assert door([x], [1.0], *NOTHING) is None
    assert door([X, x], [1.0, 1.0], *NOTHING) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ([], [], *NOTHING),
        ([X] * 9, [1.0] * 9, *NOTHING),
        (X, [1.0, 1.0], *NOTHING),
        ([X, X.transpose(0, 1).contiguous().transpose(0, 1)], NUMBERS, *NOTHING),
        ([X, X.double()], NUMBERS, *NOTHING),
        ([X, X[:1]], NUMBERS, *NOTHING),
        ([X], NUMBERS, *NOTHING),
        ([X, X], NUMBERS.float(), *NOTHING),
        ([X, X], NUMBERS.to("meta"), *NOTHING),
        ([X], (float("nan"),), *NOTHING),
        ([X], (float("inf"),), *NOTHING),
        ([X], ("1",), *NOTHING),
        ([X], 1.0, *NOTHING),
        ([X], [1.0], *noise(), 16, 0),
        ([X], [1.0], *noise(), -1, 0),
        ([X], [1.0], *noise(), 0, 2**32 - 1),
        ([X], [1.0], *noise(), 0, 2**70),
        ([X], [1.0], *noise(), 0.0, 0),
        ([X], [1.0], *noise(seeds=3), 0, 0),
        ([X], [1.0], *noise(seeds=2), 0, 1),
        ([X], [1.0], noise()[0].int(), *noise()[1:], 0, 0),
        ([X], [1.0], *noise()[:2], noise(2)[2], 0, 0),
        ([X], [1.0], *noise()[:2], None, 0, 0),
        ([X], [1.0], None, *noise()[1:], 0, 0),
        ([X], [1.0]),
    ],
    ids=str,
)
def test_it_leaves_wrong_arguments_to_the_dispatcher(door, arguments):
    assert door(*arguments) is None


def test_it_leaves_derivatives_to_the_dispatcher(door):
    x, weights = X.clone().requires_grad_(), noise()[2].requires_grad_()
    assert door([x], [1.0], *NOTHING) is None
    assert door([X], [1.0], *noise()[:2], weights, 0, 0) is None
    assert linear_combination([X, x], [1.0, 2.0]).requires_grad
    with torch.no_grad():
        assert torch.equal(door([x], [2.0], *NOTHING), 2 * X)
    with forward_ad.dual_level():
        assert door([forward_ad.make_dual(X, X)], [1.0], *NOTHING) is None
    assert torch.func.jvp(lambda x: linear_combination([x], [3.0]), (X,), (X,))[1].equal(3 * X)
    assert torch.vmap(lambda x: linear_combination([x], [3.0]))(X).equal(3 * X)


class Calls(TorchDispatchMode):
    """Keeps the names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_it_leaves_those_who_watch_to_the_dispatcher(door):
    def is_left():
        return door([X], [1.0], *NOTHING) is None

    assert not is_left()
    with Calls() as calls:
        assert is_left()
        linear_combination([X], [1.0])
    assert "edmfast.linear_combination.default" in calls.names
    with Functions():
        assert is_left()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        assert is_left()
        linear_combination([X], [1.0])
    assert "edmfast::linear_combination" in {event.key for event in recorded.key_averages()}
    with FakeTensorMode() as fakes:
        assert linear_combination([fakes.from_tensor(X)], [1.0]).shape == X.shape
    assert not is_left()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_holds_the_operator(door):
    traced = torch.jit.trace(lambda x: linear_combination([x], [2.0]), (X,), check_trace=False)
    assert traced(3 * X).equal(6 * X)


def test_its_results_are_tensors_like_others(door):
    out = door([X], [1.0], *NOTHING)
    assert not out.is_inference()
    assert out.untyped_storage().resizable()
    torch.save(out, io.BytesIO())
    with torch.inference_mode():
        assert door([X], [1.0], *NOTHING).is_inference()


def test_same_bits(door, generator):
    x = torch.randn(3, 4, 50, 7, generator=generator)
    last = x.contiguous(memory_format=torch.channels_last)
    for a in (
        x,
        x.double(),
        x.half(),
        x.long(),
        last,
        x[:, ::2],
        x[:0],
        x.clone().requires_grad_(),
    ):
        b = a.detach().clone()
        assert same_bits(a, b)
        assert same_bits(a, b.contiguous())
        if b.numel():
            b.select(0, 2)[-1, -1, -1] += 1
            assert not same_bits(a, b)
    assert opened().same(x, x.clone()) is True
    for a, b in ((x, last), (x, x.double()), (x, x[:1]), (x, 3), (x[:, ::2], x[:, ::2])):
        assert opened().same(a, b) is None
    nan = torch.full((3,), float("nan"))
    assert same_bits(nan, nan.clone())
    with FakeTensorMode() as fakes:
        assert opened().same(fakes.from_tensor(x), fakes.from_tensor(x)) is None


def test_threads_and_long_arrays(door, with_threads):
    x = torch.linspace(-1, 1, 300_000)
    for options in (NOTHING, (*noise(), 0, 0)):
        with with_threads(1):
            wanted = door([x, x], NUMBERS, *options)
        with with_threads(2):
            assert torch.equal(door([x, x], NUMBERS, *options), wanted)
