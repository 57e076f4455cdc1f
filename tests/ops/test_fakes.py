"""Every implementation of every operator returns what its fake promises: shapes, dtypes, strides, own memory.

Compiled graphs address memory by the strides of the fake, so another stride reads wrong numbers or raises. A
result that is a view of a larger tensor would keep that tensor in memory.

The CPU kernels and the references run. The launch code of the Triton kernels runs on a driver that launches
nothing. The CUDA C++ functions need a GPU; `tests/gpu` runs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.ops import operator_calls, particle_calls
from tests.ops.operator_calls import Call
from tests.ops.triton import mock_driver

RAW = torch.ops.edmfast
CALLS: dict[str, Callable[[], Iterator[Call]]] = {
    "attention": operator_calls.attentions,
    "norms": operator_calls.norms,
    "potential": operator_calls.potentials,
    "mlp_potential": operator_calls.perceptrons,
    "linear_combination": particle_calls.combinations,
    "noise": particle_calls.noises,
    "signs": particle_calls.signs,
    "curvature": particle_calls.curvatures,
    "propagate": particle_calls.proposals,
    "reversal": particle_calls.reversals,
    "systematic_resample": particle_calls.systematic_resamplings,
    "resample": particle_calls.resamplings,
    "weigh": particle_calls.weighings,
    "score_gram": particle_calls.grams,
}
"""The calls of the operators of each folder of `edmfast.ops`."""
TRITON = [name for name in CALLS if name not in ("resample", "score_gram")]


def tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def of_fake_cpu(call: Call, mode: FakeTensorMode) -> Any:
    """Return what the fake promises on the CPU."""
    with mode:
        return getattr(RAW, call.operator)(*tree_map_only(Tensor, mode.from_tensor, call.arguments))


def of_fake_device(call: Call) -> Any:
    """Return what the fake promises on a device that is no CPU."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    return getattr(RAW, call.operator)(*tree_map_only(Tensor, moved, call.arguments))


def broken(results: Any, promised: Any, arguments: Any) -> list[str]:
    """Return where results differ from what was promised, or share memory."""
    results, promised = tensors_in(results), tensors_in(promised)
    if len(results) != len(promised):
        return [f"{len(results)} results for {len(promised)}"]
    taken = {t.untyped_storage().data_ptr() for t in tensors_in(arguments) if t.numel()}
    faults = []
    for index, (real, fake) in enumerate(zip(results, promised, strict=True)):
        if (real.shape, real.dtype) != (fake.shape, fake.dtype):
            faults.append(f"result {index}: {real.shape} {real.dtype}, {fake.shape} {fake.dtype}")
            continue
        if real.numel() == 0:
            continue
        pairs = zip(real.shape, real.stride(), fake.stride(), strict=True)
        if any(size > 1 and ours != theirs for size, ours, theirs in pairs):
            faults.append(f"result {index}: strides {real.stride()}, promised {fake.stride()}")
        storage = real.untyped_storage()
        if storage.data_ptr() in taken:
            faults.append(f"result {index} shares memory")
        taken.add(storage.data_ptr())
        if storage.nbytes() > real.numel() * real.itemsize:
            faults.append(f"result {index} keeps {storage.nbytes()} bytes, and needs less")
    return faults


def all_broken(calls: list[Call], run: Callable[[Call], Any], fake: Callable[[Call], Any]) -> Any:
    faults = []
    for call in calls:
        found = broken(run(call), fake(call), call.arguments)
        faults += [f"{call.operator}({call.label}): {fault}" for fault in found]
    return faults


def in_module(folder: str, module: str) -> Callable[[Call], Any]:
    functions = importlib.import_module(f"edmfast.ops.{folder}.{module}")
    return lambda call: getattr(functions, call.operator)(*call.arguments)


@pytest.mark.parametrize("folder", CALLS)
def test_the_cpu_returns_what_the_fake_promises(folder):
    calls = [*CALLS[folder]()]
    assert calls
    mode = FakeTensorMode()

    def run(call: Call) -> Any:
        return getattr(RAW, call.operator)(*call.arguments)

    assert all_broken(calls, run, lambda call: of_fake_cpu(call, mode)) == []


@pytest.mark.parametrize("folder", CALLS)
def test_the_reference_returns_what_the_fake_promises(folder):
    calls = [*CALLS[folder]()]
    assert all_broken(calls, in_module(folder, "reference"), of_fake_device) == []


@pytest.mark.parametrize("folder", TRITON)
def test_the_launch_code_returns_what_the_fake_promises(folder, launches):
    calls = [*CALLS[folder]()]
    if folder == "mlp_potential":
        calls += operator_calls.perceptrons((torch.bfloat16,))
    run = in_module(folder, "triton_ops")
    # Triton does nothing else but the systematic scheme, and no probes of perceptrons
    calls = [call for call in calls if "scheme 1" not in call.label]
    calls = [call for call in calls if call.operator != "mlp_potential_probe"]
    assert all_broken(calls, run, of_fake_device) == []
    assert launches


@pytest.fixture
def launches() -> Iterator[list[mock_driver.Launch]]:
    pytest.importorskip("triton")
    with mock_driver.recorded() as list_of_launches:
        yield list_of_launches


def test_every_operator_is_called():
    called = {call.operator for calls in CALLS.values() for call in calls()}
    schemas = torch._C._jit_get_all_schemas()
    names = {s.name.split("::")[1] for s in schemas if s.name.startswith("edmfast::")}
    assert called == names
