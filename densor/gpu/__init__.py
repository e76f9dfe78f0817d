"""Decoding on a GPU, from the bytes of the archive: see docs/gpu.md.

`load` keeps tensors packed in the memory of a device, `decode` unpacks them there at once. Both
take a `Backend`: `backend("cuda")`, or `backend("emulate")`, which runs the kernels on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from densor.api import File
from densor.errors import ArgumentError
from densor.gpu.backend import Backend
from densor.gpu.block import Block, Scratch
from densor.gpu.tensors import Packed, read_blob, read_packed

__all__ = [
    "Backend",
    "Block",
    "DeviceTensor",
    "Packed",
    "Scratch",
    "backend",
    "decode",
    "load",
    "read_blob",
    "read_packed",
]


def backend(name: Literal["cuda", "emulate"] | str = "cuda", device: int | None = None) -> Backend:
    """What runs kernels. `device`: number of the GPU, the current one by default.

    UnsupportedError, with the extra to install, where CuPy, a GPU or a compiler is missing.
    """
    if name == "cuda":
        from densor.gpu.cuda import CudaBackend

        return CudaBackend(device)
    if name == "emulate":
        from densor.gpu.emulate import EmulatedBackend

        return EmulatedBackend()
    raise ArgumentError(f"unknown backend {name!r}; known are cuda and emulate")


class DeviceTensor:
    """A tensor that is packed in a device's memory. `scratch` may be shared; see `Block`."""

    def __init__(
        self,
        packed: Packed,
        backend: Backend,
        *,
        scratch: Scratch | None = None,
        host: bool = True,
    ) -> None:
        (place,) = packed.tensors
        self.name, self.dtype, self.shape = place.name, place.dtype, place.shape
        self.size = place.size  # bytes once decoded
        self.block = Block([packed], backend, scratch=scratch, host=host)

    def decode(self, out: Any = None) -> Any:
        """The tensor, in `out` or a new array of the backend.

        ChecksumError where the packed bytes were damaged since they were loaded.
        """
        if out is not None and self.block.contents[0].size == self.size:
            self.block.decode_into([out])
            return out
        tensor = self.block.decode()[self.name]
        if out is None:
            return tensor
        out[...] = tensor
        return out

    def __repr__(self) -> str:
        return (
            f"DeviceTensor({self.name!r}, {self.dtype}, {list(self.shape)}, "
            f"{self.block.resident} of {self.size} bytes)"
        )


def load(
    source: Any,
    names: Iterable[str] | None = None,
    backend: Backend | str = "cuda",
    *,
    host: bool = True,
) -> dict[str, DeviceTensor]:
    """Tensors of an archive, packed, in the memory of a device.

    `source`: as for `densor.open`, or an open `densor.File`. `names`: all by default; KeyError for
    one that is not there. `host`: what no kernel decodes is decoded here, and kept unpacked.
    """
    on = _resolve(backend)
    scratch = Scratch(on)
    return {
        packed.name: DeviceTensor(packed, on, scratch=scratch, host=host)
        for packed in _packed(source, names, False)
    }


def decode(
    source: Any,
    names: Iterable[str] | None = None,
    backend: Backend | str = "cuda",
) -> dict[str, Any]:
    """Tensors of an archive, decoded on a device: torch's if torch is imported, else CuPy's.

    Arguments as for `load`. Needs memory for the packed tensors too, while it runs.
    """
    on = _resolve(backend)
    return Block(_packed(source, names, True), on).decode()


def _resolve(on: Backend | str) -> Backend:
    return backend(on) if isinstance(on, str) else on


def _packed(source: Any, names: Iterable[str] | None, together: bool) -> list[Packed]:
    if isinstance(source, File):
        return read_packed(source.archive, names, together=together)
    with File(source) as file:
        return read_packed(file.archive, names, together=together)
