"""Bases that are one step of Adam further than bytes that are at hand.

Moments in a checkpoint follow from those of the checkpoint before and from the gradient, where that
is BF16, and weights in FP32 from those before and from moments. An entry of kind `step` or `update`
holds gradients, and says where in a base the moments are that a step was made of; what the step
makes of them is what a file is coded against. docs/format/step.md.
"""

import itertools
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from densor.codec.adam import replay, weights
from densor.codec.adam.replay import Step, Words
from densor.codec.adam.weights import Update
from densor.codec.interfaces import Base
from densor.errors import FormatError, LimitError
from densor.formats.container import strictjson
from densor.formats.container.entry import STEP, STEPS, UPDATE, EntryMeta
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

MAX_TABLE = 1 << 24  # bytes of the table of an entry
_LENGTH = struct.Struct("<I")
_WORD, _HALF = 4, 2  # bytes of a moment, of a gradient
_PIECE = 1 << 22  # bytes of moments that are made at a time
Read = Callable[[int, int], Bytes]  # some bytes of the entry: from, up to


class Moved(NamedTuple):
    """Weights of a parameter, from this byte of the base on."""

    w: int
    update: Update

    def to_json(self) -> list[int]:
        """As it stands in the table."""
        return [self.w, *_bits(self.update[:4]), self.update.form]


class Stepped(NamedTuple):
    """Moments of a parameter: `elements` of m and of v, from these bytes of the base on; its
    weights, if they follow."""

    m: int
    v: int
    elements: int
    step: Step
    weights: Moved | None = None

    def to_json(self) -> list[int]:
        """As it stands in the table, without weights."""
        step = self.step
        return [self.m, self.v, self.elements, *_bits(step[:4]), step.m_form, step.v_form]


def _bits(numbers: Iterable[np.float32]) -> list[int]:
    return [int(np.float32(x).view(np.uint32)) for x in numbers]


class _Stretch(NamedTuple):
    """Moments of one kind, or weights, in the base.

    `gradient`: where theirs begin in the entry; `make`: what they become, from their bits, those of
    `others`, which begin there in the base, and gradients.
    """

    begin: int
    end: int
    gradient: int
    make: Callable[..., Words]
    others: tuple[int, ...] = ()


class Table(NamedTuple):
    """What a step makes anew in the order of the base, and where each stretch begins."""

    stretches: list[_Stretch]
    begins: list[int]


class SteppedBase:
    """A base after a step. Safe to use from several threads.

    `table`: of the entry that tells of the step, whose bytes `read` gives.
    """

    def __init__(self, base: Base, table: Table, read: Read) -> None:
        self._base = base
        self._read = read
        self._stretches, self._begins = table.stretches, table.begins
        if self._stretches and self._stretches[-1].end > base.size:
            raise FormatError("step is made of what is not in the base")

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._base.size

    def read_at(self, offset: int, count: int) -> Bytes:
        """Some of them, in memory of the pool."""
        out = POOL.take(count)
        out[:] = self._base.read_at(offset, count)
        number = max(bisect_right(self._begins, offset) - 1, 0)
        for stretch in self._stretches[number:]:
            if stretch.begin >= offset + count:
                break
            low, high = max(offset, stretch.begin), min(offset + count, stretch.end)
            for begin in range(low, high, _PIECE):
                end = min(high, begin + _PIECE)
                part = out[begin - offset : end - offset]
                part[:] = self._made(stretch, begin, part)
        return out

    def _made(self, stretch: _Stretch, begin: int, old: Bytes) -> Bytes:
        """What becomes of some bytes of a stretch, `old`, which begin there in the base."""
        first, over = divmod(begin - stretch.begin, _WORD)
        count = -(-(over + old.size) // _WORD)
        whole = old
        if over or count * _WORD > old.size:  # the first or last number is there in part only
            whole = self._base.read_at(begin - over, count * _WORD)
        words = [_as(whole, "<u4")]
        for other in stretch.others:
            words.append(_as(self._base.read_at(other + first * _WORD, count * _WORD), "<u4"))
        at = stretch.gradient + first * _HALF
        halves = self._read(at, at + count * _HALF)
        made = stretch.make(*words, _as(halves, "<u2"))
        return made.astype("<u4", copy=False).view(np.uint8)[over : over + old.size]


def _as(data: Bytes, dtype: str) -> Any:
    """Bytes as integers of this machine, wherever they lie in memory."""
    whole = np.frombuffer(data.tobytes(), dtype)
    return whole.astype(whole.dtype.newbyteorder("="), copy=False)


def head(moments: list[Stepped]) -> tuple[str, bytes]:
    """The kind of an entry and what it begins with; gradients follow, in the same order."""
    listed: dict[str, Any] = {"moments": [one.to_json() for one in moments]}
    kind = STEP
    if any(one.weights for one in moments):
        kind = UPDATE
        listed["weights"] = [one.weights and one.weights.to_json() for one in moments]
    table = strictjson.dumps(listed)
    return kind, _LENGTH.pack(len(table)) + table


def check(meta: EntryMeta | None) -> str:
    """The kind of an entry that tells of a step; FormatError for others."""
    if meta is None or meta.kind not in STEPS or meta.base is not None:
        raise FormatError("step of a base is in no entry that tells of one")
    return meta.kind


def parse(kind: str, size: int, read: Read) -> Table:
    """What an entry of `size` bytes says; FormatError where it contradicts itself."""
    if size < _LENGTH.size:
        raise FormatError("entry of a step is too short")
    (length,) = _LENGTH.unpack(read(0, _LENGTH.size).tobytes())
    if length > MAX_TABLE:
        raise LimitError(f"entry of a step has a table of {length} bytes")
    at = _LENGTH.size + length
    if at > size:
        raise FormatError("entry of a step is too short")
    table = strictjson.loads(read(_LENGTH.size, at).tobytes(), "table of a step")
    found: list[_Stretch] = []
    for one in _listed(table, kind):
        found += _stretches(one, at)
        at += _HALF * one.elements
    if at != size:
        raise FormatError("step has not as many gradients as moments")
    found.sort(key=lambda stretch: stretch.begin)
    for before, after in itertools.pairwise(found):
        if after.begin < before.end:
            raise FormatError("moments of a step overlap")
    return Table(found, [stretch.begin for stretch in found])


def _listed(table: dict[str, Any], kind: str) -> Iterator[Stepped]:
    moments, moved = table.get("moments"), table.get("weights")
    if not isinstance(moments, list):
        raise FormatError("step lists no moments")
    if kind == STEP:
        moved = [None] * len(moments)
    elif not isinstance(moved, list) or len(moved) != len(moments):
        raise FormatError("step lists not as many weights as moments")
    for one, other in zip(moments, moved, strict=True):
        yield _moments(one)._replace(weights=None if other is None else _weights(other))


def _stretches(one: Stepped, gradient: int) -> Iterator[_Stretch]:
    m, v, elements, step, moved = one
    size = _WORD * elements
    make = partial(replay.predicted_m, step=step)
    yield _Stretch(m, m + size, gradient, make)
    make = partial(replay.predicted_v, step=step)
    yield _Stretch(v, v + size, gradient, make)
    if moved is not None:
        make = partial(weights.predicted_w, step=step, update=moved.update)
        yield _Stretch(moved.w, moved.w + size, gradient, make, (m, v))


def _moments(item: object) -> Stepped:
    most = (1 << 62, 1 << 62, 1 << 40)
    limits = (*most, *[0xFFFFFFFF] * 4, replay.M_FORMS - 1, replay.V_FORMS - 1)
    m, v, elements, *bits, m_form, v_form = _integers(item, limits)
    if not elements:
        raise FormatError("moments of a step are none")
    w, b2, a, factor = _floats(bits)
    return Stepped(m, v, elements, Step(w, b2, a, factor, m_form, v_form))


def _weights(item: object) -> Moved:
    w, *bits, form = _integers(item, (1 << 62, *[0xFFFFFFFF] * 4, weights.FORMS - 1))
    kept, scale, bias, epsilon = _floats(bits)
    return Moved(w, Update(kept, scale, bias, epsilon, form))


def _integers(item: object, limits: tuple[int, ...]) -> list[int]:
    if not isinstance(item, list) or len(item) != len(limits):
        raise FormatError("moments or weights of a step are malformed")
    for number, limit in zip(item, limits, strict=True):
        strictjson.integer(number, "number of a step", limit)
    return item


def _floats(bits: list[int]) -> Iterator[np.float32]:
    return (np.uint32(number).view(np.float32) for number in bits)
