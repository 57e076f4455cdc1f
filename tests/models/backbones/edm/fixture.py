"""Networks, inputs and outputs that tests/data/edm_networks.npz holds."""

import functools
import json
from pathlib import Path

import numpy as np
import torch

from edmfast.models import BACKBONES, Denoiser

PATH = Path(__file__).parents[3] / "data" / "edm_networks.npz"
NAMES = ("ddpmpp", "ncsnpp", "adm")


@functools.cache
def stored():
    with np.load(PATH) as arrays:
        return {name: arrays[name] for name in arrays.files}


def arguments(name):
    """Return (the class of the network, its arguments, sigma_data)."""
    meta = json.loads(str(stored()["meta"]))[name]
    kind, channels = BACKBONES[meta.pop("model_type")], meta.pop("img_channels")
    sigma_data = meta.pop("sigma_data")
    return kind, {"in_channels": channels, "out_channels": channels, **meta}, sigma_data


def state(name):
    prefix = f"{name}/state/model."
    return {
        key.removeprefix(prefix): torch.from_numpy(array)
        for key, array in stored().items()
        if key.startswith(prefix)
    }


def denoiser(name):
    kind, config, sigma_data = arguments(name)
    network = kind(**config)
    network.load_state_dict(state(name))
    return Denoiser(network, sigma_data=sigma_data).eval()


def tensor(name, key):
    return torch.from_numpy(stored()[f"{name}/{key}"])


def condition(name):
    labelled = f"{name}/labels" in stored()
    return {"class_label": tensor(name, "labels")} if labelled else {}
