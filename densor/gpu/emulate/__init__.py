"""Kernels on the CPU: the same source, compiled by g++ on first use, every thread a fiber.

For tests, and for people without a GPU. Slow, and strict: see cuda_emu.h.
"""

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.dtypes import SIZES, to_numpy
from densor.errors import UnsupportedError
from densor.gpu.backend import COMMON, FILES, kernels, part
from densor.runtime.types import Bytes

ORDERS = ("up", "down", "shuffled")  # in which lanes of a warp run between two collectives
_ALIGNMENT = 256
_GUARD = 64  # bytes around memory that kernels must leave alone
_FILL = 0xC3
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-w")
_one_at_a_time = threading.Lock()


class KernelError(AssertionError):
    """A kernel broke a rule of CUDA, or wrote where it must not: a fault of the kernel."""


@cache
def _sanitizer() -> Any:
    """What forbids memory to code that AddressSanitizer watches; None where it is not loaded."""
    loaded = ctypes.CDLL(None)
    try:
        return loaded.__asan_poison_memory_region, loaded.__asan_unpoison_memory_region
    except AttributeError:
        return None


@contextmanager
def _poisoned(buffers: Iterable["HostBuffer"]) -> Iterator[None]:
    """Forbids the memory around buffers, and their gaps, while a kernel runs."""
    if _sanitizer() is None:
        yield
        return
    poison, unpoison = _sanitizer()
    stretches = [stretch for buffer in buffers for stretch in buffer.forbidden]
    for begin, size in stretches:
        poison(ctypes.c_void_p(begin), ctypes.c_size_t(size))
    try:
        yield
    finally:
        for begin, size in stretches:
            unpoison(ctypes.c_void_p(begin), ctypes.c_size_t(size))


class HostBuffer:
    """Memory between two guards, whose content must not change."""

    def __init__(self, size: int) -> None:
        whole = np.full(size + 2 * _GUARD + _ALIGNMENT, _FILL, np.uint8)
        begin = _GUARD + -(whole.ctypes.data + _GUARD) % _ALIGNMENT
        self._whole, self._begin = whole, begin
        self.array = whole[begin : begin + size]
        self.size = size
        self.pointer: int = self.array.ctypes.data
        # What no kernel may touch: addresses and sizes.
        self.forbidden = [
            (whole.ctypes.data, begin),
            (self.pointer + size, whole.size - begin - size),
        ]

    def check(self) -> None:
        """KernelError where a guard was written to."""
        end = self._begin + self.size
        before, after = self._whole[: self._begin], self._whole[end:]
        if (before != _FILL).any() or (after != _FILL).any():
            raise KernelError("a kernel wrote out of bounds")


class WrappedBuffer:
    """The memory of a numpy array, which must outlive this."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError("memory of a tensor must be contiguous and writable")
        self.array = array.reshape(-1).view(np.uint8)
        self.size = array.nbytes
        self.pointer: int = array.ctypes.data

    def check(self) -> None:
        """Does nothing: memory of another owner has no guard bytes."""


class OnlyStream:
    """A stream of a backend on which everything is done at once."""

    @contextmanager
    def work(self) -> Iterator[None]:
        """See `Stream`."""
        yield

    def join(self) -> None:
        """See `Stream`."""

    def keep(self, arrays: Iterable[Any]) -> None:
        """See `Stream`."""


class EmulatedBackend:
    """A `Backend` on the CPU. `order`: one of `ORDERS`; `flags`: more for the compiler; `parts`:
    sources of other kernels than those of densor.

    UnsupportedError where there is no compiler, or it fails.
    """

    name = "emulate"

    def __init__(
        self,
        order: str = "up",
        seed: int = 1,
        processors: int = 2,
        flags: Sequence[str] = (),
        parts: Sequence[str] | None = None,
    ) -> None:
        if parts is None:
            parts = [part(name) for name in (COMMON, *FILES)]
        self.processors = processors
        self._order = ORDERS.index(order)
        self._seed = seed
        self._library = ctypes.CDLL(str(library(parts, flags)))
        self._library.emu_error.restype = ctypes.c_char_p
        self._library.emu_config.argtypes = ctypes.c_int, ctypes.c_uint64
        self._buffers: weakref.WeakSet[HostBuffer] = weakref.WeakSet()

    def empty(self, size: int) -> HostBuffer:
        """See `Backend`."""
        buffer = HostBuffer(size)
        self._buffers.add(buffer)
        return buffer

    def wrap(self, array: Any) -> HostBuffer | WrappedBuffer:
        """See `Backend`."""
        return array if isinstance(array, HostBuffer) else WrappedBuffer(np.asarray(array))

    def new(self, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """See `Backend`; a numpy array."""
        size = math.prod(shape) * SIZES[dtype]
        whole = np.empty(size + _ALIGNMENT, np.uint8)
        begin = -whole.ctypes.data % _ALIGNMENT
        return whole[begin : begin + size].view(to_numpy(dtype)).reshape(shape)

    def view(self, array: Any, begin: int, dtype: str, shape: tuple[int, ...]) -> Any:
        """See `Backend`."""
        piece = array[begin : begin + math.prod(shape) * SIZES[dtype]]
        return piece.view(to_numpy(dtype)).reshape(shape)

    def write(self, buffer: Any, data: npt.NDArray[Any]) -> None:
        """See `Backend`."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        buffer.array[: flat.size] = flat

    def read(self, buffer: Any, begin: int = 0, size: int | None = None) -> Bytes:
        """See `Backend`."""
        buffer.check()
        end = buffer.size if size is None else begin + size
        content: Bytes = buffer.array[begin:end].copy()
        return content

    def stream(self) -> "OnlyStream":
        """See `Backend`; all streams are the same one."""
        return OnlyStream()

    def poison(self, buffer: Any, gaps: Iterable[tuple[int, int]]) -> None:
        """See `Backend`; for AddressSanitizer, where it is loaded."""
        if _sanitizer() is not None:
            buffer.forbidden += [(buffer.pointer + begin, end - begin) for begin, end in gaps]

    def launch(self, kernel: str, blocks: int, threads: int, args: Sequence[np.generic]) -> None:
        """See `Backend`. KernelError where the kernel breaks a rule."""
        values = [arg.reshape(1) for arg in args]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        # The emulator keeps its state in static variables.
        with _one_at_a_time, _poisoned(self._buffers):
            self._library.emu_config(self._order, self._seed)
            run = getattr(self._library, f"emu_{kernel}")
            failed = run(blocks, 1, 1, threads, 1, 1, pointers)
            if failed:
                raise KernelError(f"{kernel}: {self._library.emu_error().decode()}")


def compiler() -> str | None:
    """A C++ compiler, None if there is none."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def library(parts: Sequence[str], flags: Sequence[str] = ()) -> Path:
    """The compiled kernels of sources that go together, from the cache if they are there."""
    command = compiler()
    if command is None:
        raise UnsupportedError("emulating a GPU needs a C++ compiler such as g++")
    header = (resources.files("densor.gpu.emulate") / "cuda_emu.h").read_text()
    calls = [f"EMU_KERNEL({name})" for text in parts for name in kernels(text)]
    text = "\n".join([header, *parts, *calls, ""])
    key = hashlib.sha256("\0".join([text, command, *_FLAGS, *flags]).encode()).hexdigest()[:24]
    path = cache_folder() / f"kernels-{key}.so"
    if not path.exists():
        _compile(command, text, flags, path)
    return path


def cache_folder() -> Path:
    """Where compiled kernels are kept; `DENSOR_CACHE` names another place."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densor"
    folder = Path(os.environ.get("DENSOR_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(program: str, text: str, flags: Sequence[str], path: Path) -> None:
    """Compiles to a file of another name and renames it, so that nobody sees half of one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        code, made = Path(work) / "kernels.cpp", Path(work) / "kernels.so"
        code.write_text(text)
        command = [program, *_FLAGS, *flags, "-o", str(made), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnsupportedError(f"{program} cannot compile the emulator:\n{done.stderr[-2000:]}")
        os.replace(made, path)
