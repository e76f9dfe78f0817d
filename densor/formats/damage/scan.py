"""Finds frames in damaged archives, wherever they begin: a frame header has a check of its own."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import DensorError, FileError
from densor.formats.container import frames, wire
from densor.formats.container.frames import Frame, FrameReader, From
from densor.formats.io.sources import Bytes, RandomSource
from densor.runtime.buffers import POOL

_FIRST_WINDOW = 1 << 16  # bytes looked at first after a damage; every further window is larger
_MAX_WINDOW = 1 << 20
_ROWS = 1 << 16  # headers judged at a time
_HEADER = np.dtype(
    [
        ("kind", "u1"),
        ("reserved", "u1"),
        ("reserved2", "<u2"),
        ("stored", "<u4"),
        ("original", "<u4"),
        ("model", "<u4"),
        ("digest", "<u8"),
        ("check", "<u4"),
    ]
)
_KINDS = np.zeros(256, bool)
_KINDS[wire.ENTRY : wire.END + 1] = True
_KINDS[wire.FIRST_SKIPPABLE :] = True

# XXH3-64 of 24 bytes, from the definition of XXH3 (17 to 128 bytes, seed 0).
_SECRET = np.frombuffer(
    bytes.fromhex("b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"), "<u8"
)
_PRIME = 0x9E3779B185EBCA87
_AVALANCHE = np.uint64(0x165667919E3779F9)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]


def _folded(a: Words, b: Words) -> Words:
    """The two halves of the 128-bit product, one XORed on the other."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = (a0 * b0 >> _HALF) + (a1 * b0 & _LOW) + a0 * b1
    high = a1 * b1 + (a1 * b0 >> _HALF) + (middle >> _HALF)
    found: Words = high ^ (a * b)
    return found


def digests_of_24(rows: Bytes) -> Words:
    """XXH3-64 of each row of an (n, 24) array."""
    words = np.ascontiguousarray(rows).view("<u8").astype(np.uint64)
    first, second, third = words[:, 0], words[:, 1], words[:, 2]
    total: Words = np.full(len(rows), 24 * _PRIME & (1 << 64) - 1, np.uint64)
    total += _folded(first ^ _SECRET[0], second ^ _SECRET[1])
    total += _folded(second ^ _SECRET[2], third ^ _SECRET[3])
    total ^= total >> np.uint64(37)
    total *= _AVALANCHE
    total ^= total >> _HALF
    return total


def headers_in(data: Bytes) -> Places:
    """Where frame headers with a valid check begin in `data`; limits are not all checked."""
    count = data.size - wire.FRAME_SIZE + 1
    if count <= 0:
        return np.empty(0, np.intp)
    pairs = data[1 : count + 2] | data[2 : count + 3]
    reserved = pairs[:-1] | pairs[1:]
    places = np.flatnonzero((reserved == 0) & (data[:count] != 0))
    places = places[_KINDS[data[places]]]
    found = [
        _judged(data, places[i : i + _ROWS]) for i in range(0, places.size, _ROWS)
    ]  # hostile input may have a candidate at every byte
    return np.concatenate([np.empty(0, np.intp), *found])


def _judged(data: Bytes, places: Places) -> Places:
    rows = data[places[:, None] + np.arange(wire.FRAME_SIZE)]
    fields = rows.view(_HEADER).reshape(-1)
    checks = digests_of_24(rows[:, :24]).astype(np.uint32)
    found: Places = places[checks == fields["check"]]
    return found


def headers(
    source: RandomSource, begin: int, limit: int = wire.CHUNK_LIMIT
) -> Iterator[tuple[int, wire.FrameHeader]]:
    """All places from `begin` on where a valid frame header stands, in order."""
    window = _FIRST_WINDOW
    at = begin
    while at + wire.FRAME_SIZE <= source.size:
        data = source.read_at(at, min(window + wire.FRAME_SIZE - 1, source.size - at))
        for place in headers_in(data).tolist():
            try:
                header = wire.parse_frame(data[place : place + wire.FRAME_SIZE].tobytes(), limit)
            except DensorError:
                continue
            yield at + place, header
        at += data.size - wire.FRAME_SIZE + 1
        POOL.give(data)
        window = min(2 * window, _MAX_WINDOW)


class Stretch(NamedTuple):
    """Bytes of an archive: a frame, or what is no frame any more (`header` None)."""

    offset: int
    length: int
    header: wire.FrameHeader | None
    sound: bool  # whether all checks have passed

    @property
    def end(self) -> int:
        """Where the next stretch begins."""
        return self.offset + self.length


def header_at(source: RandomSource, offset: int, limit: int) -> wire.FrameHeader | None:
    """The frame header at this place, None if there is no sound one."""
    try:
        return FrameReader(From(source, offset), limit).header()
    except DensorError:
        return None


def frame_at(source: RandomSource, offset: int, limit: int = wire.CHUNK_LIMIT) -> Frame | None:
    """The frame at this place, None if it is damaged or cut."""
    try:
        return frames.frame_at(source, offset, limit)
    except FileError:
        raise
    except DensorError:
        return None


def walk(
    source: RandomSource, limit: int = wire.CHUNK_LIMIT, begin: int = wire.HEADER_SIZE
) -> Iterator[Stretch]:
    """All of an archive from `begin` on, frame by frame; goes on behind what is damaged.

    The time is proportional to the size of the archive, whatever it holds.
    """
    at = begin
    spare = source.size  # bytes that may be looked at once more
    while at < source.size:
        header = header_at(source, at, limit)
        if header is None:
            end = _next(source, at + 1, limit)
            yield Stretch(at, end - at, None, False)
            at = end
            continue
        end = at + wire.FRAME_SIZE + header.stored
        frame = frame_at(source, at, limit)
        if frame is not None:
            frame.release()
        elif header.stored <= spare and not _goes_on(source, end, limit):
            spare -= header.stored
            end = _end_of_cut(source, at + wire.FRAME_SIZE, min(end, source.size), limit)
        else:
            end = min(end, source.size)
        yield Stretch(at, end - at, header, frame is not None)
        at = end


def _goes_on(source: RandomSource, offset: int, limit: int) -> bool:
    """Whether the archive ends at this place, or another frame begins there."""
    return offset == source.size or header_at(source, offset, limit) is not None


def _end_of_cut(source: RandomSource, begin: int, end: int, limit: int) -> int:
    """Where the next frame stands before `end`, if bytes of the payload at `begin` are missing.

    Only frames count that follow each other beyond `end`: the payload may hold another archive.
    """
    found = []
    for offset, header in headers(source, begin, limit):
        if offset >= end:
            break
        found.append((offset, offset + wire.FRAME_SIZE + header.stored))
    first = end
    leads_on: set[int] = set()
    for offset, following in reversed(found):
        beyond = following >= end and following <= source.size
        if following in leads_on or (beyond and _goes_on(source, following, limit)):
            leads_on.add(offset)
            first = offset
    return first


def _next(source: RandomSource, begin: int, limit: int) -> int:
    """Where the next frame header stands, or the end of the archive."""
    for offset, _ in headers(source, begin, limit):
        return offset
    return source.size
