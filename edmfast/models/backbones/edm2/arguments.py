"""Checks of the arguments of `EDM2UNet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edmfast._internal.numbers import as_float, as_int, as_shape


def checked_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the constructor as plain numbers and lists, which JSON can hold.

    arguments: the constructor's locals. Raises TypeError or ValueError for arguments out of range.
    """
    config = {key: value for key, value in arguments.items() if key not in ("self", "__class__")}
    for name in (
        "img_resolution",
        "img_channels",
        "model_channels",
        "num_blocks",
        "channels_per_head",
    ):
        config[name] = as_int(name, config[name], least=1)
    config["label_dim"] = as_int("label_dim", config["label_dim"], least=0)
    for name in ("channel_mult_noise", "channel_mult_emb"):
        if config[name] is not None:
            config[name] = as_int(name, config[name], least=1)
    for name in ("label_balance", "concat_balance", "res_balance", "attn_balance"):
        config[name] = as_float(name, config[name], least=0, most=1)
    config["dropout"] = as_float("dropout", config["dropout"], least=0)
    if config["dropout"] >= 1:
        raise ValueError(f"dropout must lie in [0, 1), given {config['dropout']}")
    if config["clip_act"] is not None:
        config["clip_act"] = as_float("clip_act", config["clip_act"], positive=True)
    config["channel_mult"] = [*as_shape("channel_mult", config["channel_mult"])]
    resolutions = config["attn_resolutions"]
    empty = isinstance(resolutions, Sequence) and len(resolutions) == 0
    config["attn_resolutions"] = [] if empty else [*as_shape("attn_resolutions", resolutions)]
    multiple = 2 ** (len(config["channel_mult"]) - 1)
    if config["img_resolution"] % multiple:
        raise ValueError(
            f"img_resolution must be a multiple of {multiple}, because it is halved between the levels of "
            f"channel_mult, given {config['img_resolution']}"
        )
    return config
