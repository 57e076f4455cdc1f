"""The digits demonstration: real data through a teacher, an energy and controlled sampling."""
