"""Buffers that are used again: fresh memory costs page faults, often more than the work in it."""

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
