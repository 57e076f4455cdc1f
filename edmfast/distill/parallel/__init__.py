"""Training on several processes: each rank has a part of every batch, and the gradients are averaged.

parts      the rows of a rank
replicas   ranks that hold the same model
accord     how all ranks learn that one has failed
sharding   ranks that hold a share of the model each; gather has its collectives
"""

from edmfast.distill.parallel.accord import Accord
from edmfast.distill.parallel.parts import parts_of
from edmfast.distill.parallel.replicas import Replicas

__all__ = ["Accord", "Replicas", "parts_of"]
