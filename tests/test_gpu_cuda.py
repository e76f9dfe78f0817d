"""The CuPy backend's own logic, with a stand-in for CuPy that runs the kernels in the emulator.

No more than that: what CuPy and a GPU really do shows on a GPU only.
"""

import ctypes
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import densor
import densor.gpu
from densor.errors import ArgumentError, UnsupportedError
from densor.gpu import Block, Prefetch, emulate, samples
from densor.gpu.cuda import CudaBackend
from densor.gpu.emulate import EmulatedBackend
from densor.gpu.tensors import Packed

if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)


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


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
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
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(RawModule, "made", [])
    yield module


def test_decodes(cupy: ModuleType) -> None:
    data = samples.weights("BF16", 20000)
    blob = densor.save({"w": data.view(np.uint16).reshape(200, 100)}, level=3)
    found = densor.gpu.decode(blob, backend=densor.gpu.backend("cuda", 0))["w"]
    assert isinstance(found, Array) and found.shape == (200, 100)
    assert found.tobytes() == data.tobytes()


def test_compiles_each_file_once(cupy: ModuleType) -> None:
    on = CudaBackend()
    for _ in range(2):
        for codec in (samples.planar, samples.scales):
            data = samples.weights("F16", 3000)
            out = on.empty(data.size)
            Block([codec(data, "F16")], on).decode_into([out])
            assert (on.read(out) == data).all()
    assert len(RawModule.made) == 2


def test_arrays(cupy: ModuleType) -> None:
    on = CudaBackend()
    with pytest.raises(ArgumentError, match="contiguous"):
        on.wrap(empty((4, 4), "u2").T)
    host = SimpleNamespace(data_ptr=lambda: 0, is_cuda=False, is_contiguous=lambda: True)
    with pytest.raises(ArgumentError, match="on the device"):
        on.wrap(host)
    whole = on.new("U8", (20,))
    assert on.view(whole, 4, "F32", (2, 2)).shape == (2, 2)


def packed(elements: int, seed: int) -> Packed:
    found = samples.planar(samples.weights("BF16", elements, seed=seed), "BF16")
    place = found.tensors[0]._replace(name=f"w{seed}")
    return found._replace(tensors=(place,))


def test_prefetch(cupy: ModuleType) -> None:
    """Blocks of different sizes, in order, again, and from another one on."""
    for on in (CudaBackend(), EmulatedBackend()):
        parts = [[packed(300 * (i + 1), i), packed(70, 9)][: 1 + i % 2] for i in range(3)]
        ahead = Prefetch([Block(part, on) for part in parts], on)
        for number in (0, 1, 2, 0, 1, 0):
            for name, tensor in ahead.get(number).items():
                seed = int(name[1:])
                elements = 70 if seed == 9 else 300 * (number + 1)
                assert tensor.tobytes() == samples.weights("BF16", elements, seed=seed).tobytes()
        ahead.check()


def test_prefetch_waits_both_ways(cupy: ModuleType) -> None:
    """The side stream waits for the current one before it overwrites, and the other way round."""
    on = CudaBackend()
    ahead = Prefetch([Block([packed(300, 1)], on)], on)
    side, current = ahead._lane._stream, cupy.cuda.get_current_stream()  # type: ignore[attr-defined]
    ahead.get(0)
    assert side.waited == [current, current] and current.waited == [side]
    with pytest.raises(ValueError):
        Prefetch([], on)


def test_without_a_device(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(UnsupportedError, match="no GPU"):
        CudaBackend()

    def fails() -> int:
        raise OSError("no driver")

    cupy.cuda.runtime.getDeviceCount = fails
    with pytest.raises(UnsupportedError, match="no driver"):
        CudaBackend()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(UnsupportedError, match=r"densor\[gpu\]"):
        CudaBackend()
