"""Pairs of noise and sample: exact on Gaussians, whole path and phases, and resumed from a folder."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.distill import NoisePairs, load_pairs, make_pairs
from edmfast.distill.objectives.make_pairs import ddim
from edmfast.sampling import sample_euler

STD = 0.5
LEVELS = [80.0, 20.0, 5.0, 1.0, 0.2]


class Gaussian:
    """The exact denoiser of N(0, scale²), which counts its calls."""

    def __init__(self, scale=STD):
        self.scale, self.calls = scale, 0

    def __call__(self, x, sigma, class_label=None):
        self.calls += 1
        variance = self.scale**2
        return variance / (variance + sigma[:, None] ** 2) * x


def exact_ode(model, x, sigmas):
    start, end = float(sigmas[0]), float(sigmas[-1])
    return x * math.sqrt((STD**2 + end**2) / (STD**2 + start**2))


def test_the_default_sampler_takes_the_euler_steps_of_the_ode():
    levels = torch.tensor([*LEVELS, 0.0], dtype=torch.float64)
    x = 80 * torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = sample_euler(Gaussian(), x, levels, disable=True)
    torch.testing.assert_close(ddim(Gaussian(), x, levels), expected, rtol=1e-12, atol=1e-12)
    # any sampler of the package fits as it is
    by_ddim = make_pairs(Gaussian(), (3,), 4, [*LEVELS, 0.0])
    by_euler = make_pairs(Gaussian(), (3,), 4, [*LEVELS, 0.0], sampler=sample_euler)
    torch.testing.assert_close(by_ddim.clean, by_euler.clean)


def test_phases_have_the_closed_form_of_a_gaussian():
    data = STD * torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"data": data, "phases": 4, "sampler": exact_ode, "dtype": torch.float64}
    pairs = make_pairs(Gaussian(), (2,), 60, LEVELS, **options)
    for phase in range(4):
        own = torch.arange(60) % 4 == phase
        s, e = LEVELS[phase], LEVELS[phase + 1]
        assert (pairs.high[own] == s).all()
        assert (pairs.low[own] == e).all()
        clean, noise = pairs.clean[own], pairs.noise[own]
        start, end = clean + s * noise, clean + e * noise
        ratio = math.sqrt((STD**2 + e**2) / (STD**2 + s**2))
        torch.testing.assert_close(end, ratio * start, rtol=1e-12, atol=1e-12)
        slope = (ratio - 1) / (e - s)
        torch.testing.assert_close(noise, slope * start, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(clean, (1 - s * slope) * start, rtol=1e-11, atol=1e-11)
        # so the denoiser of a phase is linear, and one Euler step with it goes from one end to the other
        for sigma in (e, math.sqrt(s * e), s):
            x = clean + sigma * noise
            denoised = (1 - s * slope) / (1 + (sigma - s) * slope) * x
            torch.testing.assert_close(denoised, clean, rtol=1e-10, atol=1e-10)
        step = end - (clean + e / s * (start - clean))
        assert float(step.abs().max()) < 1e-12
    # the starting states are noised data: their variance is that of data and noise together
    start = pairs.clean + pairs.high[:, None] * pairs.noise
    spread = (start / (pairs.high[:, None] ** 2 + STD**2).sqrt()).square().mean()
    assert float(spread) == pytest.approx(1, abs=4 * math.sqrt(2 / 120))


def test_pairs_do_not_depend_on_the_batch_size_and_labels_reach_the_teacher():
    seen = []

    def teacher(x, sigma, class_label):
        seen.append(class_label)
        return Gaussian()(x, sigma) + class_label[:, None]

    labels = torch.arange(10) % 4
    runs = [
        make_pairs(teacher, (2,), 10, LEVELS, labels=labels, num_classes=4, batch_size=size)
        for size in (3, 10)
    ]
    assert torch.equal(runs[0].noise, runs[1].noise)
    torch.testing.assert_close(runs[0].clean, runs[1].clean)
    assert torch.equal(seen[0], labels[:3])
    assert torch.equal(runs[0].labels, labels)
    assert not torch.equal(make_pairs(Gaussian(), (2,), 10, LEVELS, seed=1).noise, runs[0].noise)


def test_a_folder_keeps_what_is_made_and_only_the_rest_is_made_again(tmp_path):
    folder = tmp_path / "pairs"
    options = {"batch_size": 4, "folder": folder}
    whole = make_pairs(Gaussian(), (2,), 10, LEVELS, **options)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3
    for name in ("noise", "clean", "low", "high"):
        assert torch.equal(
            getattr(load_pairs(folder), name),
            getattr(make_pairs(Gaussian(), (2,), 10, LEVELS, batch_size=4), name),
        )
    files[1].unlink()
    teacher = Gaussian()
    resumed = make_pairs(teacher, (2,), 10, LEVELS, **options)
    assert torch.equal(resumed.clean, whole.clean)
    # one path for the check of the teacher, and one for the missing file
    assert teacher.calls == 2 * (len(LEVELS) - 1)
    with pytest.raises(ValueError, match="other settings: seed is 0 there and 1 here"):
        make_pairs(Gaussian(), (2,), 10, LEVELS, seed=1, **options)
    with pytest.raises(ValueError, match="another teacher or sampler: the first pair of Gaussian"):
        make_pairs(Gaussian(0.9), (2,), 10, LEVELS, **options)
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        load_pairs(tmp_path)


def test_a_file_of_pairs_gives_them_back(tmp_path):
    labels = torch.arange(5)
    pairs = make_pairs(Gaussian(), (2,), 5, LEVELS, labels=labels, num_classes=5)
    pairs.save(tmp_path / "pairs")
    back = load_pairs(tmp_path / "pairs")
    assert torch.equal(back.labels, labels)
    assert back.num_classes == 5
    assert back.digest() == pairs.digest()
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(FileExistsError, match="overwrite"):
        pairs.save(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": [1.0, 2.0]}, "must decrease strictly"),
        ({"phases": 3}, "phases must divide the 4 steps of sigmas, given 3"),
        ({"phases": 2}, "phases=2 needs data"),
        ({"data": torch.zeros(3, 5)}, r"data must be \[n, \*shape\] with shape \[2\]"),
        ({"labels": torch.zeros(3)}, r"labels must be int64 \[4\]"),
        ({"sampler": lambda model, x, sigmas: x[:1]}, "the sampler must return states"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"sigmas": LEVELS} | change
    with pytest.raises(ValueError, match=message):
        make_pairs(Gaussian(), (2,), 4, **arguments)


def test_bad_pairs_are_named():
    x, level = torch.zeros(3, 2), torch.ones(3)
    with pytest.raises(ValueError, match=r"equal shapes, given \[3, 2\] and \[2, 2\]"):
        NoisePairs(x, x[:2], level, level)
    with pytest.raises(ValueError, match="0 < low <= high"):
        NoisePairs(x, x, 2 * level, level)
    with pytest.raises(ValueError, match="finite"):
        NoisePairs(x, x / 0, level, level)
    with pytest.raises(TypeError, match=r"low must be a floating-point tensor, given torch\.int64"):
        NoisePairs(x, x, level.long(), level)
    with pytest.raises(ValueError, match=r"labels must be int64 \[3\]"):
        NoisePairs(x, x, level, level, labels=level)
