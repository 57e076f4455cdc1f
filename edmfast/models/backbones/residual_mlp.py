"""ResidualMLP: a residual multilayer perceptron for states of a few to a few hundred numbers.

h_0 = W_in y + b, h_{l+1} = h_l + silu(W_l h_l + e_l), output W_out h_L + c. The shifts e_l come from the noise
level and the class. W_out and c start at zero, so that an inner-product energy starts as the exact Gaussian one.
Infinitely differentiable. Shapes: y [B, *shape] with prod(shape) = dim, c_noise [B].
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from torch import nn

from edmfast._internal.dispatch import as_written
from edmfast._internal.numbers import as_int
from edmfast._internal.rows import per_sample, rows_of
from edmfast.models.backbones.activation import silu
from edmfast.models.backbones.embedding import Embedding, as_classes
from edmfast.models.backbones.heads import heads_of
from edmfast.models.backbones.linear import Linear
from edmfast.ops.mlp_potential.operator import Perceptron, takes


class ResidualMLP(nn.Module):
    """A residual perceptron for states [B, *shape] with prod(shape) = dim.

    `ResidualMLP(**ResidualMLP.PRESETS["GMM-40"])` has a size that suits a usual target. "2-D" is for toys of a few
    modes. "GMM-40" has 40 modes in [-40, 40]² and a wide network, because the modes are narrow in units of their
    spread. "DW4" and "LJ13" are two systems of particles as plain vectors; `PairwiseMLP` has their symmetries.
    All widths of the presets are powers of two, which `edmfast.ops.mlp_potential` accepts.

    Args:
        dim: numbers per sample.
        width: numbers of the hidden state.
        depth: number of residual layers.
        num_classes: the number of classes that class_label distinguishes, or None for no labels.
        embedding_width: numbers of the embedding of noise level and class.
        out_dim: numbers of the output for each sample, a multiple of dim; None for dim. `TwoHeads` needs 2 dim.

    Raises:
        ValueError: sizes that are not positive, or an out_dim that is no multiple of dim.
    """

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        "2-D": {"dim": 2, "width": 64, "depth": 3},
        "GMM-40": {"dim": 2, "width": 256, "depth": 4},
        "DW4": {"dim": 8, "width": 128, "depth": 4},
        "LJ13": {"dim": 39, "width": 256, "depth": 5},
    }

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 4,
        num_classes: int | None = None,
        embedding_width: int = 64,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        dim, width = as_int("dim", dim, least=1), as_int("width", width, least=1)
        depth, num_classes = as_int("depth", depth, least=1), as_classes(num_classes)
        embedding_width = as_int("embedding_width", embedding_width, least=1)
        self.config: dict[str, Any] = {
            "dim": dim,
            "width": width,
            "depth": depth,
            "num_classes": num_classes,
            "embedding_width": embedding_width,
        }
        self.dim, self.num_classes = dim, num_classes
        self.heads = heads_of(self.config, "out_dim", out_dim, dim)
        self.embedding = Embedding(embedding_width, num_classes)
        self.shifts = Linear(embedding_width, depth * width)
        self.input = Linear(dim, width)
        self.layers = nn.ModuleList(Linear(width, width, bias=False) for _ in range(depth))
        self.output = Linear(width, dim * self.heads)
        # a zero output makes an inner-product energy start as the Gaussian one
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, y: torch.Tensor, c_noise: torch.Tensor, class_label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a tensor like y, with out_dim/dim times as many numbers on axis 1.

        Args:
            y: [B, *shape] with prod(shape) = dim, scaled states.
            c_noise: [B], ln(sigma)/4.
            class_label: int64 [B], or None for "unconditional".

        Raises:
            ValueError: a y of another shape, or labels out of range.
        """
        if math.prod(y.shape[1:]) != self.dim:
            raise ValueError(
                f"ResidualMLP(dim={self.dim}) takes samples [B, *shape] of {self.dim} numbers, given "
                f"{rows_of(y)}"
            )
        shifts = per_sample(self.shifts_of(c_noise, class_label), y.shape[0])
        h = self.input(y.flatten(1))
        for layer, shift in zip(self.layers, shifts.chunk(len(self.layers), 1), strict=True):
            h = h + silu(layer(h) + shift)
        output: torch.Tensor = self.output(h)
        return output.reshape(y.shape[0], self.heads * y.shape[1], *y.shape[2:])

    def shifts_of(
        self, c_noise: torch.Tensor, class_label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the shifts e_l side by side, [B, depth·width], or fewer rows for one noise level."""
        shifts: torch.Tensor = self.shifts(self.embedding(c_noise, class_label))
        return shifts

    def perceptron(self, x: torch.Tensor) -> Perceptron | None:
        """Return the weights for `edmfast.ops.mlp_potential`, or None where it cannot replace `forward` here.

        The operator serves states x where this class and its layers are not subclassed, patched or hooked, and
        where both ends have a bias. On the CPU the weights must have the dtype of x and a width that needs no
        padding. On a GPU the sizes must be among those of the kernels, and an autocast is followed.
        """
        # a subclass, hook or replaced forward may compute something else
        if type(self) is not ResidualMLP or not as_written(self):
            return None
        modules = self._modules  # each attribute of a module would take a microsecond
        entry, middle, exit = modules["input"], modules["layers"], modules["output"]
        parts: list[Any] = [entry, *cast(nn.ModuleList, middle), exit]
        if not all(type(part) is Linear and as_written(part) for part in parts):
            return None
        # a weight that has become a plain attribute, as in flattened parameters, is missing here
        weights: list[Any] = [part._parameters.get("weight") for part in parts]
        biases: list[Any] = [part._parameters.get("bias") for part in (parts[0], parts[-1])]
        if any(tensor is None for tensor in (*weights, *biases)):
            return None
        # the operator's energy takes an output like x
        if math.prod(x.shape[1:]) != self.dim or self.heads != 1:
            return None
        # autocast would cast the layers to its dtype, so the operator must run in it too
        dtype, device = weights[0].dtype, x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        if not takes(x, dtype, weights[-1].shape[1], len(weights) - 2):
            return None
        if any(weight.dtype != dtype for weight in weights):
            if not torch.is_autocast_enabled(device):
                return None
            weights = [weight.to(dtype) for weight in weights]
            biases = [bias.to(dtype) for bias in biases]
        return Perceptron(weights[0], biases[0], weights[1:-1], weights[-1], biases[1])
