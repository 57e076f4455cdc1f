"""A model as one compiled graph, and the watch over what the graph took to be constant."""
