"""Every form of the same images gives the batches of the equal tensor, in parts too, and with mirror images."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from edmfast._internal.generators import generator
from edmfast.distill import open_data
from edmfast.distill.data import TensorData
from tests.distill.data.forms import FORMS, IMAGES, WITHOUT_LABELS, write_folder, write_zip

SEED, SIZE, STEPS = 11, 8, 4


def batches(data, parts=1, steps=STEPS, seed=SEED):
    """Return the samples and labels of some steps; each step draws other numbers too, as a run does."""
    draws = generator(seed)
    made = []
    for step in range(steps):
        drawn = data.draw(step, SIZE, draws)
        torch.rand(3, generator=draws)
        width = SIZE // parts
        pieces = [data.rows(drawn, slice(i * width, (i + 1) * width)) for i in range(parts)]
        made.append(torch.cat([samples for samples, _ in pieces]))
        if pieces[0][1] is not None:
            made.append(torch.cat([labels for _, labels in pieces]))
    return made


def equal_tensor(images, order, labels=True):
    pixels, classes = images
    samples = pixels[order].float() / 127.5 - 1
    return TensorData(samples, classes[order] if labels else None, 0)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_batches_of_the_equal_tensor(form, parts, forms, images):
    if form in IMAGES:
        pytest.importorskip("PIL", reason="images need Pillow")
    given, options, order = forms(form)
    data = open_data(given, **options)
    expected = equal_tensor(images, order, form not in WITHOUT_LABELS)
    assert data.shape == (3, 4, 6)
    assert data.has_labels == expected.has_labels
    assert data.size == 10
    # the mean and std of this form divide where the others multiply
    tolerance = 1e-6 if form == "big-endian" else 0
    for ours, theirs in zip(batches(data, parts), batches(expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
        assert ours.dtype == theirs.dtype
    torch.testing.assert_close(data.some(100), expected.samples, atol=tolerance, rtol=0)


@pytest.mark.parametrize("form", ["tensor", "mapped-npy", "read-ahead", "dataset"])
def test_flips_double_the_data_by_mirror_images(form, forms, images):
    given, options, order = forms(form)
    plain = equal_tensor(images, order, form not in WITHOUT_LABELS)
    labels = None if plain.labels is None else plain.labels.repeat(2)
    doubled = TensorData(torch.cat([plain.samples, plain.samples.flip(-1)]), labels, 0)
    data = open_data(given, flip=True, **options)
    assert data.size == 20
    for ours, theirs in zip(batches(data), batches(doubled), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(data.some(100), doubled.samples)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_run_that_starts_in_the_middle_gives_the_same_rows(workers, images):
    pixels, labels = images
    dataset = torch.utils.data.TensorDataset(pixels, labels)
    expected = batches(open_data(dataset), steps=6)
    draws = generator(SEED)
    for _ in range(3):
        torch.randint(10, (SIZE,), generator=draws)
        torch.rand(3, generator=draws)
    late = open_data(dataset, workers=workers)
    for step in range(3, 6):
        samples, classes = late.rows(late.draw(step, SIZE, draws), slice(0, SIZE))
        torch.rand(3, generator=draws)
        assert torch.equal(samples, expected[2 * step])
        assert torch.equal(classes, expected[2 * step + 1])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_parts_of_two_ranks_are_the_whole_batch(workers, images):
    dataset = torch.utils.data.TensorDataset(*images)
    whole = batches(open_data(dataset))
    ranks = [open_data(dataset, workers=workers) for _ in range(2)]
    generators = [generator(SEED) for _ in ranks]
    for step in range(STEPS):
        halves = []
        for rank, (data, draws) in enumerate(zip(ranks, generators, strict=True)):
            drawn = data.draw(step, SIZE, draws)
            torch.rand(3, generator=draws)
            halves.append(data.rows(drawn, slice(rank * 4, rank * 4 + 4)))
        assert torch.equal(torch.cat([samples for samples, _ in halves]), whole[2 * step])
        assert torch.equal(torch.cat([labels for _, labels in halves]), whole[2 * step + 1])


def test_rows_of_the_next_step_are_read_before_they_are_asked_for(images):
    class Watched(torch.utils.data.TensorDataset):
        asked: list[int] = []  # noqa: RUF012, the class has one instance

        def __getitem__(self, index):
            self.asked.append(index)
            return super().__getitem__(index)

    dataset = Watched(*images)
    data, draws = open_data(dataset, workers=1), generator(SEED)
    drawn = data.draw(0, SIZE, draws)
    data.rows(drawn, slice(0, SIZE))
    expected = torch.randint(10, (SIZE,), generator=draws.clone_state())
    # the rows of the next step are complete without a question for them
    for pending in data._reader._next.pending.values():
        pending.result()
    assert dataset.asked[-SIZE:] == expected.tolist()
    dataset.asked.clear()
    second = data.draw(1, SIZE, draws)
    assert torch.equal(second.index((0, SIZE)), expected)
    assert dataset.asked == []


def test_foreign_draws_between_steps_do_not_change_the_rows(images):
    """The first batch of a run is drawn again by another generator, while rows are read ahead."""
    dataset = torch.utils.data.TensorDataset(*images)
    expected = batches(open_data(dataset))
    data, draws = open_data(dataset, workers=2), generator(SEED)
    for step in range(STEPS):
        drawn = data.draw(step, SIZE, draws)
        torch.rand(3, generator=draws)
        assert torch.equal(data.rows(drawn, slice(0, SIZE))[0], expected[2 * step])
        other = data.draw(0, SIZE, generator(SEED))
        assert torch.equal(data.rows(other, slice(0, 3))[0], expected[0][:3])


def test_a_second_draw_of_a_step_is_another_one(images):
    dataset = torch.utils.data.TensorDataset(*images)

    def run(workers):
        data, draws, made = open_data(dataset, workers=workers), generator(SEED), []
        for step in range(3):
            first = data.draw(step, SIZE, draws)
            torch.rand(3, generator=draws)
            second = data.draw(step, 4, draws)
            made += [data.rows(first, slice(0, 8))[0], data.rows(second, slice(0, 4))[0]]
        return made

    for ours, theirs in zip(run(2), run(0), strict=True):
        assert torch.equal(ours, theirs)


def test_an_error_of_a_thread_reaches_the_caller():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            if index:
                raise RuntimeError("the disk is gone")
            return torch.zeros(2)

    data = open_data(Broken(), workers=2)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        data.rows(data.draw(0, SIZE, generator(SEED)), slice(0, SIZE))


def test_scales(images):
    pixels, _ = images
    channels = np.array([1.0, 2.0, 3.0])
    data = open_data(pixels, mean=channels, std=[10.0, 20.0, 40.0], scale=0.5)
    mean = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    std = torch.tensor([10.0, 20.0, 40.0]).view(3, 1, 1)
    torch.testing.assert_close(data.some(10), (pixels - mean) / std * 0.5)
    latents = torch.randn(6, 4, 2, dtype=torch.float64)
    assert torch.equal(open_data(latents).some(6), latents.float())
    assert torch.equal(open_data(latents.half(), scale=2).some(6), latents.half().float() * 2)
    placed = open_data(pixels).placed(torch.device("cpu"), torch.float64, None)
    assert torch.equal(placed.some(10), pixels.double() / 127.5 - 1)
    assert (
        open_data(pixels).placed(torch.device("cpu"), torch.bfloat16, None).some(1).dtype
        == torch.bfloat16
    )


def test_the_digest_tells_data_apart(images):
    pixels, labels = images
    other = pixels.clone()
    other[3, 1, 2, 2] += 1
    data = [
        open_data(pixels),
        open_data(other),
        open_data((pixels, labels)),
        open_data((pixels, labels.flip(0))),
        open_data(pixels, flip=True),
        open_data(pixels, scale=0.5),
        open_data(pixels[:9]),
    ]
    assert len({source.digest() for source in data}) == len(data)
    assert open_data(pixels).digest() == open_data(pixels.clone(), workers=2).digest()


@pytest.mark.parametrize("keep", [True, False])
def test_the_digest_sees_every_row_of_an_array(tmp_path, keep):
    pixels = torch.randint(256, (5000, 1, 4, 4), dtype=torch.uint8).numpy()
    np.save(tmp_path / "a.npy", pixels)
    first = open_data(tmp_path / "a.npy", keep_in_memory=keep).digest()
    for row in (1, 2, 4998, 4999):
        pixels[row] ^= 1
        np.save(tmp_path / "a.npy", pixels)
        assert open_data(tmp_path / "a.npy", keep_in_memory=keep).digest() != first
        pixels[row] ^= 1


def test_the_digest_sees_every_file_of_a_zip(tmp_path):
    images = torch.zeros(1500, 1, 4, 4, dtype=torch.uint8)

    def digest(name, changed, level):
        made = images.clone()
        made[1, 0, 0, 0] = changed
        write_zip(tmp_path / name, made)
        return open_data(tmp_path / name, keep_in_memory=level).digest()

    # a byte of image 1, which is not among the samples that are read
    first = digest("a.zip", 7, True)
    assert digest("b.zip", 8, True) != first
    assert digest("c.zip", 7, False) == first


def test_the_digest_does_not_depend_on_how_data_are_read(forms):
    given, options, _ = forms("npz")
    digests = {
        open_data(given, **options, keep_in_memory=keep, workers=workers).digest()
        for keep in (True, False)
        for workers in (0, 2)
    }
    assert len(digests) == 1


def test_labels_can_be_left_out(forms):
    for form in ("tensor", "npz", "dataset", "mappings", "safetensors"):
        given, options, _ = forms(form)
        assert not open_data(given, labels=False, **options).has_labels


def test_single_arrays_in_folders_and_zip_files(tmp_path):
    latents = torch.randn(7, 4, 2, 3, generator=generator(0))
    folder = tmp_path / "latents"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "latents.zip", "w") as archive:
        for i, latent in enumerate(latents.numpy()):
            # half of them in the order of Fortran
            np.save(folder / f"{i}.npy", np.asfortranarray(latent) if i % 2 else latent)
            archive.write(folder / f"{i}.npy", f"00000/{i}.npy")
    for path in (folder, tmp_path / "latents.zip"):
        for keep in (True, False):
            data = open_data(path, mean=0.5, std=2.0, scale=0.5, keep_in_memory=keep)
            torch.testing.assert_close(data.some(7), (latents - 0.5) / 4)
    (folder / "9.npy").write_bytes((folder / "0.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"9\.npy is truncated or corrupt: it has 92 of 96 bytes"):
        open_data(folder)
    np.save(folder / "9.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"9\.npy holds Python objects"):
        open_data(folder)


def test_images_of_pillow_are_items(images):
    image = pytest.importorskip("PIL.Image", reason="images need Pillow")
    pixels = images[0]
    coloured = [image.fromarray(x.movedim(0, -1).numpy()) for x in pixels]
    assert torch.equal(open_data(coloured).some(10), pixels.float() / 127.5 - 1)
    grey = [(image.fromarray(x[0].numpy()), 1) for x in pixels]
    assert torch.equal(open_data(grey).some(10), pixels[:, :1].float() / 127.5 - 1)


@pytest.mark.parametrize(
    ("form", "held"), [("npy", True), ("mapped-npy", False), ("mapped-npz", False), ("npz", True)]
)
def test_mapped_files_stay_on_the_disk(form, held, forms):
    given, options, _ = forms(form)
    store = open_data(given, **options)._store
    assert (store.resident is not None) == held


def test_class_folders_have_names(images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    write_folder(tmp_path, *images)
    assert open_data(tmp_path).class_names == ("a", "b", "c")
    assert not open_data(tmp_path, labels=False).has_labels
    # a hidden copy of an image is none
    (tmp_path / "a" / "._00.png").write_bytes(b"")
    assert open_data(tmp_path).size == 10
