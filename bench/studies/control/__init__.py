"""How well control works where the truth is known."""
