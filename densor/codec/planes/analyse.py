"""Chooses the model of a batch of elements: layout options, and how each plane is coded."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from densor.codec.levels import Level
from densor.codec.planes.classes import Coding, Counts, RunCounts
from densor.codec.planes.layout import Layout, to_differences
from densor.codec.planes.params import C
from densor.codec.planes.stages.stage import Precision, Stage
from densor.codec.sampling import sample
from densor.codec.zstd import zstd_compress
from densor.entropy.deferred import deferred
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

count_runs, plane_entropies, repetitions, varying_bits = deferred(
    "densor.codec.planes.search_kernels",
    "count_runs",
    "plane_entropies",
    "repetitions",
    "varying_bits",
)
_local = threading.local()
MAX_RUN = 4096
_MIN_RUN = 256
_CHUNK_BYTES = {1: 1 << 19, 2: 1 << 20, 4: 1 << 20, 8: 1 << 21}
_PIECE = 1024  # elements at each place of a batch that is looked at
_MAX_ELEMENTS_SEARCHED = 64  # elements at the start of each run that are searched for constant bits
_MAX_BITS_OF_SKEWED = 1.2  # bits per symbol; a Huffman code needs at least one
_MAX_SIZE_OF_OTHER_WAY = 0.97  # another way must be this much better to be taken
_MAX_SAMPLE = 1.15  # one that is so much worse on the sample is not tried on every chunk
# Nor one that much worse, where slow levels of Zstandard may find more in what takes little already
_MAX_SAMPLE_IF_SLOW, _SLOW_ZSTD, _LITTLE = 1.4, 6, 0.35
_MIN_QUIET = 4  # pieces of a sample that tell what Zstandard wins where nothing repeats
_MAX_QUIET, _MAX_QUIET_IF_SLOW = 1.01, 1.05  # what it takes there at most, to be tried
_ONLY_MATCHES = -1  # level of Zstandard at which literals stay as they are
_MAX_UNMATCHED = 0.999  # share of a chunk that is left by that where something repeats


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
    delta: bool = False
    repeats: bool = False  # whether Zstandard may find something
    whole_zstd: bool = False  # the elements as they are, with Zstandard
    plane_bits: list[float] = field(default_factory=list)  # per plane, of an element, estimated
    whole_bits: float = 0.0  # of an element, with `whole_zstd`
    plane_zstd: list[bool] = field(default_factory=list)  # per plane: try Zstandard
    quiet_zstd: list[bool] | None = None  # likewise where no elements repeat; None: as elsewhere
    quiet_repeats: bool = True  # whether Zstandard may find something there, too
    counted: list[int] = field(default_factory=list)  # planes whose runs are to be counted


class Counted(NamedTuple):
    """Histograms of a plane in a batch."""

    runs: RunCounts  # uint16[runs, 256]
    total: Counts  # int64[256]


@dataclass(frozen=True, eq=False)
class Tally:
    """Histograms of a plane in a chunk."""

    runs: RunCounts  # uint16[runs, 256]
    total: Counts  # int64[256]
    pooled: Bytes  # the memory of `runs`


def _work() -> Any:
    """Work space of this thread."""
    if not hasattr(_local, "halves"):
        _local.halves = np.empty(1024, np.uint16)
        _local.words = np.empty(1024, np.uint32)
        _local.counts = np.empty(512, np.int64)
        _local.windows = np.empty(4096, np.uint64)
        _local.planes = np.empty(0, np.uint8)
    return _local


def _split(layout: Layout, data: Bytes, work: Any) -> Bytes:
    """The planes one after the other, in memory of this thread that the next call overwrites."""
    if work.planes.size < data.size:
        work.planes = np.empty(data.size, np.uint8)
    planes: Bytes = work.planes[: data.size]
    layout.split(data, planes)
    return planes


def _entropies(layout: Layout, data: Bytes, work: Any) -> list[float]:
    """Order-0 entropy in bits of each plane of `data`."""
    bits = np.empty(layout.size)
    plane_entropies(_split(layout, data, work), work.words, work.counts, bits)
    found: list[float] = bits.tolist()
    return found


def look(
    data: Bytes,
    layout: Layout,
    run: int,
    level: Level,
    integers: bool,
    precision: Precision,
    halves: bool = False,
) -> Plan:
    """First decisions, from a sample: differences or not, Zstandard or not, what to count.

    `halves`: the elements are the low halves of those in `data`.
    """
    work = _work()
    plan = Plan(layout, run)
    pieces = sample(data, layout.size << halves, _PIECE)
    if halves:
        pieces = np.ascontiguousarray(pieces.reshape(-1, 2, layout.size)[:, 0]).reshape(-1)
    n = pieces.size // layout.size
    bits = _entropies(layout, pieces, work)
    if integers and layout.delta:
        differences = to_differences(pieces, layout)
        delta_bits = _entropies(layout, differences, work)
        if sum(delta_bits) < _MAX_SIZE_OF_OTHER_WAY * sum(bits):
            plan.delta, pieces, bits = True, differences, delta_bits
    plan.plane_bits = [plane / max(n, 1) for plane in bits]
    plan.plane_zstd = [False] * layout.size
    plan.repeats = level.try_zstd and _may_repeat(pieces, bits, n, work)
    if plan.repeats:
        _try_zstd(plan, pieces, bits, precision.least, level.zstd >= _SLOW_ZSTD, work)
    if not plan.whole_zstd:
        found = {p for p in range(layout.size) if bits[p] < precision.worth * 8 * n}
        if len(found) < layout.size and not plan.delta and run >= _MAX_ELEMENTS_SEARCHED:
            found |= _planes_with_constant_bits(plan, data, layout.size << halves)
        plan.counted = sorted(found)
    return plan


def _may_repeat(pieces: Bytes, bits: list[float], n: int, work: Any) -> bool:
    """Whether Zstandard is worth a try: something repeats, or a Huffman code wastes bits."""
    if any(0 < plane < _MAX_BITS_OF_SKEWED * n for plane in bits):
        return True
    return bool(repetitions(pieces, work.windows) > pieces.size // 400)


def _try_zstd(
    plan: Plan, pieces: Bytes, bits: list[float], least: float, slow: bool, work: Any
) -> None:
    """Compares Zstandard on the sample with an order-0 code of each plane.

    `pieces` are what would be split into planes, differences if these are planned. `least`: bits
    that the code takes for a symbol at least. `slow`: chunks are tried by slow levels.
    """
    n = pieces.size // plan.layout.size
    packed, whole, coded = _with_zstd(plan.layout, pieces, bits, least, work)
    won = [z < _MAX_SIZE_OF_OTHER_WAY * h for z, h in zip(packed, coded, strict=True)]
    plan.plane_zstd = won
    plan.plane_bits = [min(z, h) / n for z, h in zip(packed, coded, strict=True)]
    plan.whole_bits = whole / n
    best = sum(plan.plane_bits)
    plan.whole_zstd = not plan.delta and plan.whole_bits < _MAX_SIZE_OF_OTHER_WAY * best
    little = slow and plan.whole_bits < _LITTLE * 8 * plan.layout.size
    most = _MAX_SAMPLE_IF_SLOW if little else _MAX_SAMPLE
    plan.repeats = plan.delta or any(plan.plane_zstd) or plan.whole_bits < most * best
    if plan.repeats and not plan.whole_zstd and not plan.delta:
        _try_quiet(plan, pieces, least, slow, work)


def _with_zstd(
    layout: Layout, pieces: Bytes, bits: list[float], least: float, work: Any
) -> tuple[list[int], int, list[float]]:
    """Bits of each plane by Zstandard, of all by it, and of each plane by an order-0 code."""
    n = pieces.size // layout.size
    coded = [min(8.0 * n, max(plane, least * n if plane else 0.0)) for plane in bits]
    planes = _split(layout, pieces, work).reshape(layout.size, n)
    packed = [8 * len(zstd_compress(plane, 1)) for plane in planes]
    return packed, 8 * len(zstd_compress(pieces, 1)), coded


def _try_quiet(plan: Plan, pieces: Bytes, least: float, slow: bool, work: Any) -> None:
    """Finds what Zstandard wins in those pieces of the sample in which no elements repeat.

    It need not be tried on chunks in which none do either, where that is nothing.
    """
    layout, size = plan.layout, _PIECE * plan.layout.size
    apart = [pieces[at : at + size] for at in range(0, pieces.size - size + 1, size)]
    quiet = [one for one in apart if not repetitions(one, work.windows)]
    if not _MIN_QUIET <= len(quiet) < len(apart):
        return
    some = np.concatenate(quiet)
    packed, whole, coded = _with_zstd(layout, some, _entropies(layout, some, work), least, work)
    plan.quiet_zstd = [
        won and z < _MAX_SIZE_OF_OTHER_WAY * h
        for won, z, h in zip(plan.plane_zstd, packed, coded, strict=True)
    ]
    best = sum(map(min, packed, coded))
    plan.quiet_repeats = whole < (_MAX_QUIET_IF_SLOW if slow else _MAX_QUIET) * best


def matches(data: Bytes) -> bool:
    """Whether Zstandard finds what repeats: where nothing does, in little more time than a copy."""
    return len(zstd_compress(data, _ONLY_MATCHES)) < _MAX_UNMATCHED * data.size


def _planes_with_constant_bits(plan: Plan, data: Bytes, size: int) -> set[int]:
    """Planes of which some runs vary in a few bits only, as rows of rounded numbers do.

    `size`: bytes of an element of `data`, of which the lower ones are meant.
    """
    layout = plan.layout
    runs = -(-(data.size // size) // plan.run)
    varying = np.empty(runs * size, np.uint8)
    varying_bits(data, size, plan.run, _MAX_ELEMENTS_SEARCHED, varying)
    # The most significant byte first.
    masks = varying.reshape(runs, size)[:, : layout.size][:, ::-1]
    # Byte p of an element holds most bits of plane p, but in the first planes of floats, which the
    # sample judges.
    saved = (8 - np.bitwise_count(masks)).mean(axis=0) / 8
    first = {1: 0, 2: 0, 4: 1, 8: 3}[layout.size]
    return {p for p in range(first, layout.size) if saved[p] > 0.002}


def _rows(pooled: Bytes) -> RunCounts:
    return pooled.view(np.uint16).reshape(-1, 256)


def count(plan: Plan, chunk: Bytes) -> list[Tally]:
    """Histograms of the runs of one chunk, for each plane to be counted."""
    work = _work()
    layout = plan.layout
    if plan.delta:
        chunk = to_differences(chunk, layout)
    n = chunk.size // layout.size
    planes = _split(layout, chunk, work)
    tallies = []
    for p in plan.counted:
        plane = planes[p * n : (p + 1) * n]
        pooled = POOL.take(-(-n // plan.run) * 512)
        tally = Tally(_rows(pooled), np.zeros(256, np.int64), pooled)
        count_runs(plane, plan.run, work.halves, tally.runs, tally.total)
        tallies.append(tally)
    return tallies


def decide(
    plan: Plan, tallies: Sequence[list[Tally]], stage: Stage[C], most: int
) -> list[Coding[C] | None]:
    """The coding of each plane, None: raw.

    `tallies`: per chunk as from `count`. `most`: classes of a plane at most.
    """
    codings: list[Coding[C] | None] = [None] * plan.layout.size
    for i, p in enumerate(plan.counted):
        of_plane = [chunk[i] for chunk in tallies]
        runs = of_plane[0].runs
        total = of_plane[0].total
        if len(of_plane) > 1:
            pooled = POOL.take(sum(tally.pooled.size for tally in of_plane))
            runs = _rows(pooled)
            np.concatenate([tally.runs for tally in of_plane], out=runs)
            total = np.sum([tally.total for tally in of_plane], axis=0)
        codings[p] = stage.choose(runs, total, most, len(tallies))
        if len(of_plane) > 1:
            POOL.give(pooled)
        for tally in of_plane:
            POOL.give(tally.pooled)
    return codings
