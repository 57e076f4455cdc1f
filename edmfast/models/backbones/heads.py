"""The number of heads of a network, from the width of its output: `edmfast.models.TwoHeads` needs two."""

from __future__ import annotations

from typing import Any

from edmfast._internal.numbers import as_int


def heads_of(config: dict[str, Any], name: str, outputs: int | None, inputs: int) -> int:
    """Return outputs/inputs, or 1 where outputs is None, and keep other outputs in the config under their name.

    A config without the entry is that of earlier versions, whose saved models and checkpoints stay valid. Raises
    ValueError unless outputs is a positive multiple of inputs.
    """
    if outputs is None:
        return 1
    outputs = as_int(name, outputs, least=1)
    if outputs % inputs:
        raise ValueError(
            f"{name} must be a multiple of {inputs}, the numbers of y, given {outputs}"
        )
    config[name] = outputs
    return outputs // inputs
