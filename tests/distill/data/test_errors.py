"""Data that do not fit are refused with the name of the argument or file, and with both sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import edmfast
from edmfast import DistillConfig
from edmfast.distill import open_data
from edmfast.distill.data import DataScaleWarning, check_data, warn_of_scale
from tests.distill.data.forms import Items, png, write_folder
from tests.small_models import mlp

X = torch.zeros(4, 2)
PIXELS = torch.zeros(4, 3, 5, 5, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (None, {}, ValueError, r"generated_data\(teacher, shape, count\)"),
        (3, {}, TypeError, "data must be a tensor or array .* given int"),
        ({"x": X}, {}, TypeError, "given dict"),
        (DataLoader(TensorDataset(X)), {}, TypeError, "must be the dataset of the DataLoader"),
        ((X, X, X), {}, TypeError, "must be .samples, labels. as tensors or arrays"),
        (([1.0], [2]), {}, TypeError, r"given \['list', 'list'\]"),
        (torch.zeros(0, 2), {}, ValueError, r"n >= 1 and no empty axis, given \[0, 2\]"),
        (torch.zeros(3), {}, ValueError, r"given \[3\]"),
        (torch.zeros(3, 2, dtype=torch.int64), {}, TypeError, "given torch.int64"),
        (np.zeros((3, 2), bool), {}, TypeError, "given bool"),
        (np.ma.masked_array(np.zeros((3, 2)), mask=True), {}, TypeError, "given a masked array"),
        (
            Items([np.ma.zeros(3)]),
            {"keep_in_memory": True},
            TypeError,
            r"data\[0\] must have no mask",
        ),
        (X.to_sparse(), {}, TypeError, "must be a dense tensor, given torch.sparse_coo"),
        (X.to("meta"), {}, TypeError, "given a tensor on the meta device"),
        (np.zeros((3, 2), "U3"), {}, TypeError, "given <U3"),
        (np.zeros((3, 2), np.complex64), {}, TypeError, "given complex64"),
        (torch.tensor([[1.0], [torch.nan]]), {}, ValueError, "finite, given 1 non-finite"),
        (
            (torch.zeros(20, 2), torch.zeros(32, dtype=torch.int64)),
            {},
            ValueError,
            "20 samples.*given 32",
        ),
        ((X, torch.zeros(4)), {}, TypeError, "labels must be integers, given torch.float32"),
        ((X, torch.zeros(4, 3)), {}, TypeError, "give class numbers, not one-hot rows"),
        ((X, np.array([0, 1, -1, 0])), {}, ValueError, "must not be negative, given -1"),
        ((X, np.array([0, 1, 2, 2**64 - 1], np.uint64)), {}, ValueError, "must fit int64"),
        (PIXELS[:, :, :, :3], {}, ValueError, "may be the first or the last axis"),
        (X, {"flip": True}, ValueError, r"flip=True needs images, given samples of shape \[2\]"),
        (X, {"channels_last": True}, ValueError, r"needs images \[H, W, C\]"),
        (PIXELS, {"mean": [1.0, 2.0]}, ValueError, "each of the 3 channels .* given 2"),
        (PIXELS, {"std": [1.0, 0.0, 1.0]}, ValueError, "std must be positive"),
        (PIXELS, {"mean": [[1.0]]}, ValueError, "mean must be a number or one for each channel"),
        (X, {"keys": 5}, TypeError, "keys must be a name or two names"),
        (X, {"flip": 1}, TypeError, "flip must be True or False"),
        (Items([]), {}, ValueError, "at least one item, given an empty Items"),
        (
            Items([X[0], torch.zeros(3)]),
            {"keep_in_memory": True},
            ValueError,
            r"data\[1\] has \[3\]",
        ),
        (Items([(X[0], 0, 1)]), {}, TypeError, "given 3 parts"),
        (
            Items([{"a": X[0]}]),
            {"keys": "b"},
            ValueError,
            r"keys names 'b', but data\[0\] has \['a'\]",
        ),
        (Items([torch.tensor(1.0)]), {}, ValueError, "at least one number"),
        ("there/is/nothing", {}, FileNotFoundError, "no such file or folder"),
    ],
)
def test_bad_data(data, options, error, words):
    with pytest.raises(error, match=words):
        open_data(data, **options)


def test_data_that_are_opened_already(images):
    with pytest.raises(TypeError, match="opened already"):
        open_data(open_data(images[0]))


def test_images_of_different_sizes_are_named_with_both_sizes(images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    write_folder(tmp_path, images[0])
    (tmp_path / "77.png").write_bytes(png(torch.zeros(3, 5, 6, dtype=torch.uint8)))
    for keep in (True, False):
        with pytest.raises(
            ValueError, match=r"77\.png has \[3, 5, 6\], and 00\.png has \[3, 4, 6\]"
        ):
            open_data(tmp_path, keep_in_memory=keep)


def test_grey_and_coloured_images(images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    write_folder(tmp_path / "a", images[0])
    grey = images[0][0][:1]
    (tmp_path / "a" / "zz.png").write_bytes(png(grey))
    data = open_data(tmp_path / "a")
    assert torch.equal(data.some(11)[10], (grey.float() / 127.5 - 1).expand(3, 4, 6))
    write_folder(tmp_path / "b", images[0][:, :1])
    assert open_data(tmp_path / "b").shape == (1, 4, 6)
    (tmp_path / "b" / "zz.png").write_bytes(png(images[0][0]))
    with pytest.raises(
        ValueError, match=r"zz\.png is a coloured image, and the first image is grey"
    ):
        open_data(tmp_path / "b")


def test_deep_images_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="images need Pillow")
    image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png has more than 8 bits"):
        open_data(tmp_path)


def test_a_folder_without_images_and_a_single_image(images, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="has no image: accepted are files that end with"):
        open_data(tmp_path)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="give the folder of the images"):
        open_data(tmp_path / "x.png")
    (tmp_path / "x.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has the suffix '\.csv': accepted are"):
        open_data(tmp_path / "x.csv")


def test_arrays_that_a_file_does_not_have(tmp_path):
    np.savez(tmp_path / "x.npz", p=np.zeros((2, 2)), q=np.zeros(2))
    with pytest.raises(ValueError, match="name the samples by keys"):
        open_data(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"keys names 'r', but .* \['p', 'q'\]"):
        open_data(tmp_path / "x.npz", keys="r")


def test_random_items_are_told_of():
    class Random(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.rand(2)

    with pytest.warns(UserWarning, match="two different samples for its item 0"):
        open_data(Random())


def test_a_mapped_file_is_checked_as_it_is_read(tmp_path):
    samples = np.zeros((3000, 2), np.float32)
    samples[1, 0] = np.nan
    np.save(tmp_path / "x.npy", samples)
    # the check at the start reads every third row
    data = open_data(tmp_path / "x.npy", keep_in_memory=False)
    with pytest.raises(ValueError, match=r"x\.npy must be finite, given 1 non-finite"):
        data._store.read([0, 1, 2])
    samples[1], samples[3] = 0, np.inf
    np.save(tmp_path / "x.npy", samples)
    with pytest.raises(ValueError, match=r"x\.npy must be finite"):
        open_data(tmp_path / "x.npy", keep_in_memory=False)


def student(num_classes=None):
    return edmfast.EnergyModel(mlp(num_classes=num_classes))


def test_labels_out_of_the_range_of_the_student():
    labels, words = torch.tensor([0, 1, 2, 3]), r"below num_classes = 3, given 0\.\.3"
    with pytest.raises(ValueError, match=words):
        check_data((X.numpy(), labels), student(3), DistillConfig())
    assert check_data((X.numpy(), labels), student(4), DistillConfig()).num_classes == 4
    # the labels of items are known when they are read
    source = check_data(TensorDataset(X, labels), student(3), DistillConfig())
    drawn = source.draw(0, 64, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=words):
        source.rows(drawn, slice(0, 64))


def test_label_dropout_and_streams():
    with pytest.raises(ValueError, match=r"label_dropout > 0 needs data=\(samples, labels\)"):
        check_data(X.numpy(), student(3), DistillConfig(label_dropout=0.1))
    with pytest.raises(ValueError, match="value_weight > 0 needs data whose rows can be drawn"):
        check_data(iter_again(), student(), DistillConfig(value_weight=1.0, batch_size=8))


def iter_again():
    return dict.fromkeys([X[0]]).keys()


def test_a_source_of_another_dtype_is_refused():
    source = open_data(X)

    class Foreign:
        dtype, device, shape, size = torch.float64, torch.device("cpu"), (2,), 4
        has_labels, num_classes = False, 0
        draw, rows, some, digest = source.draw, source.rows, source.some, source.digest

    with pytest.raises(ValueError, match=r"samples of torch\.float32 on cpu"):
        check_data(Foreign(), student(), DistillConfig())
    Foreign.dtype = torch.float32
    foreign = Foreign()
    assert check_data(foreign, student(), DistillConfig()) is foreign


def test_the_scale_of_the_data_is_compared_with_sigma_data(tmp_path):
    torch.manual_seed(0)
    np.save(tmp_path / "latents.npy", 20 * torch.randn(50, 2).numpy())
    data = check_data(tmp_path / "latents.npy", student(), DistillConfig())
    with pytest.warns(DataScaleWarning, match=r"deviation of [12]\d.*sigma_data=0\.5"):
        warn_of_scale(data, student(), stacklevel=1)


def test_tensors_of_a_distillation_are_dense_and_lose_their_graph():
    config = DistillConfig(mode="dsm", steps=1, batch_size=4)
    with pytest.raises(TypeError, match="data must be a dense tensor"):
        check_data(X.to_sparse(), mlp(), config)
    samples = check_data(torch.randn(4, 2, requires_grad=True), mlp(), config).some(4)
    assert not samples.requires_grad
