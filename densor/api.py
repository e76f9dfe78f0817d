"""The Python interface: objects in memory, files of tensors, random access."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from densor import arrays, dtypes
from densor.codec.kind import BYTES, Segment, kind_of
from densor.errors import ArgumentError, FormatError, LimitError, UnsupportedError
from densor.files.single import add_input, is_file_object, open_input, open_output
from densor.formats.container import strictjson
from densor.formats.container.archive import Archive
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import ARRAY, FILE, TENSOR, EntryMeta, new_path
from densor.formats.container.index import IndexedEntry
from densor.formats.container.open_base import open_base
from densor.formats.container.sinks import GrowingSink, MemorySink
from densor.formats.container.stream_reader import Sink, StreamReader
from densor.formats.container.tensor_blob import pack_entry
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.outputs import MemoryFile, errors_of
from densor.formats.io.sources import (
    Bytes,
    FileRandomSource,
    MemoryRandomSource,
    MemorySource,
    as_bytes,
)
from densor.formats.io.urls import is_url, name_of, plain
from densor.formats.parsers import safetensors
from densor.formats.parsers.plan import plan_file
from densor.formats.tensors import TensorInfo, is_name, is_readable
from densor.runtime.buffers import new_bytes
from densor.runtime.gc_pause import collection_paused

Target = str | os.PathLike[str] | BinaryIO
_MOST_COPIES = 4  # of each byte of a file, where tensors overlap
_SMALL_COPIES = 1 << 20  # bytes that may always be copied
_BYTES_LIKE = (bytes, bytearray, memoryview)


def compress(
    obj: Any,
    level: int = 3,
    threads: int = 1,
    *,
    dtype: str | None = None,
    base: Any = None,
    llm: Any = None,
    gpu_index: bool = False,
) -> bytes:
    """Packs an object in memory.

    `obj`: bytes-like, a numpy array of any dtype but object, or a torch tensor, of any layout.
    `level`: 1 (fastest) to 9 (smallest). `threads`: 0 for all processors. `dtype`: what the
    elements really are, e.g. `bf16` for bits held in uint16 or for raw bytes; `decompress` gives
    back the type that went in all the same. `base`: an object of the same dtype and shape that this
    one is coded against; `decompress` then needs it too. `llm`: a language model that bytes are
    coded under: a folder, a GGUF file, or a name that `densor.llm.load` knows. `gpu_index`: store
    entry points, which `densor.gpu` needs not find then; levels 1 to 5.
    """
    wanted = None if dtype is None else dtypes.parse_dtype(dtype)
    if isinstance(obj, _BYTES_LIKE):
        data = as_bytes(obj)
        meta = EntryMeta("", "bytes", data.size)
        kind = BYTES if wanted is None else kind_of(wanted, (data.size,))
    else:
        meta, data = arrays.describe(obj, wanted)
        shape = meta.shape or ()
        kind = kind_of(wanted or meta.dtype or "", shape[::-1] if meta.order == "F" else shape)
    given = None if base is None else _given_base(base)
    if given is not None and (given.source.size != data.size or _form(base) != _form(obj)):
        raise ArgumentError("base must have the dtype, shape and memory order of the object")
    return pack_entry(meta, data, kind, level, threads, given, llm=llm, gpu_index=gpu_index)


def _given_base(base: Any) -> GivenBase:
    """The bytes of an object in memory as a base."""
    data = as_bytes(base) if isinstance(base, _BYTES_LIKE) else arrays.describe(base)[1]
    return GivenBase(MemoryRandomSource(data))


def _form(obj: Any) -> tuple[object, ...]:
    """What an object and its base have in common."""
    if isinstance(obj, _BYTES_LIKE):
        return ()
    meta, _ = arrays.describe(obj)
    return meta.dtype, meta.shape, meta.order, meta.descr


def decompress(
    blob: Any,
    threads: int = 1,
    *,
    max_output_size: int | None = None,
    out: Any = None,
    base: Any = None,
    llm: Any = None,
) -> Any:
    """Restores what `compress` was given: bytes, a numpy array or a torch tensor.

    `out`: a writable C-contiguous buffer of exactly the bytes of the object, decoded into and
    returned instead; fresh memory can cost as much time as decoding. `base`: what `compress` was
    given as base. `llm`: the language model that it was given, where that is a path.

    Raises a DensorError for anything that is not whole and sound; LimitError if the object has
    more than `max_output_size` bytes.
    """
    stored = as_bytes(blob).size
    given = None if base is None else _given_base(base)
    reader = StreamReader(
        MemorySource(blob), threads, max_size=max_output_size, base=given, llm=llm
    )
    sinks: list[tuple[EntryMeta, Sink, Bytes | None]] = []

    def sink_for(meta: EntryMeta) -> Sink:
        if sinks:
            raise FormatError("archive holds more than one object; use densor.open")
        if meta.size is None:
            if out is not None:
                raise ArgumentError("out works only where the archive tells its size")
            sinks.append((meta, GrowingSink(), None))
        else:
            memory = _target(out, meta) if out is not None else _allocate(meta.size, stored)
            sinks.append((meta, MemorySink(memory), memory))
        return sinks[0][1]

    try:
        for _ in reader.entries(sink_for):
            pass
    finally:
        reader.close()
    if not sinks:
        raise FormatError("archive is empty")
    meta, sink, memory = sinks[0]
    if out is not None:
        return out
    if memory is None:
        assert isinstance(sink, GrowingSink)
        memory = np.frombuffer(sink.data, np.uint8)
    return arrays.restore(meta, memory) if meta.kind == ARRAY else new_bytes(memory)


def _target(out: Any, meta: EntryMeta) -> Bytes:
    """The bytes of a buffer that the caller wants filled."""
    view = memoryview(out)
    if view.readonly or not view.c_contiguous or view.nbytes != meta.size:
        raise ArgumentError(f"out must be a writable contiguous buffer of {meta.size} bytes")
    if meta.order == "F" or meta.host == "torch" or meta.descr is not None:
        raise ArgumentError("out works for bytes and C-ordered native numpy arrays only")
    return as_bytes(view)


def _allocate(size: int, stored: int) -> Bytes:
    """Memory for an object; LimitError where no archive of `stored` bytes can hold so much."""
    # A chunk frame of 28 + 13 bytes can stand for 64 MiB at most.
    if size > (stored // 41 + 1) << 26:
        raise LimitError(f"{stored} bytes cannot hold {size}")
    try:
        return np.empty(size, np.uint8)
    except MemoryError:
        raise LimitError(f"not enough memory for {size} bytes") from None


class Writer:
    """Writes an archive of tensors and files, one after the other.

    `target`: path, URL or binary file object, which need not be seekable. What is named by path or
    URL appears when the `with` block ends well, and not at all otherwise. `gpu_index` as for
    `compress`.

    >>> import densor, io, numpy
    >>> file = io.BytesIO()
    >>> with densor.Writer(file) as writer:
    ...     writer.add_tensor("weight", numpy.ones((2, 3), numpy.float32))
    """

    def __init__(
        self,
        target: Target,
        level: int = 3,
        threads: int = 0,
        *,
        overwrite: bool = False,
        gpu_index: bool = False,
    ) -> None:
        self._output = open_output(plain(target), overwrite)
        file = self._output.__enter__()
        try:
            self._writer = ArchiveWriter(file, level, threads, gpu_index=gpu_index)
        except BaseException as error:
            self._output.__exit__(type(error), error, error.__traceback__)
            raise

    def add_tensor(self, name: str, tensor: Any, *, dtype: str | None = None) -> None:
        """Adds an ndarray or torch tensor; `dtype` as for `compress`, but it sticks."""
        wanted = None if dtype is None else dtypes.parse_dtype(dtype)
        meta, data = arrays.describe(tensor, wanted)
        if meta.dtype == "VOID":
            raise ArgumentError(f"{name}: records and strings cannot be tensors of an archive")
        if meta.order == "F":
            meta, data = arrays.describe(np.ascontiguousarray(tensor), wanted)
        kind_dtype = wanted or meta.dtype or ""
        entry = EntryMeta(name, TENSOR, data.size, kind_dtype, meta.shape)
        if not name:
            raise ArgumentError("a tensor needs a name")
        segment = Segment(kind_of(kind_dtype, meta.shape or ()), data.size)
        self._writer.add(entry, MemorySource(data), [segment])

    def add_file(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Adds a file, by path or URL, by default under its own name."""
        path = plain(path)
        own = name_of(str(path)) if is_url(path) else Path(path).name
        with open_input(path) as found:
            add_input(self._writer, new_path(name or own), found)

    def close(self) -> None:
        """Completes the archive."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._writer.close()
        except BaseException as failure:
            self._output.__exit__(type(failure), failure, failure.__traceback__)
            raise
        finally:
            self._writer.abort()
        self._output.__exit__(kind, error, trace)


class Info(NamedTuple):
    """What an archive says about a tensor; sizes in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    stored: int  # bytes of the frames that hold it, shared ones counted in full


class File:
    """An archive opened for random access, after the manner of `safetensors.safe_open`.

    `source`: path, URL, seekable binary file object or bytes; of what is behind a URL, only what is
    needed is read. `framework`: `numpy` (or `np`) or `torch` (or `pt`), what `get_tensor` returns.
    `base`: the file that this one was coded against, if there is one, as for `decompress_file`;
    `llm` likewise. Safe to use from several threads, and in child processes: after a fork, and
    where it is sent to a new process, if it was opened by path or URL.
    """

    def __init__(
        self,
        source: Any,
        framework: str = "numpy",
        threads: int = 0,
        *,
        max_output_size: int | None = None,
        base: Any = None,
        llm: Any = None,
    ) -> None:
        if framework not in ("numpy", "np", "torch", "pt"):
            raise ArgumentError(f"unknown framework {framework!r}; known are numpy and torch")
        self._torch = framework in ("torch", "pt")
        self._arguments = source, framework, threads, max_output_size, base, llm
        self._file: BinaryIO | None = None
        source = plain(source)
        if isinstance(source, _BYTES_LIKE):
            random: Any = MemoryRandomSource(source)
        elif is_file_object(source):
            random = FileRandomSource(source)
        elif is_url(source):
            from densor.formats.io.remote import Remote, RemoteSource

            random = RemoteSource(Remote(source))
        else:
            with errors_of(source):
                self._file = open(source, "rb")  # noqa: SIM115
            random = FileRandomSource(self._file)
        self._base = ExitStack()
        try:
            given = self._base.enter_context(open_base(base, threads, max_output_size, llm))
            with collection_paused():
                self._archive = Archive(
                    random, threads, max_size=max_output_size, base=given, llm=llm
                )
                self._tensors = self._archive.tensors()
                others = self._archive.others()
                self._opaque = {
                    n: found for n, found in others.items() if not is_readable(found[1])
                }
                self._others = {n: found for n, found in others.items() if n not in self._opaque}
        except BaseException:
            self._base.close()
            self._close_file()
            raise

    @property
    def archive(self) -> Archive:
        """What the tensors are read from."""
        return self._archive

    def keys(self) -> list[str]:
        """Names of all tensors that can be read, also of those inside files."""
        return [*self._tensors, *self._others]

    def opaque(self) -> dict[str, str]:
        """What is known to be there and can be restored with its file only: types by name."""
        return {name: tensor.dtype for name, (_, tensor) in self._opaque.items()}

    def files(self) -> list[str]:
        """Names of all files."""
        return [entry.meta.name for entry in self._archive.entries if entry.meta.kind == FILE]

    def read_file(self, name: str) -> bytes:
        """The bytes of a file in the archive; KeyError if there is none of that name."""
        entry = self._archive.entry(name)
        return self._archive.read(entry, 0, entry.size).tobytes()

    def metadata(self) -> dict[str, str] | None:
        """`__metadata__` of the first safetensors file in the archive, None if it has none."""
        for entry in self._archive.entries:
            if entry.meta.format == "safetensors":
                head = self._archive.read(entry, 0, min(8, entry.size)).tobytes()
                first = int.from_bytes(head, "little")
                if first > min(entry.size - 8, safetensors.MAX_HEADER):
                    raise FormatError(f"{entry.meta.name}: is no safetensors file")
                text = self._archive.read(entry, 8, 8 + first).tobytes()
                found = safetensors.loads(text).get("__metadata__")
                return found if isinstance(found, dict) else None
        return None

    def info(self, name: str) -> Info:
        """Type, shape and sizes of a tensor."""
        entry, tensor = self._find(name)
        begin, end = tensor.offset, tensor.offset + tensor.size
        stored = self._archive.stored_size(entry, begin, end)
        return Info(name, tensor.dtype, tensor.shape, tensor.size, stored)

    def get_tensor(self, name: str) -> Any:
        """A tensor; KeyError if there is none of that name.

        UnsupportedError for one that `opaque` tells of.
        """
        entry, tensor = self._find(name)
        data = self._archive.read(entry, tensor.offset, tensor.offset + tensor.size)
        if tensor.view is not None:
            data = arrays.viewed(tensor, data)
        return self._hand_out(tensor.dtype, tensor.shape, data)

    def get_tensors(self, out: Bytes | None = None) -> dict[str, Any]:
        """All tensors by name; those of one file are views into one buffer.

        UnsupportedError where `opaque` tells of some; all others can be read one by one.

        `out`: memory for the buffer, used if the archive holds one file and it fits.
        """
        if len(self._archive.entries) != 1:
            out = None
        holding = [*self._tensors.values(), *self._others.values()]
        self._archive.check_size({entry.number: entry.size for entry, _ in holding})
        found: dict[str, Any] = {}
        whole: dict[int, Bytes] = {}
        copied = 0  # bytes of copies from the entry at hand
        for name in self._opaque:
            self._find(name)  # refuses: what is left out must not be left out silently
        wanted = self._tensors | self._others
        by_entry = sorted(wanted.items(), key=lambda item: item[1][0].number)
        for name, (entry, tensor) in by_entry:  # each is decoded once
            if entry.number not in whole:
                whole = {entry.number: self._archive.read(entry, 0, entry.size, out)}
                copied = 0
            data = whole[entry.number][tensor.offset : tensor.offset + tensor.size]
            if tensor.view is not None or tensor.offset % dtypes.SIZES.get(tensor.dtype, 1):
                data = data.copy() if tensor.view is None else arrays.viewed(tensor, data)
                copied += data.size
                if copied > _MOST_COPIES * entry.size + _SMALL_COPIES:
                    raise LimitError(f"{entry.meta.name}: too many tensors share its bytes")
            found[name] = self._hand_out(tensor.dtype, tensor.shape, data)
        return {name: found[name] for name in wanted}

    def get_slice(self, name: str) -> "Slice":
        """A view that decodes only the rows it is asked for: `get_slice(name)[10:20]`."""
        entry, tensor = self._find(name)
        return Slice(self, entry, tensor)

    def _find(self, name: str) -> tuple[IndexedEntry, TensorInfo]:
        found = self._tensors.get(name) or self._others.get(name)
        if found is not None:
            return found
        if name not in self._opaque:
            raise KeyError(name)
        entry, tensor = self._opaque[name]
        raise UnsupportedError(
            f"{entry.meta.name}: {name!r} ({tensor.dtype}) can be restored with its file only"
        )

    def _hand_out(self, dtype: str, shape: tuple[int, ...], data: Bytes) -> Any:
        give = arrays.to_torch if self._torch else arrays.to_numpy
        return give(dtype, shape, data)

    def rows(self, entry: IndexedEntry, tensor: TensorInfo, begin: int, end: int) -> Any:
        """Rows `begin` to `end` of a tensor."""
        row = tensor.size // tensor.shape[0] if tensor.shape[0] else 0
        low = tensor.offset + begin * row
        data = self._archive.read(entry, low, low + (end - begin) * row)
        return self._hand_out(tensor.dtype, (end - begin, *tensor.shape[1:]), data)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Opens the archive anew in a process that is started, such as a worker of a DataLoader."""
        source, framework, threads, most, base, llm = self._arguments
        if is_file_object(source) or is_file_object(base):
            raise TypeError("an archive opened by a file object cannot be sent to another process")
        return _reopened, (source, framework, threads, most, base, llm)

    def close(self) -> None:
        """Closes the file and stops the threads."""
        self._archive.close()
        self._close_file()
        self._base.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._tensors) + len(self._others)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._others

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reopened(
    source: Any, framework: str, threads: int, most: int | None, base: Any, llm: Any
) -> File:
    return File(source, framework, threads, max_output_size=most, base=base, llm=llm)


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


def save_file(
    tensors: Mapping[str, Any],
    path: Target,
    metadata: Mapping[str, str] | None = None,
    level: int = 3,
    threads: int = 0,
    *,
    overwrite: bool = True,
    gpu_index: bool = False,
) -> None:
    """Packs named arrays or tensors, as `safetensors.save_file` would save them.

    The archive holds a safetensors file: `densor -d` makes a plain one of it, byte for byte what
    a reader of safetensors expects; `load_file` and `open` read the tensors. `gpu_index` as for
    `compress`.
    """
    if not all(type(text) is str for item in (metadata or {}).items() for text in item):
        raise ArgumentError("metadata must be texts by name")
    described = []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__" or not is_name(name):
            raise ArgumentError(f"a tensor cannot be named {name!r:.80}")
        meta, data = arrays.describe(tensor)
        if meta.order == "F":
            meta, data = arrays.describe(np.ascontiguousarray(tensor))
        stored = dtypes.in_safetensors(meta.dtype or "", meta.shape or ())
        if stored is None:
            raise ArgumentError(f"{name}: this dtype does not exist in safetensors files")
        described.append((name, *stored, data))
    described.sort(key=lambda item: (-dtypes.SIZES.get(item[1], 0), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, dtype, shape, data in described:
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [end, end + data.size],
        }
        end += data.size
    text = strictjson.dumps(header)
    text += b" " * (-len(text) % 8)
    head = np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)
    pieces = [head, *(data for *_, data in described)]
    default = "model.safetensors"
    path = plain(path)
    name = default if is_file_object(path) else Path(str(path)).stem
    name = name if name.endswith(".safetensors") else f"{name}.safetensors"
    with open_output(path, overwrite) as out:
        writer = ArchiveWriter(out, level, threads, gpu_index=gpu_index)
        try:
            size = head.size + end
            plan = plan_file(_Pieces(pieces), size, level=level)
            meta = EntryMeta(new_path(name), FILE, size, format=plan.format)
            writer.add(meta, plan.source, plan.segments, plan.listed)
            writer.close()
        finally:
            writer.abort()


class _Pieces:
    """A source over several arrays, copying only where a request spans two of them."""

    def __init__(self, pieces: list[Bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece.size][::-1]

    def take(self, count: int) -> Bytes:
        taken: list[Bytes] = []
        while count and self._pieces:
            piece = self._pieces.pop()
            if piece.size > count:
                self._pieces.append(piece[count:])
                piece = piece[:count]
            taken.append(piece)
            count -= piece.size
        return taken[0] if len(taken) == 1 else np.concatenate([np.empty(0, np.uint8), *taken])


def save(
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    level: int = 3,
    threads: int = 1,
    *,
    gpu_index: bool = False,
) -> bytes:
    """Packs named arrays or tensors in memory; the bytes that `save_file` would write."""
    for tensor in tensors.values():
        arrays.check_whole(tensor)
    out = MemoryFile(sum(int(tensor.nbytes) for tensor in tensors.values()))
    save_file(tensors, out, metadata, level, threads, gpu_index=gpu_index)  # type: ignore[arg-type]
    return out.getvalue()


def load_file(
    path: Any,
    framework: str = "numpy",
    threads: int = 0,
    *,
    max_output_size: int | None = None,
    out: Bytes | None = None,
) -> dict[str, Any]:
    """All tensors of an archive by name, as numpy arrays or torch tensors.

    `path`: path, URL, binary file object or bytes. Tensors of the same file share memory. `out`: a
    uint8 array to be that memory, if the archive holds one file and it fits: fresh memory can
    cost as much time as decoding.
    """
    with File(path, framework, threads, max_output_size=max_output_size) as file:
        return file.get_tensors(out)


def load(
    blob: Any,
    framework: str = "numpy",
    threads: int = 1,
    *,
    max_output_size: int | None = None,
    out: Bytes | None = None,
) -> dict[str, Any]:
    """All tensors of an archive in memory, by name; `out` as for `load_file`."""
    return load_file(blob, framework, threads, max_output_size=max_output_size, out=out)
