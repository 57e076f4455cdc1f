"""Energies and scores of one residual perceptron, or of several of one shape, in one pass."""

from edmfast.ops.mlp_potential.operator import Perceptron, mlp_potential, mlp_potentials

__all__ = ["Perceptron", "mlp_potential", "mlp_potentials"]
