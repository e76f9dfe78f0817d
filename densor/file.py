"""Archives opened for random access: tensors and files by name."""

import io
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple, Self, Unpack

import numpy as np

from densor import arrays, dtypes
from densor.errors import ArgumentError, FileError, LimitError, UnsupportedError
from densor.files.opened import is_file_object
from densor.formats.container.archive import Archive
from densor.formats.container.entry import BYTES, FILE
from densor.formats.container.listed_entries import (
    IndexedEntry,
    InEntry,
    TensorColumns,
    TensorsByName,
    TensorsInEntries,
)
from densor.formats.container.open_base import open_base
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import (
    Bytes,
    FileRandomSource,
    MemoryRandomSource,
    RandomSource,
)
from densor.formats.io.urls import is_url, plain
from densor.formats.packed.archive import PackedArchive, packed_file_at
from densor.formats.parsers import safetensors
from densor.formats.tensor_table import TensorTable
from densor.formats.tensors import TensorInfo, is_readable, unreadable
from densor.options import ReadKeywords, ReadOptions, read_options
from densor.runtime.buffers import NewBytes
from densor.runtime.gc_pause import collection_paused

_MAX_COPIES = 4  # of each byte of a file, where tensors overlap
_MAX_FREE_COPIES = 1 << 20  # bytes that may always be copied
# Of tensors of a type and shape: type and shape of the array, bytes of its elements
_Forms = dict[tuple[str, tuple[int, ...]], tuple[Any, tuple[int, ...], int]]
_BUFFER = 1 << 20  # bytes that a file object reads at a time
_Found = Mapping[str, tuple[IndexedEntry, TensorInfo]]


class Info(NamedTuple):
    """What an archive says about a tensor; sizes in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    stored: int  # of frames that hold others too, its share


def readable_tensors(archive: Archive | PackedArchive) -> tuple[_Found, _Found]:
    """Tensors by name: those that can be read, as they lie or in another way, and all others."""
    tensors, others = archive.tensors(), archive.others()
    if not others:
        return tensors, {}
    opaque = {name: found for name, found in others.items() if not is_readable(found[1])}
    readable = {name: found for name, found in others.items() if name not in opaque}
    return {**tensors, **readable}, opaque


# Formats of files in which no tensor was found where there is none.
_WITH_TENSORS = frozenset(
    (
        *("safetensors", "gguf", "npy", "npz", "torch", "torch-legacy", "ctranslate2", "msgpack"),
        *("pickle", "onnx", "onnx-data"),
    )
)


class File:
    """An archive opened for random access, after the manner of `safetensors.safe_open`.

    Packed safetensors files are read too, by path, where they were not packed against a base.
    `source`: path, URL, seekable binary file object or bytes; of what is behind a URL, only what is
    needed is read. `framework`: `numpy` (or `np`) or `torch` (or `pt`), what `get_tensor` returns.
    `device`: where torch tensors are put. Options are those of `densor.decompress_file`, of which
    `progress` is called with the bytes of tensors and files as they are read. Safe to use from
    several threads, and in child processes: after a fork, and where it is sent to a new process, if
    it was opened by path or URL.
    """

    def __init__(
        self,
        source: Any,
        framework: str = "numpy",
        threads: int | None = None,
        *,
        device: Any = "cpu",
        options: ReadOptions | None = None,
        **keywords: Unpack[ReadKeywords],
    ) -> None:
        if framework not in ("numpy", "np", "torch", "pt"):
            raise ArgumentError(f"unknown framework {framework!r}; known are numpy and torch")
        self._torch = framework in ("torch", "pt")
        if not self._torch and str(device) != "cpu":
            raise ArgumentError(f"numpy arrays cannot be on {device}; ask for framework torch")
        self._device = device
        chosen = read_options(options, threads=threads, **keywords)
        self._arguments = source, framework, device, chosen
        self._stack = ExitStack()
        self._closed = False
        try:
            packed = packed_file_at(source)
            if packed is None:
                random = self._stack.enter_context(_random_source(plain(source)))
                base = self._stack.enter_context(open_base(chosen))
            with collection_paused():
                self._archive: Archive | PackedArchive = (
                    Archive(random, chosen, base)
                    if packed is None
                    else PackedArchive(packed, chosen)
                )
                self._stack.callback(self._archive.close)
                self._find_tensors()
        except BaseException:
            self._stack.close()
            raise

    def _find_tensors(self) -> None:
        """Those that can be read, as they lie or in another way, and those that cannot."""
        self._tensors, self._opaque = readable_tensors(self._archive)

    @property
    def archive(self) -> Archive:
        """What the tensors are read from; UnsupportedError for a packed safetensors file."""
        self._check_open()
        if not isinstance(self._archive, Archive):
            raise UnsupportedError("this is no archive but a packed safetensors file")
        return self._archive

    def keys(self) -> list[str]:
        """Names of all tensors that can be read, also of those inside files."""
        self._check_open()
        return list(self._tensors)

    def opaque(self) -> dict[str, str]:
        """What is known to be there and can be restored with its file only: types by name."""
        return {name: tensor.dtype for name, (_, tensor) in self._opaque.items()}

    def check_readable(self) -> None:
        """UnsupportedError where `opaque` tells of some: who takes all would not know of them.

        Likewise where there are no tensors, and all files are of formats that are not known.
        """
        for name in self._opaque:
            self._find(name)
        filled = [] if self._tensors else [e.meta for e in self._archive.entries if e.size]
        if filled and all(m.kind == FILE and m.format not in _WITH_TENSORS for m in filled):
            reason = "no tensors are known of, since it is of no format that has them"
            raise UnsupportedError(f"{filled[0].name}: {reason}; read_file gives its bytes")

    def offset_keys(self) -> list[str]:
        """Names of all tensors, in the order in which they are stored, the fastest to read."""
        return sorted(self._tensors, key=self._position)

    def _position(self, name: str) -> tuple[int, int]:
        entry, tensor = self._tensors[name]
        return entry.number, tensor.offset

    def files(self) -> list[str]:
        """Names of all files."""
        self._check_open()
        return [entry.meta.name for entry in self._archive.entries if entry.meta.kind == FILE]

    def read_file(self, name: str) -> bytes:
        """The bytes of a file in the archive; KeyError if there is none of that name."""
        self._check_open()
        entry = self._archive.entry(name)
        self._archive.check_size({entry.number: entry.size})
        try:
            new = NewBytes(entry.size)
        except MemoryError:
            raise LimitError(f"{name}: not enough memory for its bytes") from None
        self._read(entry, 0, entry.size, new.memory())
        return new.finished()

    def open_file(self, name: str) -> BinaryIO:
        """A file in the archive as a binary file object, of which only what is read is decoded.

        It can be used as long as the archive is open. KeyError if there is none of that name.
        """
        self._check_open()
        source = self._archive.as_source(self._archive.entry(name))
        return io.BufferedReader(_EntryFile(source), _BUFFER)

    def metadata(self) -> dict[str, str] | None:
        """`__metadata__` of the first safetensors file in the archive, None if it has none."""
        self._check_open()
        for entry in self._archive.entries:
            if entry.meta.format == "safetensors":
                source = self._archive.as_source(entry)
                return safetensors.metadata_of(source, entry.meta.name)
        return None

    @property
    def lossy(self) -> list[str]:
        """Names of the files in the archive that say of themselves that they only approximate
        another, as `densor.lossy.quantize` makes them; what they hold is restored bit for bit."""
        self._check_open()
        return [entry.meta.name for entry in self._archive.entries if entry.meta.lossy]

    def info(self, name: str) -> Info:
        """Type, shape and sizes of a tensor."""
        entry, tensor = self._find(name)
        begin, end = tensor.offset, tensor.offset + tensor.size
        stored = self._archive.stored_size(entry, begin, end)
        return Info(name, tensor.dtype, tensor.shape, tensor.size, stored)

    def get_tensor(self, name: str, out: Any = None) -> Any:
        """A tensor; KeyError if there is none of that name.

        UnsupportedError for one that `opaque` tells of. `out`: a writable contiguous array, tensor
        or buffer of just its bytes, that is decoded into and returned: fresh memory can cost as
        much time as decoding.
        """
        entry, tensor = self._find(name)
        end = tensor.offset + tensor.size
        if tensor.view is not None:
            data = arrays.viewed(tensor, self._read(entry, tensor.offset, end))
            if out is not None:
                arrays.memory_of(out, data.size)[:] = data
        else:
            memory = None if out is None else arrays.memory_of(out, tensor.size)
            data = self._read(entry, tensor.offset, end, memory)
        return self._hand_out(tensor.dtype, tensor.shape, data) if out is None else out

    def _read(self, entry: IndexedEntry, begin: int, end: int, out: Bytes | None = None) -> Bytes:
        """Bytes of an entry, which progress is made by."""
        self._check_open()
        found = self._archive.read(entry, begin, end, out)
        progress = self._arguments[-1].progress
        if progress is not None:
            progress(end - begin)
        return found

    def get_tensors(self, out: Bytes | None = None) -> dict[str, Any]:
        """All tensors by name; those of one file, and some of small entries, share a buffer.

        UnsupportedError where `opaque` tells of some: all others can be read one by one; and where
        all files are of formats whose tensors are not known.

        `out`: memory for the buffer, used if the archive holds one file and it fits.
        """
        if out is not None and not _is_buffer(out):
            raise ArgumentError("out must be a writable, contiguous uint8[n]")
        if len(self._archive.entries) != 1:
            out = None
        if isinstance(self._tensors, TensorsByName) and isinstance(self._archive, Archive):
            return self._get_alike(self._archive, self._tensors.columns)
        inside = self._inside()
        self._archive.check_size({entry.number: entry.size for entry, _ in inside})
        self.check_readable()
        found: dict[str, Any] = {}
        forms: _Forms = {}
        memories = self._read_whole([entry for entry, _ in inside], out)
        for (entry, tensors), memory in zip(inside, memories, strict=True):  # each is decoded once
            rest: Sequence[TensorInfo] = tensors
            if isinstance(tensors, TensorTable) and str(self._device) == "cpu":
                some = arrays.of_table(tensors, memory, self._torch)
                found.update(zip(tensors.names, some, strict=True))
                left = [number for number, one in enumerate(some) if one is None]
                rest = [tensors[number] for number in left]
            self._add_inside(found, entry, rest, memory, forms)
        return {name: found[name] for name in self._tensors} if len(inside) > 1 else found

    def _inside(self) -> list[InEntry]:
        """The tensors of each entry, in order, those alone that count where names occur twice."""
        tensors = self._tensors
        if isinstance(tensors, TensorsInEntries) and tensors.count == len(tensors):
            return tensors.parts
        found: dict[int, tuple[IndexedEntry, list[TensorInfo]]] = {}
        for entry, tensor in tensors.values():
            found.setdefault(entry.number, (entry, []))[1].append(tensor)
        return [InEntry(*found[number]) for number in sorted(found)]

    def _add_inside(
        self,
        found: dict[str, Any],
        entry: IndexedEntry,
        tensors: Iterable[TensorInfo],
        memory: Bytes,
        forms: _Forms,
    ) -> None:
        """Adds tensors that lie in an entry with these bytes."""
        copied = 0
        for tensor in tensors:
            name = tensor.name
            form = forms.get((tensor.dtype, tensor.shape))
            if form is not None and tensor.view is None and not tensor.offset % form[2]:
                found[name] = np.ndarray(form[1], form[0], memory, tensor.offset)
                continue
            data = memory[tensor.offset : tensor.offset + tensor.size]
            if tensor.view is not None or tensor.offset % dtypes.SIZES.get(tensor.dtype, 1):
                data = data.copy() if tensor.view is None else arrays.viewed(tensor, data)
                copied += data.size
                if copied > _MAX_COPIES * entry.size + _MAX_FREE_COPIES:
                    raise LimitError(f"{entry.meta.name}: too many tensors share its bytes")
            found[name] = array = self._hand_out(tensor.dtype, tensor.shape, data)
            if not self._torch and tensor.view is None and tensor.size:
                forms[tensor.dtype, tensor.shape] = array.dtype, array.shape, array.itemsize

    def _get_alike(self, archive: Archive, columns: TensorColumns) -> dict[str, Any]:
        """All tensors by name, where each is an entry."""
        self._check_open()
        archive.check_size({0: int(columns.sizes.sum())})
        progress = self._arguments[-1].progress
        forms: list[tuple[Any, tuple[int, ...]] | None] = []
        for dtype, shape, size in columns.forms:
            like = None
            if size and not self._torch:
                like = arrays.to_numpy(dtype, shape, np.empty(size, np.uint8))
            forms.append(None if like is None else (like.dtype, like.shape))
        form_of, names = columns.form_of.tolist(), columns.names
        found: dict[str, Any] = {}
        for first, places, sizes, data in archive.read_together(archive.entries):
            if progress is not None:
                progress(sum(sizes))
            for number, place in enumerate(places, first):
                form = forms[form_of[number]]
                if form is not None:
                    found[names[number]] = np.ndarray(form[1], form[0], data, place)
                    continue
                dtype, shape, size = columns.forms[form_of[number]]
                part = data[place : place + size]
                found[names[number]] = self._hand_out(dtype, shape, part)
        return found

    def _read_whole(self, entries: list[IndexedEntry], out: Bytes | None) -> Iterator[Bytes]:
        """The bytes of entries in order, which progress is made by; `out` for one alone."""
        if len(entries) == 1 or isinstance(self._archive, PackedArchive):
            yield from (self._read(entry, 0, entry.size, out) for entry in entries)
            return
        self._check_open()
        progress = self._arguments[-1].progress
        for entry, found in zip(entries, self._archive.read_each(entries), strict=True):
            if progress is not None:
                progress(entry.size)
            yield found

    def get_slice(self, name: str) -> "Slice":
        """A view that decodes only the rows it is asked for: `get_slice(name)[10:20]`."""
        entry, tensor = self._find(name)
        return Slice(self, entry, tensor)

    def _check_open(self) -> None:
        """FileError once it is closed."""
        if self._closed:
            raise FileError("file is closed")

    def _find(self, name: str) -> tuple[IndexedEntry, TensorInfo]:
        self._check_open()
        found = self._tensors.get(name)
        if found is not None:
            return found
        if name not in self._opaque:
            raise KeyError(name)
        entry, tensor = self._opaque[name]
        raise UnsupportedError(f"{entry.meta.name}: {unreadable(tensor)}")

    def _hand_out(self, dtype: str, shape: tuple[int, ...], data: Bytes) -> Any:
        if not self._torch:
            return arrays.to_numpy(dtype, shape, data)
        found = arrays.to_torch(dtype, shape, data)
        return found if str(self._device) == "cpu" else found.to(self._device)

    def rows(self, entry: IndexedEntry, tensor: TensorInfo, begin: int, end: int) -> Any:
        """Rows `begin` to `end` of a tensor."""
        row = tensor.size // tensor.shape[0] if tensor.shape[0] else 0
        low = tensor.offset + begin * row
        data = self._read(entry, low, low + (end - begin) * row)
        return self._hand_out(tensor.dtype, (end - begin, *tensor.shape[1:]), data)

    def __reduce__(self) -> tuple[Any, ...]:
        """Opens the archive anew in a process that is started, such as a worker of a DataLoader."""
        source, framework, device, chosen = self._arguments
        if is_file_object(source) or is_file_object(chosen.base):
            raise TypeError("an archive opened by a file object cannot be sent to another process")
        return _reopened, (source, framework, device, replace(chosen, progress=None))

    def close(self) -> None:
        """Closes the file and stops the threads; nothing can be read of it any more."""
        self._closed = True
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_buffer(out: Any) -> bool:
    """Whether bytes can be decoded into an array, or the beginning of it."""
    if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.ndim != 1:
        return False
    return bool(out.flags.c_contiguous and out.flags.writeable)


def _reopened(source: Any, framework: str, device: Any, options: ReadOptions) -> File:
    return File(source, framework, device=device, options=options)


@contextmanager
def _random_source(source: Any) -> Iterator[RandomSource]:
    """The bytes behind a path, URL, file object or buffer, to be read at any place."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield MemoryRandomSource(source)
    elif is_file_object(source):
        yield FileRandomSource(source)
    elif is_url(source):
        from densor.formats.io.remote import Remote, RemoteSource

        yield RemoteSource(Remote(source))
    else:
        with errors_of(source):
            file = open(os.fspath(source), "rb")  # noqa: SIM115  # not an int, which it would close
        with file:
            yield FileRandomSource(file)


def only_file(
    archive: Archive, name: str | None, formats: Container[str | None], what: str
) -> IndexedEntry:
    """The entry of a name, or the only one whose file is of one of some formats."""
    if name is not None:
        for entry in archive.entries:
            if entry.meta.name == name:
                return entry
        raise FileError(f"no file named {name!r}; see densor list")
    found = [entry for entry in archive.entries if entry.meta.kind in (FILE, BYTES)]
    suitable = [entry for entry in found if entry.meta.format in formats]
    if len(suitable or found) != 1:
        raise ArgumentError(f"archive has no {what}, or several; name one")
    return (suitable or found)[0]


class _EntryFile(io.RawIOBase):
    """A file of an archive, decoded where it is read."""

    def __init__(self, source: RandomSource) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = np.frombuffer(buffer, np.uint8)
        count = min(target.size, max(self._source.size - self._at, 0))
        if count:
            target[:count] = self._source.read_at(self._at, count)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}
        if whence not in start or start[whence] + offset < 0:
            raise ValueError(f"cannot seek to {offset}, {whence}")
        self._at = start[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at


class Slice:
    """A tensor in an archive that is decoded row by row of its first axis."""

    def __init__(self, file: File, entry: IndexedEntry, tensor: TensorInfo) -> None:
        self._file = file
        self._entry = entry
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The element type, by its safetensors name."""
        return self._tensor.dtype

    def __getitem__(self, key: Any) -> Any:
        """What indexing the whole tensor with `key` would give (integers, slices, ellipsis)."""
        shape = self._tensor.shape
        keys = key if isinstance(key, tuple) else (key,)
        plain = self._tensor.plain and self._tensor.dtype not in dtypes.PACKED
        if not plain or not shape or not keys or not isinstance(keys[0], int | np.integer | slice):
            return self._whole()[key]
        if isinstance(keys[0], slice):
            begin, end, step = keys[0].indices(shape[0])
            if step != 1:
                return self._whole()[key]
            rows = self._file.rows(self._entry, self._tensor, begin, max(begin, end))
            return rows[(slice(None), *keys[1:])]
        row = int(keys[0])
        if not -shape[0] <= row < shape[0]:
            raise IndexError(f"index {row} is out of bounds for axis 0 with size {shape[0]}")
        row %= shape[0]
        return self._file.rows(self._entry, self._tensor, row, row + 1)[(0, *keys[1:])]

    def _whole(self) -> Any:
        return self._file.get_tensor(self._tensor.name)


class PartOfFile:
    """What stands for one thing in an open archive, and closes it."""

    _file: File

    def close(self) -> None:
        """Closes the archive; nothing can be read of it any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
