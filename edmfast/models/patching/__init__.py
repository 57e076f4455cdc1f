"""Foreign networks made twice differentiable, and dropout that depends on seed and step only."""
