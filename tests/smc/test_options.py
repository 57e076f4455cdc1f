"""Test the options of `smc.sample`: few parameters, and frozen dataclasses whose errors name the field."""

import dataclasses
import importlib
import inspect

import pytest

from edmfast import smc
from edmfast.analytic import GaussianMixture

TARGET = GaussianMixture([[-1.0], [1.0]], [0.3, 0.4])


def small(**options):
    return smc.sample(TARGET, (1,), [4.0, 1.0, 0.3], particles=8, populations=2, **options)


def test_sample_has_at_most_18_parameters():
    assert len(inspect.signature(smc.sample).parameters) <= 18


@pytest.mark.parametrize("kind", [smc.Correction, smc.Checkpoint, smc.Distribution, smc.RunOptions])
def test_groups_are_frozen_and_documented(kind):
    options = kind()
    names = [field.name for field in dataclasses.fields(kind)]
    assert all(name in kind.__doc__ for name in names)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, names[0], None)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: smc.Correction(smc.MALA(), sigma_range=(2.0, 1.0)), ValueError, "sigma_range"),
        (lambda: smc.Correction(smc.MALA(), waste_free=1), ValueError, "waste_free"),
        (lambda: smc.Correction(waste_free=2), ValueError, "needs correctors"),
        (lambda: smc.Correction(7), TypeError, "correctors must be"),
        (lambda: smc.Checkpoint("run", every=0), ValueError, "Checkpoint.every"),
        (lambda: smc.Distribution(split="halves"), ValueError, "split"),
        (lambda: smc.Distribution(first_population=-1), ValueError, "first_population"),
        (lambda: smc.RunOptions(batch_size=0), ValueError, "RunOptions.batch_size"),
        (lambda: smc.RunOptions(on_degenerate="quiet"), ValueError, "on_degenerate"),
        (lambda: small(correction="mala"), TypeError, "MALA"),
        (lambda: small(distribution="ranks"), TypeError, "distribution must be smc.Distribution"),
        (lambda: small(options={"dtype": None}), TypeError, "options must be smc.RunOptions"),
    ],
)
def test_errors_name_the_field(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    "correction",
    [smc.MALA(), [smc.MALA()], smc.Correction(smc.MALA()), smc.Correction([smc.MALA()])],
)
def test_correctors_come_alone_in_a_sequence_or_with_their_options(correction):
    assert small(correction=correction).x.equal(small(correction=smc.MALA()).x)


def test_a_run_on_one_process_has_no_share_of_ranks(monkeypatch):
    def fail(*_):
        raise AssertionError("a run without a group has no ranks")

    module = importlib.import_module("edmfast.smc.sample")
    monkeypatch.setattr(module, "Share", fail)
    assert small().x.shape == (2, 8, 1)
