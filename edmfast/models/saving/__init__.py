"""Models in safetensors files, and the backbones that may be rebuilt from them."""
