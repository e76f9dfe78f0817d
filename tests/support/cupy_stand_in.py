"""Stand-ins for CuPy and for a torch with a GPU, which run kernels in the emulator, all at once.

They know what densor asks of either, and no more.
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
        if "probe" not in code:
            self.made.append(code)

    def get_function(self, name: str) -> Any:
        on = EmulatedBackend()

        def run(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
            assert Stream.current  # a stream was chosen
            on.launch(name, *grid, *block, args)

        return run


class TorchStream:
    """A stream of torch; notes which others it waits for."""

    made: ClassVar[list["TorchStream"]] = []
    current: ClassVar[list["TorchStream"]] = []

    def __init__(self, device: int) -> None:
        self.made.append(self)
        self.cuda_stream = len(self.made)
        self.waited: list[TorchStream] = []

    def wait_stream(self, other: "TorchStream") -> None:
        self.waited.append(other)

    def __enter__(self) -> None:
        self.current.append(self)

    def __exit__(self, *_: object) -> None:
        self.current.pop()


def torch_with_gpu(torch: Any) -> Any:
    """Torch as a backend sees it, whose device is main memory."""
    default = TorchStream(0)
    return SimpleNamespace(
        uint8=torch.uint8,
        device=lambda kind, number: torch.device("cpu"),
        empty=torch.empty,
        cuda=SimpleNamespace(
            is_available=lambda: True,
            Stream=TorchStream,
            stream=lambda stream: stream,
            current_stream=lambda device: [default, *TorchStream.current][-1],
        ),
    )


def new_module() -> Any:
    """A module that stands for `cupy`."""
    module: Any = ModuleType("cupy")
    default = Stream()
    module.empty, module.ndarray, module.RawModule = empty, at_address, RawModule
    module.asnumpy = lambda array: np.array(array)
    module.cuda = SimpleNamespace(
        Device=Device,
        Stream=Stream,
        ExternalStream=lambda pointer, device: Stream(),
        get_current_stream=lambda: Stream.current[-1] if Stream.current else default,
        UnownedMemory=lambda pointer, size, owner, device: SimpleNamespace(pointer=pointer),
        MemoryPointer=lambda memory, offset: SimpleNamespace(mem=memory),
        runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=OSError),
    )
    RawModule.made.clear()
    return module
