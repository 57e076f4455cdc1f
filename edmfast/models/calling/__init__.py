"""How a model of any origin is called: one protocol, its conditions, and its derivatives."""
