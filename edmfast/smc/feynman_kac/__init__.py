"""Feynman-Kac models: how particles move and what they weigh, one file per law."""
