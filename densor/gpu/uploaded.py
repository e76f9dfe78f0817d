"""Packed arrays uploaded to a device: their coded bytes are in its memory, and nowhere else."""

from collections.abc import Sequence

import numpy as np

from densor.formats.container.packed_array import PackedArray
from densor.formats.io.sources import Bytes
from densor.gpu.backend import Backend
from densor.gpu.block import Block, Scratch
from densor.gpu.tensors import packed_of


class UploadedArray:
    """An array in a block, without its archive: of that only frames and models are kept here.

    `block`, `number`: where it is. `size`: bytes once decoded. Immutable.
    """

    def __init__(self, array: PackedArray, block: Block, number: int) -> None:
        self.block, self.number = block, number
        self.dtype, self.shape, self.size = array.dtype, array.shape, array.size
        self.name = array.meta.name
        self._coded = block.coded_in(array.blob)
        self._blob_size = array.blob.size
        begins, ends = self._coded[:, 0], self._coded[:, :2].sum(axis=1)
        gaps = zip([0, *ends], [*begins, self._blob_size], strict=True)
        self._rest: Bytes = np.concatenate([array.blob[begin:end] for begin, end in gaps])

    @property
    def stored(self) -> int:
        """Bytes that it takes in the backend's memory: its share of what the block takes."""
        everything = sum(content.stored for content in self.block.contents)
        own = self.block.contents[self.number].stored
        return self.block.resident * own // everything if everything else 0

    @property
    def kept(self) -> int:
        """Bytes that it takes in main memory."""
        return self._rest.size

    def alone(self) -> Block:
        """What decodes it without the others of the block."""
        several = len(self.block.contents) > 1
        return self.block.part([self.number]) if several else self.block

    def download(self) -> PackedArray:
        """The array as it was packed, from the backend's memory.

        All its hashes are checked: ChecksumError where bytes have changed there.
        """
        blob = np.empty(self._blob_size, np.uint8)
        at = taken = 0
        for begin, size, place in self._coded.tolist():
            blob[at:begin] = self._rest[taken : taken + begin - at]
            taken += begin - at
            blob[begin : begin + size] = self.block.read(place, size)
            at = begin + size
        blob[at:] = self._rest[taken:]
        return PackedArray(blob)


def upload_arrays(
    arrays: Sequence[PackedArray], backend: Backend, scratch: Scratch | None = None
) -> list[UploadedArray]:
    """Packed arrays in one block of a backend's memory; errors as for `Block`."""
    block = Block([packed_of(array) for array in arrays], backend, scratch=scratch)
    return [UploadedArray(array, block, number) for number, array in enumerate(arrays)]
