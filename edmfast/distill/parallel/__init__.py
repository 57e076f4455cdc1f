"""Training on several processes: each rank has a part of every batch, and the gradients are averaged."""

from edmfast.distill.parallel.parts import parts_of
from edmfast.distill.parallel.replicas import Replicas

__all__ = ["Replicas", "parts_of"]
