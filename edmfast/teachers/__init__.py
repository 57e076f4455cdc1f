"""Teachers from files: networks of EDM, EDM2 and diffusers, states with a description, and the program's own.

load          `load_teacher`, which finds out what a path is
conversion    `convert`, which writes a teacher as a file of this package
nvlabs        networks in the pickles of EDM and EDM2
pickles/      a reader of pickles that runs nothing of the file
state_files   states in safetensors and .pt files
description   which network a state belongs to
folder        local folders of diffusers
generate      `generated_data`, which draws training data from a teacher
"""

from edmfast.teachers.conversion import Converted, convert
from edmfast.teachers.generate import generated_data
from edmfast.teachers.load import load_teacher
from edmfast.teachers.pickles.errors import DamagedPickleError, UnsafePickleError

__all__ = [
    "Converted",
    "DamagedPickleError",
    "UnsafePickleError",
    "convert",
    "generated_data",
    "load_teacher",
]
