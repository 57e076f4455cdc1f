"""Small files that describe large networks are refused before they take memory, and damage is told as damage."""

import struct
import time
import tracemalloc

import pytest
import torch

from edmfast.teachers import UnsafePickleError, load_teacher
from edmfast.teachers.pickles.errors import DamagedPickleError
from edmfast.teachers.pickles.read import read_pickle
from tests.small_models import song
from tests.teachers.test_hostile import PROTO, Call, dumped, named, text
from tests.teachers.writer import (
    linear_state,
    module_of,
    persistent,
    precond,
    with_arguments,
    write,
)


def network(**arguments):
    """Return a network of EDM with a small state and these arguments."""
    sizes = {"img_resolution": 8, "in_channels": 1, "out_channels": 1}
    unet = with_arguments(module_of(linear_state(), "SongUNet"), **sizes, **arguments)
    return precond("EDMPrecond", unet)


def nested_arguments():
    """Return a network with an argument of 10**9 numbers, of which each list is held a thousand times."""
    return network(channel_mult=[[[1] * 1000] * 1000] * 1000)


def shared_modules():
    """Return a network of 3,000 modules that are one, with 10**3 tensors that are one."""
    content = network()
    leaf, tensor = persistent("Block")(), torch.zeros(1)
    for index in range(1000):
        leaf.register_buffer(f"b{index}", tensor)
    for index in range(3000):
        content._modules["model"]._modules[f"c{index}"] = leaf
    return content


def shared_numbers():
    """Return a network of 3,000 tensors that share a megabyte."""
    content = network()
    tensor = torch.zeros(500_000, dtype=torch.float16)
    for index in range(3000):
        content._modules["model"].register_buffer(f"b{index}", tensor)
    return content


def long_names():
    """Return a network of 10**3 modules whose names all begin with the same 10**5 letters."""
    content, parent = network(), persistent("Block")()
    for index in range(1000):
        parent._modules[f"c{index}"] = torch.nn.Identity()
    content._modules["model"]._modules["n" * 100_000] = parent
    return content


def other_buffers():
    """Return a network whose set of names is a list, in which every search is long."""
    content = network()
    content._modules["model"]._non_persistent_buffers_set = ["n"] * 10_000
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nested_arguments, "an argument of the network is a list"),
        (shared_modules, "more modules than any"),
        (shared_numbers, "share 1000[0-9]{3} bytes of the file"),
        (long_names, "more modules than any"),
        (other_buffers, "SongUNet has no set of buffers"),
    ],
)
def test_a_small_file_takes_little_memory_and_time(tmp_path, content, message):
    path = write(tmp_path / "a.pkl", {"ema": content()})
    size, start = path.stat().st_size, time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"a\.pkl: .*{message}"):
            load_teacher(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * size + 2e7
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 30


def integer(value):
    return b"\x8a\x08" + struct.pack("<q", value)


ARRAY = (
    named("numpy.core.multiarray", "_reconstruct")
    + named("numpy", "ndarray")
    + b"K\x00\x85C\x01b\x87R"
)
DTYPE = named("numpy", "dtype") + text("f8") + b"\x85R(K\x03" + text("<") + b"NNNN" + b"tb"
LARGE = integer(2**47)


def large_empty_tensor():
    """Return a tensor without numbers, whose other sizes multiply to more than any memory."""
    storage, sizes = torch.zeros(1)._typed_storage(), (0, 2**47, 2**47)
    return dumped(Call(torch._utils._rebuild_tensor_v2, storage, 0, sizes, (1, 1, 1), False, {}))


@pytest.mark.parametrize(
    "payload",
    [
        lambda: PROTO + ARRAY + b"K\x01\x85b.",
        lambda: PROTO + ARRAY + b"(K\x01(K\x00" + LARGE + LARGE + b"t" + DTYPE + b"\x89C\x00tb.",
        large_empty_tensor,
    ],
)
def test_impossible_sizes_are_damage(tmp_path, payload):
    (tmp_path / "a.pkl").write_bytes(payload())
    with pytest.raises(DamagedPickleError, match=r"a\.pkl: the pickle is damaged at byte"):
        read_pickle(tmp_path / "a.pkl")


def test_errors_can_be_printed(tmp_path):
    """A name from a file may hold codes that change a terminal, and halves of letters that have no bytes."""
    name = b"\x8c\x07\x1b[2J\xed\xa0\x80"
    (tmp_path / "a.pkl").write_bytes(PROTO + name + name + b"\x93.")
    with pytest.raises(UnsafePickleError, match=r"names \\x1b\[2J\\ud800\.") as caught:
        read_pickle(tmp_path / "a.pkl")
    assert str(caught.value).encode().isascii()
    write(tmp_path / "a.pkl", {"ema": persistent("\x1b[2J" + "A" * 10_000)()})
    with pytest.raises(ValueError, match=r"the network is a \\x1b\[2JA*…, which") as caught:
        load_teacher(tmp_path / "a.pkl")
    assert len(str(caught.value)) < 1000


def changed(state, change):
    first = next(iter(state))
    return {**state, first: change(state[first])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: changed(state, torch.Tensor.to_sparse), "dense tensors"),
        (lambda state: changed(state, lambda tensor: tensor.to("meta")), "dense tensors"),
        (lambda state: changed(state, lambda tensor: tensor.to(torch.complex64)), "complex64"),
        (lambda state: {**state, 5: torch.zeros(1)}, r"\[5\] are none"),
        (lambda state: {**state, "a": torch.zeros(1).expand(10**6, 10**6)}, "bytes of the file"),
    ],
)
def test_other_tensors_are_refused(tmp_path, change, message):
    network = song()
    torch.save(change(network.state_dict()), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"a\.pt: .*{message}"):
        load_teacher(tmp_path / "a.pt", network="SongUNet", config=network.config)


def test_damaged_torch_files_are_named(tmp_path):
    path, network = tmp_path / "a.pt", song()
    torch.save(network.state_dict(), path)
    whole = path.read_bytes()
    for data in (b"", b"\x80\x02junk", b"PK\x03\x04junk", whole[: len(whole) // 2], whole[:-9]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.pt is no file of tensors"):
            load_teacher(path, network="SongUNet", config=network.config)
