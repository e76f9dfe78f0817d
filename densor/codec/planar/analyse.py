"""Chooses the model of a batch of elements: layout options, and how each plane is coded."""

from dataclasses import dataclass, field

import numpy as np

from densor.codec import registry
from densor.codec.levels import Level
from densor.codec.planar.classes import Coding, RunCounts, choose_classes, estimated_bits
from densor.codec.planar.kernels import count_runs, varying_bits
from densor.codec.planar.layout import Bytes, Layout, to_differences
from densor.codec.planar.model import Model, PlaneClass
from densor.codec.zstd import zstd_compress

MAX_RUN = 4096
_MIN_RUN = 256
_CHUNK_BYTES = {1: 1 << 18, 2: 1 << 19, 4: 1 << 19, 8: 1 << 20}
_PIECES = 16  # places of a batch that are looked at
_PIECE = 1024  # elements at each
_LOOK = 64  # elements at the begin of each run that are searched for constant bits
_COMPRESSIBLE = 0.985  # a plane whose sample codes to less is worth counting
_CLEARLY = 0.97  # another way must be this much better to be taken


def run_length(shape: tuple[int, ...]) -> int:
    """Elements per run for a tensor: a row, or a part of one, or a few short ones."""
    run = 1
    for size in reversed(shape[1:]):
        if run >= _MIN_RUN:
            break
        run *= max(size, 1)
    if len(shape) < 2 or run < 1:
        return 1024
    if run < _MIN_RUN:
        return run * -(-_MIN_RUN // run)
    parts = -(-run // MAX_RUN)
    return run // parts if run % parts == 0 else 1024


def chunk_elements(layout: Layout, run: int) -> int:
    """Elements per chunk: whole runs, as many as a processor's L2 cache likes."""
    return max(1, _CHUNK_BYTES[layout.size] // layout.size // run) * run


@dataclass
class Plan:
    """How the chunks of a batch shall be coded."""

    layout: Layout
    run: int
    delta: bool
    whole_zstd: bool = False  # the elements as they are, with Zstandard
    plane_zstd: list[bool] = field(default_factory=list)  # per plane: try Zstandard
    counted: list[int] = field(default_factory=list)  # planes whose runs are to be counted
    codings: list[Coding | None] = field(default_factory=list)  # per plane, None: raw

    def model(self) -> Model:
        """The model that goes into the archive."""
        planes: list[tuple[PlaneClass, ...]] = [c.classes if c else () for c in self.codings]
        return Model(self.layout, self.run, tuple(planes), self.delta)


def _split(layout: Layout, data: Bytes) -> list[Bytes]:
    planes = np.empty(data.size, np.uint8)
    layout.split(data, planes)
    return list(planes.reshape(layout.size, -1))


def _sample(data: Bytes, size: int) -> Bytes:
    """Pieces from all over the batch, whole elements."""
    n = data.size // size
    if n <= _PIECES * _PIECE:
        return data
    starts = np.linspace(0, n - _PIECE, _PIECES).astype(np.int64) * size
    return np.concatenate([data[s : s + _PIECE * size] for s in starts])


def look(data: Bytes, layout: Layout, run: int, level: Level, integers: bool) -> Plan:
    """First decisions, from a sample: differences or not, Zstandard or not, what to count."""
    plan = Plan(layout, run, delta=False, codings=[None] * layout.size)
    sample = _sample(data, layout.size)
    planes = _split(layout, sample)
    bits = estimated_bits(planes)
    if integers and layout.delta:
        differences = _split(layout, to_differences(sample, layout))
        delta_bits = estimated_bits(differences)
        if sum(delta_bits) < _CLEARLY * sum(bits):
            plan.delta, planes, bits = True, differences, delta_bits
    plan.plane_zstd = [False] * layout.size
    if level.try_zstd or layout.size == 1:
        _try_zstd(plan, sample, planes, bits)
    if not plan.whole_zstd:
        raw = 8 * planes[0].size
        found = {p for p in range(layout.size) if bits[p] < _COMPRESSIBLE * raw}
        if len(found) < layout.size and not plan.delta and run >= _LOOK:
            found |= _planes_with_constant_bits(plan, data)
        plan.counted = sorted(found)
    return plan


def _try_zstd(plan: Plan, sample: Bytes, planes: list[Bytes], bits: list[float]) -> None:
    """Compares Zstandard on the sample with an order-0 code of each plane."""
    packed = [8 * len(zstd_compress(plane, 1)) for plane in planes]
    plan.plane_zstd = [z < _CLEARLY * h for z, h in zip(packed, bits, strict=True)]
    best = sum(min(z, h) for z, h in zip(packed, bits, strict=True))
    plan.whole_zstd = 8 * len(zstd_compress(sample, 1)) < _CLEARLY * best


def _planes_with_constant_bits(plan: Plan, data: Bytes) -> set[int]:
    """Planes of which some runs vary in a few bits only, as rows of rounded numbers do."""
    layout = plan.layout
    runs = -(-(data.size // layout.size) // plan.run)
    varying = np.empty(runs * layout.size, np.uint8)
    varying_bits(data, layout.size, plan.run, _LOOK, varying)
    masks = varying.reshape(runs, layout.size)[:, ::-1]  # most significant byte first
    # Byte p of an element holds most bits of plane p, but in the first (fp64: three) planes,
    # which the sample judges.
    saved = (8 - np.bitwise_count(masks)).mean(axis=0) / 8
    first = 3 if layout.size == 8 else 1
    return {p for p in range(first, layout.size) if saved[p] > 0.002}


def count(plan: Plan, chunk: Bytes) -> list[RunCounts]:
    """Histograms of the runs of one chunk, for each plane to be counted."""
    if plan.delta:
        chunk = to_differences(chunk, plan.layout)
    planes = _split(plan.layout, chunk)
    runs = -(-planes[0].size // plan.run)
    work = np.empty(2048, np.uint8)
    result = []
    for p in plan.counted:
        counts = np.empty((runs, 256), np.uint16)
        count_runs(planes[p], plan.run, work, counts)
        result.append(counts)
    return result


def decide(plan: Plan, counts: list[list[RunCounts]], level: Level) -> None:
    """Chooses the classes of each counted plane. `counts`: per chunk as from `count`."""
    for i, p in enumerate(plan.counted):
        runs = np.concatenate([chunk[i] for chunk in counts])
        coding = choose_classes(runs, level.classes, len(counts))
        if any(one.kind != registry.CLASS_RAW for one in coding.classes):
            plan.codings[p] = coding
