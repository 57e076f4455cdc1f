"""Make torch act as if it saw a GPU: what asks for "cuda" gets the CPU, and events read the clock of the host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NAME = "a stand-in for an H200"
PROPERTIES = SimpleNamespace(
    name=NAME,
    major=9,
    minor=0,
    total_memory=140 * 10**9,
    L2_cache_size=60 * 2**20,
    multi_processor_count=132,
)


class Event:
    """A point in time on the clock of the host."""

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, *_: Any) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Return the milliseconds until another event, a little more than none."""
        return max((end.at - self.at) * 1e3, 1e-6)

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def query(self) -> bool:
        return True


class Stream:
    """A stream on which nothing waits."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cuda_stream, self.device = 0, torch.device("cpu")

    def wait_stream(self, *_: Any) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class CUDAGraph:
    """A graph that keeps the outputs of its capture and whose replay takes a microsecond."""

    def replay(self) -> None:
        end = time.perf_counter() + 1e-6
        while time.perf_counter() < end:
            pass

    def pool(self) -> tuple[int, int]:
        return 0, 0

    def reset(self) -> None:
        """There is nothing to free."""


@contextlib.contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _on_cpu(value: Any) -> Any:
    """Return the CPU in place of a GPU."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")):
        return "cpu"
    return value


class _Redirected(TorchFunctionMode):
    """Give every function of torch the CPU where it is given a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.device:  # programs ask a device for its type
            return func(*args, **(kwargs or {}))
        kwargs = {key: _on_cpu(value) for key, value in (kwargs or {}).items()}
        kwargs.pop("pin_memory", None)
        if func is torch.Tensor.cuda:
            return args[0].clone()
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _on_cpu(args[1]) is not args[1]:
            kwargs["copy"] = True  # a tensor on a GPU shares no memory with one on the CPU
        return func(*map(_on_cpu, args), **kwargs)


_torch_generator: Any = torch.Generator


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> Any:
        return _torch_generator.__new__(cls, device=_on_cpu(device))


def _without_gpu_profiler() -> None:
    """Let the profiler record the CPU only, as there is no driver that it could ask."""
    from torch import profiler

    begin: Any = profiler.profile.__init__

    def init(self: Any, *, activities: Any = (), **options: Any) -> None:
        kept = [each for each in activities if each != profiler.ProfilerActivity.CUDA]
        begin(self, activities=kept, **options)

    # torch has no other place at which all profilers could leave out the device
    profiler.profile.__init__ = init  # type: ignore[method-assign]


def install() -> None:
    """Replace the functions of torch.cuda, and redirect devices for the rest of the process."""
    constants: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": NAME,
        "get_device_capability": (9, 0),
        "get_device_properties": PROPERTIES,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "mem_get_info": (PROPERTIES.total_memory, PROPERTIES.total_memory),
        "get_sync_debug_mode": 0,
        "is_current_stream_capturing": False,
        "is_bf16_supported": True,
    }
    nothing = ["synchronize", "empty_cache", "reset_peak_memory_stats", "set_sync_debug_mode"]
    nothing += [
        "set_device",
        "init",
        "manual_seed",
        "manual_seed_all",
        "_lazy_init",
        "set_rng_state",
    ]
    cuda: Any = torch.cuda
    for name, value in constants.items():
        setattr(cuda, name, lambda *_, value=value, **__: value)
    for name in nothing:
        setattr(cuda, name, lambda *_, **__: None)
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.Event, cuda.Stream, cuda.CUDAGraph = Event, Stream, CUDAGraph
    cuda.current_stream = cuda.default_stream = lambda *_: Stream()
    cuda.stream = cuda.graph = cuda.device = cuda.device_of = _nothing
    # a class takes the place of another, as its callers ask for it by name
    torch.Generator = _Generator  # type: ignore[misc]
    _without_gpu_profiler()
    _Redirected().__enter__()
