"""Writes packed safetensors files."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

import xxhash

from densor.dtypes import SIZES, is_known
from densor.errors import ArgumentError
from densor.formats.container import tensor_blob
from densor.formats.container.base import GivenBase
from densor.formats.container.tensor_blob import Tensor
from densor.formats.io.outputs import errors_of, write_all
from densor.formats.io.sources import Bytes
from densor.formats.packed.header import packed_header
from densor.formats.packed.reader import PackedFile
from densor.formats.parsers.safetensors import ALIGNMENT, Header, Stored
from densor.formats.tensors import is_name
from densor.options import DEFAULT_WRITE, WriteOptions

MIN_BYTES = 4096  # bytes from which a tensor may become a blob
_MAX_SIZE_OF_BLOB = 0.97  # of its tensor's size is what a blob may have at most
_MAX_SIZE_UNTRIED = 0.5  # of its tensor's size: so small against a base that nothing else is tried
_COPY = 1 << 22

Decide = Callable[[Tensor], GivenBase | None]  # what a tensor may be coded against


def pack_file(
    source: PackedFile,
    target: BinaryIO,
    options: WriteOptions = DEFAULT_WRITE,
    base: Decide | None = None,
) -> None:
    """Writes a packed file of a plain one; ArgumentError if it is packed already.

    `base`: finds what a tensor may be coded against, in place of that in `options`.
    """
    if source.packed:
        raise ArgumentError(f"{source.path}: is packed already")
    write_packed(source.header, source.stored, target, options, base)


def write_packed(
    header: Header,
    data_of: Callable[[str], Bytes],
    target: BinaryIO,
    options: WriteOptions = DEFAULT_WRITE,
    base: Decide | None = None,
) -> None:
    """Writes the packed file of a safetensors file of this header and these tensors.

    Blobs wait in a temporary file: the header, which has their sizes, comes before them, and so do
    plain tensors, which readers want to be aligned.
    """
    # Progress is reported once, however often a tensor is coded; there is no text here.
    each = replace(options, progress=None, language_model=None)
    hasher = xxhash.xxh3_128(header.raw)
    plain: dict[str, Stored] = {}
    blobs: dict[str, int] = {}
    with tempfile.TemporaryFile(dir=_folder_of(target)) as spool:
        for name, stored in header.tensors.items():
            data = data_of(name)
            hasher.update(data)
            packed = _packed(name, stored, data, each, base)
            if packed is None:
                plain[name] = stored
            else:
                blobs[name] = len(packed)
                write_all(spool, packed)
            if options.progress is not None:
                options.progress(data.size)
        plain = dict(sorted(plain.items(), key=lambda item: -_alignment(item[1])))
        write_all(target, packed_header(header, plain, blobs, hasher.hexdigest()))
        for name in plain:
            write_all(target, data_of(name))
        spool.seek(0)
        with errors_of("output"):
            shutil.copyfileobj(spool, target, _COPY)


def _folder_of(target: BinaryIO) -> str | None:
    """The folder of the output, for temporary files; None for the system's."""
    name = getattr(target, "name", None)
    return os.path.dirname(os.path.abspath(name)) if isinstance(name, str) else None


def _alignment(stored: Stored) -> int:
    """What the size of an element is a multiple of, at most 8; 1 for unknown types."""
    return min(SIZES.get(stored.dtype, 1), ALIGNMENT)


def _packed(
    name: str, stored: Stored, data: Bytes, options: WriteOptions, base: Decide | None
) -> bytes | None:
    """The blob of a tensor, None where it is better left as it is."""
    if data.size < MIN_BYTES or not is_known(stored.dtype) or not is_name(name) or not name:
        return None
    tensor = Tensor(name, stored.dtype, stored.shape, data.size, None)
    best: bytes | None = None
    given = None if base is None else base(tensor)
    if given is not None:
        plain = replace(options, gpu_index=False)  # no GPU decodes against a base
        best = tensor_blob.encode(tensor, data, plain, given)
    if best is None or len(best) > _MAX_SIZE_UNTRIED * data.size:
        alone = tensor_blob.encode(tensor, data, options)
        best = alone if best is None or len(alone) <= len(best) else best
    return best if len(best) <= _MAX_SIZE_OF_BLOB * data.size else None
