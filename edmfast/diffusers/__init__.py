"""Networks of diffusers in edmfast: any network as a denoiser. This package never imports diffusers."""

from edmfast.diffusers.as_denoiser import DiffusersDenoiser, as_denoiser

__all__ = ["DiffusersDenoiser", "as_denoiser"]
