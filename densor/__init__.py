"""Densor: lossless compression of neural-network weights and data.

`compress` and `decompress` work in memory, `compress_file` and `decompress_file` on files,
`open`, `Writer`, `save_file` and `load_file` on tensors by name. Nothing heavy is imported until
it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FileError,
    FormatError,
    LimitError,
    TruncatedError,
    UnsupportedError,
)
from densor.version import __version__

if TYPE_CHECKING:
    from densor.api import File, Writer, compress, decompress, load, load_file, save, save_file
    from densor.api import File as open
    from densor.files.append import append
    from densor.files.diff import differences
    from densor.files.folder import extract, pack
    from densor.files.single import compress_file, decompress_file, test_file
    from densor.formats.damage.repair import repair
    from densor.formats.damage.salvage import damage, salvage

_LAZY = {
    "File": "densor.api",
    "Writer": "densor.api",
    "append": "densor.files.append",
    "compress": "densor.api",
    "compress_file": "densor.files.single",
    "damage": "densor.formats.damage.salvage",
    "decompress": "densor.api",
    "decompress_file": "densor.files.single",
    "differences": "densor.files.diff",
    "extract": "densor.files.folder",
    "load": "densor.api",
    "load_file": "densor.api",
    "pack": "densor.files.folder",
    "repair": "densor.formats.damage.repair",
    "salvage": "densor.formats.damage.salvage",
    "save": "densor.api",
    "save_file": "densor.api",
    "test_file": "densor.files.single",
}

__all__ = [
    "ArgumentError",
    "ChecksumError",
    "DensorError",
    "File",
    "FileError",
    "FormatError",
    "LimitError",
    "TruncatedError",
    "UnsupportedError",
    "Writer",
    "__version__",
    "append",
    "compress",
    "compress_file",
    "damage",
    "decompress",
    "decompress_file",
    "differences",
    "extract",
    "load",
    "load_file",
    "open",
    "pack",
    "repair",
    "salvage",
    "save",
    "save_file",
    "test_file",
]


def __getattr__(name: str) -> Any:
    if name == "open":
        return importlib.import_module("densor.api").File
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'densor' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
