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
import threading
import time
import weakref
from pathlib import Path

import numpy as np

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
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._paused_until = 0.0

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
        if not _populated(memory):
            self._paused_until = time.monotonic() + _PAUSE
        return memory


HUGE_PAGES = HugePages()


@functools.cache
def _at_hand() -> bool:
    """Whether the system may be asked for huge pages at all."""
    if not _LINUX:
        return False
    try:
        return "[never]" not in _SETTING.read_text()
    except OSError:
        return False


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
