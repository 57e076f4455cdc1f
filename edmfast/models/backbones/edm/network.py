"""The common part of EDM's U-Nets: the checks of their arguments, and the embedding of level and conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from edmfast._internal.dispatch import as_written
from edmfast._internal.numbers import as_float, as_int, as_shape
from edmfast._internal.rows import rows_of, shared_rows
from edmfast.models.backbones.edm.labels import check_label, label_rows
from edmfast.models.backbones.linear import Linear
from edmfast.models.level_table import of_level


class EDMNetwork(nn.Module):
    """The base of `SongUNet` and `DhariwalUNet`.

    A subclass defines `_embed`, and a forward that embeds, encodes and decodes.
    """

    map_label: Linear | None
    map_augment: Linear | None

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.label_dim, self.augment_dim = config["label_dim"], config["augment_dim"]
        self.num_classes: int | None = self.label_dim or None
        self.label_dropout = config["label_dropout"]

    def embedding_of(
        self, y: Tensor, c_noise: Tensor, class_label: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        """Return the embedding [B, E], or fewer equal rows where one level is expanded to [B] without conditions.

        Raises ValueError for a y of another shape and for labels that the network does not take.
        """
        self._check(y)
        rows = self._label_rows(class_label, y.shape[0], c_noise)
        augment = self._augmentation(augment_labels, y.shape[0], c_noise)
        # a stride of zero shows that one level was expanded, so that all rows are equal
        alone = c_noise.shape[0] == 1 or c_noise.stride(0) == 0
        if rows is not None or augment is not None or not alone:
            return self._embed(c_noise, rows, augment)
        prepared = self._prepared(c_noise[:1])
        if prepared is not None:
            return prepared
        level = shared_rows(c_noise[:1]) if c_noise.shape[0] > 1 else c_noise
        return self._embed(level, None, None)

    def check_condition(self, condition: dict[str, Any], batch: int) -> None:
        """Raise ValueError for conditions whose rows do not fit the caller's batch of samples."""
        label = condition.get("class_label")
        if label is not None and self.label_dim:
            check_label(label, self.label_dim, batch)

    def _embed(self, c_noise: Tensor, rows: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return the embedding [B, E]. rows: [B, label_dim]. augment: [B, augment_dim]. None stands for zeros."""
        # each architecture has its own embedding
        raise NotImplementedError

    def _prepared(self, level: Tensor) -> Tensor | None:
        """Return the embedding [1, E] of one level [1] without conditions, or None where no run prepared it."""
        names = ("map_noise", "map_label", "map_layer0", "map_layer1")
        layers = [layer for name in names if (layer := getattr(self, name, None)) is not None]
        # hooks of a caller may do anything
        if not all(map(as_written, layers)):
            return None
        tensors = [[*layer.parameters(), *layer.buffers()] for layer in layers]
        sources = [tensor for of_layer in tensors for tensor in of_layer]
        name = ("edm embedding", id(self))
        found = of_level((level,), name, sources, lambda rows: (self._embed(rows, None, None),))
        return None if found is None else found[0]

    def _label_rows(self, label: Tensor | None, batch: int, like: Tensor) -> Tensor | None:
        if label is None:
            return None
        if not self.label_dim:
            raise ValueError("a network built with label_dim=0 takes no class_label, given one")
        check_label(label, self.label_dim, batch)
        rows = label_rows(label, self.label_dim, like).expand(batch, -1)
        if self.label_dropout and self.training:
            # torch's dropout function, which training replaces by one with seeded masks
            kept = F.dropout(rows.new_ones(batch, 1), self.label_dropout, True) > 0
            rows = rows * kept
        return rows

    def _augmentation(self, labels: Tensor | None, batch: int, like: Tensor) -> Tensor | None:
        if labels is None:
            return None
        if not self.augment_dim:
            raise ValueError(
                "a network built with augment_dim=0 takes no augment_labels, given some"
            )
        if (
            labels.dim() != 2
            or labels.shape[0] not in (1, batch)
            or labels.shape[1] != self.augment_dim
        ):
            raise ValueError(
                f"augment_labels must be [B, {self.augment_dim}] for [B, ...] states, given {[*labels.shape]}"
            )
        return labels.to(like.dtype).expand(batch, -1)

    def _check(self, y: Tensor) -> None:
        size = self.config["img_resolution"]
        shape = [self.config["in_channels"], size, size]
        if y.dim() != 4 or [*y.shape[1:]] != shape:
            raise ValueError(f"y must be [B, {shape[0]}, {size}, {size}], given {rows_of(y)}")


def common_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor, with those that both networks have as plain numbers and lists.

    arguments: the constructor's locals. Raises TypeError or ValueError for arguments out of range.
    """
    config = {key: value for key, value in arguments.items() if key not in ("self", "__class__")}
    for name in (
        "img_resolution",
        "in_channels",
        "out_channels",
        "model_channels",
        "channel_mult_emb",
        "num_blocks",
    ):
        config[name] = as_int(name, config[name], least=1)
    for name in ("label_dim", "augment_dim"):
        config[name] = as_int(name, config[name], least=0)
    for name in ("dropout", "label_dropout"):
        config[name] = as_float(name, config[name], least=0)
        if config[name] >= 1:
            raise ValueError(f"{name} must lie in [0, 1), given {config[name]}")
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
    if config["model_channels"] % 2:
        raise ValueError(f"model_channels must be even, given {config['model_channels']}")
    return config
