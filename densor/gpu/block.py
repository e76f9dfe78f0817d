"""Blocks: tensors that are kept packed in a backend's memory and decoded together.

A block has one table of descriptors and takes one launch per kernel that its tensors need, most
often one: all matrices of a transformer block are decoded by the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planar import model as planar
from densor.errors import ArgumentError, ChecksumError, FormatError, UnsupportedError
from densor.formats.models import Models, decode_chunk
from densor.gpu import huffman
from densor.gpu.backend import Backend, Buffer, upload
from densor.gpu.descriptors import JOB, OUT_ALIGNMENT, PLANE, SEGMENT, Arena
from densor.gpu.huffman import CodedPlane, PlanarModel, Segment
from densor.gpu.tensors import PackedChunk, PackedTensor

Bytes = npt.NDArray[np.uint8]
_SCRATCH = 1 << 63  # marks an offset in the scratch memory, not in the arena
_UNITS = 256  # of a job
_ERRORS = {
    1: "a stream does not end with its last symbol",
    2: "a rANS state does not end as it began",
    4: "bits that stand apart are too few or too many",
}


class Scratch:
    """Memory that blocks use while they decode, one after the other; it only grows."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._needed = 0
        self._buffer: Buffer | None = None

    def reserve(self, size: int) -> None:
        """Makes room for a block."""
        self._needed = max(self._needed, size)

    @property
    def buffer(self) -> Buffer:
        """The memory; another one once more was reserved."""
        if self._buffer is None or self._buffer.size < self._needed:
            self._buffer = self._backend.empty(max(self._needed, OUT_ALIGNMENT))
        return self._buffer


@dataclass
class _Units:
    """Work of one Huffman kernel: planes, and their segments by code."""

    planes: list[tuple[Any, ...]] = field(default_factory=list)
    by_code: dict[tuple[int, int], list[tuple[int, Segment]]] = field(default_factory=dict)

    def add(self, plane: tuple[Any, ...], segments: list[Segment]) -> None:
        """A plane, and segments whose `table` is already the number of the table."""
        for segment in segments:
            key = segment.kind, segment.table
            self.by_code.setdefault(key, []).append((len(self.planes), segment))
        self.planes.append(plane)

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """Jobs, segments, planes and entry points as the kernel takes them."""
        jobs: list[tuple[int, ...]] = []
        rows: list[tuple[int, ...]] = []
        entries: list[npt.NDArray[np.uint32]] = []
        unit = 0
        for (kind, table), segments in self.by_code.items():
            first = unit
            starts = []
            for plane, s in segments:
                starts.append(unit)
                rows.append((unit, plane, s.begin, s.end, s.run, s.stop, s.raw, 0))
                found = s.entries if kind == huffman.HUFFMAN else np.zeros(s.units, np.uint32)
                entries.append(found)
                unit += s.units
            base = len(rows) - len(segments)
            for at in range(first, unit, _UNITS):
                segment = base + int(np.searchsorted(starts, at, side="right")) - 1
                jobs.append((at, min(_UNITS, unit - at), segment, kind, table))
        return (
            np.array(jobs, JOB),
            np.array(rows, SEGMENT),
            np.array(self.planes, PLANE),
            np.concatenate([*entries, np.zeros(1, np.uint32)]).astype(np.uint32),
        )


class _Plan:
    """Everything that the tensors of a block need, while their chunks are looked at."""

    def __init__(self, host: bool) -> None:
        self.arena = Arena()
        self.scratch = Arena()
        self.units: dict[tuple[int, str], _Units] = {}  # by stage and kernel
        self.tables: list[npt.NDArray[np.uint32]] = []
        self.on_host: set[int] = set()
        self._table_numbers: dict[tuple[int, int, int], int] = {}
        self._models: dict[bytes, PlanarModel] = {}
        self._host = host

    def tensor(self, number: int, tensor: PackedTensor, scratch: int) -> None:
        """Looks at all chunks of a tensor; `scratch`: the number of the scratch memory."""
        self._scratch_number = scratch
        if sum(chunk.size for chunk in tensor.chunks) != tensor.size:
            raise FormatError(f"{tensor.name}: chunks do not add up to its size")
        at = 0
        for chunk in tensor.chunks:
            codec = chunk.model[0] if chunk.model else 0
            if codec == registry.CODEC_PLANAR and self._planar(number, at, chunk):
                pass
            else:
                self._raw(number, tensor.name, at, chunk)
            at += chunk.size

    def _planar(self, tensor: int, at: int, chunk: PackedChunk) -> bool:
        """False where the kernels do not know the layout."""
        model = self._models.get(chunk.model)
        if model is None:
            model = self._models[chunk.model] = PlanarModel(planar.parse(chunk.model))
        size = model.model.layout.size
        if model.kernel is None or at % size:
            return False
        n, left = divmod(chunk.size, size)
        if left:
            raise FormatError("planar chunk has an impossible length")
        planes = model.parse(chunk.payload, n)
        first = at // size
        beside = [self._beside(model, p, planes[p], n, first, tensor) for p in range(1, size)]
        beside += [(0, 0, 0)] * (3 - len(beside))
        self._coded(1, model.kernel, (model, 0), planes[0], n, at, beside, tensor, tensor)
        return True

    def _beside(
        self,
        model: PlanarModel,
        p: int,
        plane: Bytes | int | CodedPlane,
        n: int,
        first: int,
        tensor: int,
    ) -> tuple[int, int, int]:
        """A plane other than the first: where its bytes stand, in the order of the elements."""
        if isinstance(plane, int):
            return self.arena.constant(plane), 0, 0
        if isinstance(plane, CodedPlane):
            at = self.scratch.reserve(n, first)
            none = [(0, 0, 0)] * 3
            number = self._scratch_number
            self._coded(0, "byte", (model, p), plane, n, at, none, number, tensor)
            return _SCRATCH | at, 0xFFFFFFFF, 0
        return self.arena.add(plane, first), 0xFFFFFFFF, 0

    def _coded(
        self,
        stage: int,
        kernel: str,
        code: tuple[PlanarModel, int],
        plane: Bytes | int | CodedPlane,
        n: int,
        at: int,
        beside: list[tuple[int, int, int]],
        tensor: int,
        status: int,
    ) -> None:
        """A plane that symbols are taken from, and that is put together with those beside it."""
        if isinstance(plane, int):
            section, run, runs = np.zeros(1, np.uint8), n, np.zeros(1, np.uint32)
            segments = [Segment(huffman.CONSTANT, plane, 0, n, 0)]
        elif isinstance(plane, CodedPlane):
            section, run, runs = plane.section, plane.run, plane.runs
            segments = [self._numbered(code, segment) for segment in plane.segments]
        else:
            section, run, runs = plane, n, np.zeros(1, np.uint32)
            segments = [Segment(huffman.RAW, 0, 0, n, 0)]
        words, order = self.arena.add(section), self.arena.add(runs)
        row = words, order, at, beside, tensor, status, -(-section.size // 4), run
        self.units.setdefault((stage, kernel), _Units()).add(row, segments)

    def _numbered(self, code: tuple[PlanarModel, int], segment: Segment) -> Segment:
        """The segment with the number of its table in place of that of its class."""
        if segment.kind != huffman.HUFFMAN:
            return segment
        model, p = code
        key = id(model), p, segment.table
        number = self._table_numbers.get(key)
        if number is None:
            classes = model.model.planes[p]
            assert classes is not None
            number = self._table_numbers[key] = len(self.tables)
            self.tables.append(huffman.pair_table(classes.lengths[segment.table]))
        return segment._replace(table=number)

    def _raw(self, tensor: int, name: str, at: int, chunk: PackedChunk) -> None:
        """A chunk that is stored raw, or that no kernel knows and the host decodes."""
        data = chunk.payload
        if chunk.number != registry.MODEL_RAW:
            if not self._host:
                raise UnsupportedError(f"{name}: no kernel decodes its chunks")
            self.on_host.add(tensor)
            models = Models()
            decoder = models.put(chunk.number, chunk.model) if chunk.model else None
            data = np.empty(chunk.size, np.uint8)
            decode_chunk(chunk.number, decoder, chunk.payload, data)
        elif data.size != chunk.size:
            raise FormatError("raw chunk has the wrong length")
        words, order = self.arena.add(data), self.arena.add(np.zeros(1, np.uint32))
        row = words, order, at, [(0, 0, 0)] * 3, tensor, tensor, -(-data.size // 4), data.size
        segment = Segment(huffman.RAW, 0, 0, data.size, 0)
        self.units.setdefault((1, "byte"), _Units()).add(row, [segment])


class Block:
    """Tensors in a backend's memory, packed. `scratch` may be shared with other blocks.

    `host`: chunks that no kernel knows are decoded here, once, and kept as they are; otherwise they
    are an UnsupportedError. FormatError for chunks that contradict the format.
    """

    def __init__(
        self,
        tensors: Sequence[PackedTensor],
        backend: Backend,
        *,
        scratch: Scratch | None = None,
        host: bool = True,
    ) -> None:
        self.tensors = list(tensors)
        self._backend = backend
        self._plan = plan = _Plan(host)
        for number, tensor in enumerate(self.tensors):
            plan.tensor(number, tensor, len(self.tensors))
        self.on_host = [self.tensors[number].name for number in sorted(plan.on_host)]
        self._scratch = scratch or Scratch(backend)
        self._scratch.reserve(plan.scratch.size)
        self._data = upload(backend, plan.arena.build())
        tables = np.concatenate([*plan.tables, np.zeros(4, np.uint32)])
        self._tables = upload(backend, tables)
        self._status = upload(backend, np.zeros(len(self.tensors) + 1, np.uint32))
        self._outs = backend.empty(8 * (len(self.tensors) + 1))
        self._bound: tuple[int, ...] = ()
        self._used_scratch: Buffer | None = None
        self._arrays = {key: units.arrays() for key, units in sorted(plan.units.items())}
        self._uploaded: dict[tuple[int, str], list[Buffer]] = {}

    @property
    def resident(self) -> int:
        """Bytes of the backend's memory that the block keeps, without scratch."""
        described = sum(a.nbytes for arrays in self._arrays.values() for a in arrays)
        return self._data.size + self._tables.size + described

    def bind(self, outs: Sequence[Buffer]) -> None:
        """Says where the tensors go: memory of their sizes, at multiples of 32 bytes.

        Copies a table of addresses, and nothing if they are the same as before.
        """
        if len(outs) != len(self.tensors):
            raise ArgumentError("every tensor needs its memory")
        for tensor, out in zip(self.tensors, outs, strict=True):
            if out.size < tensor.size or (tensor.size and out.pointer % OUT_ALIGNMENT):
                raise ArgumentError(f"{tensor.name}: memory is too small or not aligned")
        self._bind_scratch()
        scratch = self._scratch.buffer.pointer
        pointers = *(out.pointer if out.size else 0 for out in outs), scratch
        if pointers != self._bound:
            self._backend.write(self._outs, np.array(pointers, np.uint64))
            self._bound = pointers

    def _bind_scratch(self) -> None:
        """Uploads the descriptors, with addresses in the place of offsets."""
        scratch = self._scratch.buffer
        if scratch is self._used_scratch:
            return
        self._used_scratch = scratch
        for key, arrays in self._arrays.items():
            jobs, segments, planes, entries = arrays
            planes = planes.copy()
            for column in (planes["words"], planes["runs"], planes["beside"]["base"]):
                self._to_addresses(column, scratch)
            uploaded = jobs, segments, planes, entries
            self._uploaded[key] = [upload(self._backend, a) for a in uploaded]

    def _to_addresses(self, offsets: npt.NDArray[Any], scratch: Buffer) -> None:
        mark = np.uint64(_SCRATCH)
        inside = (offsets & mark) != 0
        offsets &= ~mark
        offsets += np.where(inside, np.uint64(scratch.pointer), np.uint64(self._data.pointer))

    def launch(self) -> None:
        """Starts decoding to where `bind` said. Nothing is allocated or copied."""
        tables, outs = np.uint64(self._tables.pointer), np.uint64(self._outs.pointer)
        status = np.uint64(self._status.pointer)
        for key, buffers in self._uploaded.items():
            jobs, segments, planes, entries = (np.uint64(b.pointer) for b in buffers)
            n_jobs = self._arrays[key][0].size
            args = jobs, np.uint32(n_jobs), segments, planes, entries, tables, outs, status
            blocks = min(n_jobs, 8 * self._backend.processors)
            self._backend.launch(f"huffman_{key[1]}", blocks, args)

    def check(self) -> None:
        """Waits for what was launched; ChecksumError where stored bits turned out damaged."""
        words = self._backend.read(self._status)[: 4 * len(self.tensors)].view(np.uint32)
        if not words.any():
            return
        self._backend.write(self._status, np.zeros(words.size, np.uint32))
        number = int(np.flatnonzero(words)[0])
        told = "; ".join(text for bit, text in _ERRORS.items() if words[number] & bit)
        raise ChecksumError(f"{self.tensors[number].name}: {told}")

    def decode(self, outs: Sequence[Any]) -> None:
        """Decodes all tensors to arrays of the backend: `bind`, `launch`, `check`."""
        self.bind([self._backend.wrap(out) for out in outs])
        self.launch()
        self.check()
