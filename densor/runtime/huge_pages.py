"""Fresh memory in huge pages, as far as the system hands them out quickly.

Filling 1 GB of fresh memory meets 240,000 pages of 4 KB, at more than 1 µs each: more than
decoding to it takes. In huge pages of 2 MB it is a fifth of that. But a system that has to move
other pages together first, or a hypervisor that took free memory back from its guest, may take
10 ms for each: so each is timed, and after a slow one no more are asked for during a minute.
"""

import ctypes
import functools
import mmap
import sys
import time
import weakref
from pathlib import Path

import numpy as np

from densor.runtime.locks import Lock
from densor.runtime.types import Bytes

_LINUX = sys.platform.startswith("linux")
_PAGE = 1 << 21
_POPULATE_WRITE = 23  # of madvise, since Linux 5.14
_NO_HUGE_PAGES = 15
_HUGE_PAGES = 14
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_FAIR = 500_000  # ns of processor time for a huge page; as many small ones take 700,000
_HICCUP = 2_000_000  # ns that all pages of one request may take beyond that
_PAUSE = 60.0  # seconds
_MOST = 8192  # mappings; Linux lets a process have 65,530 parts of them


class HugePages:
    """Hands out memory of a mapping of its own each time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._live: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._paused_until = 0.0
        self._filled = 0  # times

    def take(self, size: int) -> Bytes | None:
        """`size` bytes with any content, all zero in fact; None where they had better come from
        elsewhere: small ones, other systems, and for a while after huge pages were slow.

        They are given back to the system when the array and all its views are gone.
        """
        if size < _PAGE or not _at_hand() or time.monotonic() < self._paused_until:
            return None
        try:
            with self._lock:
                if len(self._live) >= _MOST:
                    return None
                mapped = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                self._live.add(mapped)
        except OSError:
            return None
        memory = np.frombuffer(mapped, np.uint8)
        begin = -memory.ctypes.data % _PAGE
        memory = memory[begin : begin + size]
        self._populate(memory)
        return memory

    def fill(self, part: Bytes, around: Bytes) -> None:
        """Puts huge pages behind `part` of the memory `around` it, which somebody else got, as far
        as nothing is there yet; does nothing where `take` would not. Content stays as it is.
        """
        paused = time.monotonic() < self._paused_until
        if part.size < _PAGE // 2 or paused or "[madvise]" not in _setting():
            return  # by "always" there are huge pages without being asked for
        first, start = around.ctypes.data, part.ctypes.data
        begin = max(start // _PAGE * _PAGE, -(-first // _PAGE) * _PAGE)
        end = min(-(-(start + part.size) // _PAGE) * _PAGE, (first + around.size) // _PAGE * _PAGE)
        with self._lock:
            self._filled += 1
            if self._filled > _MOST:
                return
        if begin < end:
            self._populate(around[begin - first : end - first])

    def _populate(self, memory: Bytes) -> None:
        if not _populated(memory):
            self._paused_until = time.monotonic() + _PAUSE


HUGE_PAGES = HugePages()


@functools.cache
def _setting() -> str:
    """What the system says of huge pages; nothing where it has none."""
    if not _LINUX:
        return ""
    try:
        return _SETTING.read_text()
    except OSError:
        return ""


def _at_hand() -> bool:
    """Whether the system may be asked for huge pages at all."""
    return "[never]" not in (_setting() or "[never]")


def _populated(memory: Bytes) -> bool:
    """Fills whole huge pages with memory one by one; False where the system was slow at one, after
    which the rest stays to be filled with small ones when it is used."""
    advise = ctypes.CDLL(None).madvise
    whole = memory.size // _PAGE * _PAGE
    address = memory.ctypes.data
    _advise(advise, address, whole, _HUGE_PAGES)
    start = time.thread_time_ns()
    for at in range(0, whole, _PAGE):
        done = _advise(advise, address + at, _PAGE, _POPULATE_WRITE)
        spent = time.thread_time_ns() - start
        if not done or spent > _HICCUP + (at // _PAGE + 1) * _FAIR:
            _advise(advise, address + at, whole - at, _NO_HUGE_PAGES)
            return False
    return True


def _advise(advise: "ctypes._NamedFuncPointer", address: int, size: int, advice: int) -> bool:
    """Advises the system, without the GIL; whether it took the advice."""
    return not advise(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(advice))
