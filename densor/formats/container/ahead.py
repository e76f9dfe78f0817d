"""Reads what a writer will code next, and hashes it, in other threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import xxhash

from densor.codec.batch import Looked
from densor.codec.kind import BYTES, Kind, Segment
from densor.errors import FileError, TruncatedError
from densor.formats.container.hashing import Hash
from densor.formats.io.sources import Bytes, Source, take_later
from densor.runtime.buffers import POOL
from densor.runtime.in_turn import InTurn
from densor.runtime.workers import Done, Task, Workers, settle

MIN_REPEAT = 64  # bytes from which a stretch may be stored as a reference to an equal one
_MIN_TASK = 1 << 16  # bytes from which another thread is woken up
_AT_ONCE = 1 << 18  # bytes that two hashes take in turn, so that the second finds them in a cache


class Stretch(NamedTuple):
    """Bytes of an entry for a batch. `base`: where in the base; `key`: a hash, to find repetitions.

    `data` is of the pool; it must not be given back before `ReadAhead.wait` was called. `looked`:
    what `look` made of it, None where a base or an equal stretch may say more.
    """

    data: Bytes
    kind: Kind
    offset: int
    base: int | None
    key: bytes | None
    looked: Looked | None = None


class ReadAhead:
    """Cuts an entry into stretches, and hashes it.

    `keyed`: whether each has a hash of its own. `look`: what can be found of one before those in
    front of it are coded; called in any thread, in any order.
    """

    def __init__(
        self,
        source: Source,
        workers: Workers,
        hasher: Hash,
        keyed: bool,
        look: Callable[[Stretch], Looked | None],
    ) -> None:
        self._source = source
        self._workers = workers
        self._hasher = hasher
        self._keyed = keyed
        self._look = look
        self._turns = InTurn()
        self._most = workers.threads // 2  # reading takes far less than coding
        self.size = 0  # bytes of the stretches so far, those ahead included

    def wait(self, end: int) -> None:
        """Waits until all bytes of the entry up to `end`, which were handed out, are hashed."""
        self._turns.wait(end)

    def digest(self) -> bytes:
        """The hash of the entry, all of which was handed out."""
        self._turns.wait(self.size)
        return self._hasher.digest()

    def stretches(
        self, segments: Iterable[Segment], most: Callable[[Kind], int], size_known: bool
    ) -> Iterator[Stretch]:
        """The stretches in order; `most`: bytes of one of a kind.

        FileError where the source ends within a segment, if the size of the entry is known.
        """
        ahead: deque[Task[Stretch]] = deque()
        try:
            for segment in segments:
                for task in self._of_segment(segment, most(segment.kind), size_known):
                    ahead.append(task)
                    if len(ahead) > self._most:
                        yield self._first(ahead)
            while ahead:
                yield self._first(ahead)
        except TruncatedError as error:
            text = "input ends early; did it change while it was read?"
            raise FileError(text) from error
        finally:
            settle(ahead)

    @staticmethod
    def _first(ahead: deque[Task[Stretch]]) -> Stretch:
        """Waits for the first; while another thread reads that, it reads the next one."""
        first = ahead[0]  # among those that are settled, until it is there
        first.begin()
        if len(ahead) > 1 and not first.done():
            ahead[1].begin()
        found = first.result()
        ahead.popleft()
        return found

    def _of_segment(self, segment: Segment, most: int, size_known: bool) -> Iterator[Task[Stretch]]:
        left, base = segment.size, segment.base
        while left is None or left > 0:
            size, read = take_later(self._source, most if left is None else min(left, most))
            if not size:
                break
            work = partial(self._read, read, segment.kind, self.size, base)
            self.size += size
            yield Done(work()) if size < _MIN_TASK else self._workers.submit(work)
            base = None if base is None else base + size
            left = None if left is None else left - size
        if left and size_known:
            raise FileError(f"input ends {left} bytes early; did it change while it was read?")

    def _read(
        self, read: Callable[[], Bytes], kind: Kind, offset: int, base: int | None
    ) -> Stretch:
        data = read()
        if self._keyed and self._workers.threads == 1 and data.size > _AT_ONCE:
            key: bytes | None = self._both_hashes(data, offset)
        else:
            key = self._key(data)
            self._turns.add(offset, offset + data.size, self._hasher.update, data)
        stretch = Stretch(data, kind, offset, base, key)
        return stretch if base is not None else stretch._replace(looked=self._look(stretch))

    def _both_hashes(self, data: Bytes, offset: int) -> bytes:
        """The key of a stretch, whose pieces are hashed for the entry as well."""
        hasher = xxhash.xxh3_128()
        for begin in range(0, data.size, _AT_ONCE):
            some = data[begin : begin + _AT_ONCE]
            hasher.update(some)
            at = offset + begin
            self._turns.add(at, at + some.size, self._hasher.update, some)
        return hasher.digest()

    def _key(self, data: Bytes) -> bytes | None:
        keyed = self._keyed and data.size >= MIN_REPEAT
        return xxhash.xxh3_128_digest(data) if keyed else None

    def divided(self, stretch: Stretch, size: int) -> tuple[Stretch, Stretch]:
        """The first `size` bytes of a stretch, and the rest as plain bytes; copies of the pool."""
        whole, rest = copied(stretch.data[:size]), copied(stretch.data[size:])
        first = stretch._replace(data=whole, key=self._key(whole))
        return first, Stretch(rest, BYTES, stretch.offset + size, None, self._key(rest))


def copied(data: Bytes) -> Bytes:
    """A copy in memory of the pool, where elements may stand as kernels need them."""
    copy = POOL.take(data.size)
    copy[:] = data
    return copy
