"""The weights of a unit of a model on their way to a buffer, decoded by threads or a device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from densor.formats.container.packed_array import PackedArray
from densor.formats.io.sources import Bytes
from densor.runtime.workers import Task, Workers, settle
from densor.torch.device import Device, DeviceArray
from densor.torch.packed import Cell, tensor_over

if TYPE_CHECKING:
    from densor.gpu.block import Block

_ALIGN = 64


def aligned(size: int) -> int:
    """Bytes that a weight takes in a buffer."""
    return -(-size // _ALIGN) * _ALIGN


class Load(Protocol):
    """The weights of a unit on their way into a buffer."""

    buffer: Any

    def wait(self) -> dict[int, torch.Tensor]:
        """The plain tensors by the id of their cell."""

    def join(self) -> None:
        """For another thread that is to use what has been waited for."""

    def cancel(self) -> None:
        """Stops what has not begun and waits for the rest; the buffer is free then."""


def advise(cells: Sequence[Cell]) -> None:
    """Says that these will be decoded soon: what is in files is read from now on."""
    for cell in cells:
        if isinstance(cell.packed, PackedArray):
            cell.packed.advise()


def _pieces(cells: Sequence[Cell], buffer: Any) -> list[Any]:
    """The part of a buffer that each cell is decoded to."""
    pieces, at = [], 0
    for cell in cells:
        pieces.append(buffer[at : at + cell.packed.size])
        at += aligned(cell.packed.size)
    return pieces


class HostLoad:
    """A `Load` by threads into main memory."""

    def __init__(self, cells: list[Cell], buffer: Bytes, workers: Workers) -> None:
        self.buffer = buffer
        self._cells: list[tuple[Cell, PackedArray, Bytes]] = []
        self._tasks: list[Task[None]] = []
        advise(cells)
        for cell, piece in zip(cells, _pieces(cells, buffer), strict=True):
            packed = cell.packed
            assert isinstance(packed, PackedArray)
            self._cells.append((cell, packed, piece))
            self._tasks += [workers.submit(job) for job in packed.jobs(piece)]

    def wait(self) -> dict[int, torch.Tensor]:
        """Waits for all decoding tasks; raises what one of them raised."""
        for task in self._tasks:
            task.result()
        self._tasks = []  # they hold look-up tables
        tensors = {}
        for cell, packed, piece in self._cells:
            if cell.packed is packed:
                tensors[id(cell)] = tensor_over(piece, cell.dtype, cell.shape)
            else:  # written to since the load began
                tensors[id(cell)] = cell.decode()
        return tensors

    def join(self) -> None:
        """Does nothing: main memory is the same for all threads."""

    def cancel(self) -> None:
        """Cancels tasks that have not begun and waits for the others."""
        settle(self._tasks)


class DeviceLoad:
    """A `Load` on a device, in the order of its streams: the host waits for nothing."""

    def __init__(
        self, cells: list[Cell], buffer: torch.Tensor, device: Device, blocks: "Blocks"
    ) -> None:
        self.buffer = buffer
        self._device = device
        pieces: list[torch.Tensor] = _pieces(cells, buffer)
        arrays: list[DeviceArray] = []
        for cell in cells:
            assert isinstance(cell.packed, DeviceArray)
            arrays.append(cell.packed)
        self._cells = list(zip(cells, arrays, pieces, strict=True))
        for block, chosen in blocks.of(arrays):
            device.start(block, [pieces[i] for i in chosen])

    def wait(self) -> dict[int, torch.Tensor]:
        """Lets the current stream wait for the decoding; the host does not wait."""
        self._device.join()
        return {
            id(cell): packed.tensor_over(piece) if cell.packed is packed else cell.decode()
            for cell, packed, piece in self._cells
        }

    def join(self) -> None:
        """Lets the current stream of the calling thread wait for the decoding."""
        self._device.join()

    def cancel(self) -> None:
        """See `Load`; what has been started is let run out."""
        self._device.join()


class Blocks:
    """What decodes the weights of a unit. Kept, so that nothing is copied to a device where weights
    and buffer are those of the last pass."""

    def __init__(self) -> None:
        self._arrays: list[DeviceArray] = []
        self._blocks: list[tuple[Block, list[int]]] = []

    def of(self, arrays: list[DeviceArray]) -> "list[tuple[Block, list[int]]]":
        """Blocks that decode these arrays, each with the numbers of those that it decodes: one but
        for weights that were written to, or are in the block of another unit too."""
        same = len(arrays) == len(self._arrays)
        if not same or any(a is not b for a, b in zip(arrays, self._arrays, strict=True)):
            chosen: dict[int, list[int]] = {}
            for i, array in enumerate(arrays):
                chosen.setdefault(id(array.uploaded.block), []).append(i)
            self._blocks = [
                (
                    arrays[some[0]].uploaded.block.part([arrays[i].uploaded.number for i in some]),
                    some,
                )
                for some in chosen.values()
            ]
            self._arrays = arrays
        return self._blocks
