"""Networks accept every spelling of their numbers and refuse invalid ones; see `tests.spellings`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edmfast
from edmfast import models
from tests.small_models import (
    dhariwal,
    dit,
    edm2,
    initialised,
    mlp,
    pairwise,
    rescaled,
    song,
    taught,
    unet,
)
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, same, table

U_NET = {
    "img_resolution": (COUNT, 8, 0),
    "in_channels": (COUNT, 2, 0),
    "out_channels": (COUNT, 2, 0),
    "label_dim": (COUNT, 3, -1),
    "augment_dim": (COUNT, 3, -1),
    "model_channels": (COUNT, 8, 0),
    "channel_mult_emb": (COUNT, 2, 0),
    "num_blocks": (COUNT, 2, 0),
    "dropout": (REAL, 0.5, 1.0),
    "label_dropout": (REAL, 0.5, 1.0),
}


CASES = [
    row(
        "EnergyModel",
        "sigma_data",
        REAL,
        0.5,
        lambda s: edmfast.EnergyModel(mlp(), sigma_data=s),
        0.0,
        1e30,
    ),
    row("Denoiser", "sigma_data", REAL, 0.5, lambda s: edmfast.Denoiser(mlp(), sigma_data=s), -1.0),
    *table(
        "ResidualMLP",
        mlp,
        dim=(COUNT, 2, 0),
        width=(COUNT, 4, 0),
        depth=(COUNT, 2, 0),
        num_classes=(COUNT, 3, 0),
        embedding_width=(COUNT, 4, 0),
        out_dim=(COUNT, 4, 0),
    ),
    *table(
        "UNet",
        unet,
        in_channels=(COUNT, 2, 0),
        blocks=(COUNT, 1, 0),
        num_classes=(COUNT, 3, 0),
        groups=(COUNT, 4, 0),
        embedding_width=(COUNT, 4, 0),
        patch=(COUNT, 2, 0),
        out_channels=(COUNT, 2, 0),
    ),
    row("UNet", "channels", COUNT, 4, lambda n: unet(channels=(n, 4)), 0),
    *table(
        "DiT",
        dit,
        in_channels=(COUNT, 2, 0),
        size=(COUNT, 8, 0),
        patch=(COUNT, 1, 0),
        width=(COUNT, 16, 0),
        depth=(COUNT, 2, 0),
        heads=(COUNT, 1, 0),
        num_classes=(COUNT, 3, 0),
        mlp_ratio=(REAL, 2.0, 0.0),
        embedding_width=(COUNT, 4, 0),
        dropout=(REAL, 0.5, 1.0),
        out_channels=(COUNT, 2, 0),
    ),
    *table(
        "PairwiseMLP",
        pairwise,
        particles=(COUNT, 4, 1),
        dimensions=(COUNT, 3, 0),
        width=(COUNT, 4, 0),
        depth=(COUNT, 2, 0),
        num_classes=(COUNT, 3, 0),
        features=(COUNT, 4, 1),
        longest=(REAL, 2.0, 0.0),
        embedding_width=(COUNT, 4, 0),
    ),
    *table("SongUNet", song, **U_NET, channel_mult_noise=(COUNT, 2, 0)),
    row("SongUNet", "channel_mult", COUNT, 2, lambda n: song(channel_mult=(1, n)), 0),
    row("SongUNet", "attn_resolutions", COUNT, 4, lambda n: song(attn_resolutions=(n,)), 0),
    row("SongUNet", "resample_filter", REAL, 3.0, lambda f: song(resample_filter=(f, 1)), -1.0),
    *table(
        "RescaledNetwork",
        rescaled,
        sigma_data=(REAL, 0.25, 0.0),
        beta_d=(REAL, 10.0, 0.0),
        beta_min=(REAL, 0.25, 0.0),
        M=(COUNT, 100, 1),
        C_1=(REAL, 0.25, 0.0),
        C_2=(REAL, 0.25, -1.0),
    ),
    *table("DhariwalUNet", dhariwal, **U_NET),
    row("DhariwalUNet", "channel_mult", COUNT, 2, lambda n: dhariwal(channel_mult=(1, n)), 0),
    row("DhariwalUNet", "attn_resolutions", COUNT, 4, lambda n: dhariwal(attn_resolutions=(n,)), 0),
    row(
        "TwoHeads",
        "sigma_data",
        REAL,
        0.5,
        lambda s: edmfast.models.TwoHeads(mlp(), sigma_data=s),
        0.0,
    ),
    *table(
        "EDM2UNet",
        edm2,
        img_resolution=(COUNT, 8, 0),
        img_channels=(COUNT, 2, 0),
        label_dim=(COUNT, 3, -1),
        model_channels=(COUNT, 8, 0),
        channel_mult_noise=(COUNT, 2, 0),
        channel_mult_emb=(COUNT, 2, 0),
        num_blocks=(COUNT, 2, 0),
        label_balance=(REAL, 0.25, 1.5),
        concat_balance=(REAL, 0.25, -0.5),
        res_balance=(REAL, 0.25, 1.5),
        attn_balance=(REAL, 0.25, 1.5),
        channels_per_head=(COUNT, 2, 0),
        dropout=(REAL, 0.5, 1.0),
        clip_act=(REAL, 2.0, 0.0),
    ),
    row("EDM2UNet", "channel_mult", COUNT, 2, lambda n: edm2(channel_mult=(1, n)), 0),
    row("EDM2UNet", "attn_resolutions", COUNT, 4, lambda n: edm2(attn_resolutions=(n,)), 0),
    row("initialise_from", "seed", SEED, 7, initialised),
    row("student_from", "seed", SEED, 7, lambda n: taught(seed=n)),
    row("student_from", "sigma_data", REAL, 0.5, lambda s: taught(sigma_data=s), 0.0),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)


BUILT = [
    lambda n: models.ResidualMLP(n(2), n(8), n(1), n(3), n(4)),
    lambda n: models.UNet(n(1), [n(4), n(4)], n(1), n(3), n(2), n(4), n(2)),
    lambda n: models.DiT(n(1), n(4), n(2), n(8), n(1), n(2), n(3), n(2), n(4), n(0)),
    lambda n: models.SongUNet(
        n(4),
        n(1),
        n(1),
        n(3),
        n(2),
        n(4),
        [n(1), n(2)],
        n(2),
        n(1),
        [n(2)],
        n(0),
        n(0),
        channel_mult_noise=n(1),
        resample_filter=[n(1), n(2)],
    ),
    lambda n: models.DhariwalUNet(
        n(4), n(1), n(1), n(3), n(2), n(4), [n(1), n(2)], n(2), n(1), [n(2)], n(0), n(0)
    ),
    lambda n: models.EDM2UNet(
        n(4),
        n(1),
        n(3),
        n(4),
        [n(1), n(2)],
        n(1),
        n(2),
        n(1),
        [n(2)],
        n(0),
        n(1),
        channels_per_head=n(4),
    ),
    lambda n: models.PairwiseMLP(n(3), n(2), n(8), n(1), n(3), n(4), n(2), n(4)),
    lambda n: models.ResidualMLP(2, 8, 1, out_dim=n(2)),
    lambda n: models.UNet(1, (4, 4), groups=2, out_channels=n(1)),
    lambda n: models.DiT(1, 4, 2, 8, 1, 2, out_channels=n(1)),
]


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("number", [np.int64, torch.tensor])
def test_networks_built_with_numpy_sizes_are_saved(build, number, tmp_path):
    model = edmfast.EnergyModel(build(number), sigma_data=np.float32(0.75))
    assert build(number).config == build(int).config
    models.save_model(model, tmp_path / "model")
    loaded = models.load_model(tmp_path / "model")
    assert same(model, loaded)
    assert loaded.sigma_data == 0.75
