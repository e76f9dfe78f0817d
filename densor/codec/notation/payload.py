"""What both sides know of the MODEL frame and the payload of a chunk in another notation."""

import struct
from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.notation.layout import BASE64, HEX, LATIN, MAX_ITEM, OTHER, VARINTS
from densor.entropy.deferred import deferred
from densor.errors import FormatError, LimitError, UnsupportedError

_make = deferred("densor.codec.notation.kernels", "make")
MODEL = struct.Struct("<BBBB")  # codec, form, bytes of an item, option
HEAD = struct.Struct("<BIII")  # bytes that are passed over, runs, literal bytes, bytes of elements
RUN = 8  # bytes
PARTS = 3  # runs, literal bytes, elements
MOST_PLAIN = 1 << 25
_UNITS = {VARINTS: (1, 2, 4, 8), LATIN: (1,), BASE64: (3,), HEX: (1,)}


def most_runs(size: int) -> int:
    """How many a chunk of so many bytes may have."""
    return size // 16 + 2


class Form(NamedTuple):
    """What a MODEL frame says: a form of `layout.py`, bytes of an item, and the option."""

    number: int
    unit: int
    option: int

    def pack(self) -> bytes:
        """As it stands in a MODEL frame, before the model of the elements."""
        return MODEL.pack(registry.CODEC_NOTATION, *self)

    @classmethod
    def unpack(cls, payload: bytes) -> "Form":
        """From a MODEL frame; FormatError or UnsupportedError for a bad one."""
        if len(payload) < MODEL.size:
            raise FormatError("model of a notation is too short")
        _, number, unit, option = MODEL.unpack_from(payload)
        if number not in _UNITS:
            raise UnsupportedError(f"unknown notation {number}; a newer densor may read this")
        if unit not in _UNITS[number] or option > OTHER or (number == LATIN and option):
            raise FormatError("notation is impossible")
        return cls(number, unit, option)

    def make(self, plain: Bytes, runs: Bytes, literals: Bytes, out: Bytes) -> int:
        """Writes what these are in this form; returns the bytes, -1 where `out` has no room.

        `runs`: as they stand in a payload, which `literals` and `plain` have all of.
        """
        pairs = np.frombuffer(runs.tobytes(), "<u4").astype(np.uint32)
        item = np.empty(MAX_ITEM, np.uint8)
        written: int = _make(plain, *self, pairs, literals, item, out)
        return written


class Head(NamedTuple):
    """What a payload begins with: bytes of elements before the first item, and sizes."""

    skipped: int
    runs: int
    literals: int
    plain: int

    def pack(self) -> bytes:
        """As it stands in a payload."""
        return HEAD.pack(*self)

    @classmethod
    def unpack(cls, payload: Bytes, form: Form, size: int) -> "Head":
        """From a payload that stands for `size` bytes; FormatError or LimitError if bad."""
        if payload.size < HEAD.size:
            raise FormatError("chunk in another notation is too short")
        found = cls(*HEAD.unpack_from(payload[: HEAD.size].tobytes()))
        if not found.is_possible(form, size):
            raise LimitError("chunk in another notation holds more than it can")
        if found.skipped >= form.unit:
            raise FormatError("chunk in another notation passes over whole items")
        return found

    def is_possible(self, form: Form, size: int) -> bool:
        """Whether a chunk of `size` bytes may have as much."""
        # An item takes a byte at least; what is not whole items has less than two of them.
        most = min((size + 2) * form.unit, MOST_PLAIN)
        return self.plain <= most and self.literals <= size and self.runs <= most_runs(size)


def check_runs(runs: Bytes, head: Head, form: Form) -> None:
    """FormatError unless the runs have items, and take what there is."""
    pairs = np.frombuffer(runs.tobytes(), "<u4").reshape(-1, 2)
    if not pairs[:, 1].all() or not pairs[1:, 0].all():
        raise FormatError("run in another notation is empty")
    before, items = (int(n) for n in pairs.sum(axis=0, dtype=np.uint64))
    left = head.plain - head.skipped - items * form.unit
    if before > head.literals or not 0 <= left < form.unit:
        raise FormatError("runs in another notation do not take what there is")
