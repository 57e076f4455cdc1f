"""Patches for foreign networks: attention with second derivatives, and dropout fixed by seed and step."""
