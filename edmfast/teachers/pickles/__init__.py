"""A reader of pickles that executes nothing from the file: the subset of the format that checkpoints need.

machine     the opcodes, interpreted here one by one: no object outside the stand-ins is ever made or called
budget      the memory that a file may take
stand_ins   what takes the place of classes and objects: inert records
calls       the exact list of functions and classes that a file may name, and what the reader does in their place
storages    the numbers of tensors, from the two formats of torch.save
arrays      NumPy's arrays and numbers
read        the public function

Python's own unpickler calls what a file names, and it has opcodes that do so without a name. This reader calls
nothing of a file: a name is looked up in a table of functions of this package, and everything else is an error.
"""
