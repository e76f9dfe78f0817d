"""Reads frames: the one place where the parts of a frame are taken from a source and checked."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densor.errors import ChecksumError, DensorError, FormatError, TruncatedError
from densor.formats.container import short_form, wire
from densor.formats.io.sources import Bytes, MemorySource, PlacedSource, RandomSource, Source
from densor.runtime.buffers import POOL

if TYPE_CHECKING:
    from densor.formats.container.spans import Span


class Frame(NamedTuple):
    """A frame whose checks have passed.

    `memory`: what its payload lies in, for `release`.
    """

    header: wire.FrameHeader
    payload: Bytes
    offset: int  # in the archive
    memory: Bytes

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return self.offset + wire.FRAME_SIZE + self.header.stored

    def release(self) -> None:
        """Gives its memory back, if it is the pool's; nobody may use the payload any more."""
        POOL.give(self.memory)


class FrameReader:
    """Reads the frames of an archive one after the other.

    `at`: where in the archive the source begins. `limit`: most original bytes of a frame.
    """

    def __init__(
        self, source: Source, limit: int = wire.CHUNK_LIMIT, at: int = wire.HEADER_SIZE
    ) -> None:
        self._source = source
        self._limit = limit
        self.at = at  # bytes of the archive read so far, in its ordinary form
        self.short: int | None = None  # bytes that it has in the short form, if it is in it
        self.frames = 0  # read so far, with those that were passed over
        self._head = np.empty(0, np.uint8)  # of the latest frame, as it stands in the archive
        self.waits = getattr(source, "waits", False)  # for bytes that another process may send

    @classmethod
    def of_archive(cls, source: Source) -> tuple["FrameReader", wire.Header]:
        """Reads the header of an archive; a DensorError if it is none."""
        header = wire.parse_header(source.take(wire.HEADER_SIZE).tobytes())
        if not header.features & wire.SHORT:
            return cls(source, header.limit), header
        body = source.take(header.body + 1).tobytes()
        whole = MemorySource(short_form.lengthened(header, body))
        header = wire.parse_header(whole.take(wire.HEADER_SIZE).tobytes())
        reader = cls(whole, header.limit)
        reader.short = wire.HEADER_SIZE + len(body)
        return reader, header

    def _take(self, count: int) -> Bytes:
        data = self._source.take(count)
        self.at += data.size
        return data

    def header(self) -> wire.FrameHeader:
        """The header of the next frame, of which the payload must be read next."""
        offset = self.at
        data = self._take(wire.FRAME_SIZE)
        if not data.size:
            raise TruncatedError("archive ends before its END frame")
        self._head = data
        header = wire.parse_frame(data.tobytes(), self._limit)
        if header.kind == wire.INDEX:
            wire.check_index(header, offset)
        return header

    def payload(self, header: wire.FrameHeader) -> Bytes:
        """The payload that follows its header."""
        payload = self._take(header.stored)
        if payload.size < header.stored:
            raise TruncatedError("archive ends within a frame")
        try:
            wire.check_payload(header, payload)
        except ChecksumError:
            POOL.give(payload)
            raise
        return payload

    def joins(self, span: "Span") -> bool:
        """Whether the next payload is near enough to those of a span to be read with them."""
        source = self._source
        return not isinstance(source, PlacedSource) or span.follows(source.at)

    def gather(self, header: wire.FrameHeader, span: "Span") -> int:
        """Takes the payload that follows its header to a span, which checks it when it decodes.

        It is checked here too where more input may be waited for: damage is to be noticed before.
        Returns where it is there.
        """
        at = span.take(self._source, self._head, header.stored)
        if self.waits:
            wire.check_payload(header, span.payload(at, header.stored))
        self.at += header.stored
        self.frames += 1
        return at

    def next(self, known: bool = False) -> Frame:
        """The next frame, of any kind; `known`: the next that is not to be passed over."""
        while True:
            offset = self.at
            header = self.header()
            frame = self._frame(header, offset)
            if not known or header.kind < wire.FIRST_SKIPPABLE:
                return frame

    def next_unless(self, gathered: Callable[[wire.FrameHeader], bool]) -> Frame | None:
        """The next frame that is not to be passed over; None if `gathered` has taken it."""
        while True:
            offset = self.at
            header = self.header()
            if gathered(header):
                return None
            frame = self._frame(header, offset)
            if header.kind < wire.FIRST_SKIPPABLE:
                return frame

    def _frame(self, header: wire.FrameHeader, offset: int) -> Frame:
        payload = self.payload(header)
        self.frames += 1
        return Frame(header, payload, offset, payload)

    def original_ahead(self) -> int | None:
        """Original bytes up to the end of the entry that was begun, as headers tell, of which no
        hash is checked; None where not all of it lies in memory."""
        if not isinstance(self._source, MemorySource):
            return None
        data, at = self._source.place()
        size = 0
        while at + wire.FRAME_SIZE <= data.size:
            try:
                header = wire.parse_frame(data[at : at + wire.FRAME_SIZE].tobytes(), self._limit)
            except DensorError:  # which is for whoever reads the frame
                return None
            if header.kind == wire.ENTRY_END:
                return size
            if header.kind in (wire.CHUNK, wire.REF):
                size += header.original
            at += wire.FRAME_SIZE + header.stored
        return None

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return not self._take(1).size


class From:
    """The bytes of a source from some place on, as a sequence."""

    def __init__(self, source: RandomSource, offset: int) -> None:
        self._source = source
        self._at = offset

    def take(self, count: int) -> Bytes:
        data = self._source.read_at(self._at, count)
        self._at += count
        return data


def frame_at(source: RandomSource, offset: int, limit: int) -> Frame:
    """The frame at a place of an archive."""
    return FrameReader(From(source, offset), limit, offset).next()


def frame_listed(source: RandomSource, offset: int, listed: wire.FrameHeader, limit: int) -> Frame:
    """The frame at a place of an archive, which must be what its index says: `listed`."""
    data = source.read_at(offset, wire.FRAME_SIZE + listed.stored)
    header = wire.parse_frame(data[: wire.FRAME_SIZE].tobytes(), limit)
    if header[:4] != listed[:4]:
        raise FormatError("index contradicts a frame")
    payload = data[wire.FRAME_SIZE :]
    wire.check_payload(header, payload)
    return Frame(header, payload, offset, data)
