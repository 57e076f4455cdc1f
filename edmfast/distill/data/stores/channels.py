"""The order of the axes of images: channels first, as in torch, or last, as in NumPy and in image files."""

from __future__ import annotations

_CHANNELS = (1, 3)


def channels_are_last(
    shape: tuple[int, ...], is_uint8: bool, channels_last: bool | None, where: str
) -> bool:
    """Return whether samples of this shape are images [H, W, C], to be turned into [C, H, W].

    channels_last: what the caller says, or None where the shape decides: uint8 images have 1 or 3 channels, and
    arrays of floats have the channels first. Raises ValueError where the answer is not clear.
    """
    if channels_last is not None:
        if channels_last and len(shape) != 3:
            raise ValueError(f"channels_last=True needs images [H, W, C], {where} has {[*shape]}")
        return channels_last
    if not is_uint8 or len(shape) != 3:
        return False
    first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
    # [1, H, 1] is the same image either way
    if first and last and shape[0] * shape[2] > 1:
        raise ValueError(
            f"{where} has images {[*shape]}, whose channels may be the first or the last axis: give "
            "channels_last=True or channels_last=False"
        )
    return last and not first
