"""Provide denoisers of N(0, I) with the calling conventions of other packages, written from their formulas.

Like the originals, each fails unless sigma is a tensor [B] in the dtype and on the device of the states.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn

SHAPE = (1, 4, 4)


def like_states(numbers, x):
    """Return numbers [B] with as many dimensions as x."""
    return numbers[(...,) + (None,) * (x.ndim - numbers.ndim)]


def plain(x, sigma):
    return x / (1 + like_states(sigma, x) ** 2)


class Gaussian:
    """The energy of N(0, std²) at every noise level, with its denoiser."""

    exponent = 1.0

    def __init__(self, std=1.0):
        self.std = std

    def energy_and_score(self, x, sigma):
        variance = self.std**2 + (torch.as_tensor(sigma) ** 2)
        variance = variance.to(x.dtype).expand(len(x))
        return x.square().flatten(1).sum(1) / (2 * variance), -x / like_states(variance, x)

    def denoise(self, x, sigma):
        return x * self.std**2 / like_states(self.std**2 + sigma**2, x)

    __call__ = denoise


class Velocity(nn.Module):
    """A wrapper like k-diffusion's VDenoiser: t = 2 atan(sigma)/pi, D = c_skip x + c_out F(c_in x, t)."""

    def forward(self, x, sigma, **condition):
        assert sigma.shape == x.shape[:1]
        assert sigma.dtype == x.dtype
        scale = (sigma**2 + 1).rsqrt()
        t = sigma.atan() / math.pi * 2
        velocity = self.network(x * like_states(scale, x), t, **condition)
        c_out, c_skip = (like_states(c, x) for c in (-sigma * scale, scale**2))
        return velocity * c_out + x * c_skip

    def network(self, y, t):
        return 0 * y * t.view(-1, 1, 1, 1)


class Discrete(nn.Module):
    """A wrapper like k-diffusion's CompVisDenoiser: levels in a table, D = x - sigma eps(c_in x, t)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("log_sigmas", torch.linspace(math.log(0.01), math.log(30.0), 200))

    def sigma_to_t(self, sigma):
        log_sigma = sigma.log()
        above = (log_sigma - self.log_sigmas[:, None]).ge(0)
        low = above.cumsum(0).argmax(0).clamp(max=len(self.log_sigmas) - 2)
        start, end = self.log_sigmas[low], self.log_sigmas[low + 1]
        share = ((log_sigma - start) / (end - start)).clamp(0, 1)
        return (low + share).view(sigma.shape)

    def forward(self, x, sigma):
        c_in = like_states((sigma**2 + 1).rsqrt(), x)
        return x - self.eps(x * c_in, self.sigma_to_t(sigma)) * like_states(sigma, x)

    def eps(self, y, t):
        step = self.log_sigmas[1] - self.log_sigmas[0]
        sigma = (self.log_sigmas[0] + step * t).exp()
        return y * like_states(sigma * (sigma**2 + 1).rsqrt(), y)


class Karras(nn.Module):
    """A wrapper like k-diffusion's layers.Denoiser: the network gets sigma itself."""

    sigma_data = 1.0

    def __init__(self):
        super().__init__()
        self.inner_model = nn.Conv2d(1, 1, 3, padding=1)
        nn.init.zeros_(self.inner_model.weight)
        nn.init.zeros_(self.inner_model.bias)

    def forward(self, x, sigma):
        c_skip, c_out, c_in = (
            like_states(c, x)
            for c in (1 / (sigma**2 + 1), sigma * (sigma**2 + 1) ** -0.5, (sigma**2 + 1) ** -0.5)
        )
        inner = self.inner_model.to(x.dtype)
        return inner(x * c_in + 0 * sigma.reshape(-1, 1, 1, 1)) * c_out + x * c_skip


class Unet(nn.Module):
    """A network like a UNet of diffusers: (sample, timestep) -> an object that holds the prediction."""

    def forward(self, sample, timestep):
        timestep = timestep.expand(sample.shape[0])
        assert timestep.ndim == 1
        return SimpleNamespace(sample=sample / (1 + timestep[:, None, None, None] ** 2))


_unet = Unet()
WRAPPERS = {
    "velocity": Velocity(),
    "discrete": Discrete(),
    "karras": Karras(),
    "diffusers": lambda x, sigma: _unet(x, sigma).sample,
}
