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
from densor.errors import ArgumentError, DensorError, LimitError, UnsupportedError
from densor.gpu.backend import FILES, kernels, part, source
from densor.runtime.types import Bytes

_HINT = 'pip install "densor[gpu]", or "densor[gpu13]" for CUDA 13'
_OPTIONS = ("-std=c++17",)
_PROBE = 'extern "C" __global__ void probe(int *out) { *out = 1; }'
_UINTS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64", 16: "complex128"}


class CudaBuffer:
    """Memory of a device. `owner` keeps it alive."""

    def __init__(self, pointer: int, size: int, owner: Any) -> None:
        self.pointer = pointer
        self.size = size
        self.owner = owner


class CudaBackend:
    """A `Backend` on a CUDA device, by default the current one.

    UnsupportedError without CuPy, without a GPU that it can use, or where CuPy cannot compile: its
    wheels bring no compiler, which a CUDA toolkit, torch's wheels or CuPy's extra `ctk` do.
    Torch is used if it has been imported by now and can use a GPU. What fails later is a
    LimitError, where memory does not suffice, or an UnsupportedError with CUDA's words.
    """

    name = "cuda"

    def __init__(self, device: int | None = None) -> None:
        self._cupy = cupy = _import_cupy()
        self._functions: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}  # CuPy's, by address
        torch = sys.modules.get("torch")
        self._torch = torch if torch is not None and torch.cuda.is_available() else None
        with self._failures("GPU"):
            self._device = cupy.cuda.Device(device)
            self.number: int = self._device.id
            self.processors: int = self._device.attributes["MultiProcessorCount"]
        with self._failures(f"CuPy cannot compile kernels ({_HINT})"), self._device:
            module = cupy.RawModule(code=_PROBE, options=_OPTIONS, backend="nvrtc")
            module.get_function("probe")

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Makes errors of ours of those that CuPy, torch and CUDA raise."""
        try:
            yield
        except DensorError:
            raise
        except MemoryError as error:  # CuPy's
            raise LimitError(f"{what}: not enough memory on the GPU: {error}") from error
        except (ImportError, OSError, RuntimeError) as error:  # CUDA's, the compiler's, torch's
            if type(error).__name__ == "OutOfMemoryError":
                raise LimitError(f"{what}: not enough memory on the GPU: {error}") from error
            raise UnsupportedError(f"{what}: {error}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("cupy", "cupy_backends", "torch"):
                raise
            raise UnsupportedError(f"{what}: {error}") from error

    def empty(self, size: int) -> CudaBuffer:
        """See `Backend`; torch's if torch is imported, so that one allocator has all memory."""
        torch, what = self._torch, f"{size} bytes"
        if torch is not None:
            with self._failures(what):
                device = torch.device("cuda", self.number)
                tensor = torch.empty(size, dtype=torch.uint8, device=device)
            return CudaBuffer(tensor.data_ptr(), size, tensor)
        with self._failures(what), self._device, self._stream():
            array = self._cupy.empty(size, np.uint8)
        return CudaBuffer(array.data.ptr, size, array)

    def new(self, dtype: str, shape: tuple[int, ...]) -> Any:
        """See `Backend`; a torch tensor if torch is imported, else a CuPy array of the bits."""
        torch, what = self._torch, f"{math.prod(shape) * SIZES[dtype]} bytes"
        if torch is not None:
            with self._failures(what):
                device = torch.device("cuda", self.number)
                return torch.empty(shape, dtype=to_torch(dtype), device=device)
        with self._failures(what), self._device, self._stream():
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
        with self._failures("copy to the GPU"), self._device, self._stream():
            self._view(buffer)[: flat.size].set(flat)

    def read(self, buffer: CudaBuffer, begin: int = 0, size: int | None = None) -> Bytes:
        """See `Backend`."""
        end = buffer.size if size is None else begin + size
        with self._failures("copy from the GPU"), self._device, self._stream():
            content: Bytes = self._cupy.asnumpy(self._view(buffer)[begin:end])
        return content

    def stream(self) -> "CudaStream":
        """See `Backend`."""
        torch = self._torch
        if torch is not None:
            return CudaStream(torch.cuda.Stream(self.number), torch.cuda.stream, self)
        with self._device:
            stream = self._cupy.cuda.Stream(non_blocking=True)
        return CudaStream(stream, self._entered, self)

    def wait(self, waiting: Any, other: Any) -> None:
        """Lets one stream wait for all that was started on another, of the same library."""
        if hasattr(waiting, "wait_stream"):
            waiting.wait_stream(other)
        else:
            with self._device:
                waiting.wait_event(other.record())

    def current(self) -> Any:
        """The current stream, torch's if it is there."""
        if self._torch is not None:
            return self._torch.cuda.current_stream(self.number)
        with self._device:
            return self._cupy.cuda.get_current_stream()

    @contextmanager
    def _entered(self, stream: Any) -> Iterator[None]:
        """CuPy's streams are contexts themselves, on their device."""
        with self._device, stream:
            yield

    def poison(self, buffer: CudaBuffer, gaps: Iterable[tuple[int, int]]) -> None:
        """See `Backend`; CUDA does not check accesses, so nothing is done."""

    def launch(self, kernel: str, blocks: int, threads: int, args: Sequence[np.generic]) -> None:
        """See `Backend`. The stream is looked up anew each time, so that graphs can be captured."""
        with self._failures(f"kernel {kernel}"), self._device, self._stream():
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
        address = stream.cuda_stream
        if address not in self._streams:
            cuda = self._cupy.cuda
            if hasattr(cuda.Stream, "from_external"):
                self._streams[address] = cuda.Stream.from_external(_External(address))
            else:
                self._streams[address] = cuda.ExternalStream(address, self.number)
        return self._streams[address]

    def _function(self, kernel: str) -> Any:
        """A kernel, compiled with the others of its file to a cubin, which CuPy keeps on disk."""
        if kernel not in self._functions:
            name = next(file for file in FILES if kernel in kernels(part(file)))
            module = self._cupy.RawModule(code=source(name), options=_OPTIONS, backend="nvrtc")
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

    def keep(self, arrays: Iterable[Any]) -> None:
        """See `Stream`; torch's allocator is told, CuPy's frees in the order of the device."""
        for array in arrays:
            if getattr(array, "is_cuda", False):
                array.record_stream(self._stream)


class _External:
    """A stream of another library, by the protocol that CuPy knows it by."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


def _import_cupy() -> Any:
    try:
        import cupy
    except (ImportError, OSError) as error:  # its own reason may be a library that is missing
        raise UnsupportedError(f"decoding on a GPU needs CuPy: {_HINT} ({error})") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnsupportedError(f"CuPy finds no GPU that it can use: {error}") from None
    if not count:
        raise UnsupportedError("CuPy finds no GPU")
    return cupy
