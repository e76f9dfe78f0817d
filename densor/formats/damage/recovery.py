"""Recovery data: an erasure code over the blocks of an archive, in frames that readers pass over.

Reed–Solomon by the library zfec. Where the damage is, is known by hashes of the blocks, so that
each parity block of a group makes up for any one of its blocks. The blocks of a group lie far
apart, so that damage in one place is spread over all groups. See container.md, section 12.
"""

import struct
from collections.abc import Iterator
from numbers import Real
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from densor.errors import ArgumentError, ChecksumError, UnsupportedError
from densor.formats.container import wire
from densor.formats.container.frames import frame_at
from densor.formats.damage import scan
from densor.formats.io.outputs import write_all
from densor.formats.io.sources import Bytes, FileRandomSource, RandomSource, RandomSourceFrom
from densor.runtime.arguments import need

MAGIC = b"RECOVER\x01"
_FIELDS = struct.Struct("<8sQQQIIIIBBBB")
_MAX_BLOCKS = 255  # blocks and parity blocks of a group
_MIN_BLOCK = 1 << 6
_MAX_BLOCK = 1 << 16
_MEMORY = 1 << 25  # bytes of blocks that are worked on at a time
_MAX_BYTES = 1 << 40  # of an archive that can be protected


class Layout(NamedTuple):
    """Where the blocks and the parity frames of a protected archive are."""

    protected: int  # bytes from the start of the archive on
    index_at: int  # file offset of the INDEX, 0 if there is none
    frames: int  # frames among the protected bytes
    block: int  # bytes of a block
    groups: int
    data: int  # blocks of a group
    parity: int  # parity blocks of a group
    share: int  # of the archive that may be damaged in one place, in millionths

    @property
    def payload_size(self) -> int:
        """Bytes of payload of every parity frame."""
        return _FIELDS.size + 8 * self.data + self.block

    @property
    def frame_size(self) -> int:
        """Bytes of every parity frame."""
        return wire.FRAME_SIZE + self.payload_size

    def frame_offset(self, group: int, number: int) -> int:
        """Where a parity frame begins."""
        return self.protected + (number * self.groups + group) * self.frame_size

    @property
    def end_at(self) -> int:
        """Where the END frame begins."""
        return self.frame_offset(0, self.parity)

    @property
    def end(self) -> bytes:
        """The END frame."""
        frames = self.frames + self.groups * self.parity
        return wire.pack_end(self.index_at, frames)

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return self.end_at + wire.END_SIZE

    @property
    def percent(self) -> float:
        """The share that was asked for."""
        return self.share / 10_000

    def pack(self, group: int, number: int) -> bytes:
        """The fields at the start of a parity frame's payload."""
        last = (self.data, self.parity, number, 0)
        return _FIELDS.pack(MAGIC, *self[:4], group, self.groups, self.share, *last)


def plan(protected: int, index_at: int, frames: int, percent: float) -> Layout:
    """The layout for so many bytes; any damage of `percent` of them in one place is mended."""
    share = round(percent * 10_000)
    wish = 8 * int(protected**0.5)
    block = min(_MAX_BLOCK, max(_MIN_BLOCK, 1 << wish.bit_length()))
    blocks = -(-protected // block)
    most = max(k for k in range(1, _MAX_BLOCKS) if k + _parity_for(k, share) <= _MAX_BLOCKS)
    groups = -(-blocks // most)
    data = -(-blocks // groups)
    parity = _parity_for(data, share)
    return Layout(protected, index_at, frames, block, groups, data, parity, share)


def _parity_for(data: int, share: int) -> int:
    """Parity blocks for a group; one more than the share, for damage that is not aligned."""
    return -(-data * share // 1_000_000) + 1


def check_wanted(percent: float, out: Any = None) -> None:
    """ArgumentError or UnsupportedError unless recovery data can be made; `out`: for this file."""
    need(percent, Real, "recovery")
    if not 0.1 <= percent <= 100:
        raise ArgumentError(f"recovery data can be 0.1 to 100 percent, not {percent:g}")
    coder(1, 2)
    try:
        usable = out is None or (out.seekable() and out.readable() and out.writable())
        usable = usable and "a" not in str(getattr(out, "mode", ""))
    except AttributeError:
        usable = False
    if not usable:
        raise ArgumentError("recovery data needs an output that can be read again; write to a file")


def coder(data: int, whole: int) -> tuple[Any, Any]:
    """Encoder and decoder of zfec, for `data` blocks of `whole` with parity."""
    try:
        import zfec
    except ImportError:
        message = 'recovery data needs zfec: pip install "densor[recovery]"'
        raise UnsupportedError(message) from None
    return zfec.Encoder(data, whole), zfec.Decoder(data, whole)


def protect(file: BinaryIO, start: int, percent: float) -> int:
    """Adds recovery data to the archive that ends at the file's position; returns its new size.

    `start`: where the archive begins. The file must be open for reading and writing.
    """
    file.flush()
    end = file.tell()
    source = RandomSourceFrom(FileRandomSource(file), start)
    end_at = end - start - wire.END_SIZE
    index_at, frames = wire.parse_end(frame_at(source, end_at, wire.CHUNK_LIMIT).payload)
    if end_at > _MAX_BYTES:
        raise ArgumentError("recovery data is for archives of up to 1 TB")
    layout = plan(end_at, index_at, frames, percent)
    for first, blocks in batches(source, layout):
        _write_parity(file, start, layout, first, blocks)
    file.seek(start + layout.end_at)
    write_all(file, layout.end)
    return layout.size


def _write_parity(
    file: BinaryIO, start: int, layout: Layout, first: int, blocks: npt.NDArray[np.uint8]
) -> None:
    """Writes the parity frames of groups from `first` on; `blocks`: (data, groups, block)."""
    frames: list[list[bytes]] = [[] for _ in range(layout.parity)]
    for group in range(blocks.shape[1]):
        for number, frame in enumerate(parity_frames(layout, first + group, blocks[:, group])):
            frames[number].append(frame)
    for number, row in enumerate(frames):
        file.seek(start + layout.frame_offset(first, number))
        write_all(file, b"".join(row))


def parity_frames(layout: Layout, group: int, blocks: npt.NDArray[np.uint8]) -> list[bytes]:
    """All parity frames of a group, from its blocks."""
    whole = layout.data + layout.parity
    encoder, _ = coder(layout.data, whole)
    rows = tuple(np.ascontiguousarray(block) for block in blocks)
    parity = encoder.encode(rows, tuple(range(layout.data, whole)))
    hashes = b"".join(_hash(block).to_bytes(8, "little") for block in rows)
    payloads = (
        layout.pack(group, number) + hashes + bytes(block) for number, block in enumerate(parity)
    )
    return [wire.pack_frame(wire.RECOVERY, payload) + payload for payload in payloads]


def _hash(block: Any) -> int:
    return xxhash.xxh3_64_intdigest(block)


def batches(source: RandomSource, layout: Layout) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The blocks of all groups, some groups at a time: the first one's number, then the blocks.

    Their shape is (blocks of a group, groups, bytes). What lies beyond the protected bytes, or
    beyond the end of the archive, is 0.
    """
    step = max(1, _MEMORY // (layout.data * layout.block))
    for first in range(0, layout.groups, step):
        count = min(step, layout.groups - first)
        blocks = np.zeros((layout.data, count * layout.block), np.uint8)
        for row in range(layout.data):
            at = (row * layout.groups + first) * layout.block
            end = min(at + count * layout.block, layout.protected, source.size)
            if at < end:
                blocks[row, : end - at] = source.read_at(at, end - at)
        yield first, blocks.reshape(layout.data, count, layout.block)


# Finding and mending


class Parity(NamedTuple):
    """A sound parity frame."""

    group: int
    number: int
    hashes: npt.NDArray[np.uint64]  # of the blocks of its group
    block: Bytes


def parse_payload(payload: Bytes, offset: int) -> tuple[Layout, Parity] | None:
    """What the payload of a RECOVERY frame at this file offset says, None if it cannot be true."""
    if payload.size < _FIELDS.size:
        return None
    magic, *numbers = _FIELDS.unpack(payload[: _FIELDS.size].tobytes())
    *head, group, groups, share, data, parity, number, reserved = numbers
    protected, index_at, frames, block = head
    layout = Layout(protected, index_at, frames, block, groups, data, parity, share)
    sound = (
        magic == MAGIC
        and reserved == 0
        and group < groups
        and number < parity
        and data >= 1
        and data + parity <= _MAX_BLOCKS
        and block in (1 << i for i in range(6, 17))
        and wire.HEADER_SIZE <= protected <= groups * data * block
        and (data - 1) * groups * block < protected
        and (groups - 1) * block < protected
        and parity <= data + 1
        and index_at < protected
        and payload.size == layout.payload_size
        and offset == layout.frame_offset(group, number)
    )
    if not sound:
        return None
    end = _FIELDS.size + 8 * data
    hashes = payload[_FIELDS.size : end].copy().view("<u8").astype(np.uint64)
    return layout, Parity(group, number, hashes, payload[end:])


def find_layout(source: RandomSource, thorough: bool = True) -> Layout | None:
    """The layout of an archive's recovery data; None if it has none, or none that is left.

    `thorough`: looks at the whole archive if need be; a sound one tells it near its end.
    """
    for header_of in (_before_end, _anywhere)[: 1 + thorough]:
        for offset, header in header_of(source):
            if header.kind != wire.RECOVERY:
                continue
            frame = scan.frame_at(source, offset)
            found = None if frame is None else parse_payload(frame.payload, offset)
            if found is not None:
                return found[0]
    return None


def _before_end(source: RandomSource) -> Iterator[tuple[int, wire.FrameHeader]]:
    """Headers in the last bytes of an archive, where recovery data is."""
    most = 4 * (_MAX_BLOCK + 8 * _MAX_BLOCKS)
    return scan.headers(source, max(0, source.size - most))


def _anywhere(source: RandomSource) -> Iterator[tuple[int, wire.FrameHeader]]:
    for stretch in scan.walk(source):
        if stretch.header is not None and stretch.sound:
            yield stretch.offset, stretch.header


def parity_of(source: RandomSource, layout: Layout, group: int) -> dict[int, Parity]:
    """The sound parity frames of a group, by number."""
    found = {}
    for number in range(layout.parity):
        offset = layout.frame_offset(group, number)
        if offset + layout.frame_size > source.size:
            break
        frame = scan.frame_at(source, offset)
        if frame is None or frame.header.kind != wire.RECOVERY:
            continue
        parsed = parse_payload(frame.payload, offset)
        if parsed is not None and parsed[0] == layout:
            found[number] = parsed[1]
    return found


class Group(NamedTuple):
    """A group of blocks as it was found."""

    number: int
    blocks: npt.NDArray[np.uint8]  # those that are damaged have any content
    damaged: list[int]
    parity: dict[int, Parity]  # what is sound
    known: bool  # whether any hashes were left to tell which blocks are damaged

    @property
    def mendable(self) -> bool:
        """Whether what is left is enough."""
        return len(self.damaged) <= len(self.parity)


def groups_of(source: RandomSource, layout: Layout) -> Iterator[Group]:
    """All groups, their blocks checked."""
    for first, blocks in batches(source, layout):
        for column in range(blocks.shape[1]):
            parity = parity_of(source, layout, first + column)
            rows = np.ascontiguousarray(blocks[:, column])
            damaged: list[int] = []
            if parity:
                hashes = next(iter(parity.values())).hashes.tolist()
                damaged = [i for i, row in enumerate(rows) if _hash(row) != hashes[i]]
            yield Group(first + column, rows, damaged, parity, bool(parity))


def mended(layout: Layout, group: Group) -> npt.NDArray[np.uint8]:
    """All blocks of a group, from those that are left."""
    if not group.damaged:
        return group.blocks
    _, decoder = coder(layout.data, layout.data + layout.parity)
    numbers, rows = list(range(layout.data)), list(group.blocks)
    for place, parity in zip(group.damaged, group.parity.values(), strict=False):
        numbers[place] = layout.data + parity.number
        rows[place] = np.ascontiguousarray(parity.block)
    whole = decoder.decode(tuple(rows), tuple(numbers))
    hashes = next(iter(group.parity.values())).hashes.tolist()
    if [_hash(row) for row in whole] != hashes:
        raise ChecksumError("recovery data contradicts itself")
    return np.stack([np.frombuffer(row, np.uint8) for row in whole])


def damage_of(source: RandomSource, layout: Layout) -> "Condition":
    """How much of an archive is damaged, as its recovery data tells."""
    blocks = frames = hopeless = unknown = 0
    for group in groups_of(source, layout):
        blocks += len(group.damaged)
        frames += layout.parity - len(group.parity)
        hopeless += group.known and not group.mendable
        unknown += not group.known
    tail = source.size != layout.size
    if not tail:
        tail = source.read_at(layout.end_at, wire.END_SIZE).tobytes() != layout.end
    return Condition(blocks, frames, hopeless, unknown, tail)


class Condition(NamedTuple):
    """What of a protected archive is damaged."""

    blocks: int  # damaged blocks
    frames: int  # damaged parity frames
    hopeless: int  # groups that have lost more than can be made up for
    unknown: int  # groups of which no hashes are left, so that their blocks are taken as they are
    tail: bool  # whether the END frame is damaged, missing or not the last
