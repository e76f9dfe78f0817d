"""Buffers that are used again: fresh memory costs page faults, often more than the work in it."""

import ctypes
import mmap
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from densor.runtime.types import Bytes

_LINUX = sys.platform.startswith("linux")
_GRAIN = 1 << 16  # sizes are rounded up to this; smaller buffers are not worth keeping


class BufferPool:
    """Lends byte buffers and keeps at most `most` bytes of those that were given back.

    What is lent is a view of its own each time, and only that very view can be given back, once:
    slices of it, and views that were given back before, are ignored.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[Bytes] = []
        self._kept = 0
        self._lent: weakref.WeakValueDictionary[int, Bytes] = weakref.WeakValueDictionary()
        self._dropped: deque[Bytes] = deque()  # of views that nobody has any more
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """A buffer of `size` bytes with any content. It may be forgotten instead of given back."""
        if size < _GRAIN:
            return np.empty(size, np.uint8)
        buffer = self._best_fit(size)
        if buffer is None:
            buffer = np.empty(-(-size // _GRAIN) * _GRAIN, np.uint8)
        view = buffer[:size]
        with self._lock:
            self._lent[id(view)] = view
        return view

    def take_until_dropped(self, size: int) -> Bytes:
        """Likewise; it comes back by itself once nobody holds the view, which `give` then ignores.

        Slices of the view do not hold it, since numpy makes them views of the buffer; a torch
        tensor over it does, and so do that tensor's own views.
        """
        view = self.take(size)
        if isinstance(view.base, np.ndarray):
            with self._lock:
                del self._lent[id(view)]
            # No lock in there: the garbage collector may run it in a thread that holds the lock.
            weakref.finalize(view, _drop, weakref.ref(self), view.base).atexit = False
        return view

    def _best_fit(self, size: int) -> Bytes | None:
        with self._lock:
            while self._dropped:
                self._keep(self._dropped.popleft())
            fitting = [b.size for b in self._free if size <= b.size <= 4 * size]
            if not fitting:
                return None
            best = min(fitting)
            # The one given back last, which may still be in caches
            at = max(i for i, b in enumerate(self._free) if b.size == best)
            self._kept -= best
            return self._free.pop(at)

    def give(self, view: object) -> None:
        """Gives back what `take` returned; it must not be used after that."""
        with self._lock:
            if self._lent.get(id(view)) is not view or not isinstance(view, np.ndarray):
                return
            del self._lent[id(view)]
            if isinstance(view.base, np.ndarray):
                self._keep(view.base)

    def _keep(self, buffer: Bytes) -> None:
        if self._kept + buffer.size <= self._most:
            self._free.append(buffer)
            self._kept += buffer.size

    def drop(self, buffer: Bytes) -> None:
        """Takes back a buffer of which nobody has the view any more; needs no lock."""
        waiting = sum(other.size for other in tuple(self._dropped))
        if self._kept + waiting + buffer.size <= self._most:
            self._dropped.append(buffer)

    @contextmanager
    def lend(self, size: int) -> Iterator[Bytes]:
        """Likewise, for a `with` block, at whose end the buffer is given back."""
        view = self.take(size)
        try:
            yield view
        finally:
            self.give(view)

    def clear(self) -> None:
        """Lets go of all that was given back, where memory matters more than time."""
        with self._lock:
            self._free.clear()
            self._dropped.clear()
            self._kept = 0


def _drop(pool: "weakref.ref[BufferPool]", buffer: Bytes) -> None:
    found = pool()
    if found is not None:
        found.drop(buffer)


_MAX_KEPT = 96 << 20
POOL = BufferPool(_MAX_KEPT)
if hasattr(os, "register_at_fork"):  # the pool may just have been in use by another thread
    os.register_at_fork(after_in_child=lambda: POOL.__init__(_MAX_KEPT))  # type: ignore[misc]


def release_free_memory() -> None:
    """Gives what the pool and the C library's allocator hold back to the system, where it can.

    Without it, glibc keeps what was freed between blocks that are in use, for later ones.
    """
    POOL.clear()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _LINUX else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


_M_MMAP_THRESHOLD = -3  # of mallopt
_MAPPED = 1 << 21


def map_large_blocks() -> None:
    """Makes glibc's allocator map blocks of 2 MB and more one by one, in the whole process.

    By itself it raises that size to as much as 32 MB once such blocks were freed, and then cuts
    large blocks from heaps, where small ones that live longer hold their memory back. Does nothing
    where the environment sets that size, or the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if _LINUX else None
    if mallopt is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)


class ThreadBuffers:
    """Buffers by name that each thread has for itself, for work that ends before its caller's."""

    def __init__(self) -> None:
        self._local = threading.local()

    def take(self, name: str, size: int) -> Bytes:
        """A buffer of `size` bytes; what this thread had in the one of that name is lost."""
        buffer: Bytes | None = getattr(self._local, name, None)
        if buffer is None or buffer.size < size:
            buffer = np.empty(size, np.uint8)
            setattr(self._local, name, buffer)
        return buffer[:size]


LARGE = 1 << 22  # bytes of an object from which huge pages are asked for
_MADV_HUGEPAGE = 14
_BYTES_HEAD = bytes.__basicsize__ - 1  # before the first byte; that for the final NUL is counted in


class NewBytes:
    """A bytes object that is being filled: what is written there is the result, without a copy.

    `PyBytes_FromStringAndSize` without a string is documented to return an object that its creator
    fills in, and `_PyBytes_Resize` to change the size of one that nobody else has seen yet. Large
    ones are placed in huge pages where the system has them, since page faults of 4 KB pages cost
    most of filling them. `size`: bytes at first, with any content. Not for several threads.
    """

    def __init__(self, size: int) -> None:
        self._object = ctypes.c_void_p()  # the only reference; empty once it was handed out
        if size > sys.maxsize - _BYTES_HEAD - 1:  # which would become negative on its way
            raise MemoryError(f"not enough memory for {size} bytes")
        self.size = size
        create = ctypes.pythonapi.PyBytes_FromStringAndSize
        create.restype, create.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_ssize_t)
        self._object = ctypes.c_void_p(create(None, size))
        self._ask_for_huge_pages()

    @property
    def _address(self) -> int:
        return (self._object.value or 0) + _BYTES_HEAD

    def _ask_for_huge_pages(self) -> None:
        if self.size < LARGE or not _LINUX:
            return
        begin = -(-self._address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (self._address + self.size - begin) // mmap.PAGESIZE * mmap.PAGESIZE
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_int(_MADV_HUGEPAGE))

    def resize(self, size: int) -> None:
        """Makes it longer or shorter; what fits of its content stays."""
        change = ctypes.pythonapi._PyBytes_Resize
        change.restype, change.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_ssize_t)
        grows = size > self.size
        if change(ctypes.byref(self._object), size):
            raise MemoryError(f"not enough memory for {size} bytes")
        self.size = size
        if grows:
            self._ask_for_huge_pages()

    def put(self, at: int, data: Bytes) -> None:
        """Writes a C-contiguous uint8 array to the bytes from `at` on."""
        if not 0 <= at <= self.size - data.size:
            raise ValueError("outside of the bytes")
        ctypes.memmove(self._address + at, data.ctypes.data, data.size)

    def memory(self) -> Bytes:
        """Its bytes, to be filled; not to be used once it has another size or was handed out."""
        return np.asarray(_Memory(self, self._address, self.size))

    def finished(self) -> bytes:
        """The object; nothing can be written afterwards."""
        result: bytes = ctypes.cast(self._object, ctypes.py_object).value
        self._drop()
        return result

    def _drop(self) -> None:
        reference, self._object = self._object, ctypes.c_void_p()
        if reference:
            release = ctypes.pythonapi.Py_DecRef
            release.restype, release.argtypes = None, (ctypes.c_void_p,)
            release(reference)

    def __del__(self) -> None:
        self._drop()


class _Memory:
    """Tells numpy of memory, whose owner is there for as long as arrays over it are."""

    def __init__(self, owner: NewBytes, address: int, size: int) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }
