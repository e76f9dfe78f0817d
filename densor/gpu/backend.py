"""What runs kernels: a GPU by way of CuPy, or the emulator. Both are called alike."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib import resources
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from densor.runtime.types import Bytes as Bytes

_KERNEL = re.compile(
    r"^(?:HUFFMAN|RANS|MATVEC)\((\w+),|^extern .*__global__.* (\w+)\($", re.MULTILINE
)
COMMON = "common.cuh"
FILES = ("huffman.cu", "rans.cu", "palette.cu")


class Buffer(Protocol):
    """Memory that a backend allocated or wrapped."""

    @property
    def pointer(self) -> int:
        """The address that kernels see; a multiple of 256 where the backend allocated it."""

    @property
    def size(self) -> int:
        """Its bytes that kernels may use."""


class Stream(Protocol):
    """A second order of work beside the current stream, as CUDA's streams are."""

    def work(self) -> AbstractContextManager[None]:
        """What is started within goes to this stream, and begins once what was started before on
        the current one is done."""

    def join(self) -> None:
        """What is started from now on, on the current stream, waits for this one."""

    def keep(self, arrays: Iterable[Any]) -> None:
        """Memory of these arrays is not used for others before the work that was started on this
        stream is done, even if they are dropped."""


class Backend(Protocol):
    """Allocates memory, copies, and starts kernels, in the order of the calls."""

    name: str
    processors: int  # that run blocks at the same time, a hint

    def empty(self, size: int) -> Buffer:
        """Memory of `size` bytes with any content."""

    def wrap(self, array: Any) -> Buffer:
        """The memory of a contiguous array that is already there: numpy's here, torch's or CuPy's
        on a GPU. It must outlive the buffer."""

    def new(self, dtype: str, shape: tuple[int, ...]) -> Any:
        """A new array for a tensor, of the kind that `wrap` takes."""

    def view(self, array: Any, begin: int, dtype: str, shape: tuple[int, ...]) -> Any:
        """A tensor from byte `begin` on of an array of U8 that `new` made."""

    def write(self, buffer: Any, data: npt.NDArray[Any]) -> None:
        """Copies `data` to the start of a buffer, which is at least as large."""

    def read(self, buffer: Any, begin: int = 0, size: int | None = None) -> Bytes:
        """A copy of a buffer's content from byte `begin` on, `size` bytes or all that is left,
        once all that was started before is done."""

    def stream(self) -> Stream:
        """A new stream beside the current one."""

    def poison(self, buffer: Any, gaps: Iterable[tuple[int, int]]) -> None:
        """Marks bytes `begin` to `end` of each gap, which no kernel may touch. A backend that does
        not check accesses, such as CUDA, does nothing."""

    def launch(self, kernel: str, blocks: int, threads: int, args: Sequence[np.generic]) -> None:
        """Starts `blocks` blocks of `threads` threads. `args`: pointers as uint64, numbers as the
        kernel takes them."""


@cache
def part(name: str) -> str:
    """One of the files that kernels are made of."""
    return (resources.files("densor.gpu") / "kernels" / name).read_text()


def source(name: str) -> str:
    """A file of kernels with what stands before each of them, complete for a compiler."""
    return part(COMMON) + part(name)


def kernels(text: str) -> list[str]:
    """Names of the kernels in a file: of macros that define one, and of those written out."""
    return [a or b for a, b in _KERNEL.findall(text)]


def upload(backend: Backend, data: npt.NDArray[Any]) -> Buffer:
    """New memory that holds `data`."""
    buffer = backend.empty(max(data.nbytes, 1))
    backend.write(buffer, data)
    return buffer
