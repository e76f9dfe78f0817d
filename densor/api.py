"""The Python interface: objects in memory, files of tensors."""

import contextlib
import io
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np

from densor import arrays, dtypes
from densor.codec.kind import BYTES, Kind, Segment, kind_of, kind_of_array
from densor.errors import ArgumentError, DensorError, FileError, FormatError
from densor.file import File, Info, Slice
from densor.files.checked import check_archive
from densor.files.new_archive import add_input, add_planned, new_archive
from densor.files.opened import PathOrFile, is_archive, is_file_object, open_input
from densor.formats.container import wire
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import ARRAY, FILE, TENSOR, EntryMeta, new_path
from densor.formats.container.sinks import GrowingSink, MemorySink, NewBytesSink, Sink
from densor.formats.container.stream_reader import StreamReader, proven_by_entry
from densor.formats.container.tensor_blob import allocate, pack_entry
from densor.formats.io.outputs import MemoryFile
from densor.formats.io.sources import Bytes, MemoryRandomSource, MemorySource, Pieces, as_bytes
from densor.formats.io.urls import is_url, name_of, plain
from densor.formats.parsers import safetensors
from densor.formats.parsers.plan import Plan, plan_contents
from densor.formats.parsers.raw import kind_of_raw
from densor.formats.tensor_table import Form, TensorTable, one_behind_the_other
from densor.formats.tensors import TensorInfo
from densor.options import (
    ReadKeywords,
    ReadOptions,
    WriteKeywords,
    WriteOptions,
    read_options,
    write_options,
)
from densor.runtime.arguments import need
from densor.runtime.buffers import LARGE
from densor.runtime.gc_pause import collection_paused

__all__ = [
    "File",
    "Info",
    "Slice",
    "Writer",
    "compress",
    "decompress",
    "is_archive",
    "load",
    "load_file",
    "save",
    "save_file",
]

_BYTES_LIKE = (bytes, bytearray, memoryview)
_MAX_ONE_THREAD = 1 << 18  # bytes that one thread has coded before others have woken up


def compress(
    obj: Any,
    level: int | None = None,
    threads: int | None = None,
    *,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> bytes:
    """Packs an object in memory.

    `obj`: bytes-like, a numpy array of any dtype but object, or a torch tensor, of any layout.
    `level`: 1 (fastest) to 9 (smallest), by default 3. `threads`: by default 0, all processors.
    Options, as keywords or as an object:

    - `dtype`: what the elements really are, e.g. `bf16` for bits held in uint16 or for raw bytes;
      `decompress` gives back the type that went in all the same.
    - `raw`: how samples of sound or images lie in bytes, `audio:44100:2:s16`, `image:640x480x3:u8`.
    - `base`: an object of the same dtype and shape that this one is coded against; `decompress`
      then needs it too.
    - `llm`: a language model that bytes are coded under: a folder, a GGUF file, or `sample` or
      `smollm2`. `text`: code bytes by context mixing, whatever the level.
    - `gpu_index`: store entry points, which `densor.gpu` then need not search for; levels 1 to 5.
    - `hash`, `verify`, `progress`: see `densor.options.WriteOptions`. `recovery` is for files.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    if chosen.recovery is not None:
        raise ArgumentError("recovery data is for archives in files")
    wanted = None if chosen.dtype is None else dtypes.parse_dtype(chosen.dtype)
    meta, data, kind = _described_object(obj, wanted, chosen.raw)
    given = None if chosen.base is None else _given_base(chosen.base)
    if given is not None and (given.source.size != data.size or _form(chosen.base) != _form(obj)):
        raise ArgumentError("base must have the dtype, shape and memory order of the object")
    if not chosen.threads and data.size <= _MAX_ONE_THREAD and chosen.language_model is None:
        chosen = write_options(chosen, threads=1)
    packed = pack_entry(meta, data, kind, chosen, given)
    if chosen.verify:
        _verify(packed, chosen.reading(), given)
    return packed


def _described_object(
    obj: Any, wanted: str | None, raw: str | None
) -> tuple[EntryMeta, Bytes, Kind]:
    """What an object is, its bytes, and how to treat them; as somebody says where that is so."""
    if isinstance(obj, str):
        raise ArgumentError("cannot compress a str: encode it, or see compress_file for a path")
    if isinstance(obj, _BYTES_LIKE):
        data = as_bytes(obj)
        kind = BYTES if wanted is None else kind_of(wanted, (data.size,))
        if raw is not None:
            kind = kind_of_raw(raw, data.size)
        return EntryMeta("", "bytes", data.size), data, kind
    if raw is not None:
        raise ArgumentError("an array says by itself how its samples lie; see its dtype and shape")
    meta, data = arrays.describe(obj, wanted)
    shape = meta.shape or ()
    shape = shape[::-1] if meta.order == "F" else shape
    return meta, data, kind_of_array(wanted or meta.dtype or "", shape)


def _verify(packed: bytes, options: ReadOptions, base: GivenBase | None) -> None:
    try:
        check_archive(io.BytesIO(packed), options, base)
    except DensorError as error:
        raise FileError(f"verification of what was packed failed: {error}") from error


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
    threads: int | None = None,
    *,
    out: Any = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Any:
    """Restores what `compress` was given: bytes, a numpy array or a torch tensor.

    `threads`: by default 0, all processors. `out`: a writable C-contiguous buffer of exactly the
    bytes of the object, decoded into and returned instead; fresh memory can cost as much time as
    decoding. Options, as keywords or as an object: `base`: what `compress` was given as base;
    `llm`: the language model that it was given, where that is a path; `max_output_size`,
    `progress`: see `densor.options.ReadOptions`.

    Raises a DensorError for anything that is not whole and sound; LimitError if the object has
    more than `max_output_size` bytes.
    """
    chosen = read_options(options, threads=threads, **keywords)
    stored = as_bytes(blob).size
    if not chosen.threads and stored <= _MAX_ONE_THREAD and chosen.language_model is None:
        chosen = read_options(chosen, threads=1)
    given = None if chosen.base is None else _given_base(chosen.base)
    read = partial(_read_one, blob, chosen, given, out)
    once = chosen.progress is not None or chosen.language_model is not None
    meta, sink, memory = read(False) if once else proven_by_entry(read)
    if out is not None:
        return out
    if isinstance(sink, NewBytesSink):
        return sink.finished()
    if memory is None:
        assert isinstance(sink, GrowingSink)
        memory = np.frombuffer(sink.data, np.uint8)
    return arrays.restore(meta, memory) if meta.kind == ARRAY else memory.tobytes()


def _read_one(
    blob: Any, options: ReadOptions, base: GivenBase | None, out: Any, proven: bool
) -> tuple[EntryMeta, Sink, Bytes | None]:
    """Decodes the only object of an archive; with what `_sink` gives for it."""
    reader = StreamReader(MemorySource(blob), options, base, proven)
    sinks: list[tuple[EntryMeta, Sink, Bytes | None]] = []

    def sink_for(meta: EntryMeta) -> Sink:
        if sinks:
            raise FormatError("archive holds more than one object; use densor.open")
        sinks.append((meta, *_sink(meta, out, as_bytes(blob).size)))
        return sinks[0][1]

    try:
        for _ in reader.entries(sink_for):
            pass
    finally:
        reader.close()
    if not sinks:
        raise FormatError("archive is empty")
    return sinks[0]


def _sink(meta: EntryMeta, out: Any, stored: int) -> tuple[Sink, Bytes | None]:
    """Where an object goes, and the memory that it has then, if that is known before."""
    if meta.size is None:
        if out is not None:
            raise ArgumentError("out works only where the archive tells its size")
        return GrowingSink(), None
    if out is None and meta.kind != ARRAY and meta.size >= LARGE:
        wire.check_possible(meta.size, stored)
        with contextlib.suppress(MemoryError):
            return NewBytesSink(meta.size), None
    memory = _target(out, meta) if out is not None else allocate(meta.size, stored)
    return MemorySink(memory), memory


def _target(out: Any, meta: EntryMeta) -> Bytes:
    """The bytes of a buffer that the caller wants filled."""
    memory = arrays.memory_of(out, meta.size or 0)
    if meta.order == "F" or meta.host == "torch" or meta.descr is not None:
        raise ArgumentError("out works for bytes and C-ordered native numpy arrays only")
    return memory


class Writer:
    """Writes an archive of tensors and files, one after the other.

    `target`: path, URL or binary file object, which need not be seekable. What is named by path or
    URL appears when the `with` block ends well, and not at all otherwise. Options are those of
    `densor.compress_file`, of which `base` is coded against where an entry has tensors of it: by
    name, dtype and shape; where it is an archive of several files, a file goes with that of its
    name.

    >>> import densor, io, numpy
    >>> file = io.BytesIO()
    >>> with densor.Writer(file) as writer:
    ...     writer.add_tensor("weight", numpy.ones((2, 3), numpy.float32))
    """

    def __init__(
        self,
        target: PathOrFile,
        level: int | None = None,
        threads: int | None = None,
        *,
        options: WriteOptions | None = None,
        **keywords: Unpack[WriteKeywords],
    ) -> None:
        chosen = write_options(options, level=level, threads=threads, **keywords)
        self._context = new_archive(target, chosen)
        self._archive = self._context.__enter__()
        self._open = True

    def add_tensor(self, name: str, tensor: Any, *, dtype: str | None = None) -> None:
        """Adds an ndarray or torch tensor; `dtype` as for `compress`, but it sticks."""
        need(name, str, "name")
        wanted = None if dtype is None else dtypes.parse_dtype(dtype)
        writer = self._archive.writer
        ready = arrays.plain_type(tensor) if wanted is None else None
        if ready is not None and writer.add_small(name, ready, tensor.shape, tensor):
            return
        meta, data = arrays.describe(tensor, wanted)
        if meta.dtype == "VOID":
            raise ArgumentError(f"{name}: records and strings cannot be tensors of an archive")
        if meta.order == "F":
            meta, data = arrays.describe(np.ascontiguousarray(tensor), wanted)
        kind_dtype, shape = wanted or meta.dtype or "", meta.shape or ()
        entry = EntryMeta(name, TENSOR, data.size, kind_dtype, meta.shape)
        if not name:
            raise ArgumentError("a tensor needs a name")
        if writer.add_small(name, kind_dtype, shape, data):
            return
        segments = [Segment(kind_of_array(kind_dtype, shape), data.size)]
        tensors = [TensorInfo(name, kind_dtype, shape, 0, data.size)]
        base = self._archive.base_for(name, tensors)
        if base is None:
            writer.add(entry, MemorySource(data), segments)
        else:
            plan = Plan(None, MemorySource(data), segments, tensors)
            add_planned(writer, entry, plan, base)

    def add_file(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Adds a file, by path or URL, by default under its own name."""
        path = plain(path)
        own = name_of(str(path)) if is_url(path) else Path(path).name
        with open_input(path) as found:
            add_input(self._archive, new_path(name or own), found, one_of_many=True)

    def close(self) -> None:
        """Completes the archive."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._open:
            self._open = False
            self._context.__exit__(*error)


def save_file(
    tensors: Mapping[str, Any],
    path: PathOrFile,
    metadata: Mapping[str, str] | None = None,
    level: int | None = None,
    threads: int | None = None,
    *,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> None:
    """Packs named arrays or tensors, as `safetensors.save_file` would save them.

    The archive holds a safetensors file: `densor -d` makes a plain one of it, byte for byte what
    a reader of safetensors expects; `load_file` and `open` read the tensors. Options are those of
    `densor.compress_file`. A file that exists is still replaced where `overwrite` is not given,
    with a DeprecationWarning; later versions will refuse to.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    if chosen.dtype is not None:
        raise ArgumentError("tensors have dtypes of their own; see Writer.add_tensor")
    arrays.check_named(tensors)
    with collection_paused():
        safetensors.check_new(tensors, metadata)
        table, described = _described(tensors)
        head = as_bytes(safetensors.header_of(table, metadata))
        contents = safetensors.contents_of(table.moved(head.size), metadata)
        size = head.size + int(table.sizes.sum())
        pieces = Pieces([head, *described])
    path = plain(path)
    if options is None and "overwrite" not in keywords:
        chosen = write_options(chosen, overwrite=_replaces(path))
    name = "model" if is_file_object(path) else Path(str(path)).stem
    name = name if name.endswith(".safetensors") else f"{name}.safetensors"
    with new_archive(path, chosen) as archive:
        plan = plan_contents("safetensors", contents, pieces, chosen.level)
        meta = EntryMeta(new_path(name), FILE, size, format=plan.format)
        base = None if archive.base is None else archive.base.file(name)
        add_planned(archive.writer, meta, plan, base)


def _described(tensors: Mapping[str, Any]) -> tuple[TensorTable, list[Any]]:
    """Tensors in the order that safetensors writes them in, and arrays with the bytes of each."""
    names: list[str] = []
    found: list[Any] = []
    form_of: list[int] = []
    forms: dict[Form, int] = {}
    known: dict[tuple[object, ...], int] = {}  # of arrays that are taken as they are, the form
    for name, tensor in tensors.items():
        number = key = None
        if type(tensor) is np.ndarray:
            key = tensor.dtype, tensor.shape, tensor.strides
            try:
                number = known.get(key)
            except TypeError:  # of a dtype without a hash
                key = None
        if number is None:
            form, data = _described_one(name, tensor)
            number = forms.setdefault(form, len(forms))
            if data is tensor and key is not None:
                known[key] = number
            tensor = data
        names.append(name)
        found.append(tensor)
        form_of.append(number)
    widths = np.array([dtypes.SIZES.get(form.dtype, 0) for form in forms], np.int64)
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    numbers = np.array(form_of, np.int64)[by_name]
    by_width = np.argsort(-widths[numbers], kind="stable")
    order = by_name[by_width].tolist()
    names, found = [names[one] for one in order], [found[one] for one in order]
    return one_behind_the_other(names, list(forms), numbers[by_width]), found


def _described_one(name: str, tensor: Any) -> tuple[Form, Any]:
    """What a tensor is in a safetensors file, and an array with its bytes: itself, if it can be."""
    dtype = arrays.plain_type(tensor)
    if dtype is not None:
        shape, data = tensor.shape, tensor
    else:
        meta, data = arrays.describe(tensor)
        if meta.order == "F":
            meta, data = arrays.describe(np.ascontiguousarray(tensor))
        dtype, shape = meta.dtype or "", meta.shape or ()
    stored = dtypes.in_safetensors(dtype, shape)
    if stored is None:
        raise ArgumentError(f"{name}: this dtype does not exist in safetensors files")
    return Form(*stored, data.nbytes), data


def _replaces(path: Any) -> bool:
    """Whether a file is there that will be replaced, of which callers are warned."""
    if is_file_object(path) or is_url(path) or not os.path.isfile(path):
        return is_url(path)
    text = f"densor.save_file replaces {path}; a later version will ask for overwrite=True"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return True


def save(
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    level: int | None = None,
    threads: int | None = None,
    *,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> bytes:
    """Packs named arrays or tensors in memory; the bytes that `save_file` would write."""
    chosen = write_options(options, level=level, threads=threads, **keywords)
    arrays.check_named(tensors)
    for tensor in tensors.values():
        arrays.check_whole(tensor)
    if chosen.recovery is not None or chosen.verify:  # what is written is read again
        out: Any = io.BytesIO()
    else:
        sizes = (getattr(tensor, "nbytes", 0) for tensor in tensors.values())
        out = MemoryFile(sum(size for size in sizes if isinstance(size, int)))
    save_file(tensors, out, metadata, options=chosen)
    found: bytes = out.getvalue()
    return found


def load_file(
    path: Any,
    framework: str = "numpy",
    threads: int | None = None,
    *,
    out: Bytes | None = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> dict[str, Any]:
    """All tensors of an archive by name, as numpy arrays or torch tensors.

    `path`: path, URL or binary file object. Tensors of the same file share memory. `out`: a
    uint8 array to be that memory, if the archive holds one file and it fits: fresh memory can
    cost as much time as decoding. Options are those of `densor.decompress_file`.
    """
    if isinstance(path, _BYTES_LIKE):
        _other_kind("load_file", "bytes", "load")
    with collection_paused(), File(path, framework, threads, options=options, **keywords) as file:
        return file.get_tensors(out)


def load(
    blob: Any,
    framework: str = "numpy",
    threads: int | None = None,
    *,
    out: Bytes | None = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> dict[str, Any]:
    """All tensors of an archive in memory, bytes-like, by name; the rest as for `load_file`."""
    if not isinstance(blob, _BYTES_LIKE):
        _other_kind("load", "paths and file objects", "load_file")
    with collection_paused(), File(blob, framework, threads, options=options, **keywords) as file:
        return file.get_tensors(out)


def _other_kind(function: str, given: str, other: str) -> None:
    text = f"densor.{function} will not take {given} in later versions; use densor.{other}"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
