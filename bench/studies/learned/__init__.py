"""Measure in nats what distilled energies learn, where the exact energy is known."""
