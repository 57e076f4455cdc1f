"""Streams: their order, ranks, a start in the middle, and iterables that cannot be repeated."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import IterableDataset

from edmfast._internal.generators import generator
from edmfast.distill import open_data
from tests.distill.data.forms import Stream

SIZE = 4


def items(count, labels=False):
    samples = torch.arange(count * 2.0).view(count, 2)
    return [(x, i % 3) for i, x in enumerate(samples)] if labels else [*samples]


def batch(data, step, rows=slice(0, SIZE)):
    return data.rows(data.draw(step, SIZE, generator(0)), rows)


def expected(count, step, rows=slice(0, SIZE)):
    """Return the items of a step of a stream of `count` items, which starts again at its end."""
    positions = torch.arange(step * SIZE, (step + 1) * SIZE)[rows] % count
    return torch.arange(count * 2.0).view(count, 2)[positions]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [3, 10, 2000])
def test_steps_take_the_stream_in_its_order_and_start_again_at_its_end(count, workers):
    stream = Stream(items(count))
    data = open_data(stream, workers=workers)
    assert data.size is None
    assert data.shape == (2,)
    for step in range(7):
        samples, labels = batch(data, step)
        assert torch.equal(samples, expected(count, step))
        assert labels is None
    assert torch.equal(data.some(5), torch.arange(count * 2.0).view(count, 2)[:5])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("count", [10, 1500])
def test_a_resumed_run_skips_what_was_taken(count, workers):
    data = open_data(Stream(items(count)), workers=workers)
    for step in range(400, 406):
        assert torch.equal(batch(data, step)[0], expected(count, step))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_earlier_step_can_be_asked_for_again(workers):
    stream = Stream(items(3000))
    data = open_data(stream, workers=workers)
    for step in (0, 300, 301, 0, 302, 290, 303):
        assert torch.equal(batch(data, step)[0], expected(3000, step))
    # the first items are kept, so that only the step before an earlier one starts the stream again
    assert stream.starts <= 3


@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_and_parts_take_their_rows_of_the_batch(workers):
    ranks = [open_data(Stream(items(1030, labels=True)), workers=workers) for _ in range(2)]
    for step in range(250, 265):
        pieces = [
            batch(ranks[rank], step, slice(2 * rank + part, 2 * rank + part + 1))
            for rank in range(2)
            for part in range(2)
        ]
        samples = torch.cat([samples for samples, _ in pieces])
        assert torch.equal(samples, expected(1030, step))
        labels = torch.cat([labels for _, labels in pieces])
        assert torch.equal(labels, torch.arange(step * SIZE, (step + 1) * SIZE) % 1030 % 3)


def test_what_is_read_ahead_is_the_next_step():
    stream = Stream(items(2000))
    data = open_data(stream, workers=1)
    for step in range(300):
        batch(data, step)
    for future in data._pending.values():
        future.result()
    assert stream.read == 301 * SIZE
    assert stream.starts == 1


def test_set_epoch_is_called_with_the_number_of_each_pass():
    class Shuffled(IterableDataset):
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            order = torch.randperm(6, generator=generator(self.epoch)).tolist()
            return iter([torch.tensor([float(i)]) for i in order])

    passes = [torch.randperm(6, generator=generator(epoch)) for epoch in range(4)]
    order = torch.cat(passes).float()
    data = open_data(Shuffled())
    for step in range(6):
        assert torch.equal(batch(data, step)[0].flatten(), order[step * SIZE : step * SIZE + SIZE])
    late = open_data(Shuffled())
    assert torch.equal(batch(late, 5)[0].flatten(), order[20:24])


def test_an_order_that_cannot_be_repeated_is_found():
    class Random(IterableDataset):
        starts = 0

        def __iter__(self):
            self.starts += 1
            for i in range(1100):
                yield torch.tensor([float(i + 1000 * self.starts)])

    data = open_data(Random())
    batch(data, 270)
    with pytest.raises(ValueError, match="Random gave another first item"):
        batch(data, 260)


@pytest.mark.parametrize(
    ("stream", "error", "words"),
    [
        (iter(items(3)), TypeError, "can be read again, given the iterator list_iterator"),
        (itertools.count(), TypeError, "can be read again"),
        (Stream([]), ValueError, "at least one item, given an empty Stream"),
        (Stream([torch.zeros(2), torch.zeros(3)]), ValueError, r"item 1 of data has \[3\]"),
        (
            Stream([torch.zeros(2), torch.full((2,), torch.nan)]),
            ValueError,
            "item 1 of data must be finite",
        ),
        (
            Stream([(torch.zeros(2), 1), torch.zeros(2)]),
            ValueError,
            "item 0 of data has a label, and item 1",
        ),
        (
            Stream([(torch.zeros(2), True)]),
            TypeError,
            "the label of item 0 of data must be an integer",
        ),
        (Stream([{"x": torch.zeros(2)}]), TypeError, r"is a mapping with \['x'\]"),
        (Stream(["abc"]), TypeError, "must be a tensor, an array or an image, given str"),
    ],
)
def test_bad_streams(stream, error, words):
    with pytest.raises(error, match=words):
        open_data(stream)


def test_what_needs_rows_is_refused():
    with pytest.raises(ValueError, match="flip=True needs data whose rows can be drawn"):
        open_data(Stream(items(3)), flip=True)
    with pytest.raises(ValueError, match="keep_in_memory=True needs data of a known size"):
        open_data(Stream(items(3)), keep_in_memory=True)


def test_the_digest_tells_streams_apart():
    streams = [items(5), items(6), items(5, labels=True), items(5)[::-1]]
    digests = [open_data(Stream(made)).digest() for made in streams]
    assert len({*digests}) == 4
    assert open_data(Stream(items(5)), workers=1).digest() == digests[0]
