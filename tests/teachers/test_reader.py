"""The reader of pickles gives what was written: numbers in every form that checkpoints have."""

import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from edmfast.teachers.pickles.errors import DamagedPickleError, UnsafePickleError
from edmfast.teachers.pickles.read import read_pickle
from edmfast.teachers.pickles.stand_ins import Record
from tests.teachers.writer import SOURCE, EasyDict, linear_state, module_of, write

PROTOCOLS = (2, 3, 4, 5)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_come_back(tmp_path, protocol, dtype):
    written = torch.arange(24).view(2, 3, 4).to(dtype)
    path = write(tmp_path / "a.pkl", {"a": written, "b": nn.Parameter(torch.ones(()))}, protocol)
    read = read_pickle(path)
    assert read["a"].dtype == dtype
    assert torch.equal(read["a"], written)
    assert torch.equal(read["b"], torch.ones(()))


def test_views_of_a_storage_keep_their_numbers(tmp_path):
    base = torch.arange(20.0)
    views = [base, base[3:9].view(2, 3).T, base[::4], base.to(torch.float32)[:0]]
    read = read_pickle(write(tmp_path / "a.pkl", views))
    for before, after in zip(views, read, strict=True):
        assert before.shape == after.shape
        assert torch.equal(before, after)
        # the numbers can be written to, and belong to the reader
        after.zero_()
    assert base[1] == 1


def test_the_newer_format_of_storages_is_read(tmp_path):
    class Loaded:
        def __reduce__(self):
            storage = torch.arange(6.0).untyped_storage()
            typed = torch.storage.TypedStorage(
                wrap_storage=storage, dtype=torch.float32, _internal=True
            )
            torch.save(typed, buffer := io.BytesIO())
            assert buffer.getvalue().startswith(b"PK")
            return torch.storage._load_from_bytes, (buffer.getvalue(),)

    class Zipped:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Loaded(), 1, (2, 2), (2, 1), False, {})

    read = read_pickle(write(tmp_path / "a.pkl", Zipped()))
    assert torch.equal(read, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_numbers_and_containers_come_back(tmp_path, protocol):
    arrays = {
        "f8": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">i4"),
        "i2": np.arange(3, dtype=np.int16),
        "empty": np.zeros((0, 2)),
        "bool": np.array([True, False]),
    }
    content = {
        "arrays": arrays,
        "numbers": [np.float32(0.5), np.int64(-7), np.bool_(True), 2**70, -1, 1e300, None, True],
        "texts": ["ü", "", b"raw", (1, (2, 3)), {1, "a"} - {1}, frozenset({"b"})],
        "torch": [torch.Size([2, 3]), torch.float16, torch.device("cuda:1"), torch.device("cpu")],
        "easy": EasyDict(a=1, b=EasyDict(c=[])),
        "same": [shared := ["x"], shared],
    }
    read = read_pickle(write(tmp_path / "a.pkl", content, protocol))
    for name, array in arrays.items():
        assert read["arrays"][name].value.dtype == array.dtype
        np.testing.assert_array_equal(read["arrays"][name].value, array)
    assert read["numbers"] == [0.5, -7, True, 2**70, -1, 1e300, None, True]
    assert read["texts"] == ["ü", "", b"raw", (1, (2, 3)), {"a"}, frozenset({"b"})]
    assert read["torch"] == [(2, 3), torch.float16, "cuda", "cpu"]
    assert read["easy"] == {"a": 1, "b": {"c": []}}
    assert read["same"][0] is read["same"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_modules_become_records_without_their_source(tmp_path, protocol):
    module = module_of(linear_state(), "SongUNet", plain=("layer",))
    module.again = module
    path = write(tmp_path / "a.pkl", {"ema": module, "loss_fn": nn.SiLU()}, protocol)
    assert SOURCE.encode() in path.read_bytes()
    read = read_pickle(path)
    record = read["ema"]
    assert (record.class_name, record.persistent) == ("SongUNet", True)
    assert record.state["_modules"]["again"].state is record.state
    layer = record.state["_modules"]["layer"]
    assert (layer.class_name, layer.persistent) == ("ModuleDict", False)
    assert torch.equal(layer.state["_parameters"]["weight"], linear_state()["layer.weight"])
    assert read["loss_fn"].class_name == "SiLU"
    pending, seen = [read], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        assert not isinstance(value, str) or value != SOURCE
        if isinstance(value, Record):
            value = value.state
        if isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            pending += value


def test_a_file_that_ends_early_is_damaged_at_every_length(tmp_path):
    whole = write(tmp_path / "a.pkl", {"a": torch.arange(3.0), "b": np.arange(3)}).read_bytes()
    assert set(read_pickle(tmp_path / "a.pkl")) == {"a", "b"}
    for length in range(0, len(whole), 7):
        (tmp_path / "b.pkl").write_bytes(whole[:length])
        with pytest.raises((DamagedPickleError, UnsafePickleError), match=r"b\.pkl"):
            read_pickle(tmp_path / "b.pkl")


def test_changed_bytes_give_another_object_or_an_error_of_the_reader(tmp_path):
    whole = write(tmp_path / "a.pkl", module_of(linear_state(), "SongUNet")).read_bytes()
    draws = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(whole)
        for place in draws.integers(len(whole), size=3):
            changed[place] = draws.integers(256)
        (tmp_path / "b.pkl").write_bytes(changed)
        try:
            read_pickle(tmp_path / "b.pkl")
        except (DamagedPickleError, UnsafePickleError):
            continue


def test_texts_of_older_protocols_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(["a", 1.5], protocol=0))
    with pytest.raises(UnsafePickleError, match="is not read"):
        read_pickle(tmp_path / "a.pkl")
