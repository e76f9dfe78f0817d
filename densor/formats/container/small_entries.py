"""Small tensors that are entries of their own: gathered, then coded and framed together."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xxhash

from densor.codec.kind import Kind, is_plain, kind_of_array
from densor.codec.small import MAX_SMALL, Small
from densor.codec.spans.alike import with_heads
from densor.errors import FormatError
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import TENSOR, EntryMeta, parse
from densor.formats.container.hashing import DEFAULT, KINDS
from densor.formats.io.sources import Bytes
from densor.formats.tensors import check_name

_MOST = 1 << 20  # bytes that are gathered
_MOST_ENTRIES = 1 << 12
_HASH = KINDS[DEFAULT]


class FrameList:
    """Frames that are written one behind the other. `first`: how many stand before them."""

    def __init__(self, first: int) -> None:
        self.next = first  # the number of the frame that is added next
        self.size = 0  # bytes of all
        self.columns: tuple[list[int], ...] = ([], [], [], [])  # as `wire.COLUMNS`
        self._payloads: list[bytes | Bytes] = []

    def add(self, kind: int, payload: bytes | Bytes, original: int = 0, model: int = 0) -> None:
        """Appends a frame."""
        kinds, models, stored, originals = self.columns
        kinds.append(kind)
        models.append(model)
        stored.append(len(payload))
        originals.append(original)
        self._payloads.append(payload)
        self.size += wire.FRAME_SIZE + len(payload)
        self.next += 1

    def __iter__(self) -> Iterator[tuple[int, bytes | Bytes, int, int]]:
        """Kind, payload, original length and model of each."""
        kinds, models, _, originals = self.columns
        return zip(kinds, self._payloads, originals, models, strict=True)

    def packed(self) -> bytearray:
        """All of them as they stand in an archive."""
        return with_heads(self._payloads, *(np.array(column) for column in self.columns))


class _Form(NamedTuple):
    """What tensors of a type and shape have in common."""

    kind: Kind
    dtype: str
    shape: list[int]
    described: str  # JSON of their descriptions behind the name


class SmallEntry(NamedTuple):
    """An entry: payloads of its ENTRY and ENTRY_END frames, and what the index has of it."""

    description: bytes
    ending: bytes
    digest: bytes
    listed: dict[str, Any]


class SmallEntries:
    """Tensors of 1 to `MAX_SMALL` bytes, copied as they come."""

    def __init__(self) -> None:
        self._forms: dict[tuple[str, tuple[int, ...]], _Form | None] = {}
        self._waiting: list[tuple[str, _Form, int]] = []  # name, form, end in memory
        self._memory = np.empty(_MOST, np.uint8)
        self._end = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether those that are gathered must be taken before more come."""
        return self._end > _MOST - MAX_SMALL or len(self._waiting) >= _MOST_ENTRIES

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: Bytes) -> bool:
        """Gathers a tensor; False for one that is not small, or that no reader would accept."""
        if not 0 < data.size <= MAX_SMALL:
            return False
        key = dtype, shape
        if key not in self._forms:
            self._forms[key] = _form(dtype, shape, data.size)
        form = self._forms[key]
        if form is None or not _is_name(name):
            return False
        end = self._end + data.size
        self._memory[self._end : end] = data
        self._end = end
        self._waiting.append((name, form, end))
        return True

    def take(self) -> list[tuple[SmallEntry, Small]]:
        """All that were gathered, in order; there are none then. What they lie in is used again."""
        found = []
        begin = 0
        for name, form, end in self._waiting:
            data = self._memory[begin:end]
            digest = xxhash.xxh3_128_digest(data)
            size, begin = end - begin, end
            text = f'{{"name":{strictjson.text(name)}{form.described}'
            listed = {
                "name": name,
                "kind": TENSOR,
                "size": size,
                "dtype": form.dtype,
                "shape": form.shape,
                "frames": [],
                "digest": [_HASH, digest.hex()],
            }
            ending = wire.ENTRY_END_PAYLOAD.pack(size, _HASH) + digest
            entry = SmallEntry(strictjson.encoded(text), ending, digest, listed)
            found.append((entry, Small(data, form.kind)))
        self._waiting, self._end = [], 0
        return found


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
    return _Form(kind, dtype, list(shape), described)


def _is_name(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(check_name(name))
    except FormatError:
        return False
