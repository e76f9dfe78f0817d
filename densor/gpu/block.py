"""Blocks: tensors that are kept packed in a backend's memory and decoded together.

A block has one table of descriptors and takes one launch per kernel that its tensors need, most
often one: all matrices of a transformer block are decoded by the same one.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, ChecksumError
from densor.gpu.backend import Backend, Buffer, Bytes, upload
from densor.gpu.descriptors import OUT_ALIGNMENT, POINTERS
from densor.gpu.plan import SCRATCH, Launch, Plan
from densor.gpu.tensors import Packed

_BLOCKS = 8  # of threads, per processor
_ERRORS = {
    1: "a stream does not end with its last symbol",
    2: "a rANS state does not end as it began",
    4: "escape bits are too few or too many",
}


class Scratch:
    """Memory that blocks use while they decode, one after the other; it only grows."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._needed = OUT_ALIGNMENT
        self._buffer: Buffer | None = None

    def reserve(self, size: int) -> None:
        """Makes sure that `buffer` has at least `size` bytes from its next use on."""
        self._needed = max(self._needed, size)

    @property
    def buffer(self) -> Buffer:
        """The memory; another one once more was reserved."""
        if self._buffer is None or self._buffer.size < self._needed:
            self._buffer = self._backend.empty(self._needed)
        return self._buffer


class _Memory:
    """What a block and its parts share: packed tensors, tables, and what describes them."""

    def __init__(
        self, packed: Sequence[Packed], backend: Backend, scratch: Scratch, host: bool
    ) -> None:
        plan = Plan(len(packed), host)
        for number, tensor in enumerate(packed):
            plan.add(number, tensor)
        self.contents = [tensor.content for tensor in packed]
        self.on_host = plan.on_host
        self.launches = plan.launches()
        self.backend, self.scratch = backend, scratch
        scratch.reserve(plan.scratch.size)
        self.pieces = plan.arena.pieces()
        self.data = upload(backend, plan.arena.build())
        backend.poison(self.data, plan.arena.gaps())
        self.tables = upload(backend, plan.tables())
        self.status = upload(backend, np.zeros(max(len(packed), 1), np.uint32))
        self._described: list[list[Buffer]] = []
        self._described_for: Buffer | None = None

    def descriptors(self) -> list[list[Buffer]]:
        """The descriptors of each launch except its jobs, with addresses in place of offsets."""
        scratch = self.scratch.buffer
        if scratch is not self._described_for:
            places = self.data.pointer, scratch.pointer
            self._described = [
                [upload(self.backend, with_addresses(a, *places)) for a in launch.others]
                for launch in self.launches
            ]
            self._described_for = scratch
        return self._described

    @property
    def size(self) -> int:
        """Bytes of the backend's memory that it takes, without scratch."""
        described = sum(a.nbytes for one in self.launches for a in (one.jobs, *one.others))
        return self.data.size + self.tables.size + described


class Block:
    """Tensors in a backend's memory, packed. `scratch` may be shared with other blocks.

    `host`: chunks that no kernel knows are decoded here, once, and kept as they are; otherwise they
    are an UnsupportedError. FormatError for chunks that contradict the format. The bytes of
    `packed` are copied.

    `contents`: what the tensors are, in the order of `packed`.
    """

    def __init__(
        self,
        packed: Sequence[Packed],
        backend: Backend,
        *,
        scratch: Scratch | None = None,
        host: bool = True,
    ) -> None:
        self._memory = _Memory(packed, backend, scratch or Scratch(backend), host)
        self._choose(range(len(packed)))

    def part(self, numbers: Sequence[int]) -> "Block":
        """Some of the tensors, by number, to be decoded without the others; all memory is shared.

        Whatever is decoded at the same time as another part needs scratch memory of its own.
        """
        smaller = copy.copy(self)
        smaller._choose(numbers)
        return smaller

    def _choose(self, numbers: Sequence[int]) -> None:
        memory, backend = self._memory, self._memory.backend
        self._numbers = np.array(numbers, np.int64)
        self.contents = [memory.contents[number] for number in numbers]
        self._launches: list[tuple[int, Launch, Buffer]] = []
        for i, launch in enumerate(memory.launches):
            jobs = launch.jobs[np.isin(launch.owners, self._numbers)]
            if jobs.size:
                self._launches.append((i, launch._replace(jobs=jobs), upload(backend, jobs)))
        self._outs = backend.empty(8 * (len(memory.contents) + 1))
        self._bound: tuple[int, ...] = ()
        self._descriptors: list[list[Buffer]] = []

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels that are started, in order."""
        return [launch.kernel for _, launch, _ in self._launches]

    @property
    def on_host(self) -> list[int]:
        """Numbers of the tensors with chunks that were decoded here."""
        chosen = enumerate(self._numbers.tolist())
        return [i for i, number in chosen if number in self._memory.on_host]

    @property
    def resident(self) -> int:
        """Bytes of the backend's memory that the block keeps, without scratch; parts take none."""
        return self._memory.size

    @property
    def data(self) -> Buffer:
        """The memory of the packed tensors' coded bytes."""
        return self._memory.data

    def bind(self, outs: Sequence[Buffer]) -> None:
        """Says where the tensors go: memory of their sizes, at multiples of 32 bytes.

        Copies a table of addresses, and nothing if they are the same as before.
        """
        memory = self._memory
        if len(outs) != len(self.contents):
            raise ArgumentError("everything packed needs its memory")
        for tensor, out in zip(self.contents, outs, strict=True):
            if out.size < tensor.size or (tensor.size and out.pointer % OUT_ALIGNMENT):
                raise ArgumentError(f"{tensor.name}: memory is too small or not aligned")
        self._descriptors = memory.descriptors()
        places = *(out.pointer if out.size else 0 for out in outs), memory.scratch.buffer.pointer
        if places != self._bound:
            table = np.zeros(len(memory.contents) + 1, np.uint64)
            table[[*self._numbers, -1]] = places
            memory.backend.write(self._outs, table)
            self._bound = places

    def launch(self) -> None:
        """Starts decoding to where `bind` said. Nothing is allocated, copied or waited for."""
        memory = self._memory
        shared = memory.tables, self._outs, memory.status
        common: list[np.generic] = [np.uint64(buffer.pointer) for buffer in shared]
        most = _BLOCKS * memory.backend.processors
        for i, launch, jobs in self._launches:
            args: list[np.generic] = [np.uint64(jobs.pointer), np.uint32(launch.jobs.size)]
            args += [np.uint64(buffer.pointer) for buffer in self._descriptors[i]]
            blocks = min(launch.jobs.size, most) if launch.several else launch.jobs.size
            memory.backend.launch(launch.kernel, blocks, launch.threads, args + common)

    def check(self) -> None:
        """Waits for what was launched; ChecksumError where stored bits turned out damaged."""
        memory = self._memory
        words = memory.backend.read(memory.status).view(np.uint32)
        if not words.any():
            return
        memory.backend.write(memory.status, np.zeros(words.size, np.uint32))
        number = int(np.flatnonzero(words)[0])
        errors = "; ".join(text for bit, text in _ERRORS.items() if words[number] & bit)
        raise ChecksumError(f"{memory.contents[number].name}: {errors}")

    def decode_into(self, outs: Sequence[Any]) -> None:
        """Decodes all chunks to arrays of the backend: `bind`, `launch`, `check`."""
        self.bind([self._memory.backend.wrap(out) for out in outs])
        self.launch()
        self.check()

    def decode(self) -> dict[str, Any]:
        """All tensors by name, in new arrays of the backend."""
        backend = self._memory.backend
        memory = [backend.new("U8", (content.size,)) for content in self.contents]
        self.decode_into(memory)
        return {
            place.name: backend.view(whole, place.skip, place.dtype, place.shape)
            for whole, content in zip(memory, self.contents, strict=True)
            for place in content.tensors
        }

    def coded_in(self, blob: Bytes) -> npt.NDArray[np.int64]:
        """Which bytes of an archive that tensors were taken from are in the block's memory.

        int64[n, 3]: first byte, number of bytes, and where `read` finds them; in order, none twice.
        """
        begin, size = blob.ctypes.data, blob.size
        stretches: list[tuple[int, int, int]] = []
        end = 0
        for address, length, at in sorted(self._memory.pieces.tolist()):
            first, last = address - begin, address - begin + length
            if first >= end and last <= size:
                stretches.append((first, length, at))
                end = last
        return np.array(stretches, np.int64).reshape(-1, 3)

    def read(self, begin: int, size: int) -> Bytes:
        """A copy of bytes of the packed tensors as they stand in the backend's memory."""
        return self._memory.backend.read(self._memory.data, begin, size)


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
