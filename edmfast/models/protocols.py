"""The two protocols by which edmfast uses a model: `Denoiser` and `Target`.

A class need not inherit from them. Any object with the right methods is accepted, so that a model written for
k-diffusion, EDM or another package can be passed as it is. `edmfast.targets` exports both names.
Noise levels sigma are standard deviations in the units of x, and energies are in nats.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Denoiser(Protocol):
    """A callable that returns the denoised states, model(x, sigma, **conditions) -> x0.

    Every module, function or lambda of that form is one. Source: Karras et al. 2022, arXiv 2206.00364, where
    the denoiser is D(x; sigma).
    """

    def __call__(self, x: Tensor, sigma: Tensor, /, *args: Any, **conditions: Any) -> Tensor:
        """Return x0 [B, *shape], the expected clean states given noisy ones, in the dtype of x.

        Args:
            x: [B, *shape], noisy states.
            sigma: [B], one positive noise level per sample, in the dtype and on the device of x.
            args: the class label, which networks of EDM take by position.
            conditions: keyword arguments such as class_label. A denoiser without conditions may leave both out of
                its signature.
        """
        ...


@runtime_checkable
class Target(Protocol):
    """A density to sample from: an energy U with its score, at every noise level.

    The density is p(x; sigma) ∝ exp(-U(x, sigma)). The denoised states follow from the score and the exponent A
    as x + sigma² S/A. Where `smc.sample` and the targets take a target, an object without the attribute
    `exponent` is accepted too and has A = 1.
    """

    @property
    def exponent(self) -> float | Tensor:
        """The exponent A, positive: 1 for an energy model, and the sum of the exponents for a product of them.

        A tensor [K] has one exponent for each of K equal runs of consecutive rows of x. In `smc.sample` these
        runs are the populations.
        """
        ...

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, /, *args: Any, **conditions: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (U [B] in nats, S like x), where S is -grad U or an approximation of it.

        U is known up to a constant per noise level.

        Args:
            x: [B, *shape].
            sigma: a float, [] or [B], positive, in the units of x.
            args: no positional arguments are passed.
            conditions: keyword arguments such as class_label. A target without conditions may leave them out of
                its signature.
        """
        ...
