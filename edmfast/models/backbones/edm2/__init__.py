"""EDM2UNet: the magnitude-preserving U-Net of EDM2, which loads the states of EDM2 by name.

network     the network
block       a residual block with modulation and cosine attention
layers      learned layers whose weights are normalised
functions   sums, concatenations, silu, norms and Fourier features that keep unit variance

Source: Karras et al. 2024, arXiv 2312.02696, configuration G and appendix B.
"""

from edmfast.models.backbones.edm2.network import EDM2UNet

__all__ = ["EDM2UNet"]
