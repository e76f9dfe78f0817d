"""Tensors of a file that is to be quantised, plain or packed."""

import contextlib
from typing import Any

from densor import arrays
from densor.errors import ArgumentError, FileError, FormatError
from densor.file import File
from densor.files.opened import open_input
from densor.formats.container.open_base import is_archive
from densor.formats.io.urls import label, plain
from densor.formats.parsers import safetensors
from densor.formats.parsers.base_matching import listed_of
from densor.formats.tensors import is_listable
from densor.lossy.models import Tensors


def read_tensors(path: Any) -> Tensors:
    """All tensors of a file or archive by name: numpy arrays, or torch tensors if some are BF16.

    With the metadata of safetensors files.

    ArgumentError where there are none, FileError where some cannot be read by themselves.
    """
    with open_input(plain(path)) as opened:
        source = opened.random
        if source is None:
            raise FileError(f"{label(path)}: cannot be read at random")
        if not is_archive(source):
            listed = listed_of(source)
            if not all(is_listable(info) for info in listed):
                raise FileError(f"{label(path)}: some tensors cannot be read by themselves")
            torch = any(info.dtype == "BF16" for info in listed)
            hand_out = arrays.to_torch if torch else arrays.to_numpy
            found = {
                info.name: hand_out(
                    info.dtype, info.shape, source.read_at(info.offset, info.size).copy()
                )
                for info in listed
            }
            metadata = None
            with contextlib.suppress(FormatError):  # files of other formats have none
                metadata = safetensors.metadata_of(source, label(path))
        else:
            with File(path) as file:
                torch = any(file.info(name).dtype == "BF16" for name in file.keys())  # noqa: SIM118
            with File(path, "torch" if torch else "numpy") as file:
                found, metadata = file.get_tensors(), file.metadata()
    if not found:
        raise ArgumentError(f"{label(path)}: holds no tensors")
    return Tensors(found, metadata or {})
