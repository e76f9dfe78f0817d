"""Tensors of packed files as bytes in memory of their own."""

import mmap
from collections.abc import Callable

import numpy as np

from densor.errors import LimitError
from densor.formats.container import wire
from densor.formats.container.base import GivenBase
from densor.formats.container.tensor_blob import Tensor
from densor.formats.io.sources import Bytes
from densor.formats.packed.reader import PackedFile
from densor.runtime.buffers import BufferPool
from densor.runtime.huge_pages import HUGE_PAGES
from densor.runtime.workers import thread_count

_LARGE = 1 << 25  # bytes
_MOST_TIMES = 16  # as large as what is stored
_MAPPED = 1 << 20  # bytes from which memory is a mapping of its own
_ALIGNED = 64  # bytes, as torch has it
# Or what the child of a fork writes to its weights would be in those of its parent
_OWN = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def threads_of(size: int, threads: int, total: int = 0) -> int:
    """How many threads decode a tensor where each of so many has one: all of them a large one.

    `total`: bytes of all tensors, where they are known. One is large then only if the others might
    be done before it: more threads than processors wait for one another.
    """
    enough = total // (2 * thread_count(threads))
    return threads if size >= max(_LARGE, enough) else 1


def read_bytes(
    file: PackedFile,
    name: str,
    threads: int = 0,
    base_of: Callable[[Tensor], GivenBase] | None = None,
    pool: BufferPool | None = None,
) -> Bytes:
    """The bytes of a tensor of a file, in memory of their own.

    With a `pool` it is from there, and goes back when the array and all that holds it are gone.
    """
    size = file.info(name).size
    stored = file.stored(name).size
    if file.is_blob(name):
        wire.check_possible(size, stored)
    out = _memory(size, stored) if pool is None else pool.take_until_dropped(size)
    data = file.read(name, threads, base_of, out)
    if data is not out:  # a plain tensor
        out[:] = data
    return out


def _memory(size: int, stored: int) -> Bytes:
    """Fresh memory: in huge pages if they are quick, else a mapping, since numpy asks for huge ones
    however long they take.

    Huge pages are filled at once, before what is `stored` has shown that it is worth so much.
    """
    found = HUGE_PAGES.take(size) if size <= _MOST_TIMES * stored else None
    if found is not None:
        return found
    try:
        if size >= _MAPPED:
            return np.frombuffer(mmap.mmap(-1, size, **_OWN), np.uint8)
        memory = np.empty(size + _ALIGNED, np.uint8)
    except (MemoryError, OSError):
        raise LimitError(f"not enough memory for {size} bytes") from None
    return memory[-memory.ctypes.data % _ALIGNED :][:size]
