"""Decodes stretches of entries, wherever they come from: parameters, repetitions and bases."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from densor.codec.interfaces import Base, Decoder, PartDecoder
from densor.codec.language_model.session import Session
from densor.errors import FormatError, LimitError
from densor.formats.container import step, wire
from densor.formats.container.base import GivenBase, resolve
from densor.formats.container.chunk_decoders import Models, decode_chunk
from densor.formats.container.entry import BaseRef, EntryMeta
from densor.formats.container.frames import Frame
from densor.formats.io.sources import Bytes
from densor.runtime.buffers import POOL
from densor.runtime.locks import Lock
from densor.runtime.lru import LruCache

_KEPT = wire.CHUNK_LIMIT  # bytes of decoded chunks kept for what else is needed of them
_STEPS = 4  # tables of steps that are kept
_COST = 64  # bytes that may be decoded for others, per byte that is read and per byte of a limit


class Budget:
    """How many bytes may be decoded for others, so that hostile chains come to an end."""

    def __init__(self, size: int, message: str) -> None:
        self.left = _COST * (size + wire.CHUNK_LIMIT)
        self._message = message
        self._lock = Lock()

    def spend(self, count: int) -> None:
        """LimitError where this is too much."""
        with self._lock:
            self.left -= count
            if self.left < 0:
                raise LimitError(self._message)


class Piece(NamedTuple):
    """A CHUNK or REF frame of an entry; `place`: its own in the archive, by offset or number."""

    place: int
    header: wire.FrameHeader
    begin: int  # in the entry, or in a run whose place is unknown
    sound: bool = True

    @property
    def end(self) -> int:
        """Where what follows it begins."""
        return self.begin + self.header.original


class _Entry(Protocol):
    @property
    def meta(self) -> EntryMeta | None: ...


E = TypeVar("E", bound=_Entry)


class Part(NamedTuple, Generic[E]):
    """Bytes `low` to `high` of what a chunk of an entry decodes to."""

    entry: E
    chunk: Piece
    low: int
    high: int

    @property
    def size(self) -> int:
        """Bytes of it."""
        return self.high - self.low

    @property
    def whole(self) -> bool:
        """Whether it is all of the chunk."""
        return self.size == self.chunk.header.original


class EntryDecoder(ABC, Generic[E]):
    """Decodes entries of an archive that can be read at any place. For several threads at once.

    Where frames are found is for the subclass to say. `given`: what entries are based on that
    refer to bytes outside the archive.
    """

    def __init__(self, given: GivenBase | None, session: Session) -> None:
        self._given = given
        self._models = Models(session)
        self._kept: LruCache[int, Bytes] = LruCache(_KEPT, lambda chunk: chunk.size)
        self._steps: LruCache[int, step.Table] = LruCache(_STEPS)

    @abstractmethod
    def _pieces(self, entry: E, begin: int, end: int) -> Iterable[Piece]:
        """The pieces that hold bytes of this range, in order, up to the first gap."""

    @abstractmethod
    def _frame_of(self, piece: Piece) -> Frame:
        """The frame of a piece."""

    @abstractmethod
    def _params(self, chunk: Piece) -> bytes:
        """The payload of the MODEL frame that a chunk names."""

    @abstractmethod
    def _repeated(self, entry: E, ref: wire.Ref, size: int) -> E:
        """The entry that a REF frame points into, which must hold these bytes."""

    @abstractmethod
    def _earlier(self, entry: E, wanted: BaseRef) -> E:
        """The entry that another one is based on."""

    @abstractmethod
    def _step_of(self, entry: E, number: int) -> tuple[E, int]:
        """The entry that says what becomes of another one's base, and its size."""

    def target(self, entry: E, piece: Piece) -> tuple[E, int]:
        """Where the bytes of a REF frame are: entry and offset."""
        frame = self._frame_of(piece)
        ref = wire.parse_ref(frame.payload)
        frame.release()
        return self._repeated(entry, ref, piece.header.original), ref.offset

    def parts(self, entry: E, begin: int, end: int, refs: bool = True) -> Iterator[Part[E]]:
        """The chunks that these bytes of an entry come from, up to the first gap.

        `refs`: whether some may stand in REF frames, which must point to chunks.
        """
        for piece in self._pieces(entry, begin, end):
            low, high = max(begin, piece.begin), min(end, piece.end)
            if piece.header.kind == wire.CHUNK:
                yield Part(entry, piece, low - piece.begin, high - piece.begin)
                continue
            if not refs:
                raise FormatError("REF frame points to a REF frame")
            other, at = self.target(entry, piece)
            at += low - piece.begin
            yield from self.parts(other, at, at + high - low, False)

    def decoder(self, chunk: Piece) -> Decoder | None:
        """The decoder of a chunk, None for the fixed ones."""
        return self._models.known(chunk.header.model, partial(self._params, chunk))

    def decode(self, entry: E, chunk: Piece, out: Bytes, budget: Budget) -> None:
        """Decodes a whole chunk."""
        frame = self._frame_of(chunk)
        base = self._base_of(entry, budget)
        decode_chunk(chunk.header.model, self.decoder(chunk), frame.payload, out, base)
        frame.release()

    def decode_units(self, part: Part[E], out: Bytes) -> bool:
        """Decodes just what a part asks for, where its codec can; whether it did."""
        decoder = self.decoder(part.chunk)
        if not isinstance(decoder, PartDecoder):
            return False
        first, last = part.low // decoder.unit, -(-part.high // decoder.unit)
        units = np.empty((last - first) * decoder.unit, np.uint8)
        frame = self._frame_of(part.chunk)
        decoder.decode_some(frame.payload, part.chunk.header.original, first, last, units)
        frame.release()
        begin = part.low - first * decoder.unit
        out[:] = units[begin : begin + part.size]
        return True

    def _base_of(self, entry: E, budget: Budget) -> Base | None:
        wanted = None if entry.meta is None else entry.meta.base
        if wanted is None:
            return None
        base: Base
        if wanted.entry is None:
            base = resolve(wanted, self._given)
        else:
            base = _EntryBase(self, self._earlier(entry, wanted), wanted.size, budget)
        if wanted.step is None:
            return base
        found, size = self._step_of(entry, wanted.step)
        kind = step.check(found.meta)
        read = partial(self._read_step, found, budget)
        table = self._steps.get(wanted.step)
        if table is None:
            table = step.parse(kind, size, read)
            self._steps.put(wanted.step, table)
        return step.SteppedBase(base, table, read)

    def _read_step(self, entry: E, budget: Budget, begin: int, end: int) -> Bytes:
        """Bytes of an entry that tells of a step, and may refer to nothing that has a base."""
        for part in self.parts(entry, begin, end):
            meta = part.entry.meta
            if meta is None or meta.base is not None:
                raise FormatError("step of a base is in what has a base itself")  # no circles
        out = np.empty(end - begin, np.uint8)
        self.fill_base(entry, begin, out, budget)
        return out

    def fill(self, entry: E, begin: int, out: Bytes, budget: Budget, refs: bool = True) -> None:
        """Decodes a stretch of an entry on behalf of others, in the thread that asks."""
        at = 0
        for part in self.parts(entry, begin, begin + out.size, refs):
            self._part(part, out[at : at + part.size], budget)
            at += part.size
        if at < out.size:
            raise FormatError("entry does not hold what others refer to")

    def _part(self, part: Part[E], out: Bytes, budget: Budget) -> None:
        """Keeps a chunk that was needed in part, since the next reading will need the rest."""
        chunk = part.chunk
        whole = self._kept.get(chunk.place)
        if whole is None:
            budget.spend(chunk.header.original)
            if part.whole:
                return self.decode(part.entry, chunk, out, budget)
            if self.decode_units(part, out):
                return None
            whole = np.empty(chunk.header.original, np.uint8)
            self.decode(part.entry, chunk, whole, budget)
            self._kept.put(chunk.place, whole)
        out[:] = whole[part.low : part.high]
        return None

    def fill_base(self, entry: E, begin: int, out: Bytes, budget: Budget) -> None:
        """Decodes a stretch that an entry is based on."""
        self.fill(entry, begin, out, budget)


class _EntryBase:
    """The bytes of an entry, as the base of another one; decoded in the thread that asks."""

    def __init__(self, decoder: EntryDecoder[Any], entry: Any, size: int, budget: Budget) -> None:
        self._decoder = decoder
        self._entry = entry
        self._budget = budget
        self.size = size

    def read_at(self, offset: int, count: int) -> Bytes:
        out = POOL.take(count)
        self._decoder.fill_base(self._entry, offset, out, self._budget)
        return out
