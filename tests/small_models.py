"""Build small models and training runs, equal at every call, for tests that compare spellings of a number."""

import torch
from torch import nn

import edmfast
from edmfast import DistillConfig, analytic, models

PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 6).reshape(3, 2)


class Wide(nn.Module):
    """N(0, 1) with `excess` times the noise, which is wrong unless excess is 1, and with a gauge."""

    sigma_data = 0.5

    def __init__(self, excess=1.0, gauge=0.0):
        super().__init__()
        self.excess = nn.Parameter(torch.tensor(excess, dtype=torch.float64))
        self.gauge = gauge

    def energy(self, x, sigma):
        variance = 1 + self.excess * sigma**2
        return x.square().sum(1) / (2 * variance) + self.gauge * sigma**3


def built(kind, *sizes, **options):
    torch.manual_seed(0)
    return kind(*sizes, **options)


def mlp(**options):
    return built(models.ResidualMLP, **({"dim": 2, "width": 8, "depth": 1} | options))


def unet(**options):
    return built(models.UNet, **({"in_channels": 1, "channels": (4, 4), "groups": 2} | options))


def dit(**options):
    arguments = {"in_channels": 1, "size": 4, "width": 8, "depth": 1, "heads": 2}
    return built(models.DiT, **(arguments | options))


def pairwise(**options):
    arguments = {"particles": 3, "dimensions": 2, "width": 8, "depth": 1}
    return built(models.PairwiseMLP, **(arguments | options))


def song(**options):
    arguments = {"img_resolution": 4, "in_channels": 1, "out_channels": 1, "model_channels": 4}
    arguments |= {"channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (2,)}
    return built(models.SongUNet, **(arguments | options))


def dhariwal(**options):
    arguments = {"img_resolution": 4, "in_channels": 1, "out_channels": 1, "model_channels": 4}
    arguments |= {"channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (2,)}
    return built(models.DhariwalUNet, **(arguments | options))


def rescaled(**numbers):
    config = {"img_resolution": 4, "in_channels": 1, "out_channels": 1, "model_channels": 4}
    small = {**config, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    return built(models.RescaledNetwork, "iddpm", "SongUNet", small, **numbers)


def edm2(**options):
    arguments = {
        "img_resolution": 4,
        "img_channels": 1,
        "model_channels": 4,
        "channel_mult": (1, 2),
    }
    arguments |= {"num_blocks": 1, "attn_resolutions": (2,), "channels_per_head": 4}
    return built(models.EDM2UNet, **(arguments | options))


def initialised(seed):
    energy = edmfast.EnergyModel(mlp())
    teacher = edmfast.Denoiser(mlp())
    nn.init.ones_(teacher.backbone.output.weight)
    return models.initialise_from(energy, teacher, X, seed=seed).scale.values


def taught(**options):
    teacher = edmfast.Denoiser(mlp())
    nn.init.ones_(teacher.backbone.output.weight)
    return models.student_from(teacher, X, **options).energy(X, 0.5)


def distilled(**settings):
    torch.manual_seed(0)
    student = edmfast.EnergyModel(mlp())
    config = DistillConfig(**({"steps": 2, "batch_size": 4} | settings))
    return edmfast.distill(PAIR, student, X, config=config, progress=False).losses
