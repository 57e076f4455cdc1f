"""A hostile pickle runs nothing and takes little memory, whatever it tries, and the error names what it wanted."""

import builtins
import contextlib
import copyreg
import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from edmfast.teachers import UnsafePickleError, load_teacher
from edmfast.teachers.pickles.errors import DamagedPickleError
from edmfast.teachers.pickles.read import read_pickle
from tests.teachers.writer import foreign_modules, linear_state, module_of, precond, write

PROTO = b"\x80\x04"
MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def dumped(value, protocol=4):
    with foreign_modules():
        return pickle.dumps(value, protocol=protocol)


def nested(data):
    """Return a pickle that holds bytes as those of a storage."""
    return dumped(Call(torch.storage._load_from_bytes, data))


def storage_pickle(count, body=b""):
    """Return a storage in the older format of torch.save that claims to have `count` elements."""
    stream = io.BytesIO()
    torch.save(torch.zeros(1)._typed_storage(), stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    # the count stands as a small integer after the key and the location
    place = data.index(b"cpu") + len("cpu")
    while data[place : place + 2] != b"K\x01":
        place += 1
    long = b"\x8a\x06" + count.to_bytes(6, "little", signed=True)
    return data[:place] + long + data[place + 2 : -12] + struct.pack("<q", count) + body


def archive(compression, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return stream.getvalue()


def commands(mark):
    """Return the payloads that run a command of the shell, which makes the file `mark`, by name."""
    command = f"touch {mark}"
    code = f"__import__('os').system({command!r})"
    system, line = Call(os.system, command), text(command)
    named_system = named("os", "system")
    return {
        "os.system": dumped(system),
        "protocol 2": dumped(system, 2),
        "eval": dumped(Call(builtins.eval, code)),
        "exec": dumped(Call(builtins.exec, code)),
        "getattr": PROTO
        + named("builtins", "getattr")
        + (named("importlib", "import_module") + text("os") + b"\x85R")
        + text("system")
        + b"\x86R"
        + line
        + b"\x85R.",
        "a dotted name": PROTO
        + named("torch.nn.modules.linear", "torch.os.system")
        + line
        + b"\x85R.",
        "partial": PROTO + named("functools", "partial") + named_system + line + b"\x86R)R.",
        "Popen": PROTO
        + named("subprocess", "Popen")
        + b"]("
        + text("touch")
        + text(str(mark))
        + b"e\x85R.",
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": PROTO
        + b"("
        + named("subprocess", "Popen")
        + text("touch").join([b"]", b"a"])
        + text(str(mark))
        + b"ao.",
        "GLOBAL": PROTO + b"cos\nsystem\n" + line + b"\x85R.",
        "state": dumped(Call(Exception, state={"a": system})),
        "setstate": PROTO
        + named("functools", "partial")
        + named("builtins", "print")
        + b"\x85R("
        + named_system
        + (line + b"\x85")
        + b"}Ntb)R.",
        "inside a network": dumped({"loss_fn": system, "ema": module_of(linear_state(), "A")}),
        "inside containers": dumped({"a": {"b": [(system,)]}}),
        "copyreg": PROTO
        + named("copyreg", "__newobj__")
        + named("subprocess", "Popen")
        + line
        + b"\x86R0"
        + dumped(system),
        "extension": PROTO + b"\x82\xf1" + line + b"\x85R.",
        "numpy objects": dumped(np.array([system], dtype=object)),
        "storage by pickle": nested(dumped(system, 2)),
        "storage by archive": nested(
            archive(zipfile.ZIP_STORED, {"archive/data.pkl": dumped(system, 2)})
        ),
        "torch.load": PROTO + named("torch", "load") + text(str(mark)) + b"\x85R.",
        "tensor": dumped(Call(torch._utils._rebuild_tensor_v2, system, 0, (1,), (1,), False, {})),
        "parameter": dumped(Call(torch._utils._rebuild_parameter, system, True, {})),
    }


NAMES = sorted(commands("mark"))
# torch reads nested bytes by its own rules, and the last one would read a file of the payload's choice
HARMLESS_IN_PYTHON = {"storage by pickle", "storage by archive", "torch.load"}


@pytest.fixture(autouse=True)
def extension():
    """Register os.system as an extension of pickle, which its opcodes reach without a name."""
    copyreg.add_extension("os", "system", 0xF1)
    yield
    copyreg.remove_extension("os", "system", 0xF1)
    copyreg._extension_cache.pop(0xF1, None)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs(tmp_path, name):
    mark, path = tmp_path / "mark", tmp_path / "a.pkl"
    path.write_bytes(commands(mark)[name])
    for read in (read_pickle, load_teacher):
        with pytest.raises(UnsafePickleError, match=r"a\.pkl"):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", sorted({*NAMES} - HARMLESS_IN_PYTHON))
def test_the_payloads_are_real(tmp_path, name):
    """The unpickler of Python runs every payload, so that the test above can fail."""
    mark = tmp_path / "mark"
    with contextlib.suppress(Exception), foreign_modules():
        pickle.loads(commands(mark)[name])
    for _ in range(200):
        if mark.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} ran nothing")


@pytest.mark.parametrize(
    ("payload", "asked_for"),
    [
        (lambda: dumped(Call(os.system, "true")), r"names (posix|nt)\.system"),
        (lambda: dumped(Call(builtins.eval, "1")), r"names builtins\.eval"),
        (lambda: nested(dumped(Call(os.system, "true"), 2)), r"names (posix|nt)\.system"),
        (lambda: PROTO + b"\x82\xf1.", "an entry of the extension registry"),
        (lambda: PROTO + b"Pabc\n.", "a persistent identifier"),
        (lambda: PROTO + b"N\x51.", "a persistent identifier"),
        (lambda: PROTO + b"\x97.", "a buffer outside the file"),
        (lambda: PROTO + named("numpy", "ndarray") + b")R.", r"calls numpy\.ndarray"),
        (lambda: PROTO + b"N" + text("a") + b"\x93.", "only a str is read"),
        (lambda: PROTO + b"N)R.", "uses a NoneType where only a Name is read"),
        (lambda: PROTO + named("subprocess", "Popen") + b")}\x92.", r"names subprocess\.Popen"),
        (lambda: PROTO + b"]" + b"}b.", "gives a state to a list"),
        (lambda: dumped(np.array(["text"])), "dtype other than numbers"),
        (lambda: dumped(np.dtype([("a", "f4")])), "dtype other than numbers"),
        (lambda: dumped(1 << 4000), "an integer of"),
    ],
)
def test_the_error_names_what_the_file_asked_for(tmp_path, payload, asked_for):
    (tmp_path / "a.pkl").write_bytes(payload())
    with pytest.raises(UnsafePickleError, match=asked_for):
        read_pickle(tmp_path / "a.pkl")


def repeated_storage():
    """Return a small pickle whose tensors have their numbers in common, each with a copy of its own."""
    data = storage_pickle(50_000, bytes(200_000))
    start = PROTO + named("torch.storage", "_load_from_bytes") + b"q\x000"
    start += b"B" + struct.pack("<I", len(data)) + data + b"q\x010("
    return start + b"h\x00h\x01\x85R" * 2000 + b"t."


def nested_keys():
    """Return tuples of tuples, whose hash takes 2**60 steps."""
    return PROTO + b"}" + text("a") + b"\x85" + b"2\x86" * 60 + b"Ns."


def deep_nesting():
    return PROTO + b"N" + b"\x85" * 100_000 + b"."


BOMBS = {
    "tensor": lambda: dumped(
        Call(
            torch._utils._rebuild_tensor_v2,
            torch.zeros(1)._typed_storage(),
            0,
            (10**12,),
            (0,),
            False,
            {},
        )
    ),
    "storage": lambda: nested(storage_pickle(10**12)),
    "compressed archive": lambda: nested(
        archive(
            zipfile.ZIP_DEFLATED,
            {"a/data.pkl": dumped(1), "a/data/0": bytes(50_000_000)},
        )
    ),
    "compressed pickle": lambda: nested(
        archive(zipfile.ZIP_DEFLATED, {"a/data.pkl": PROTO + b"N" * 50_000_000})
    ),
    "repeated storage": repeated_storage,
    "memo": lambda: PROTO + b"Nr\xff\xff\xff\x7f",
    "bytes": lambda: PROTO + b"\x8e" + struct.pack("<Q", 2**60),
    "byte array": lambda: PROTO + b"\x96" + struct.pack("<Q", 2**60),
    "text": lambda: PROTO + b"\x8d" + struct.pack("<Q", 2**60),
    "integer": lambda: PROTO + b"\x8b\xff\xff\xff\x7f",
    "array": lambda: dumped(
        Call(
            np.array(0.0).__reduce__()[0],
            np.ndarray,
            (0,),
            b"b",
            state=(1, (10**12,), np.dtype("f8"), False, b""),
        )
    ),
    "nested keys": nested_keys,
    "frame": lambda: PROTO + b"\x95" + struct.pack("<Q", 2**63) + b"N",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory_and_time(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(BOMBS[name]())
    size = (tmp_path / "a.pkl").stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises((UnsafePickleError, DamagedPickleError)):
            read_pickle(tmp_path / "a.pkl")
        assert tracemalloc.get_traced_memory()[1] < 10 * size + 3e6
    finally:
        tracemalloc.stop()


def test_deep_nesting_ends_without_a_stack_overflow(tmp_path):
    (tmp_path / "a.pkl").write_bytes(deep_nesting())
    assert isinstance(read_pickle(tmp_path / "a.pkl"), tuple)
    with pytest.raises(ValueError, match="holds a tuple"):
        load_teacher(tmp_path / "a.pkl")


def test_a_network_that_holds_itself_is_refused(tmp_path):
    """The state of a circle has no end."""
    unet = module_of(linear_state(), "SongUNet")
    unet.again = unet
    unet._init_args, unet._init_kwargs = (8, 1, 1), {}
    write(tmp_path / "a.pkl", precond("EDMPrecond", unet))
    with pytest.raises(ValueError, match="more modules than any"):
        load_teacher(tmp_path / "a.pkl")
