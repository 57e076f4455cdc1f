"""The demonstration on handwritten digits: a teacher, a distilled energy and controlled sampling."""
