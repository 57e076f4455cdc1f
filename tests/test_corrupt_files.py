"""A file with a flipped bit is refused by its name; one without a checksum by the ranges of its numbers."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import save_file

from edmfast import smc
from edmfast._internal.files import read_tensors
from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill, load_ema
from edmfast.models import EnergyModel, ResidualMLP, load_model, save_model
from edmfast.targets import Offsets
from tests.grouped import grouped

BASE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.4, 0.6])
SIGMAS = [4.0, 2.0, 1.0, 0.5]


def run(**options):
    arguments = grouped(particles=8, populations=2, genealogy=True, **options)
    return smc.sample(BASE, (2,), SIGMAS, **arguments)


def student():
    torch.manual_seed(0)
    return EnergyModel(ResidualMLP(2, width=8, depth=1, embedding_width=8))


def resume_training(path):
    data = torch.zeros(16, 2)
    config = DistillConfig(steps=4, batch_size=4)
    return distill(BASE, student(), data, config=config, resume_from=path, progress=False)


def write_particles(path):
    run().save(path)


def write_run(path):
    run(checkpoint=path, checkpoint_every=2)


def write_model(path):
    save_model(student(), path)


def write_training(path):
    config = DistillConfig(steps=4, batch_size=4, checkpoint=path)
    distill(BASE, student(), torch.zeros(16, 2), config=config, progress=False)


FILES = {
    "particles": (write_particles, [smc.Particles.load]),
    "run": (write_run, [lambda path: run(resume_from=path)]),
    "model": (write_model, [load_model]),
    "training": (write_training, [resume_training, lambda path: load_ema(path, student())]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name, (write, _) in FILES.items():
        write(folder / name)
    return {name: (folder / name).read_bytes() for name in FILES}


def flips(content, count, seed):
    """Return positions of bits all over a file, and as many within its short header."""
    draw, header = random.Random(seed), 8 + int.from_bytes(content[:8], "little")
    for k in range(count):
        yield draw.randrange(8 * (header if k % 2 else len(content)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [40, pytest.param(4000, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere(name, count, files, tmp_path):
    path = tmp_path / "flipped-file"
    for bit in flips(files[name], count, seed=0):
        content = bytearray(files[name])
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        for read in FILES[name][1]:
            with pytest.raises(ValueError, match="flipped-file"):
                read(path)


@pytest.mark.parametrize("name", FILES)
def test_cut_and_grown(name, files, tmp_path):
    path, content = tmp_path / "cut-file", files[name]
    for changed in (b"", content[:4], content[: len(content) // 2], content[:-1], content + b"\0"):
        path.write_bytes(changed)
        for read in FILES[name][1]:
            with pytest.raises(ValueError, match="cut-file"):
                read(path)


def without_checksum(path, content, change):
    """Write the file as the version before checksums did, with changed tensors and metadata."""
    path.write_bytes(content)
    tensors, metadata = read_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, metadata)
    save_file(tensors, path, metadata={"edmfast": json.dumps(metadata)})


def nothing(tensors, metadata):
    pass


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_version_before_are_read(name, files, tmp_path):
    path = tmp_path / "file"
    without_checksum(path, files[name], nothing)
    for read in FILES[name][1]:
        read(path)


def test_a_newer_version_is_refused(files, tmp_path):
    path = tmp_path / "file"
    without_checksum(path, files["model"], lambda _, metadata: metadata.update(file_version=3))
    with pytest.raises(ValueError, match="file version 3"):
        load_model(path)


def test_a_run_of_an_earlier_version(files, tmp_path):
    """Checkpoints did not hold the count of survivors twice; the trace has it."""
    whole, earlier = tmp_path / "whole", tmp_path / "earlier"
    whole.write_bytes(files["run"])
    without_checksum(earlier, files["run"], lambda tensors, _: tensors.pop("weights.survivors"))
    wanted, resumed = run(resume_from=whole), run(resume_from=earlier)
    assert torch.equal(resumed.survivors, wanted.survivors)
    assert torch.equal(resumed.x, wanted.x)


def filled(name, value):
    return lambda tensors, _: tensors[name].fill_(value)


def changed_metadata(**changes):
    return lambda _, metadata: metadata.update(changes)


def cast(name, dtype):
    return lambda tensors, _: tensors.update({name: tensors[name].to(dtype)})


def first_row(name):
    return lambda tensors, _: tensors.update({name: tensors[name][:1].clone()})


RUN_DAMAGE = [
    filled("weights.ancestors", 8),
    filled("weights.ancestors", -1),
    filled("weights.root", 2**30),
    filled("weights.degenerate", 64),
    filled("ancestors", 8),
    filled("survivors", -1),
    filled("weights.survivors", -1),
    cast("weights.ancestors", torch.int64),
    cast("x", torch.float32),
    cast("weights.log_weights", torch.float32),
    *map(first_row, ("x", "energy", "score", "memory", "weights.log_z", "ess", "acceptance")),
    lambda tensors, _: tensors.pop("ancestors"),
    lambda tensors, _: tensors.update(parents=torch.full((2, 8), 9, dtype=torch.int32)),
    *(changed_metadata(index=index) for index in (-1, 4, 10**9, 1.5, "2", None, True, [1], 2**63)),
    *(changed_metadata(run=value) for value in (None, [], {}, "run")),
    changed_metadata(kind=["smc"]),
]


@pytest.mark.parametrize("damage", RUN_DAMAGE)
def test_a_run_without_checksum(damage, files, tmp_path):
    path = tmp_path / "damaged-file"
    without_checksum(path, files["run"], damage)
    with pytest.raises(ValueError, match="damaged-file"):
        run(resume_from=path)


PARTICLES_DAMAGE = [
    filled("ancestors", 8),
    filled("degenerate", 99),
    filled("sigmas", torch.nan),
    cast("log_z", torch.float32),
    *map(first_row, ("x", "ess", "sigmas", "log_weights", "resampled")),
    *(changed_metadata(nfe=value) for value in (-1, None, "3", 1.5, [])),
    *(changed_metadata(seed=value) for value in (None, "0", 2**64 - 0.5)),
    changed_metadata(first_population=-3),
    changed_metadata(law=3),
    changed_metadata(kind={}),
    lambda _, metadata: metadata.pop("nfe"),
]


@pytest.mark.parametrize("damage", PARTICLES_DAMAGE)
def test_particles_without_checksum(damage, files, tmp_path):
    path = tmp_path / "damaged-file"
    without_checksum(path, files["particles"], damage)
    with pytest.raises(ValueError, match="damaged-file"):
        smc.Particles.load(path)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BAD_ROWS = [
    None,
    3,
    "abc",
    {},
    [],
    [None],
    ["1"],
    [[1.0]],
    [True],
    [float("nan")],
    [10**400],
    [[[]]],
]


@pytest.mark.parametrize("value", BAD_ROWS)
@pytest.mark.parametrize("name", ["sigmas", "kappa", "log_weight_sd", "sigma_lo"])
def test_calibrations(name, value, tmp_path):
    path = tmp_path / "damaged-file"
    smc.Calibration((2.0, 1.0, 0.5), (0.5, 0.6), (0.1, 0.2)).save(path)
    rewrite(path, **{name: value})
    with pytest.raises(ValueError, match="damaged-file"):
        smc.Calibration.load(path)


@pytest.mark.parametrize("value", [*BAD_ROWS[1:], [[1.0, None]], [[1.0, 2.0]] * 3, "1" * 5000])
@pytest.mark.parametrize("name", ["sigmas", "values", "errors"])
def test_offsets(name, value, tmp_path):
    path = tmp_path / "damaged-file"
    Offsets((2.0, 1.0), ((0.0, 1.0), (0.0, 2.0))).save(path)
    rewrite(path, **{name: value})
    with pytest.raises(ValueError, match="damaged-file"):
        Offsets.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"edmfast": 3}', '{"a": ' + "9" * 5000]
)
@pytest.mark.parametrize("load", [smc.Calibration.load, Offsets.load])
def test_other_files_are_no_tables(load, text, tmp_path):
    path = tmp_path / "damaged-file"
    path.write_text(text)
    with pytest.raises(ValueError, match="damaged-file"):
        load(path)
    path.write_bytes(b"\xff\xfe" + text.encode())
    with pytest.raises(ValueError, match="damaged-file"):
        load(path)
