"""Compiled graphs for the methods of a model, and a watch over the attributes that a graph treats as constant."""
