"""Where decoded bytes go: memory, files, pipes, nowhere."""

from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from densor.errors import TruncatedError
from densor.formats.io.outputs import WholeFile, errors_of, write_all
from densor.formats.io.sources import Bytes, FileSource
from densor.runtime.buffers import POOL, NewBytes
from densor.runtime.in_turn import InTurn
from densor.runtime.locks import Lock


class Sink(Protocol):
    """Where the bytes of an entry go. Calls come in order of the bytes."""

    def buffer(self, size: int) -> Bytes:
        """Memory for the next `size` bytes."""

    def filled(self, data: Bytes, at: int) -> None:
        """The memory from `buffer` has been filled and verified so far as a chunk can be.

        `at`: where these bytes of the entry belong. Called by whoever filled it, in any order.
        """

    def done(self, data: Bytes) -> None:
        """Likewise, in order; the memory is free again."""

    def read(self, offset: int, size: int) -> Bytes:
        """Bytes of this entry that are done, for a repetition."""


class MemorySink:
    """Fills a buffer whose size is known; decodes in place."""

    def __init__(self, target: Bytes) -> None:
        self._target = target
        self._at = 0

    def buffer(self, size: int) -> Bytes:
        piece = self._target[self._at : self._at + size]
        self._at += size
        return piece

    def filled(self, data: Bytes, at: int) -> None:
        pass

    def done(self, data: Bytes) -> None:
        pass

    def read(self, offset: int, size: int) -> Bytes:
        return self._target[offset : offset + size]


class NewBytesSink(MemorySink):
    """Fills a bytes object of a size that is known; MemoryError where there is no room for it."""

    def __init__(self, size: int) -> None:
        self._new = NewBytes(size)
        super().__init__(self._new.memory())

    def finished(self) -> bytes:
        """The object, once all of it is done."""
        self._target = self._target[:0]
        return self._new.finished()


class _PoolSink:
    """Lends buffers that `done` gives back."""

    def buffer(self, size: int) -> Bytes:
        return POOL.take(size)

    def filled(self, data: Bytes, at: int) -> None:
        pass


class GrowingSink(_PoolSink):
    """Collects bytes whose number is not known in advance."""

    def __init__(self) -> None:
        self.data = bytearray()

    def done(self, data: Bytes) -> None:
        self.data += memoryview(data)
        POOL.give(data)

    def read(self, offset: int, size: int) -> Bytes:
        return np.frombuffer(bytes(self.data[offset : offset + size]), np.uint8)


class FileSink(_PoolSink):
    """Writes to a seekable file that can be read back, at `path` once it is closed."""

    def __init__(self, file: BinaryIO, path: Path | None = None) -> None:
        self._file = file
        self._path = path
        self._start = file.tell()

    def done(self, data: Bytes) -> None:
        write_all(self._file, data)
        POOL.give(data)

    def read(self, offset: int, size: int) -> Bytes:
        if self._file.closed:
            assert self._path is not None
            with errors_of(self._path), self._path.open("rb") as file:
                return _read_back(file, self._start + offset, size)
        end = self._file.tell()
        data = _read_back(self._file, self._start + offset, size)
        self._file.seek(end)
        return data


class PlacedFileSink(FileSink):
    """Likewise, to a file of its own, which whoever has decoded something writes it to.

    One thread at a time does, since file systems let no other do so meanwhile.
    """

    def __init__(self, file: WholeFile, path: Path | None = None) -> None:
        super().__init__(file, path)
        self._whole = file
        self._size = 0
        self._done = 0
        self._turns = InTurn()

    def buffer(self, size: int) -> Bytes:
        self._size += size
        self._whole.expect(self._start + self._size)
        return super().buffer(size)

    def filled(self, data: Bytes, at: int) -> None:
        write, place = self._whole.write_at, self._start + at
        self._turns.add(at, at + data.size, write, data, place)

    def done(self, data: Bytes) -> None:
        self._done += data.size
        self._turns.wait(self._done)
        POOL.give(data)


class Copies:
    """Entries one after the other in one temporary file, however many; safe to use from threads."""

    def __init__(self) -> None:
        import tempfile

        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._lock = Lock()
        self.size = 0

    def add(self, data: Bytes) -> None:
        """Appends bytes to the file."""
        with self._lock:
            self._file.seek(self.size)
            write_all(self._file, data)
            self.size += data.size

    def read(self, offset: int, size: int) -> Bytes:
        """`size` bytes that were added before, from `offset` on."""
        with self._lock:
            return _read_back(self._file, offset, size)


class NullSink(_PoolSink):
    """Decodes for verification only. `copies`: where bytes are kept that may repeat."""

    def __init__(self, copies: Copies | None) -> None:
        self._copies = copies
        self._start = 0 if copies is None else copies.size

    def done(self, data: Bytes) -> None:
        if self._copies is not None:
            self._copies.add(data)
        POOL.give(data)

    def read(self, offset: int, size: int) -> Bytes:
        assert self._copies is not None
        return self._copies.read(self._start + offset, size)


class PipeSink(NullSink):
    """Writes to a pipe; keeps a copy in a temporary file for repetitions, if there may be any."""

    def __init__(self, file: BinaryIO, keep: bool) -> None:
        super().__init__(Copies() if keep else None)
        self._file = file

    def done(self, data: Bytes) -> None:
        write_all(self._file, data)
        super().done(data)


def _read_back(file: BinaryIO, offset: int, size: int) -> Bytes:
    file.seek(offset)
    data = FileSource(file).take(size)
    if data.size != size:
        raise TruncatedError("output file was cut while it was written")
    return data
