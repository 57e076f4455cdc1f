"""Saving and loading of models as safetensors files, and the backbones that can be rebuilt from them."""
