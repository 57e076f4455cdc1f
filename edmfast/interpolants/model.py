"""The fields of an interpolant from networks, or from a denoiser: what its ODE, its SDEs and its likelihood need.

Networks predict expectations given x_t = x at time t:

    velocity  v = E[a' x_0 + b' x_1 | x]          drift  b = v + gamma' noise = v - gamma gamma' score
    noise     eta = E[z | x]                      score  s = -eta/gamma

Any two of them, of which one is a drift or a velocity, give the others. For the one-sided paths that a denoiser
describes, the denoiser alone gives drift and score.

Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.numbers import as_float
from edmfast.interpolants.arguments import any_at, expand_times
from edmfast.interpolants.denoiser_velocity import denoised_and_noise
from edmfast.interpolants.fields import call_network
from edmfast.interpolants.interpolant import ONE_SIDED, Interpolant
from edmfast.interpolants.one_sided import Point, path_named
from edmfast.interpolants.velocity_denoiser import Velocity
from edmfast.models.calling.origin import name_of
from edmfast.models.preconditioning import can_be_read
from edmfast.models.protocols import Denoiser, Target

NETWORKS = ("drift", "velocity", "noise", "score")


def as_factors(numbers: Tensor, x: Tensor) -> Tensor:
    """Return coefficients [] or [B] as factors of states x [B, *shape]; those without dimensions stay the same."""
    if numbers.dim() == 0:
        return numbers
    return unsqueeze_like(numbers.to(device=x.device, dtype=x.dtype), x)


class InterpolantModel(nn.Module):
    """The drift, velocity, noise and score of an interpolant, from two networks or more.

    Each network is called as network(x [B, *shape], t [B], **conditions) and returns a tensor like x. The usual
    pair is drift and noise. The velocity network of a flow model predicts the drift of a one-sided path.

    Args:
        interpolant: the path and gamma of the states.
        drift: the network of b, the velocity of the probability flow.
        velocity: the network of v, the expected velocity without that of the noise.
        noise: the network of eta, the expected noise z.
        score: the network of s, the gradient of the log-density.

    Raises:
        TypeError: an interpolant of another type, or a network that cannot be called.
        ValueError: no network at all.
    """

    def __init__(
        self,
        interpolant: Interpolant,
        *,
        drift: Velocity | None = None,
        velocity: Velocity | None = None,
        noise: Velocity | None = None,
        score: Velocity | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(interpolant, Interpolant):
            raise TypeError(
                f"interpolant must be an Interpolant, given {type(interpolant).__name__}"
            )
        self.interpolant = interpolant
        given = dict(zip(NETWORKS, (drift, velocity, noise, score), strict=True))
        for name, network in given.items():
            if network is not None and not callable(network):
                raise TypeError(
                    f"{name} must be callable as {name}(x, t), given {type(network).__name__}"
                )
            # the methods have the plain names, and a member of the same name would hide them
            setattr(self, f"{name}_network", network)
        if all(network is None for network in given.values()):
            raise ValueError(f"a model needs at least one of the networks {', '.join(NETWORKS)}")

    def networks(self) -> dict[str, Velocity]:
        """Return the networks by name: drift, velocity, noise and score, as far as there are any."""
        held = {name: getattr(self, f"{name}_network") for name in NETWORKS}
        return {name: network for name, network in held.items() if network is not None}

    def drift(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """Return b(x, t), like x, the velocity of the probability flow.

        Args:
            x: [B, *shape].
            t: a float, [] or [B], within [0, 1].
            condition: keyword arguments of the networks.

        Raises:
            ValueError: a drift that the networks do not determine, or one that divides by gamma = 0.
        """
        networks = self.networks()
        if "drift" in networks:
            return call_network(networks["drift"], x, t, condition)
        return self._drift_from_velocity(x, t, None, condition)

    def score(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """Return s(x, t), like x, the gradient of the log-density of x_t; see `drift` for the arguments."""
        networks = self.networks()
        if "score" in networks:
            return call_network(networks["score"], x, t, condition)
        if "noise" in networks:
            gamma = as_factors(self._gamma(t), x)
            return call_network(networks["noise"], x, t, condition) / -gamma
        raise ValueError(
            "the score needs a network of the noise or of the score: pass InterpolantModel(..., noise=...)"
        )

    def noise(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """Return eta(x, t) = E[z | x_t = x], like x; see `drift` for the arguments."""
        networks = self.networks()
        if "noise" in networks:
            return call_network(networks["noise"], x, t, condition)
        gamma = as_factors(self.interpolant.coefficients(t).gamma, x)
        return -gamma * self.score(x, t, **condition)

    def velocity(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """Return v(x, t) = E[a' x_0 + b' x_1 | x_t = x], like x; see `drift` for the arguments."""
        networks = self.networks()
        if "velocity" in networks:
            return call_network(networks["velocity"], x, t, condition)
        product = as_factors(self.interpolant.coefficients(t).gamma_gamma_dot, x)
        drift, score = self.drift_and_score(x, t, **condition)
        return drift + product * score

    def drift_and_score(
        self, x: Tensor, t: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (b, s), each like x, with one call of each network; see `drift` for the arguments."""
        score = self.score(x, t, **condition)
        if "drift" in self.networks():
            return self.drift(x, t, **condition), score
        return self._drift_from_velocity(x, t, score, condition), score

    def extra_repr(self) -> str:
        """Return the interpolant for the printed form."""
        return repr(self.interpolant)

    def _drift_from_velocity(
        self, x: Tensor, t: float | Tensor, score: Tensor | None, condition: dict[str, Any]
    ) -> Tensor:
        if "velocity" not in self.networks():
            raise ValueError(
                "the drift needs a network of the drift or of the velocity: pass InterpolantModel(..., drift=...)"
            )
        velocity = call_network(self.networks()["velocity"], x, t, condition)
        if self.interpolant.gamma == "zero":
            return velocity
        product = as_factors(self.interpolant.coefficients(t).gamma_gamma_dot, x)
        score = self.score(x, t, **condition) if score is None else score
        return velocity - product * score

    def check_score_at(self, t: float) -> None:
        """Raise ValueError for a time at which the score is not defined."""
        if "score" not in self.networks():
            self._gamma(t)

    def _gamma(self, t: float | Tensor) -> Tensor:
        gamma = self.interpolant.coefficients(t).gamma
        if can_be_read(gamma) and bool((gamma == 0).any()):
            where = "" if isinstance(t, Tensor) else f" at t = {float(t):g}"
            raise ValueError(
                f"the score -noise/gamma divides by gamma = 0{where}: let times begin and end within (0, 1), "
                "such as from 1e-4 to 1 - 1e-4"
            )
        return gamma


class OneSidedModel(nn.Module):
    """The drift and score of a one-sided interpolant from a denoiser or an energy, with one call of it for both.

    With the denoised states D = E[x_1 | x_t] and the noise eta = E[z | x_t] of the denoiser at sigma = gamma/b,
    the drift is b' D + gamma' eta and the score is -eta/gamma.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        denoiser: model(x [B, *shape], sigma [B], **conditions) -> x0 like x, or a target with energy_and_score.
            A velocity network becomes one by `from_velocity`.
        path: "linear" or "trig"; see `from_velocity`.
        sigma_max: the largest noise level of the denoiser, in the units of the data. Where the level gamma/b is
            higher, as at t = 0, the denoiser is asked at sigma_max for the same noise.

    Raises:
        TypeError: a denoiser that is neither callable nor an energy, or a sigma_max that is no number.
        ValueError: an unknown path, or a sigma_max that is not positive.
    """

    def __init__(
        self, denoiser: Denoiser | Target, path: str = "linear", *, sigma_max: float | None = None
    ) -> None:
        super().__init__()
        self.path = path_named(path)
        names = {name: ours for ours, name in ONE_SIDED.items()}
        self.interpolant = Interpolant(names[path])
        if not callable(denoiser) and not hasattr(denoiser, "energy_and_score"):
            raise TypeError(
                f"denoiser must be callable as denoiser(x, sigma), given {name_of(denoiser)}"
            )
        self.model: Any = denoiser
        self.sigma_max = (
            None if sigma_max is None else as_float("sigma_max", sigma_max, positive=True)
        )

    def drift(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """Return b(x, t), like x, the velocity of the probability flow.

        Args:
            x: [B, *shape].
            t: a float, [] or [B], within [0, 1]; above 0 unless there is a sigma_max.
            condition: keyword arguments of the denoiser.
        """
        at = self._at(x, t)
        denoised, noise = denoised_and_noise(self.model, x, at, self.sigma_max, condition)
        return at.b_dot * denoised + at.a_dot * noise

    def score(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """Return s(x, t), like x, the gradient of the log-density of x_t, for t below 1; see `drift`."""
        return self.drift_and_score(x, t, **condition)[1]

    def drift_and_score(
        self, x: Tensor, t: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (b, s), each like x, with one call of the denoiser, for t below 1; see `drift`."""
        self.check_score_at(t)
        at = self._at(x, t)
        denoised, noise = denoised_and_noise(self.model, x, at, self.sigma_max, condition)
        return at.b_dot * denoised + at.a_dot * noise, noise / -at.a

    def check_score_at(self, t: float | Tensor) -> None:
        """Raise ValueError for a time at which the score is not defined."""
        self._refuse_noise(t)
        if any_at(t, 1.0):
            raise ValueError(
                "t = 1 is the data, where the score of a denoiser is not defined: let times end below 1, such as "
                "at 1 - 1e-4"
            )

    def _at(self, x: Tensor, t: float | Tensor) -> Point:
        self._refuse_noise(t)
        return self.path.at_time(expand_times(t, x))

    def _refuse_noise(self, t: float | Tensor) -> None:
        if self.sigma_max is None and any_at(t, 0.0):
            raise ValueError(
                "t = 0 is pure noise, an infinite noise level at which a denoiser is not defined: pass sigma_max, "
                "the largest level of the denoiser, or begin at another time"
            )
