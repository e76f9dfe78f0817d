"""Bases that are one step of Adam further than bytes that are at hand.

Moments in a checkpoint follow from those of the checkpoint before and from the gradient, where that
is BF16. An entry of kind `step` holds gradients, and says where in a base the moments are that a
step was made of; what the step makes of them is what a file is coded against. docs/format/step.md.
"""

import itertools
import struct
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from densor.codec.adam import replay
from densor.codec.adam.replay import Step, Words
from densor.codec.codec import Base
from densor.errors import FormatError, LimitError
from densor.formats.container import strictjson
from densor.formats.container.entry import STEP, EntryMeta
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

MAX_TABLE = 1 << 24  # bytes of the table of an entry
_LENGTH = struct.Struct("<I")
_WORD, _HALF = 4, 2  # bytes of a moment, of a gradient
_PIECE = 1 << 22  # bytes of moments that are made at a time
Read = Callable[[int, int], Bytes]  # some bytes of the entry: from, up to


class Stepped(NamedTuple):
    """Moments of a parameter: `elements` of m and of v, from these bytes of the base on."""

    m: int
    v: int
    elements: int
    step: Step

    def to_json(self) -> list[int]:
        """As it stands in the table."""
        numbers = [int(np.float32(x).view(np.uint32)) for x in self.step[:4]]
        return [self.m, self.v, self.elements, *numbers, self.step.m_form, self.step.v_form]


class _Stretch(NamedTuple):
    """Moments of one kind in the base; `gradient`: where theirs begin in the entry."""

    begin: int
    end: int
    gradient: int
    step: Step
    make: Callable[[Words, Any, Step], Words]


class Table(NamedTuple):
    """The moments of a step in the order of the base, and where each stretch begins."""

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
        """What becomes of some bytes of these moments, `old`, which begin there in the base."""
        first, over = divmod(begin - stretch.begin, _WORD)
        count = -(-(over + old.size) // _WORD)
        whole = old
        if over or count * _WORD > old.size:  # the first or last moment is there in part only
            whole = self._base.read_at(begin - over, count * _WORD)
        at = stretch.gradient + first * _HALF
        halves = self._read(at, at + count * _HALF)
        made = stretch.make(_as(whole, "<u4"), _as(halves, "<u2"), stretch.step)
        return made.astype("<u4", copy=False).view(np.uint8)[over : over + old.size]


def _as(data: Bytes, dtype: str) -> Any:
    """Bytes as integers of this machine, wherever they lie in memory."""
    whole = np.frombuffer(data.tobytes(), dtype)
    return whole.astype(whole.dtype.newbyteorder("="), copy=False)


def head(moments: list[Stepped]) -> bytes:
    """What an entry begins with; gradients follow, in the same order."""
    table = strictjson.dumps({"moments": [one.to_json() for one in moments]})
    return _LENGTH.pack(len(table)) + table


def check(meta: EntryMeta | None) -> None:
    """FormatError unless an entry tells of steps."""
    if meta is None or meta.kind != STEP or meta.base is not None:
        raise FormatError("step of a base is in no entry that tells of one")


def parse(size: int, read: Read) -> Table:
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
    listed = table.get("moments")
    if not isinstance(listed, list):
        raise FormatError("step lists no moments")
    found = []
    for item in listed:
        m, v, count, step = _moments(item)
        for begin, make in ((m, replay.predicted_m), (v, replay.predicted_v)):
            found.append(_Stretch(begin, begin + _WORD * count, at, step, make))
        at += _HALF * count
    if at != size:
        raise FormatError("step has not as many gradients as moments")
    found.sort(key=lambda stretch: stretch.begin)
    for one, other in itertools.pairwise(found):
        if other.begin < one.end:
            raise FormatError("moments of a step overlap")
    return Table(found, [stretch.begin for stretch in found])


def _moments(item: object) -> Stepped:
    if not isinstance(item, list) or len(item) != 9:
        raise FormatError("moments of a step are malformed")
    most = (1 << 62, 1 << 62, 1 << 40)
    limits = (*most, *[0xFFFFFFFF] * 4, replay.M_FORMS - 1, replay.V_FORMS - 1)
    for number, limit in zip(item, limits, strict=True):
        strictjson.integer(number, "number of a step", limit)
    if not item[2]:
        raise FormatError("moments of a step are none")
    w, b2, a, factor = (np.uint32(number).view(np.float32) for number in item[3:7])
    m, v, elements, *_, m_form, v_form = item
    return Stepped(m, v, elements, Step(w, b2, a, factor, m_form, v_form))
