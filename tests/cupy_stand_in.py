"""A stand-in for CuPy that runs kernels in the emulator; everything happens at once.

It knows what densor asks of CuPy, and no more.
"""

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from densor.gpu.emulate import EmulatedBackend


class Array(np.ndarray):
    """What densor needs of CuPy's arrays."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, source: np.ndarray) -> None:
        self[...] = source


def empty(shape: Any, dtype: Any) -> Array:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    whole = np.empty(size + 256, np.uint8)
    begin = -whole.ctypes.data % 256
    return whole[begin : begin + size].view(dtype).reshape(shape).view(Array)


def at_address(size: int, dtype: Any, pointer: Any) -> Array:
    memory = (ctypes.c_uint8 * size).from_address(pointer.mem.pointer)
    return np.frombuffer(memory, dtype).view(Array)


class Stream:
    """Notes what is asked of it; everything happens at once."""

    current: ClassVar[list["Stream"]] = []

    def __init__(self, non_blocking: bool = False) -> None:
        self.waited: list[Stream] = []

    def __enter__(self) -> "Stream":
        self.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def record(self) -> "Stream":
        return self

    def wait_event(self, event: "Stream") -> None:
        self.waited.append(event)


class Device:
    attributes: ClassVar[dict[str, int]] = {"MultiProcessorCount": 3}

    def __init__(self, number: int | None) -> None:
        self.id = number or 0

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class RawModule:
    made: ClassVar[list[str]] = []

    def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
        assert "__global__" in code and "-std=c++17" in options and backend == "nvrtc"
        self.made.append(code)

    def get_function(self, name: str) -> Any:
        on = EmulatedBackend()

        def run(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
            assert Stream.current  # a stream was chosen
            on.launch(name, *grid, *block, args)

        return run


def new_module() -> Any:
    """A module that stands for `cupy`."""
    module: Any = ModuleType("cupy")
    default = Stream()
    module.empty, module.ndarray, module.RawModule = empty, at_address, RawModule
    module.asnumpy = lambda array: np.array(array)
    module.cuda = SimpleNamespace(
        Device=Device,
        Stream=Stream,
        get_current_stream=lambda: Stream.current[-1] if Stream.current else default,
        UnownedMemory=lambda pointer, size, owner, device: SimpleNamespace(pointer=pointer),
        MemoryPointer=lambda memory, offset: SimpleNamespace(mem=memory),
        runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=OSError),
    )
    RawModule.made.clear()
    return module
