"""Densor: lossless compression of neural-network weights and data.

`compress` and `decompress` work in memory, `compress_file` and `decompress_file` on files,
`open`, `Writer`, `save_file` and `load_file` on tensors by name; `densor.archives` has tools for
archives that exist. Nothing heavy is imported until it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densor.codec.circuit import loading as _circuits
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
from densor.former import former_name
from densor.llm import loading as _loading
from densor.version import __version__

if TYPE_CHECKING:
    from densor import archives
    from densor.api import (
        File,
        Writer,
        compress,
        decompress,
        is_archive,
        load,
        load_file,
        save,
        save_file,
    )
    from densor.api import File as open
    from densor.files.folder import extract, pack
    from densor.files.prefetching import prefetch
    from densor.files.single import compress_file, decompress_file, verify_file
    from densor.options import ReadOptions, WriteOptions
    from densor.tables import read_latents, read_table

_LAZY = {
    "File": "densor.api",
    "ReadOptions": "densor.options",
    "WriteOptions": "densor.options",
    "Writer": "densor.api",
    "compress": "densor.api",
    "compress_file": "densor.files.single",
    "decompress": "densor.api",
    "decompress_file": "densor.files.single",
    "extract": "densor.files.folder",
    "is_archive": "densor.api",
    "load": "densor.api",
    "load_file": "densor.api",
    "pack": "densor.files.folder",
    "prefetch": "densor.files.prefetching",
    "read_latents": "densor.tables",
    "read_table": "densor.tables",
    "save": "densor.api",
    "save_file": "densor.api",
    "verify_file": "densor.files.single",
}
_FORMER = {
    "append": "densor.archives.append",
    "damage": "densor.archives.damage",
    "differences": "densor.archives.differences",
    "repair": "densor.archives.repair",
    "salvage": "densor.archives.salvage",
    "test_file": "densor.verify_file",
}

__all__ = [
    "ArgumentError",
    "ChecksumError",
    "DensorError",
    "File",
    "FileError",
    "FormatError",
    "LimitError",
    "ReadOptions",
    "TruncatedError",
    "UnsupportedError",
    "WriteOptions",
    "Writer",
    "__version__",
    "archives",
    "compress",
    "compress_file",
    "decompress",
    "decompress_file",
    "extract",
    "image",
    "is_archive",
    "load",
    "load_file",
    "open",
    "pack",
    "prefetch",
    "read_latents",
    "read_table",
    "save",
    "save_file",
    "verify_file",
]


def _language_model(name: Any) -> Any:
    """What coders get models of text from."""
    return importlib.import_module("densor.files.language_models").load(name)


def _image_model(path: Any) -> Any:
    """What coders get models of images from."""
    return importlib.import_module("densor.files.image_models").load(path)


_loading.set_loader(_language_model)
_circuits.set_loader(_image_model)


def __getattr__(name: str) -> Any:
    if name in ("archives", "image"):
        return importlib.import_module(f"densor.{name}")
    if name == "open":
        return importlib.import_module("densor.api").File
    if name in _FORMER:
        return former_name("densor", name, _FORMER[name])
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'densor' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
