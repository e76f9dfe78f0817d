"""Where packed weights are, if not in main memory: on a GPU, decoded there by `densor.gpu`.

The same with the emulator of `densor.gpu`, whose device is the CPU.
"""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from densor import dtypes
from densor.errors import ArgumentError, ChecksumError, UnsupportedError
from densor.formats.container.packed_array import PackedArray
from densor.formats.packed.reader import PackedFile

if TYPE_CHECKING:
    from densor.gpu.backend import Backend
    from densor.gpu.block import Block
    from densor.gpu.uploaded import UploadedArray

AUTO = "auto"
_EMULATED = "emulate"


class Device:
    """A backend of `densor.gpu`, and where torch has the tensors that it decodes to.

    All decoding is started on one stream beside the current one, one block after the other, so that
    blocks can share scratch memory. Safe to use from several threads.
    """

    def __init__(self, backend: "Backend", place: torch.device) -> None:
        from densor.gpu.block import Scratch

        self.backend = backend
        self.place = place
        self._scratch = Scratch(backend)
        self._stream = backend.stream()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return open_device, (self.place, self.backend.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Device":
        return self

    def memory(self, size: int) -> torch.Tensor:
        """New memory for decoded tensors, uint8[size], which any mode of autograd may use."""
        with torch.inference_mode(False):
            return torch.empty(size, dtype=torch.uint8, device=self.place)

    def upload(self, arrays: Sequence[PackedArray]) -> "list[DeviceArray]":
        """Packed arrays in one block; errors as for `densor.gpu.Block`."""
        from densor.gpu.uploaded import upload_arrays

        return [
            DeviceArray(uploaded, self)
            for uploaded in upload_arrays(arrays, self.backend, self._scratch)
        ]

    def decoded(self, array: PackedArray) -> torch.Tensor | None:
        """The tensor, compared with its hash; None where a chunk is for the CPU to decode."""
        (on_device,) = self.upload([array])
        if on_device.uploaded.block.on_host:
            return None
        (memory,) = self.verified([on_device], [array])
        return on_device.tensor_over(memory)

    def verified(
        self, uploaded: "Sequence[DeviceArray]", arrays: Sequence[PackedArray]
    ) -> list[torch.Tensor]:
        """What a block of arrays decodes to, in new memory; ChecksumError unless it is what was
        packed. Waits, and copies all of it to main memory."""
        memory = [self.memory(array.size) for array in arrays]
        if uploaded:
            block = uploaded[0].uploaded.block
            self.start(block, memory)
            self.join()
            block.check()
        for array, piece in zip(arrays, memory, strict=True):
            array.check(piece.cpu().numpy())
        return memory

    def start(self, block: "Block", outs: Sequence[torch.Tensor]) -> None:
        """Starts decoding a block to memory that work started before, in the current order, may
        still be using. Nothing is waited for."""
        with self._lock, self._stream.work():
            block.bind([self.backend.wrap(out) for out in outs])
            block.launch()
            self._stream.keep([*outs, getattr(block.data, "owner", None)])

    def join(self) -> None:
        """Work that is started from now on, in the current order, finds what `start` decodes."""
        self._stream.join()

    def follow(self) -> None:
        """What `start` starts from now on waits for the work in the current order."""
        with self._stream.work():
            pass


class DeviceArray:
    """A packed array in the memory of a device: what `PackedArray` is in main memory."""

    def __init__(self, uploaded: "UploadedArray", device: Device) -> None:
        self.uploaded, self.device = uploaded, device
        self.dtype, self.shape, self.size = uploaded.dtype, uploaded.shape, uploaded.size

    def __reduce__(self) -> Any:
        return _uploaded_again, (self.download(), self.device)

    @property
    def stored(self) -> int:
        """Bytes that it takes in the device's memory."""
        return self.uploaded.stored

    def tensor_over(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor in memory of its size, uint8[size]."""
        if not self.size:
            return memory.new_empty(self.shape, dtype=dtypes.to_torch(self.dtype))
        return memory.view(dtypes.to_torch(self.dtype)).view(self.shape)

    def decode(self) -> torch.Tensor:
        """The tensor, in fresh memory; ChecksumError where its packed bytes are damaged."""
        memory = self.device.memory(self.size)
        block = self.uploaded.alone()
        self.device.start(block, [memory])
        self.device.join()
        block.check()
        return self.tensor_over(memory)

    def download(self) -> PackedArray:
        """The packed array in main memory; its hashes are checked."""
        return self.uploaded.download()


def _uploaded_again(array: PackedArray, device: Device) -> DeviceArray:
    return device.upload([array])[0]


def open_device(device: Any = None, backend: Any = None) -> Device | None:
    """What packed weights are kept on; None for main memory.

    `device`: as for torch, such as "cuda:1", or "auto" for the GPU if it can be used, else main
    memory; or what this has returned before. `backend`: one of `densor.gpu`, or its name; "cuda" if
    the device is a GPU.

    UnsupportedError, with the extra to install, where a GPU is asked for and cannot be used.
    """
    if isinstance(device, Device):
        return device
    if device == AUTO:
        try:
            return open_device("cuda", backend)
        except UnsupportedError:
            return None
    place = None if device is None else torch.device(device)
    if backend is None and (place is None or place.type == "cpu"):
        return None
    name = backend if isinstance(backend, str) else getattr(backend, "name", "cuda")
    kind = "cpu" if name == _EMULATED else "cuda"
    if place is not None and place.type != kind:
        raise ArgumentError(f"packed weights cannot be decoded on {place} by {name}")
    index = None if place is None else place.index
    if backend is None or isinstance(backend, str):
        from densor import gpu

        backend = gpu.backend(name, index)
    if kind == "cpu":
        return Device(backend, torch.device("cpu"))
    if not torch.cuda.is_available():
        raise UnsupportedError(f"torch {torch.__version__} finds no GPU; install one for CUDA")
    return Device(backend, torch.device("cuda", backend.number))


def decoded_on(device: Device, file: PackedFile, name: str) -> torch.Tensor | None:
    """A tensor of a file decoded on a device; None where that is for the CPU: bases, other codecs.

    A DensorError names file and tensor.
    """
    try:
        return device.decoded(file.array(name))
    except UnsupportedError:
        return None
    except ChecksumError as error:
        if str(error).startswith(str(file.path)):
            raise
        raise ChecksumError(f"{file.path}: tensor {error}") from error
