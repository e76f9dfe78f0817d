"""The CuPy backend's own logic, with a stand-in for CuPy that runs the kernels in the emulator.

No more than that: what CuPy and a GPU really do shows on a GPU only.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from cupy_stand_in import Array, RawModule, empty

import densor
import densor.gpu
from densor.errors import ArgumentError, LimitError, UnsupportedError
from densor.gpu import Block, emulate, samples
from densor.gpu.cuda import CudaBackend
from densor.gpu.tensors import Packed

if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)


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


def test_streams_wait_both_ways(cupy: ModuleType) -> None:
    """The side stream waits for the current one before it overwrites, and the other way round."""
    side = CudaBackend().stream()
    current = cupy.cuda.get_current_stream()
    with side.work():
        pass
    side.join()
    assert side._stream.waited == [current]  # type: ignore[attr-defined]
    assert current.waited == [side._stream]  # type: ignore[attr-defined]


def test_without_a_compiler(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's wheels bring none: this is found at once, and said."""

    class CompileException(Exception):
        pass

    CompileException.__module__ = "cupy.cuda.compiler"
    for error in (RuntimeError("no headers"), OSError("libnvrtc"), CompileException("arch")):

        def fails(*args: object, error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(cupy, "RawModule", fails)
        with pytest.raises(UnsupportedError, match=r"cannot compile kernels.*densor\[gpu13\]"):
            CudaBackend()


def test_failures_on_the_device_are_ours(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    on = CudaBackend()

    class OutOfMemoryError(MemoryError):
        pass

    def out_of_memory(*args: object) -> None:
        raise OutOfMemoryError("all used")

    def lost(*args: object) -> None:
        raise OSError("illegal access")

    with monkeypatch.context() as patch:
        patch.setattr(cupy, "empty", out_of_memory)
        with pytest.raises(LimitError, match="12345 bytes: not enough memory on the GPU"):
            on.empty(12345)
    buffer = on.empty(16)
    with monkeypatch.context() as patch:
        patch.setattr(cupy, "asnumpy", lost)
        with pytest.raises(UnsupportedError, match="copy from the GPU: illegal access"):
            on.read(buffer)
    monkeypatch.setitem(on._functions, "huffman_bf16", lambda *args: lost())
    with pytest.raises(UnsupportedError, match="kernel huffman_bf16: illegal access"):
        on.launch("huffman_bf16", 1, 1, ())


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
