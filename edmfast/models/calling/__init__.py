"""Calls to models of any origin: one protocol, its conditions, its errors, and second derivatives."""
