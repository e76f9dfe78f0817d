"""Buffers that are used again: fresh memory costs page faults, often more than the work in it."""

import ctypes
import mmap
import sys
import threading
import weakref

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
_GRAIN = 1 << 16  # sizes are rounded up to this; smaller buffers are not worth keeping


class BufferPool:
    """Lends byte buffers and keeps at most `most` bytes of those that were given back."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[Bytes] = []
        self._kept = 0
        self._lent: weakref.WeakValueDictionary[int, Bytes] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """A buffer of `size` bytes with any content. It may be forgotten instead of given back."""
        if size < _GRAIN:
            return np.empty(size, np.uint8)
        with self._lock:
            fitting = [i for i, buffer in enumerate(self._free) if size <= buffer.size <= 4 * size]
            if fitting:
                buffer = self._free.pop(min(fitting, key=lambda i: self._free[i].size))
                self._kept -= buffer.size
                self._lent[id(buffer)] = buffer
                return buffer[:size]
        buffer = np.empty(-(-size // _GRAIN) * _GRAIN, np.uint8)
        with self._lock:
            self._lent[id(buffer)] = buffer
        return buffer[:size]

    def give(self, buffer: object) -> None:
        """Gives a buffer back, which nobody may use any more; anything else is ignored."""
        owner = getattr(buffer, "base", None)
        if not isinstance(owner, np.ndarray):
            return
        with self._lock:
            if self._lent.pop(id(owner), None) is owner and self._kept + owner.size <= self._most:
                self._free.append(owner)
                self._kept += owner.size


POOL = BufferPool(96 << 20)

_HUGE = 1 << 22  # bytes from which huge pages are asked for
_MADV_HUGEPAGE = 14


def new_bytes(data: Bytes) -> bytes:
    """The content of `data` as bytes, like `data.tobytes()`.

    Large results are placed in huge pages where the system has them: the page faults of 4 KB
    pages take longer than compressing what fills them. `PyBytes_FromStringAndSize` without a
    string is documented to return an object that its creator fills in.
    """
    if data.size < _HUGE or not sys.platform.startswith("linux"):
        return data.tobytes()
    create = ctypes.pythonapi.PyBytes_FromStringAndSize
    create.restype, create.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
    result: bytes = create(None, data.size)
    address = id(result) + bytes.__basicsize__ - 1  # the byte for the final NUL is counted in
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + data.size - begin) // mmap.PAGESIZE * mmap.PAGESIZE
    advise = ctypes.CDLL(None).madvise
    advise(ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_int(_MADV_HUGEPAGE))
    ctypes.memmove(address, data.ctypes.data, data.size)
    return result
