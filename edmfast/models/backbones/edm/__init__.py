"""The U-Nets of EDM: SongUNet (DDPM++ and NCSN++) and DhariwalUNet (ADM), which load the states of EDM by name.

song_unet, dhariwal_unet    the two networks; network holds what they share
rescaled                    networks of VP, VE and iDDPM, which were trained with another preconditioning
block                       a residual block with modulation and attention
resampling                  halving and doubling by a low-pass filter
noise_features, labels      what is embedded
initialisation              starting weights

Source: Karras et al. 2022, arXiv 2206.00364, appendix F.2.
"""

from edmfast.models.backbones.edm.dhariwal_unet import DhariwalUNet
from edmfast.models.backbones.edm.rescaled import RescaledNetwork
from edmfast.models.backbones.edm.song_unet import SongUNet

__all__ = ["DhariwalUNet", "RescaledNetwork", "SongUNet"]
