"""Images in an archive: single ones of a set, and regions of interest.

>>> import densor, io, numpy as np
>>> scans = np.arange(60000, dtype=np.uint16).reshape(3, 100, 200) // 300
>>> archive = io.BytesIO()
>>> with densor.Writer(archive) as writer:
...     writer.add_tensor("scans", scans)
>>> with densor.image.open(archive.getvalue()) as images:
...     print(images.shape, images[1, 50:53, :2].tolist())
(3, 100, 200) [[100, 100], [100, 100], [101, 101]]
"""

import math
from typing import Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from densor import file
from densor.codec.image.layout import Layout, layout_of
from densor.errors import ArgumentError, UnsupportedError
from densor.files.image_models import find_images
from densor.formats.container.listed_entries import IndexedEntry
from densor.options import ReadKeywords, ReadOptions

_Keys = tuple[Any, ...]


class _Place(NamedTuple):
    """Where images lie in an entry: rows of `layout` from `offset` on."""

    entry: IndexedEntry
    offset: int
    layout: Layout
    images: int
    height: int


class Images(file.PartOfFile):
    """Images of one size in an archive, indexed like an array; what is not asked for is not read.

    `shape`: images, rows, columns, and channels where there are several. `dtype`: uint8 or uint16.
    Chunks that hold what is asked for are decoded; of those under an image model, single images.
    Safe to use from several threads.
    """

    def __init__(
        self,
        source: Any,
        name: str | None = None,
        *,
        options: ReadOptions | None = None,
        **keywords: Unpack[ReadKeywords],
    ) -> None:
        self._file = file.File(source, options=options, **keywords)
        try:
            self._place = self._find(name)
        except BaseException:
            self._file.close()
            raise
        layout = self._place.layout
        channels = (layout.channels,) if layout.channels > 1 else ()
        self.shape = (self._place.images, self._place.height, layout.width, *channels)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if layout.size == 1 else np.uint16)

    def _find(self, name: str | None) -> _Place:
        archive = self._file.archive
        for called, (entry, tensor) in archive.tensors().items():
            layout = layout_of(tensor.dtype, tensor.shape)
            if name in (None, called) and layout is not None:
                return _placed(entry, tensor.offset, tensor.size, layout)
        for entry in archive.entries:
            if name in (None, entry.meta.name) and entry.meta.kind == "file":
                found = find_images(archive.as_source(entry), entry.meta.name)
                if found is not None:
                    stretch, layout = found
                    return _placed(entry, stretch.offset, stretch.size, layout)
        text = "archive has no images" if name is None else f"archive has no images {name!r}"
        raise UnsupportedError(f"{text} that can be read by themselves")

    def __len__(self) -> int:
        return self._place.images

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """`images[5]`, `images[5, 100:200, 50:80]`, `images[3:9]`; IndexError outside."""
        keys = key if isinstance(key, tuple) else (key,)
        if not 0 < len(keys) <= len(self.shape) or not all(
            isinstance(k, int | slice) for k in keys
        ):
            raise ArgumentError("images are indexed by whole numbers and slices, one a dimension")
        if isinstance(keys[0], slice):
            begin, end, step = keys[0].indices(len(self))
            if step != 1:
                raise ArgumentError("images are read in steps of 1")
            found = self._rows(begin * self.shape[1], max(begin, end) * self.shape[1])
            rest: _Keys = (slice(None), *keys[1:])
            return found.reshape(-1, *self.shape[1:])[rest]
        number = keys[0] + len(self) * (keys[0] < 0)
        if not 0 <= number < len(self):
            raise IndexError(f"image {keys[0]} of {len(self)}")
        first = number * self.shape[1]
        rows = keys[1] if len(keys) > 1 else slice(None)
        if isinstance(rows, slice):
            begin, end, step = rows.indices(self.shape[1])
            if step > 0:
                found = self._rows(first + begin, first + max(begin, end))
                return found[(slice(None, None, step), *keys[2:])]
        return self._rows(first, first + self.shape[1])[keys[1:]]

    def _rows(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Rows of all images, one below the other."""
        place = self._place
        stride = place.layout.stride
        at = place.offset
        data = self._file.archive.read(place.entry, at + begin * stride, at + end * stride)
        samples = place.layout.samples(data).astype(self.dtype, copy=False)
        return np.ascontiguousarray(samples).reshape(end - begin, *self.shape[2:])


def open(
    source: Any,
    name: str | None = None,
    *,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Images:
    """The images of an archive, by path, URL, seekable binary file object or bytes.

    `name`: of the array, tensor or file that they are; the first that are images by default.
    Options are those of `densor.decompress_file`, of which `image_model` is needed where images
    were coded under one. UnsupportedError where there are none that can be read by themselves, such
    as those of PNG files.
    """
    return Images(source, name, options=options, **keywords)


def _placed(entry: IndexedEntry, offset: int, size: int, layout: Layout) -> _Place:
    rows = size // layout.stride
    height = layout.height or rows
    return _Place(entry, offset, layout, math.ceil(rows / height), height)
