"""Where bytes come from: memory, files, pipes, all behind two small interfaces."""

import contextlib
import errno
import io
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import partial
from itertools import accumulate, compress
from typing import Any, BinaryIO, Protocol

import numpy as np

from densor.errors import ArgumentError, FileError, TruncatedError
from densor.runtime.buffers import POOL
from densor.runtime.locks import Lock
from densor.runtime.types import Bytes as Bytes


class Source(Protocol):
    """Bytes read from start to end."""

    def take(self, count: int) -> Bytes:
        """The next `count` bytes, fewer only at the end; may be given back to `buffers.POOL`."""


def as_bytes(data: Any) -> Bytes:
    """A flat uint8 view of any contiguous buffer; ArgumentError for one of Python objects."""
    if isinstance(data, np.ndarray):
        return data.reshape(-1).view(np.uint8)
    view = memoryview(data)
    if "O" in view.format:
        raise ArgumentError("cannot compress an array of Python objects")
    if not view.c_contiguous:
        raise ArgumentError("the bytes of a buffer must lie in one piece")
    return np.frombuffer(view.cast("B") if view.nbytes else b"", np.uint8)


class MemorySource:
    """Bytes of a buffer, handed out as views."""

    def __init__(self, data: Any) -> None:
        self._data = as_bytes(data)
        self._at = 0

    def take(self, count: int) -> Bytes:
        piece = self._data[self._at : self._at + count]
        self._at += piece.size
        return piece

    def place(self) -> tuple[Bytes, int]:
        """All bytes, and where among them the next ones are."""
        return self._data, self._at


_SMALL = 1 << 20  # bytes; files of /proc/sys cannot be read in pieces of 4 MiB and more
_ALIGNED = 8  # what an address is a multiple of, where kernels need not have a copy


class BytesIOSource(MemorySource):
    """The bytes of an `io.BytesIO` from where it stands, whose position goes along; no copies.

    But of what begins where elements may not stand. The file must not be written to meanwhile.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file.getvalue())  # the buffer itself
        self._at = min(file.tell(), self._data.size)
        self._file = file

    def take(self, count: int) -> Bytes:
        piece = super().take(count)
        self._file.seek(self._at)
        return _aligned(piece)


def _aligned(piece: Bytes) -> Bytes:
    """The same bytes where elements may stand, copied if they do not."""
    if not piece.size or piece.ctypes.data % _ALIGNED == 0:
        return piece
    copy = POOL.take(piece.size)
    copy[:] = piece
    return copy


def source_of(file: BinaryIO) -> Source:
    """The bytes of a binary file object from where it stands."""
    return BytesIOSource(file) if type(file) is io.BytesIO else FileSource(file)


def seekable(file: BinaryIO) -> bool:
    """Whether a binary file object says that it can be sought in."""
    try:
        return bool(file.seekable())
    except (AttributeError, OSError, ValueError):
        return False


class FileSource:
    """Bytes of a binary file object, which need not be seekable."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._readinto = getattr(file, "readinto", None)
        self.waits = not seekable(file)  # for more to come, maybe

    def take(self, count: int) -> Bytes:
        buffer = POOL.take(count)
        filled = self.take_into(buffer)
        return buffer if filled == count else buffer[:filled]

    def take_into(self, out: Bytes) -> int:
        """Fills `out`; returns how many bytes there were, fewer only at the end."""
        filled = 0
        while filled < out.size:
            got = self._read_some(memoryview(out)[filled:])
            if not got:
                break
            filled += got
        return filled

    def _read_some(self, target: memoryview) -> int:
        data: Any = None
        try:
            if self._readinto is None:
                data = self._file.read(len(target))
                got = None if data is None else len(data)
            else:
                got = self._readinto(target)
        except NotImplementedError:  # inherited, of a class that has no more than read
            self._readinto = None
            return self._read_some(target)
        except OSError as error:
            if error.errno == errno.ENOMEM and len(target) > _SMALL:
                return self._read_some(target[:_SMALL])
            raise FileError(f"cannot read: {error.strerror or error}") from error
        if got is None:  # nothing is there yet, which is not the end
            raise FileError(f"cannot read: {os.strerror(errno.EAGAIN)}")
        if not 0 <= got <= len(target):  # it would be asked for ever
            raise FileError(f"cannot read: the file gave {got} bytes where {len(target)} fit")
        if data is not None:
            target[:got] = data
        return got


def take_into(source: Source, out: Bytes) -> int:
    """Fills `out` from a source; returns how many bytes there were, fewer only at the end."""
    if isinstance(source, FileSource):
        return source.take_into(out)
    data = source.take(out.size)
    out[: data.size] = data
    POOL.give(data)
    return data.size


class Pieces:
    """A source over the bytes of arrays in C order, copied only where a request spans two."""

    def __init__(self, pieces: list["np.ndarray[Any, Any]"]) -> None:
        sizes = [piece.nbytes for piece in pieces]
        self._pieces = list(compress(pieces, sizes))
        self._ends = list(accumulate(filter(None, sizes)))
        self._at = 0

    def take(self, count: int) -> Bytes:
        data = self.read_at(self._at, count)
        self._at += data.size
        return data

    def read_at(self, offset: int, count: int) -> Bytes:
        """Up to `count` bytes from `offset` on."""
        end = min(offset + count, self._ends[-1] if self._ends else 0)
        if offset >= end:
            return np.empty(0, np.uint8)
        first, last = bisect_right(self._ends, offset), bisect_left(self._ends, end) + 1
        begin = offset - self._ends[first] + self._pieces[first].nbytes
        if last == first + 1:
            return as_bytes(self._pieces[first])[begin : begin + end - offset]
        inside = self._pieces[first:last]
        left = end - self._ends[last - 1]  # of the last one behind the end, as a negative number
        if begin:
            inside[0] = as_bytes(inside[0])[begin:]
        if left:
            inside[-1] = as_bytes(inside[-1])[:left]
        return _joined(inside, end - offset)


def _joined(arrays: list["np.ndarray[Any, Any]"], size: int) -> Bytes:
    """A copy of the bytes of arrays in C order, one behind the other; `size` in all."""
    out = POOL.take(size)
    first = arrays[0]
    if first.ndim:
        try:
            whole = out.view(first.dtype).reshape(-1, *first.shape[1:])
            np.concatenate(arrays, out=whole, casting="no")
        except (ValueError, TypeError):  # of several types or shapes
            pass
        else:
            return out
    np.concatenate([as_bytes(array) for array in arrays], out=out)
    return out


class ChainSource:
    """Bytes already taken from a source, then the rest of it."""

    def __init__(self, head: Bytes, rest: Source) -> None:
        self._head = head
        self._rest = rest

    def take(self, count: int) -> Bytes:
        if not self._head.size:
            return self._rest.take(count)
        piece = self._head[:count]
        self._head = self._head[count:]
        if piece.size == count:
            return piece
        return np.concatenate([piece, self._rest.take(count - piece.size)])


class RandomSource(Protocol):
    """Bytes at any place; safe to use from several threads."""

    @property
    def size(self) -> int:
        """All bytes there are."""

    def read_at(self, offset: int, count: int) -> Bytes:
        """Exactly `count` bytes from `offset` on, else TruncatedError; may be given back."""


class MemoryRandomSource:
    """The bytes of a buffer in memory, as views."""

    def __init__(self, data: Any) -> None:
        self._data = as_bytes(data)

    @property
    def size(self) -> int:
        return self._data.size

    def read_at(self, offset: int, count: int) -> Bytes:
        piece = self._data[offset : offset + count]
        if offset < 0 or piece.size != count:
            raise TruncatedError("archive is shorter than its frames say")
        return piece


class BytesIORandomSource(MemoryRandomSource):
    """What an `io.BytesIO` holds from `begin` on, which must not be written to meanwhile.

    As views but of what begins where elements may not stand.
    """

    def __init__(self, file: io.BytesIO, begin: int) -> None:
        super().__init__(memoryview(file.getvalue())[begin:])  # the buffer itself

    def read_at(self, offset: int, count: int) -> Bytes:
        return _aligned(super().read_at(offset, count))


class RandomSourceFrom:
    """Another source from `begin` on."""

    def __init__(self, source: RandomSource, begin: int) -> None:
        self._source = source
        self._begin = begin

    @property
    def size(self) -> int:
        return max(0, self._source.size - self._begin)

    def read_at(self, offset: int, count: int) -> Bytes:
        if offset < 0:
            raise TruncatedError("archive is shorter than its frames say")
        return self._source.read_at(self._begin + offset, count)


def _reads_as_stored(file: BinaryIO) -> bool:
    """Whether a file object gives what the system has under its number: no wrapper, and none of a
    class that reads in a way of its own, such as one that decrypts."""
    if isinstance(file, io.BufferedReader | io.BufferedRandom):
        plain = type(file) in (io.BufferedReader, io.BufferedRandom)
        return plain and _reads_as_stored(file.raw)  # type: ignore[arg-type]
    same = (getattr(type(file), name) is getattr(io.FileIO, name) for name in _READING)
    return isinstance(file, io.FileIO) and all(same)


_READING = ("read", "readall", "readinto", "seek", "tell", "fileno")


class FileRandomSource:
    """A seekable file object; positioned reads where it is a real file.

    Leaves the file's position as it is, so that it may be read in sequence as well, by the same
    thread.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = Lock()
        self._positioned = False
        if _reads_as_stored(file):
            with contextlib.suppress(OSError):
                self._positioned = hasattr(os, "preadv") and file.fileno() >= 0
        try:
            at = file.tell()
            file.seek(0, os.SEEK_END)
            self._size = file.tell()  # since some `seek` return nothing
            file.seek(at)
        except (AttributeError, OSError, TypeError, ValueError) as error:
            raise FileError(f"cannot read at random: {error}") from error

    @property
    def size(self) -> int:
        return self._size

    @property
    def positioned(self) -> bool:
        """Whether it reads without moving the file, at no more cost than in order."""
        return self._positioned

    def read_at(self, offset: int, count: int) -> Bytes:
        if offset < 0 or offset + count > self._size:
            raise TruncatedError("archive is shorter than its frames say")
        if self._positioned:
            return self._pread(offset, count)
        with self._lock:
            at = self._file.tell()
            try:
                self._file.seek(offset)
                data = FileSource(self._file).take(count)
            finally:  # since others read in order, also where a parser passes over the error
                self._file.seek(at)
        if data.size != count:
            raise TruncatedError("archive is shorter than its frames say")
        return data

    def _pread(self, offset: int, count: int) -> Bytes:
        buffer = POOL.take(count)
        view = memoryview(buffer)
        filled = 0
        while filled < count:
            try:
                # Asked for each time, since after `close` the number may be that of another file.
                got = os.preadv(self._file.fileno(), [view[filled:]], offset + filled)
            except OSError as error:
                raise FileError(f"cannot read: {error.strerror}") from error
            except ValueError:
                raise FileError("cannot read: file was closed") from None
            if not got:
                raise TruncatedError("archive is shorter than its frames say")
            filled += got
        return buffer


def random_source_of(file: BinaryIO) -> RandomSource:
    """The bytes of a seekable file object at any place, without copies where it is an
    `io.BytesIO`, which must not be written to meanwhile."""
    if type(file) is io.BytesIO and not file.closed:
        return MemoryRandomSource(file.getvalue())
    return FileRandomSource(file)


class PlacedSource:
    """A file read from start to end, of which stretches may be left out, to be read by others.

    `random`: the same bytes, for these.
    """

    def __init__(self, random: RandomSource) -> None:
        self.random = random
        self.at = 0
        self._block = np.empty(0, np.uint8)  # read ahead, for what is small
        self._block_at = 0
        self._next = _BLOCK

    def take(self, count: int) -> Bytes:
        count = min(count, self.random.size - self.at)
        if count > _BLOCK // 4:
            data = self.random.read_at(self.at, count)
        else:
            data = self._from_block(count)
        self.at += count
        return data

    def skip(self, count: int) -> int | None:
        """Where the next `count` bytes begin, which are left out; None where there are fewer."""
        begin, end = self.at, self.at + count
        if end > self.random.size:
            return None
        self.at = end
        if end > self._block_at + self._block.size:  # else reading ahead has paid
            self._next = _LEAST_BLOCK
        return begin

    def _from_block(self, count: int) -> Bytes:
        begin = self.at - self._block_at
        if begin + count > self._block.size:
            size = min(max(count, self._next), self.random.size - self.at)
            # In memory of its own each time: what was handed out may still be in use.
            self._block = self.random.read_at(self.at, size)
            self._block_at, begin = self.at, 0
            self._next = _BLOCK
        return self._block[begin : begin + count]


_BLOCK, _LEAST_BLOCK = 1 << 15, 1 << 12


def take_later(source: Source, count: int) -> tuple[int, Callable[[], Bytes]]:
    """How many of the next `count` bytes of a source there are, and what returns them.

    That may be called in any thread, once others were taken, and reads them only then where the
    source allows it; TruncatedError where they are gone.
    """
    if isinstance(source, PlacedSource) and count > _BLOCK:
        count = min(count, source.random.size - source.at)
        begin = source.skip(count)
        assert begin is not None
        return count, partial(source.random.read_at, begin, count)
    data = source.take(count)
    return data.size, lambda: data


class ReadableSource:
    """Another source, of which what the device cannot read is zeros: it is found to be damaged."""

    _SECTOR = 1 << 12

    def __init__(self, source: RandomSource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        return self._source.size

    def read_at(self, offset: int, count: int) -> Bytes:
        try:
            return self._source.read_at(offset, count)
        except FileError as error:
            if not _unreadable(error):
                raise
        out = np.zeros(count, np.uint8)
        at = offset
        while at < offset + count:  # sector by sector
            end = min(offset + count, (at // self._SECTOR + 1) * self._SECTOR)
            try:
                out[at - offset : end - offset] = self._source.read_at(at, end - at)
            except FileError as error:
                if not _unreadable(error):
                    raise
            at = end
        return out


def _unreadable(error: FileError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EIO
