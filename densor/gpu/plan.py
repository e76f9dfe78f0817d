"""What a block of tensors takes to be decoded: which kernels, and the descriptors they go by."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes import params as planar
from densor.codec.planes.units import CONSTANT, HUFFMAN, RAW, CodedPlane, Segment
from densor.errors import FormatError, UnsupportedError
from densor.formats.container.chunk_decoders import Models, decode_chunk
from densor.gpu import rans
from densor.gpu.descriptors import JOB, PLANE, SEGMENT, STREAM, STREAM_JOB, Arena
from densor.gpu.huffman import PlanarModel
from densor.gpu.rans import ScalesModel
from densor.gpu.tensors import Packed, PackedChunk
from densor.runtime.types import Bytes

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]
SCRATCH = 1 << 63  # marks an offset in the scratch memory, not in the arena
HUFFMAN_THREADS = 256  # and as many units to a job
_EVERY = 0xFFFFFFFF
_NOTHING = 0, 0, 0


class Launch(NamedTuple):
    """A kernel, the jobs it does, and the other descriptors in the order of its arguments.

    `several`: a block of threads may do several jobs; otherwise it does one. `owners`: the number
    of the tensor that each job is for. Descriptors that point to the arena or to the scratch memory
    have offsets.
    """

    kernel: str
    threads: int
    several: bool
    jobs: Array
    owners: npt.NDArray[np.int64]
    others: tuple[Array, ...]


class Target(NamedTuple):
    """Where a chunk goes: `at` bytes into the memory numbered `tensor`; `status`: number of the
    tensor that it is for, in whose status word kernels report errors."""

    tensor: int
    at: int
    status: int


class Beside(NamedTuple):
    """A plane that stands beside the coded one; see common.cuh."""

    base: int
    keep: int
    unused: int = 0


@dataclass
class _Units:
    """Work of one Huffman kernel: planes, and their segments by code and tensor."""

    planes: list[tuple[Any, ...]] = field(default_factory=list)
    by_code: dict[tuple[int, int, int], list[tuple[int, Segment]]] = field(default_factory=dict)

    def add(self, owner: int, plane: tuple[Any, ...], segments: list[Segment]) -> None:
        """A plane of tensor number `owner`, and segments whose `table` is already its place."""
        for segment in segments:
            key = segment.kind, segment.table, owner
            self.by_code.setdefault(key, []).append((len(self.planes), segment))
        self.planes.append(plane)

    def launch(self, kernel: str) -> Launch:
        """Cuts the segments of each code and tensor into jobs."""
        jobs: list[tuple[int, ...]] = []
        owners: list[int] = []
        rows: list[tuple[int, ...]] = []
        entries: list[Words] = []
        unit = 0
        for (kind, table, owner), segments in self.by_code.items():
            first, base = unit, len(rows)
            starts = []
            for plane, s in segments:
                starts.append(unit)
                rows.append((unit, plane, s.begin, s.end, s.run, s.stop, s.raw, 0))
                coded = kind == HUFFMAN
                entries.append(s.entries if coded else np.zeros(s.units, np.uint32))
                unit += s.units
            for at in range(first, unit, HUFFMAN_THREADS):
                segment = base + int(np.searchsorted(starts, at, side="right")) - 1
                jobs.append((at, min(HUFFMAN_THREADS, unit - at), segment, kind, table))
                owners.append(owner)
        entries.append(np.zeros(1, np.uint32))  # so that there is one
        others = np.array(rows, SEGMENT), np.array(self.planes, PLANE), np.concatenate(entries)
        owned = np.array(owners, np.int64)
        return Launch(kernel, HUFFMAN_THREADS, True, np.array(jobs, JOB), owned, others)


class Plan:
    """Everything that tensors need, gathered chunk by chunk.

    `arena`: what the descriptors point to. `scratch`: memory for planes that are decoded before
    they are put together, whose number as a target is `tensors`. `tables`: of all kernels.
    """

    def __init__(self, tensors: int, host: bool) -> None:
        self.arena = Arena()
        self.scratch = Arena()
        self.on_host: set[int] = set()
        self._tensors = tensors
        self._host = host
        self._units: dict[tuple[int, str], _Units] = {}  # by stage and kernel
        self._streams: dict[str, dict[tuple[ScalesModel, int], list[tuple[Any, ...]]]] = {}
        self._models: dict[bytes, PlanarModel | ScalesModel] = {}
        self._tables: list[Words] = []
        self._tables_end = 0
        self._places: dict[tuple[object, ...], int] = {}

    def add(self, number: int, tensor: Packed) -> None:
        """Looks at all chunks of a tensor."""
        for place in tensor.tensors:
            if not 0 <= place.skip <= tensor.size - place.size:
                raise FormatError(f"{place.name}: chunks do not hold all of it")
        at = 0
        for chunk in tensor.chunks:
            target = Target(number, at, number)
            if not self._for_kernels(chunk, target):
                self._raw(chunk, target, tensor.name)
            at += chunk.size

    def tables(self) -> Words:
        """The tables of all kernels, one after the other."""
        return np.concatenate([*self._tables, np.zeros(4, np.uint32)])

    def launches(self) -> list[Launch]:
        """What to start, in order."""
        planned = [
            units.launch(f"huffman_{kernel}") for (_, kernel), units in sorted(self._units.items())
        ]
        return planned + [self._stream_launch(kernel) for kernel in self._streams]

    def _for_kernels(self, chunk: PackedChunk, target: Target) -> bool:
        """Whether kernels decode this chunk; if so, their work is noted."""
        codec = chunk.model[0] if chunk.model else None
        model = self._models.get(chunk.model)
        if model is None and codec == registry.CODEC_PLANES_HUFFMAN:
            model = self._models[chunk.model] = PlanarModel(planar.parse(chunk.model))
        elif model is None and codec == registry.CODEC_SCALE_CONTEXT:
            model = self._models[chunk.model] = ScalesModel(chunk.model)
        if model is None or model.kernel is None or target.at % model.size:
            return False
        n, left = divmod(chunk.size, model.size)
        if left:
            raise FormatError("chunk has an impossible length")
        if isinstance(model, PlanarModel):
            self._planar(model, model.parse(chunk.payload, n, chunk.points), n, target)
        else:
            self._element_scales(model, model.parse(chunk.payload, n), target)
        return True

    # Planes

    def _planar(
        self,
        model: PlanarModel,
        planes: list[Bytes | int | CodedPlane],
        n: int,
        target: Target,
    ) -> None:
        assert model.kernel is not None
        first = target.at // model.size
        beside = [
            self._beside(model, p, plane, n, first, target.status)
            for p, plane in enumerate(planes)
            if p
        ]
        self._coded(1, model.kernel, model, 0, planes[0], n, beside, target)

    def _beside(
        self,
        model: PlanarModel,
        p: int,
        plane: Bytes | int | CodedPlane,
        n: int,
        first: int,
        status: int,
    ) -> Beside:
        """A plane other than the first; `first`: the number of its first element in the tensor,
        by which it is placed, so that groups of elements are aligned in all planes."""
        if isinstance(plane, int):
            return Beside(self.arena.constant(plane), 0)
        if isinstance(plane, CodedPlane):
            target = Target(self._tensors, self.scratch.reserve(n, first), status)
            self._coded(0, "byte", model, p, plane, n, [], target)
            return Beside(SCRATCH | target.at, _EVERY)
        return Beside(self.arena.add(plane, first), _EVERY)

    def _coded(
        self,
        stage: int,
        kernel: str,
        model: PlanarModel | None,
        p: int,
        plane: Bytes | int | CodedPlane,
        n: int,
        beside: list[Beside],
        target: Target,
    ) -> None:
        """A plane that symbols are taken from, and that is put together with those beside it."""
        section, run, runs = np.zeros(1, np.uint8), n, np.zeros(1, np.uint32)
        if isinstance(plane, int):
            segments = [Segment(CONSTANT, plane, 0, n, 0)]
        elif isinstance(plane, CodedPlane):
            assert model is not None
            section, run, runs = plane.section, plane.run, plane.runs
            segments = [self._placed(model, p, segment) for segment in plane.segments]
        else:
            section = plane
            segments = [Segment(RAW, 0, 0, n, 0)]
        words, order = self.arena.add(section), self.arena.add(runs)
        three = (beside + 3 * [Beside(*_NOTHING)])[:3]
        row = words, order, target.at, three, target.tensor, target.status
        units = self._units.setdefault((stage, kernel), _Units())
        units.add(target.status, (*row, -(-section.size // 4), run), segments)

    def _placed(self, model: PlanarModel, p: int, segment: Segment) -> Segment:
        """The segment with the place of its table instead of the number of its class."""
        if segment.kind != HUFFMAN:
            return segment
        key = model, p, segment.table
        if key not in self._places:
            self._places[key] = self._table(model.table(p, segment.table))
        return segment._replace(table=self._places[key])

    def _table(self, words: Words) -> int:
        """Where a table stands, which is a multiple of 16 bytes."""
        at = self._tables_end
        self._tables.append(words)
        self._tables_end += words.size
        return at

    def _raw(self, chunk: PackedChunk, target: Target, name: str) -> None:
        """A chunk that is stored raw, or that no kernel knows and the host decodes."""
        data = chunk.payload
        if chunk.number != registry.MODEL_RAW:
            if not self._host:
                raise UnsupportedError(f"{name}: has chunks that no kernel decodes")
            self.on_host.add(target.status)
            decoder = Models().put(chunk.number, chunk.model) if chunk.model else None
            data = np.empty(chunk.size, np.uint8)
            decode_chunk(chunk.number, decoder, chunk.payload, data)
        elif data.size != chunk.size:
            raise FormatError("raw chunk has the wrong length")
        self._coded(1, "byte", None, 0, data, data.size, [], target)

    # Streams under scale contexts

    def _element_scales(self, model: ScalesModel, stream: rans.Stream, target: Target) -> None:
        add = self.arena.add
        low, keep = self._low_halves(stream.low)
        row = (
            add(stream.stream) + stream.position,
            add(stream.states),
            add(stream.parts),
            add(stream.row_scales),
            add(stream.column_scales),
            add(stream.rest),
            add(stream.signs),
            add(stream.escapes),
            low,
            target.at,
            stream.n_words,
            stream.n,
            stream.escapes.size,
            keep,
            stream.base,
            target.tensor,
            target.status,
            0,
        )
        streams = self._streams.setdefault(model.kernel, {})
        streams.setdefault((model, target.status), []).append(row)

    def _low_halves(self, low: Bytes | None) -> tuple[int, int]:
        """Where low halves stand, and which bits of an element's number count: none if all are
        equal, as they are in models that were cast up."""
        if low is None or not low.size:
            return 0, 0
        halves = low.view("<u2")
        if (halves == halves[0]).all():
            return self.arena.add(np.full(8, halves[0], "<u2")), 0
        return self.arena.add(low), _EVERY

    def _stream_launch(self, kernel: str) -> Launch:
        jobs: list[tuple[int, ...]] = []
        owners: list[int] = []
        rows: list[tuple[Any, ...]] = []
        for (model, owner), streams in self._streams[kernel].items():
            key = (model,)
            if key not in self._places:
                self._places[key] = self._table(model.tables())
            alphabet, form = model.model.alphabet, model.model.form
            phases = (1 << alphabet.phase) - 1
            tables = self._places[key]
            of_model = tables, alphabet.phase, phases, alphabet.main(form), alphabet.low_exponents
            for at in range(0, len(streams), rans.WARPS):
                count = min(rans.WARPS, len(streams) - at)
                jobs.append((len(rows) + at, count, *of_model))
                owners.append(owner)
            rows += streams
        described, owned = np.array(rows, STREAM), np.array(owners, np.int64)
        return Launch(kernel, rans.THREADS, False, np.array(jobs, STREAM_JOB), owned, (described,))
