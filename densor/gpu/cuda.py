"""Kernels on a GPU, by way of CuPy: compiled by NVRTC for the device at hand on first use.

Works without torch; where torch is imported, its tensors are taken by their addresses and its
current stream is the one that everything goes to. No GPU has run this yet: see docs/gpu.md.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.dtypes import SIZES, to_torch
from densor.errors import ArgumentError, UnsupportedError
from densor.gpu.backend import FILES, kernels, part, source
from densor.runtime.types import Bytes

_HINT = 'pip install "densor[gpu]"'
_UINTS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64", 16: "complex128"}


class CudaBuffer:
    """Memory of a device. `owner` keeps it alive."""

    def __init__(self, pointer: int, size: int, owner: Any) -> None:
        self.pointer = pointer
        self.size = size
        self.owner = owner


class CudaBackend:
    """A `Backend` on a CUDA device, by default the current one.

    UnsupportedError without CuPy, or without a GPU that it can use.
    """

    name = "cuda"

    def __init__(self, device: int | None = None) -> None:
        self._cupy = cupy = _import_cupy()
        self._device = cupy.cuda.Device(device)
        self.number: int = self._device.id
        self.processors: int = self._device.attributes["MultiProcessorCount"]
        self._functions: dict[str, Any] = {}

    def empty(self, size: int) -> CudaBuffer:
        """See `Backend`; torch's if torch is imported, so that one allocator has all memory."""
        torch = self._torch()
        if torch is not None:
            tensor = torch.empty(size, dtype=torch.uint8, device=torch.device("cuda", self.number))
            return CudaBuffer(tensor.data_ptr(), size, tensor)
        with self._device, self._stream():
            array = self._cupy.empty(size, np.uint8)
        return CudaBuffer(array.data.ptr, size, array)

    def new(self, dtype: str, shape: tuple[int, ...]) -> Any:
        """See `Backend`; a torch tensor if torch is imported, else a CuPy array of the bits."""
        torch = self._torch()
        if torch is not None:
            device = torch.device("cuda", self.number)
            return torch.empty(shape, dtype=to_torch(dtype), device=device)
        with self._device, self._stream():
            return self._cupy.empty(shape, _UINTS[SIZES[dtype]])

    def view(self, array: Any, begin: int, dtype: str, shape: tuple[int, ...]) -> Any:
        """See `Backend`."""
        piece = array[begin : begin + math.prod(shape) * SIZES[dtype]]
        kind = to_torch(dtype) if hasattr(array, "data_ptr") else _UINTS[SIZES[dtype]]
        return piece.view(kind).reshape(shape)

    def wrap(self, array: Any) -> CudaBuffer:
        """See `Backend`; takes torch tensors and CuPy arrays."""
        if isinstance(array, CudaBuffer):
            return array
        if hasattr(array, "data_ptr"):
            if not array.is_cuda or not array.is_contiguous():
                raise ArgumentError("memory of a tensor must be contiguous and on the device")
            return CudaBuffer(array.data_ptr(), array.numel() * array.element_size(), array)
        if not array.flags.c_contiguous:
            raise ArgumentError("memory of a tensor must be contiguous")
        return CudaBuffer(array.data.ptr, array.nbytes, array)

    def write(self, buffer: CudaBuffer, data: npt.NDArray[Any]) -> None:
        """See `Backend`."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        with self._device, self._stream():
            self._view(buffer)[: flat.size].set(flat)

    def read(self, buffer: CudaBuffer, begin: int = 0, size: int | None = None) -> Bytes:
        """See `Backend`."""
        end = buffer.size if size is None else begin + size
        with self._device, self._stream():
            content: Bytes = self._cupy.asnumpy(self._view(buffer)[begin:end])
        return content

    def stream(self) -> "CudaStream":
        """See `Backend`."""
        torch = self._torch()
        if torch is not None:
            return CudaStream(torch.cuda.Stream(self.number), torch.cuda.stream, self)
        with self._device:
            stream = self._cupy.cuda.Stream(non_blocking=True)
        return CudaStream(stream, _entered, self)

    def wait(self, waiting: Any, other: Any) -> None:
        """Lets one stream wait for all that was started on another, of the same library."""
        if hasattr(waiting, "wait_stream"):
            waiting.wait_stream(other)
        else:
            waiting.wait_event(other.record())

    def current(self) -> Any:
        """The current stream, torch's if it is there."""
        torch = self._torch()
        if torch is not None:
            return torch.cuda.current_stream(self.number)
        return self._cupy.cuda.get_current_stream()

    def poison(self, buffer: CudaBuffer, gaps: Iterable[tuple[int, int]]) -> None:
        """See `Backend`; CUDA does not check accesses, so nothing is done."""

    def launch(self, kernel: str, blocks: int, threads: int, args: Sequence[np.generic]) -> None:
        """See `Backend`. The stream is looked up anew each time, so that graphs can be captured."""
        with self._device, self._stream():
            self._function(kernel)((blocks,), (threads,), tuple(args))

    def _view(self, buffer: CudaBuffer) -> Any:
        cuda = self._cupy.cuda
        memory = cuda.UnownedMemory(buffer.pointer, buffer.size, buffer.owner, self.number)
        pointer = cuda.MemoryPointer(memory, 0)
        return self._cupy.ndarray(buffer.size, np.uint8, pointer)

    def _stream(self) -> Any:
        """The current stream, as CuPy's."""
        stream = self.current()
        if not hasattr(stream, "cuda_stream"):
            return stream
        return self._cupy.cuda.ExternalStream(stream.cuda_stream, self.number)

    @staticmethod
    def _torch() -> Any:
        """Torch, where it is imported and can use a GPU."""
        torch = sys.modules.get("torch")
        return torch if torch is not None and torch.cuda.is_available() else None

    def _function(self, kernel: str) -> Any:
        """A kernel, compiled with the others of its file to a cubin, which CuPy keeps on disk."""
        if kernel not in self._functions:
            name = next(file for file in FILES if kernel in kernels(part(file)))
            options = ("-std=c++17",)
            module = self._cupy.RawModule(code=source(name), options=options, backend="nvrtc")
            for each in kernels(part(name)):
                self._functions[each] = module.get_function(each)
        return self._functions[kernel]


class CudaStream:
    """A stream beside the current one. `enter`: makes a context in which it is current."""

    def __init__(self, stream: Any, enter: Callable[[Any], Any], backend: CudaBackend) -> None:
        self._stream = stream
        self._enter = enter
        self._backend = backend

    @contextmanager
    def work(self) -> Iterator[None]:
        """See `Stream`."""
        self._backend.wait(self._stream, self._backend.current())
        with self._enter(self._stream):
            yield

    def join(self) -> None:
        """See `Stream`."""
        self._backend.wait(self._backend.current(), self._stream)


def _entered(stream: Any) -> Any:
    """CuPy's streams are contexts themselves."""
    return stream


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError:
        raise UnsupportedError(f"decoding on a GPU needs CuPy: {_HINT}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnsupportedError(f"CuPy finds no GPU that it can use: {error}") from None
    if not count:
        raise UnsupportedError("CuPy finds no GPU")
    return cupy
