"""Small tensors that are entries of their own: gathered, then coded and framed together."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xxhash

from densor.codec.kind import Kind, is_plain, kind_of_array
from densor.codec.small import MAX_SMALL
from densor.codec.spans.alike import with_heads
from densor.codec.spans.table import Numbers
from densor.errors import FormatError
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import TENSOR, EntryMeta, parse
from densor.formats.container.hashing import DEFAULT, KINDS
from densor.formats.io.sources import Bytes
from densor.formats.tensors import is_name

_MOST = 1 << 20  # bytes that are gathered
_MOST_ENTRIES = 1 << 12
_HASH = KINDS[DEFAULT]


class FrameList:
    """Frames that are written one behind the other: columns as `wire.COLUMNS`, and payloads."""

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self.models: list[int] = []
        self.stored: list[int] = []
        self.original: list[int] = []
        self.payloads: list[bytes | Bytes] = []

    @property
    def columns(self) -> tuple[list[int], ...]:
        """Numbers of each frame, in the order of an index."""
        return self.kinds, self.models, self.stored, self.original

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(self.stored) + wire.FRAME_SIZE * len(self.stored)

    def insert(self, at: int, kind: int, payload: bytes) -> None:
        """Puts a frame without original bytes before another one."""
        values = kind, 0, len(payload), 0
        for column, value in zip(self.columns, values, strict=True):
            column.insert(at, value)
        self.payloads.insert(at, payload)

    def __iter__(self) -> Iterator[tuple[int, bytes | Bytes, int, int]]:
        """Kind, payload, original length and model of each."""
        return zip(self.kinds, self.payloads, self.original, self.models, strict=True)

    def packed(self) -> bytearray:
        """All of them as they stand in an archive."""
        return with_heads(self.payloads, *(np.array(column) for column in self.columns))


class _Form(NamedTuple):
    """What tensors of a type and shape have in common."""

    kind: Kind
    size: int
    described: str  # JSON of their descriptions behind the name
    ending: bytes  # payloads of their ENTRY_END frames before the digest


class Gathered(NamedTuple):
    """Tensors, in order. `names`: as JSON; `forms`: what each has in common with some others."""

    names: list[str]
    forms: list[_Form]
    tensors: list[bytes]
    digests: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(map(len, self.tensors))

    def frames(
        self,
        payloads: list[bytes | Bytes],
        models: list[int | None],
        inserted: list[tuple[int, int, bytes]],
    ) -> tuple[FrameList, Numbers]:
        """The frames of all, and how many each has.

        `payloads`, `models`: of the one chunk of each; of a REF frame where the model is None.
        `inserted`: number of a tensor, kind and payload of frames that come before its chunk.
        """
        count = len(payloads)
        found = FrameList()
        found.kinds = [wire.ENTRY, wire.CHUNK, wire.ENTRY_END] * count
        found.models, found.original = [0] * (3 * count), [0] * (3 * count)
        if None in models:
            found.kinds[1::3] = [wire.REF if m is None else wire.CHUNK for m in models]
        found.models[1::3] = [model or 0 for model in models]
        found.original[1::3] = [form.size for form in self.forms]
        found.payloads = [b""] * (3 * count)
        pairs = zip(self.names, self.forms, strict=True)
        found.payloads[::3] = [
            strictjson.encoded(f'{{"name":{name}{form.described}') for name, form in pairs
        ]
        found.payloads[1::3] = payloads
        endings = zip(self.forms, self.digests, strict=True)
        found.payloads[2::3] = [form.ending + digest for form, digest in endings]
        found.stored = list(map(len, found.payloads))
        counts = np.full(count, 3)
        for number, kind, payload in reversed(inserted):
            found.insert(3 * number + 1, kind, payload)
            counts[number] += 1
        return found, counts

    def listed(self, firsts: list[int], counts: list[int]) -> tuple[list[str], list[str]]:
        """JSON of the entries in the index but for the last brace, and digests as digits.

        `firsts`, `counts`: of the frames of each.
        """
        digits = [digest.hex() for digest in self.digests]
        rows = zip(self.names, self.forms, firsts, counts, digits, strict=True)
        texts = [
            f'{{"name":{name}{form.described[:-1]},"frames":[{first},{count}],'
            f'"digest":[{_HASH},"{digest}"]'
            for name, form, first, count, digest in rows
        ]
        return texts, digits


class SmallEntries:
    """Tensors of 1 to `MAX_SMALL` bytes, copied as they come."""

    def __init__(self) -> None:
        self._forms: dict[tuple[str, tuple[int, ...]], _Form | None] = {}
        self._gathered = Gathered([], [], [], [])
        self._room = _MOST - MAX_SMALL

    def __len__(self) -> int:
        return len(self._gathered.tensors)

    @property
    def full(self) -> bool:
        """Whether those that are gathered must be taken before more come."""
        return self._room < 0 or len(self) >= _MOST_ENTRIES

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: Any) -> bool:
        """Gathers a tensor; False for one that is not small, or that no reader would accept.

        `data`: array of the bytes of its elements in C order, of any type and shape.
        """
        if not 0 < data.nbytes <= MAX_SMALL:
            return False
        key = dtype, shape
        try:
            form = self._forms[key]
        except KeyError:
            form = self._forms[key] = _form(dtype, shape, data.nbytes)
        if form is None or not is_name(name):
            return False
        names, forms, tensors, _ = self._gathered
        names.append(name)
        forms.append(form)
        tensors.append(data.tobytes())
        self._room -= form.size
        return True

    def take(self) -> Gathered:
        """All that were gathered; there are none then."""
        names, forms, tensors, _ = self._gathered
        self._gathered, self._room = Gathered([], [], [], []), _MOST - MAX_SMALL
        digests = [xxhash.xxh3_128_digest(tensor) for tensor in tensors]
        return Gathered(list(map(strictjson.text, names)), forms, tensors, digests)


def _form(dtype: str, shape: tuple[int, ...], size: int) -> _Form | None:
    """None where no reader would accept a tensor of this type, shape and size."""
    meta = EntryMeta("-", TENSOR, size, dtype, shape)
    try:
        parse(meta.to_json())
    except FormatError:
        return None
    kind = kind_of_array(dtype, shape)
    if is_plain(kind):
        return None
    described = strictjson.text(meta.to_json()).removeprefix('{"name":"-"')
    return _Form(kind, size, described, wire.ENTRY_END_PAYLOAD.pack(size, _HASH))
