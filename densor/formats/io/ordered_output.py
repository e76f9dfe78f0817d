"""Output from front to back of which other threads write the large pieces."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from densor.formats.io.outputs import MemoryFile, WholeFile, write_all
from densor.runtime.in_turn import InTurn
from densor.runtime.workers import Task, Workers

_LARGE = 1 << 16  # bytes of a piece that another thread is woken up for
_WAITING = 1 << 24  # bytes that may wait to be written


class _Waiting(NamedTuple):
    """A piece that is being written; `end`: of it, in bytes from the first one on."""

    task: Task[None]
    end: int
    then: list[tuple[Callable[[Any], object], Any]]


class OrderedOutput:
    """Writes pieces to a file, one behind the other.

    Those of some size are written by threads of `workers`, where the file lets them and there are
    any; errors are then raised by a later call. For one thread.
    """

    def __init__(self, file: BinaryIO | MemoryFile, workers: Workers) -> None:
        self._file: Any = file
        self._workers = workers
        self._placed = isinstance(file, WholeFile | MemoryFile)
        self._start = file.tell() if self._placed else 0
        self._size = 0  # bytes that were put, but for what is gathered
        self._gathered = bytearray()
        self._turns = InTurn()
        self._waiting: deque[_Waiting] = deque()

    def put(self, data: Any) -> None:
        """Appends a buffer, which may change afterwards."""
        if not self._placed:
            write_all(self._file, data)
            return
        self._gathered += memoryview(data)
        if len(self._gathered) >= _LARGE:
            self._flush()

    def put_later(self, size: int, pieces: Callable[[], Sequence[Any]]) -> None:
        """Appends the `size` bytes of the buffers that `pieces` returns, called in any thread.

        They must not change until `then` says that they were written.
        """
        if not self._placed or size < _LARGE:
            for piece in pieces():
                self.put(piece)
            return
        before, self._gathered = self._gathered, bytearray()
        if before:  # what is small goes with it
            self._queue(len(before) + size, lambda: (before, *pieces()))
        else:
            self._queue(size, pieces)

    def then(self, work: Callable[[Any], object], argument: Any) -> None:
        """Calls `work` when it is known that all that was put is written; in the thread that puts.

        Not if that fails.
        """
        if self._waiting:
            self._waiting[-1].then.append((work, argument))
        else:
            work(argument)

    def finish(self) -> None:
        """Waits until all is written, behind which the file's position is then."""
        if self._placed:
            self._flush()
            self._settle(self._size)
            self._file.seek(self._start + self._size)

    def stop(self) -> None:
        """Drops what is not being written yet, and waits for what is."""
        self._turns.stop()
        self._waiting.clear()

    def _flush(self) -> None:
        data, self._gathered = self._gathered, bytearray()
        if data:
            self._queue(len(data), lambda: (data,))

    def _queue(self, size: int, pieces: Callable[[], Sequence[Any]]) -> None:
        begin, end = self._size, self._size + size
        if not self._file.has_room(self._start + end):
            self._settle(begin)
        self._file.expect(self._start + end)
        write, at = self._write, self._start + begin
        task = self._workers.submit(self._turns.add, begin, end, write, at, pieces)
        self._waiting.append(_Waiting(task, end, []))
        self._size = end
        self._settle(end if self._workers.threads == 1 else end - _WAITING)

    def _write(self, at: int, pieces: Callable[[], Sequence[Any]]) -> None:
        for piece in pieces():
            view = memoryview(piece).cast("B")
            self._file.write_at(view, at)
            at += view.nbytes

    def _settle(self, least: int) -> None:
        """Waits until `least` bytes are written, and does what was to be done then."""
        while self._waiting:
            task, end, then = self._waiting[0]
            if not self._turns.is_done(end):
                if end > least:
                    break
                task.result()
            self._turns.wait(end)
            self._waiting.popleft()
            for work, argument in then:
                work(argument)
