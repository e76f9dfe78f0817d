"""Bringing parts of a file into the system's page cache before a memory map of it is read.

Reading in large pieces does, whatever the device's setting for reading ahead, and lets the system
use large pages for what it reads. `MADV_WILLNEED` was a third as fast (Linux 6.18, ext4): it takes
pages of 4 KB one by one.
"""

import contextlib
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from densor.formats.io.outputs import errors_of
from densor.runtime.buffers import POOL

_PIECE = 1 << 22
_PROBES = 4  # for a stretch
_AHEAD = 1 << 28  # bytes
_POSSIBLE = hasattr(os, "preadv")


class PageCache:
    """An open file, of which nothing is kept here. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._number: int | None = None
        if _POSSIBLE:
            with errors_of(path):
                self._number = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._number)

    def status(self) -> os.stat_result | None:
        """Of the file as it is now; None where it is not open here."""
        return None if self._number is None else os.fstat(self._number)

    def holds(self, begin: int, end: int) -> bool:
        """Whether bytes here and there of a stretch are in memory, so that all are likely to be.

        False where the system does not say.
        """
        if self._number is None or not hasattr(os, "RWF_NOWAIT"):
            return False
        byte = bytearray(1)
        step = max(mmap.PAGESIZE, (end - begin - 1) // (_PROBES - 1))
        try:
            for at in range(begin, end, step):
                os.preadv(self._number, [byte], at, os.RWF_NOWAIT)
        except OSError:  # it would have to wait, or cannot tell
            return False
        return True

    def fetch(self, begin: int, end: int) -> None:
        """Reads a stretch, unless it is there. Whoever reads the map will meet what fails here."""
        if self._number is None or self.holds(begin, end):
            return
        with POOL.lend(_PIECE) as piece, contextlib.suppress(OSError):
            for at in range(begin, end, _PIECE):
                os.preadv(self._number, [memoryview(piece)[: end - at]], at)


class Fetching:
    """Fetches one thing after the other in a thread of its own, up to 256 MiB ahead of their use.

    `sizes`: bytes of each. `fetch` is called with their numbers.
    """

    def __init__(self, sizes: Sequence[int], fetch: Callable[[int], None]) -> None:
        self._ends = list(accumulate(sizes, initial=0))
        self._fetch = fetch
        self._changed = threading.Condition()
        self._limit = _AHEAD
        self._thread = threading.Thread(target=self._run, name="densor-fetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for number in range(len(self._ends) - 1):
            with self._changed:
                while 0 <= self._limit <= self._ends[number]:
                    self._changed.wait()
                if self._limit < 0:
                    return
            self._fetch(number)

    def reached(self, number: int) -> None:
        """Says that the thing of this number is used now."""
        with self._changed:
            if self._limit >= 0:
                self._limit = max(self._limit, self._ends[number] + _AHEAD)
                self._changed.notify_all()

    def close(self) -> None:
        """Stops; waits for the end of what has begun."""
        with self._changed:
            self._limit = -1
            self._changed.notify_all()
        self._thread.join()
