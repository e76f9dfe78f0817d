"""Sound in archives: some seconds of a file, of which no more is read than needed.

>>> import densor.audio, io, numpy, wave
>>> out = io.BytesIO()
>>> with wave.open(out, "wb") as file:
...     file.setparams((2, 2, 44100, 0, "NONE", ""))
...     file.writeframes(numpy.arange(20000, dtype="<i2").tobytes())
>>> packed = io.BytesIO()
>>> _ = densor.compress_file(io.BytesIO(out.getvalue()), packed)
>>> with densor.audio.open(packed.getvalue()) as sound:
...     sound.rate, sound.shape, sound[5000:5002].tolist()
(44100, (10000, 2), [[10000, 10001], [10002, 10003]])
"""

from collections.abc import Iterator
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from densor.codec.audio.layout import Layout
from densor.codec.audio.samples import planes_of
from densor.errors import ArgumentError, FileError
from densor.file import File, PartOfFile, only_file
from densor.formats.container.archive import Archive
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.io.sources import MemorySource
from densor.formats.parsers import aiff, au, riff
from densor.formats.parsers.contents import Head, Stretch
from densor.options import ReadKeywords, ReadOptions, read_options

_PARSERS = {"wav": riff.find, "aiff": aiff.find, "au": au.find}
_HEAD = 1 << 16  # bytes that are read at once where parsers look
_PART = 1 << 16  # instants that an iteration reads at once


class Sound(PartOfFile):
    """The samples of a sound file in an open archive; a sequence of instants.

    `shape`: instants and channels; `rate`: instants in a second, 0 if unknown; `dtype`: float32,
    int16, or uint8, int8 for samples of one byte, else int32. Samples of 3 bytes keep their value.
    An index is a slice of instants without a step, or one instant; what comes back has the shape
    (instants, channels). Only the frames needed are read and decoded. Safe to use from several
    threads at once.
    """

    def __init__(self, file: File, name: str | None = None) -> None:
        self._file = file
        archive = file.archive
        self._entry = only_file(archive, name, _PARSERS, "sound")
        self._stretch = _stretch(archive, self._entry)
        layout = self._layout
        self.rate = layout.rate
        self.shape = self._stretch.size // layout.stride, layout.channels
        self.dtype = _dtype(layout)

    @property
    def _layout(self) -> Layout:
        assert self._stretch.audio is not None
        return self._stretch.audio

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> npt.NDArray[Any]:
        if not isinstance(key, slice):
            at = key + len(self) if key < 0 else key
            if not 0 <= at < len(self):
                raise IndexError(f"no instant {key} of {len(self)}")
            one: npt.NDArray[Any] = self._read(at, at + 1)[0]
            return one
        begin, end, step = key.indices(len(self))
        if step != 1:
            raise ArgumentError("instants are read without a step")
        return self._read(begin, max(begin, end))

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for begin in range(0, len(self), _PART):
            yield from self[begin : begin + _PART]

    def _read(self, begin: int, end: int) -> npt.NDArray[Any]:
        layout = self._layout
        if begin == end:
            return np.empty((0, layout.channels), self.dtype)
        first = self._stretch.offset
        data = self._file.archive.read(
            self._entry, first + begin * layout.stride, first + end * layout.stride
        )
        found = planes_of(layout, np.ascontiguousarray(data)).T
        if layout.floats:
            return np.ascontiguousarray(found).view(np.float32)
        if layout.unsigned and layout.size == 1:
            found = found + 128
        return np.ascontiguousarray(found.astype(self.dtype))


def open(
    source: Any,
    name: str | None = None,
    *,
    threads: int | None = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Sound:
    """Opens a WAV, AIFF or AU file in an archive, for reading parts of it.

    `source`: path, URL, file object or bytes of an archive; `name`: of the file in it, where there
    are several. Options are those of `densor.decompress_file`.

    FileError where the file is no sound.
    """
    file = File(source, options=read_options(options, threads=threads, **keywords))
    try:
        return Sound(file, name)
    except BaseException:
        file.close()
        raise


def _dtype(layout: Layout) -> np.dtype[Any]:
    if layout.floats:
        return np.dtype(np.float32)
    if layout.size == 1:
        return np.dtype(np.uint8 if layout.unsigned else np.int8)
    return np.dtype(np.int16 if layout.size == 2 else np.int32)


def _stretch(archive: Archive, entry: IndexedEntry) -> Stretch:
    """Where the samples are."""
    size = entry.size
    begin = archive.read(entry, 0, min(_HEAD, size))
    for find in _PARSERS.values():
        head = Head(MemorySource(begin), size, archive.as_source(entry), "")
        found = find(head)
        if found is not None and found.stretches[0].audio is not None:
            return found.stretches[0]
    raise FileError(f"{entry.meta.name}: this is no sound")
