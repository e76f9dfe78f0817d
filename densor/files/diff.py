"""Compares the tensors of two checkpoints, plain files or archives, in bounded memory."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Unpack

from densor.codec.delta.compare import NOTHING, Changes, compare
from densor.codec.kind import BATCH_BYTES
from densor.dtypes import PACKED
from densor.errors import ArgumentError, DensorError, FileError
from densor.files.opened import open_input
from densor.files.tree import tree
from densor.formats.container.archive import Archive
from densor.formats.container.entry import FILE
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.container.open_base import is_archive, open_base
from densor.formats.io.sources import Bytes, RandomSource
from densor.formats.io.urls import label, plain
from densor.formats.parsers import safetensors
from densor.formats.parsers.base_matching import listed_of
from densor.formats.tensors import TensorInfo
from densor.options import Progress, ReadKeywords, ReadOptions, read_options


class _Tensor(NamedTuple):
    info: TensorInfo
    read: Callable[[int, int], Bytes]  # bytes from, to


class Difference(NamedTuple):
    """A tensor of either checkpoint; `changes` is None where there is nothing to compare with.

    Tensors of types that are not known, and views, are compared by the bytes that they are in.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    changes: Changes | None
    # `old` or `new` where the other has no tensor of this name, dtype and shape, `both` where
    # neither has bytes of its own for it
    only: str | None


def differences(
    old: Any,
    new: Any,
    threads: int | None = None,
    *,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Iterator[Difference]:
    """How each tensor of `new` differs from that in `old`, then what only `old` has.

    `old`, `new`: paths or URLs of files that hold tensors, or of archives of such; of several files
    in an archive that have tensors of the same names, the latest counts. Options, as keywords or as
    an object: `base`: what an archive is based on, if it is; `max_output_size`: LimitError if an
    archive, or what it is based on, holds more bytes; `progress`: called with bytes of `new` that
    were compared. ArgumentError if neither holds tensors.
    """
    chosen = read_options(options, threads=threads, **keywords)
    with _opened(old, chosen) as before, _opened(new, chosen) as after:
        if not before and not after:
            raise ArgumentError("neither holds tensors that can be told apart")
        yield from _pairs(before, after, chosen.progress)


def _pairs(
    before: dict[str, _Tensor], after: dict[str, _Tensor], progress: Progress | None
) -> Iterator[Difference]:
    for name, tensor in after.items():
        other = before.get(name)
        if other is None or _form(other) != _form(tensor):
            yield _lone(tensor, "new")
        elif not tensor.info.plain and not tensor.info.size:
            yield _lone(tensor, "both")
        else:
            yield _compared(other, tensor, progress)
    for name, tensor in before.items():
        if name not in after or _form(after[name]) != _form(tensor):
            yield _lone(tensor, "old")


class Branch(NamedTuple):
    """A file of an archive, and how its tensors differ from those of the one it is coded against.

    `base`: its name, None for a file that is coded by itself, or against something elsewhere.
    `depth`: how many files it is based on, one by the other.
    """

    name: str
    base: str | None
    depth: int
    tensors: list[Difference]


def branches(
    path: Any,
    threads: int | None = None,
    *,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Iterator[Branch]:
    """The files of an archive, each after the one that it is coded against, compared with that.

    `path`: of an archive, or its URL. Options as for `differences`.
    """
    chosen = read_options(options, threads=threads, **keywords)
    with open_input(plain(path)) as opened, contextlib.ExitStack() as stack:
        if (source := opened.random) is None or not is_archive(source):
            raise ArgumentError(f"{label(path)}: is no archive that can be read at random")
        archive = Archive(source, chosen, stack.enter_context(open_base(chosen)))
        stack.callback(archive.close)
        archive.check_size({entry.number: entry.size for entry in archive.entries})
        for number, depth in tree(archive.entries):
            if archive.entries[number].meta.kind == FILE:
                yield _branch(archive, archive.entries[number], depth, chosen.progress)


def _branch(archive: Archive, entry: IndexedEntry, depth: int, progress: Progress | None) -> Branch:
    base = entry.meta.base
    if base is None or base.entry is None:
        return Branch(entry.meta.name, None, depth, [])
    other = archive.entries[base.entry]
    before, after = (_tensors_of(archive, one) for one in (other, entry))
    pairs = list(_pairs(before, after, progress))
    return Branch(entry.meta.name, other.meta.name, depth, pairs)


def _tensors_of(archive: Archive, entry: IndexedEntry) -> dict[str, _Tensor]:
    return {
        info.name: _Tensor(info, _in_archive(archive, entry, info)) for info in entry.meta.tensors
    }


def is_lossy(path: Any, options: ReadOptions | None = None) -> bool:
    """Whether a file, or one in an archive, says that it only approximates another.

    `path` and `options` as for `differences`.
    """
    chosen = read_options(options)
    with open_input(plain(path)) as opened, contextlib.ExitStack() as stack:
        if (source := opened.random) is None:
            return False
        if is_archive(source):
            archive = Archive(source, chosen, stack.enter_context(open_base(chosen)))
            stack.callback(archive.close)
            return any(entry.meta.lossy for entry in archive.entries)
        try:
            return safetensors.says_lossy(safetensors.metadata_of(source, label(path)))
        except DensorError:
            return False  # another format, which has no such mark


def _form(tensor: _Tensor) -> tuple[object, ...]:
    view = None if tensor.info.plain else (tensor.info.view, tensor.info.size)
    return tensor.info.dtype, tensor.info.shape, view


def _lone(tensor: _Tensor, only: str) -> Difference:
    return Difference(*tensor.info[:3], tensor.info.size, None, only)


def _compared(old: _Tensor, new: _Tensor, progress: Progress | None) -> Difference:
    changes = NOTHING
    dtype = new.info.dtype if new.info.plain and new.info.dtype not in PACKED else "U8"
    for at in range(0, new.info.size, BATCH_BYTES):
        end = min(at + BATCH_BYTES, new.info.size)
        changes += compare(new.read(at, end), old.read(at, end), dtype)
        if progress is not None:
            progress(end - at)
    return Difference(*new.info[:3], new.info.size, changes, None)


@contextlib.contextmanager
def _opened(path: Any, options: ReadOptions) -> Iterator[dict[str, _Tensor]]:
    with open_input(plain(path)) as opened, contextlib.ExitStack() as stack:
        if opened.random is None:
            raise FileError(f"{label(path)}: cannot be read at random")
        source = opened.random
        if not is_archive(source):
            yield {info.name: _Tensor(info, _in_file(source, info)) for info in listed_of(source)}
            return
        given = stack.enter_context(open_base(options))
        archive = Archive(source, options, given)
        stack.callback(archive.close)
        archive.check_size({entry.number: entry.size for entry in archive.entries})
        yield {
            name: _Tensor(info, _in_archive(archive, entry, info))
            for name, (entry, info) in {**archive.others(), **archive.tensors()}.items()
        }


def _in_file(source: RandomSource, info: TensorInfo) -> Callable[[int, int], Bytes]:
    return lambda begin, end: source.read_at(info.offset + begin, end - begin)


def _in_archive(archive: Archive, entry: Any, info: TensorInfo) -> Callable[[int, int], Bytes]:
    return lambda begin, end: archive.read(entry, info.offset + begin, info.offset + end)
