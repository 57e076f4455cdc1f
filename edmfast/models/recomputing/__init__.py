"""Activation checkpointing that carries the double backward: blocks recompute instead of keeping activations."""
