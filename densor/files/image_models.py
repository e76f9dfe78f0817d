"""Image models as files, and the sets of images that they are learned from."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densor.codec.ardm import model as ardm
from densor.codec.circuit.model import MAX_CHANNELS, Circuit, Size, pack, parse
from densor.codec.image.layout import Layout, fits, layout_of
from densor.errors import ArgumentError, DensorError, FileError, FormatError, UnsupportedError
from densor.files.single import compress_file, decompress_file
from densor.formats.io.sources import Bytes, MemoryRandomSource, MemorySource, RandomSource
from densor.formats.parsers import bmp, idx, netpbm, npy, tiff
from densor.formats.parsers.contents import Contents, Head, Stretch
from densor.options import WriteOptions

_MOST_BYTES = 1 << 27  # of a model, unpacked
_HEAD = 1 << 16  # bytes that formats are known by
_MOST_OF_SET = 1 << 32  # bytes of a set in gzip
_FINDERS: tuple[Callable[[Head], Contents | None], ...] = (
    *(npy.find, netpbm.find, bmp.find, idx.find, tiff.find),
)


class Images(NamedTuple):
    """Images of one size: uint8[count, samples]."""

    size: Size
    samples: Bytes


def load(path: Any) -> Circuit | ardm.Network:
    """The model in a file; a DensorError where there is none."""
    shown = Path(path).name
    target = io.BytesIO()
    try:
        decompress_file(path, target, max_output_size=_MOST_BYTES)
        data = target.getvalue()
        return ardm.parse(data) if data[:4] == ardm.MAGIC else parse(data)
    except FileError:
        raise
    except DensorError as error:
        raise type(error)(f"image model {shown}: {error}") from error


def save(model: Circuit | ardm.Network, path: Any, overwrite: bool = False) -> int:
    """Writes the file of a model, an archive; returns its bytes."""
    options = WriteOptions(level=9, overwrite=overwrite)
    data, name = _packed(model)
    return compress_file(io.BytesIO(data), path, name=name, options=options).stored


def file_bytes(model: Circuit | ardm.Network) -> int:
    """Bytes of the file of a model, without writing one."""
    data, name = _packed(model)
    options = WriteOptions(level=9)
    return compress_file(io.BytesIO(data), io.BytesIO(), name=name, options=options).stored


def _packed(model: Circuit | ardm.Network) -> tuple[bytes, str]:
    """The bytes of a model, and what its entry is called."""
    if isinstance(model, ardm.Network):
        return ardm.pack(model), "network"
    return pack(model), "circuit"


def read_images(path: Any) -> Images:
    """The images of an IDX file, plain or in gzip, a `.npy` file, an image, or a folder of these.

    Those of a folder must have one size; other formats than PNM, BMP and TIFF need Pillow. A
    DensorError for what cannot be read, has more than 8 bits, or images of different sizes.
    """
    where = Path(path)
    files = sorted(p for p in where.rglob("*") if p.is_file()) if where.is_dir() else [where]
    found: list[Images] = []
    for file in files:
        found.extend(_images_of(file))
        if found[-1].size != found[0].size:
            raise ArgumentError(f"{file}: images of another size than those of {files[0]}")
    if not found:
        raise ArgumentError(f"{where}: there are no images")
    return Images(found[0].size, np.concatenate([images.samples for images in found]))


def _images_of(path: Path) -> Iterator[Images]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(path, data)
    found = find_images(MemoryRandomSource(data), path.name)
    if found is not None:
        stretch, layout = found
        if layout.size != 1 or layout.padding or layout.channels > MAX_CHANNELS:
            text = f"{path}: images of more than 8 bits, with padding or of many channels"
            raise UnsupportedError(f"{text} have no model")
        rows = stretch.size // layout.stride
        yield _of_rows(data, stretch, layout, layout.height or rows)
        return
    yield _by_pillow(path, data)


def _of_rows(data: bytes, stretch: Stretch, layout: Layout, height: int) -> Images:
    size = Size(height, layout.width, layout.channels)
    samples = np.frombuffer(data, np.uint8, stretch.size, stretch.offset)
    if not size.samples or samples.size % size.samples:
        raise FormatError("file does not have whole images")
    return Images(size, samples.reshape(-1, size.samples))


def _unzipped(path: Path, data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(_MOST_OF_SET)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: {error}") from error
    return found


def find_images(source: RandomSource, name: str) -> tuple[Stretch, Layout] | None:
    """The first images of a file that is not compressed, and how they lie; None without any."""
    first = source.read_at(0, min(source.size, _HEAD))
    for find in _FINDERS:
        contents = find(Head(MemorySource(first), source.size, source, name))
        for stretch in contents.stretches if contents is not None else ():
            layout = stretch.image or layout_of(stretch.dtype, stretch.shape)
            if layout is not None and fits(layout, stretch.size):
                return stretch, layout
    return None


def _by_pillow(path: Path, data: bytes) -> Images:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        text = (
            f"{path}: no image that is known here; other formats need Pillow (pip install pillow)"
        )
        raise UnsupportedError(text) from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image)
    except UnidentifiedImageError:  # whose text shows the object that was given
        raise FormatError(f"{path}: no image that Pillow reads") from None
    except Exception as error:  # Pillow raises many classes for bad files
        raise FormatError(f"{path}: no image that Pillow reads ({error})") from None
    if pixels.dtype != np.uint8 or not 2 <= pixels.ndim <= 3:
        raise UnsupportedError(f"{path}: images of more than 8 bits have no model")
    height, width, *channels = pixels.shape
    size = Size(height, width, *(channels or [1]))
    return Images(size, np.ascontiguousarray(pixels).reshape(1, -1))
