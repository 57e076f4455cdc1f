"""Stores of raw samples, which are read by their index: arrays, files of arrays, images, and data sets."""

from edmfast.distill.data.stores.arrays import ArrayStore, bytes_of, in_memory
from edmfast.distill.data.stores.datasets import DatasetStore
from edmfast.distill.data.stores.files import open_path
from edmfast.distill.data.stores.items import ItemReader
from edmfast.distill.data.stores.store import RawRows, Store

__all__ = [
    "ArrayStore",
    "DatasetStore",
    "ItemReader",
    "RawRows",
    "Store",
    "bytes_of",
    "in_memory",
    "open_path",
]
