"""Blocks: tensors that are kept packed in a backend's memory and decoded together.

A block has one table of descriptors and takes one launch per kernel that its tensors need, most
often one: all matrices of a transformer block are decoded by the same one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, ChecksumError
from densor.gpu.backend import Backend, Buffer, upload
from densor.gpu.descriptors import OUT_ALIGNMENT, POINTERS
from densor.gpu.plan import SCRATCH, Launch, Plan
from densor.gpu.tensors import Packed

_BLOCKS = 8  # of threads, per processor
_ERRORS = {
    1: "a stream does not end with its last symbol",
    2: "a rANS state does not end as it began",
    4: "bits that stand apart are too few or too many",
}


class Scratch:
    """Memory that blocks use while they decode, one after the other; it only grows."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._needed = OUT_ALIGNMENT
        self._buffer: Buffer | None = None

    def reserve(self, size: int) -> None:
        """Makes room for a block."""
        self._needed = max(self._needed, size)

    @property
    def buffer(self) -> Buffer:
        """The memory; another one once more was reserved."""
        if self._buffer is None or self._buffer.size < self._needed:
            self._buffer = self._backend.empty(self._needed)
        return self._buffer


class Block:
    """Tensors in a backend's memory, packed. `scratch` may be shared with other blocks.

    `host`: chunks that no kernel knows are decoded here, once, and kept as they are; otherwise they
    are an UnsupportedError. `on_host`: names of the tensors that have such. FormatError for chunks
    that contradict the format.
    """

    def __init__(
        self,
        packed: Sequence[Packed],
        backend: Backend,
        *,
        scratch: Scratch | None = None,
        host: bool = True,
    ) -> None:
        self.packed = list(packed)
        plan = Plan(len(self.packed), host)
        for number, tensor in enumerate(self.packed):
            plan.add(number, tensor)
        self.on_host = [self.packed[number].name for number in sorted(plan.on_host)]
        self._backend = backend
        self._launches = plan.launches()
        self._scratch = scratch or Scratch(backend)
        self._scratch.reserve(plan.scratch.size)
        self.data = upload(backend, plan.arena.build())
        backend.fence(self.data, plan.arena.gaps())
        self._tables = upload(backend, plan.tables())
        self._status = upload(backend, np.zeros(max(len(self.packed), 1), np.uint32))
        self._outs = backend.empty(8 * (len(self.packed) + 1))
        self._bound: tuple[int, ...] = ()
        self._bound_scratch: Buffer | None = None
        self._descriptors: list[list[Buffer]] = []

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels that are started, in order."""
        return [launch.kernel for launch in self._launches]

    @property
    def resident(self) -> int:
        """Bytes of the backend's memory that the block keeps, without scratch."""
        described = sum(a.nbytes for one in self._launches for a in (one.jobs, *one.others))
        return self.data.size + self._tables.size + described

    def bind(self, outs: Sequence[Buffer]) -> None:
        """Says where the tensors go: memory of their sizes, at multiples of 32 bytes.

        Copies a table of addresses, and nothing if they are the same as before.
        """
        if len(outs) != len(self.packed):
            raise ArgumentError("everything packed needs its memory")
        for tensor, out in zip(self.packed, outs, strict=True):
            if out.size < tensor.size or (tensor.size and out.pointer % OUT_ALIGNMENT):
                raise ArgumentError(f"{tensor.name}: memory is too small or not aligned")
        scratch = self._scratch.buffer
        if scratch is not self._bound_scratch:
            self._descriptors = [self._upload(launch, scratch) for launch in self._launches]
            self._bound_scratch = scratch
        pointers = *(out.pointer if out.size else 0 for out in outs), scratch.pointer
        if pointers != self._bound:
            self._backend.write(self._outs, np.array(pointers, np.uint64))
            self._bound = pointers

    def _upload(self, launch: Launch, scratch: Buffer) -> list[Buffer]:
        """The descriptors of a launch, with addresses in the place of offsets."""
        others = [with_addresses(a, self.data.pointer, scratch.pointer) for a in launch.others]
        return [upload(self._backend, a) for a in (launch.jobs, *others)]

    def launch(self) -> None:
        """Starts decoding to where `bind` said. Nothing is allocated, copied or waited for."""
        shared = self._tables, self._outs, self._status
        common: list[np.generic] = [np.uint64(buffer.pointer) for buffer in shared]
        most = _BLOCKS * self._backend.processors
        for launch, descriptors in zip(self._launches, self._descriptors, strict=True):
            args: list[np.generic] = [np.uint64(buffer.pointer) for buffer in descriptors]
            args.insert(1, np.uint32(launch.jobs.size))
            blocks = min(launch.jobs.size, most) if launch.several else launch.jobs.size
            self._backend.launch(launch.kernel, blocks, launch.threads, args + common)

    def check(self) -> None:
        """Waits for what was launched; ChecksumError where stored bits turned out damaged."""
        words = self._backend.read(self._status).view(np.uint32)
        if not words.any():
            return
        self._backend.write(self._status, np.zeros(words.size, np.uint32))
        number = int(np.flatnonzero(words)[0])
        told = "; ".join(text for bit, text in _ERRORS.items() if words[number] & bit)
        raise ChecksumError(f"{self.packed[number].name}: {told}")

    def decode_into(self, outs: Sequence[Any]) -> None:
        """Decodes all chunks to arrays of the backend: `bind`, `launch`, `check`."""
        self.bind([self._backend.wrap(out) for out in outs])
        self.launch()
        self.check()

    def decode(self) -> dict[str, Any]:
        """All tensors by name, in new arrays of the backend."""
        memory = [self._backend.new("U8", (packed.size,)) for packed in self.packed]
        self.decode_into(memory)
        return {
            place.name: self._backend.view(whole, place.skip, place.dtype, place.shape)
            for whole, packed in zip(memory, self.packed, strict=True)
            for place in packed.tensors
        }


def with_addresses(described: npt.NDArray[Any], data: int, scratch: int) -> npt.NDArray[Any]:
    """A copy of descriptors whose offsets have become addresses."""
    described = described.copy()
    names = described.dtype.names or ()
    columns = [described[name] for name in ("runs", *POINTERS) if name in names]
    if "beside" in names:
        columns.append(described["beside"]["base"])
    for column in columns:
        inside = (column & np.uint64(SCRATCH)) != 0
        column &= np.uint64(SCRATCH - 1)
        column += np.where(inside, np.uint64(scratch), np.uint64(data))
    return described
