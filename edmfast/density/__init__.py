"""Log-densities by any denoiser or energy, as sums of log-ratios along paths of growing noise."""

from edmfast.density.estimate import LogDensity, log_density

__all__ = ["LogDensity", "log_density"]
