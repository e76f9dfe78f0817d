"""A serde for LMCache's L2 adapters: caches of keys and values, packed without loss.

`densor.integrations.lmcache.register()` makes `{"serde": {"type": "densor"}}` known in the
configuration of an adapter. Options beside the type: `level` (3); `head_size` and `rope_theta`, by
which keys are coded relative to their rotated means; `max_workers` (1). Written against LMCache
0.5.6, `lmcache.v1.distributed.serde`.

What is stored: `DKV1`, then for each group of the object u8 how it is kept, u64 bytes of each of
its parts, and these; then XXH3-128 of all that. Groups that nothing makes smaller are kept as they
are, so that an object takes at most 20 bytes more, and 9 for each group.
"""

import math
import struct
from typing import Any

import torch
import xxhash

import densor
from densor.errors import ArgumentError, ChecksumError, FormatError, UnsupportedError
from densor.torch.pages import KEYS, VALUES, Page, pack_page, unpack_page

try:
    from lmcache.v1.distributed.serde import (
        AsyncSerdeProcessor,
        Deserializer,
        Serializer,
        get_registered_serde_types,
        register_serde_factory,
    )
except ImportError as error:
    raise UnsupportedError("needs lmcache") from error

_MAGIC = b"DKV1"
_PLAIN, _ARCHIVE, _PAGES = range(3)
_PARTS = {_PLAIN: 1, _ARCHIVE: 1, _PAGES: 2}
_LENGTH = struct.Struct("<Q")
_DIGEST = 16
_MAX_BYTES = 1 << 40


class DensorSerializer(Serializer):  # type: ignore[misc]
    """Packs objects. `head_size`: channels of a head, of objects [2, layers, tokens, hidden]."""

    def __init__(
        self, level: int = 3, head_size: int | None = None, rope_theta: float | None = None
    ) -> None:
        if head_size is not None and head_size < 1:
            raise ArgumentError("head_size must be 1 or more")
        self._level, self._head_size, self._theta = level, head_size, rope_theta

    def serialize(self, src: Any, dst: Any, key: Any) -> int:
        """Packs `src` into the bytes of `dst`; returns how many they are."""
        body = bytearray(_MAGIC)
        for group in _groups(src):
            way, parts = self._packed(group)
            if sum(map(len, parts)) + _LENGTH.size * (len(parts) - 1) >= group.nbytes:
                way, parts = _PLAIN, [group.reshape(-1).view(torch.uint8).numpy().tobytes()]
            body.append(way)
            for part in parts:
                body += _LENGTH.pack(len(part)) + part
        body += xxhash.xxh3_128_digest(body)
        dst.raw_tensor.view(torch.uint8)[: len(body)] = torch.frombuffer(body, dtype=torch.uint8)
        return len(body)

    def estimate_serialized_size(self, layout_desc: Any) -> int:
        """The most that an object of this layout takes."""
        raw = sum(
            math.prod(shape) * dtype.itemsize
            for shape, dtype in zip(layout_desc.shapes, layout_desc.dtypes, strict=True)
        )
        groups = len(layout_desc.shapes)
        return int(raw) + len(_MAGIC) + groups * (1 + _LENGTH.size) + _DIGEST

    def _packed(self, group: torch.Tensor) -> tuple[int, list[bytes]]:
        size = self._head_size
        if group.ndim != 4 or group.shape[0] != 2 or size is None or group.shape[3] % size:
            return _ARCHIVE, [densor.compress(group, self._level, 1)]
        heads = group.shape[3] // size
        by_head = group.reshape(*group.shape[:3], heads, size).transpose(2, 3)
        return _PAGES, [
            pack_page(Page(which, 0, 0, by_head[which].contiguous()), self._level, self._theta)
            for which in (KEYS, VALUES)
        ]


class DensorDeserializer(Deserializer):  # type: ignore[misc]
    """Undoes `DensorSerializer`, whatever its options were."""

    def deserialize(self, src: Any, dst: Any, key: Any) -> None:
        """Fills `dst`; a DensorError, and anything in `dst`, where `src` is not what was stored."""
        data = src.byte_array
        found = memoryview(data).cast("B")
        if len(found) < len(_MAGIC) + _DIGEST or bytes(found[: len(_MAGIC)]) != _MAGIC:
            raise FormatError("is no packed object of LMCache")
        body = found[:-_DIGEST]
        if xxhash.xxh3_128_digest(body) != bytes(found[-_DIGEST:]):
            raise ChecksumError("packed object of LMCache was damaged")
        at = len(_MAGIC)
        for group in _groups(dst):
            at = _unpack(body, at, group)
        if at != len(body):
            raise FormatError("packed object of LMCache has more groups")


def _groups(found: Any) -> list[torch.Tensor]:
    count = len(found.get_shapes())
    groups = [found.get_tensor(i) for i in range(count)]
    if any(group is None or group.device.type != "cpu" for group in groups):
        raise ArgumentError("objects must be valid, and in main memory")
    return groups


def _unpack(body: memoryview, at: int, group: torch.Tensor) -> int:
    """Fills a group of an object; returns where the next one begins."""
    way = body[at] if at < len(body) else -1
    if way not in _PARTS:
        raise FormatError("packed object of LMCache has no such group")
    at += 1
    parts: list[memoryview] = []
    for _ in range(_PARTS[way]):
        if at + _LENGTH.size > len(body):
            raise FormatError("packed object of LMCache ends too early")
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        if length > len(body) - at:
            raise FormatError("packed object of LMCache ends too early")
        parts.append(body[at : at + length])
        at += length
    _fill(way, parts, group)
    return at


def _fill(way: int, parts: list[memoryview], group: torch.Tensor) -> None:
    if way == _PLAIN:
        if len(parts[0]) != group.nbytes:
            raise FormatError("packed object of LMCache has another size")
        plain = torch.frombuffer(bytearray(parts[0]), dtype=torch.uint8)
        group.copy_(plain.view(group.dtype).reshape(group.shape))
        return
    if way == _ARCHIVE:
        _copy(densor.decompress(parts[0], 1, max_output_size=_MAX_BYTES), group)
        return
    for which, part in enumerate(parts):
        tensor = unpack_page(part).tensor  # [layers, heads, tokens, size]
        if group.ndim != 4 or group.shape[0] != 2:
            raise FormatError("packed object of LMCache has another shape")
        _copy(tensor.transpose(1, 2).flatten(2), group[which])


def _copy(found: Any, target: torch.Tensor) -> None:
    same = isinstance(found, torch.Tensor) and found.dtype == target.dtype
    if not same or found.shape != target.shape:
        raise FormatError("packed object of LMCache has another shape or type")
    target.copy_(found)


def _create(kwargs: dict[str, object]) -> Any:
    options: dict[str, Any] = dict(kwargs)
    workers = int(options.pop("max_workers", 1))
    return AsyncSerdeProcessor(
        DensorSerializer(**options), DensorDeserializer(), max_workers=workers
    )


def register() -> None:
    """Makes the type `densor` known to LMCache; once is enough, more do nothing."""
    if "densor" not in get_registered_serde_types():
        register_serde_factory("densor", _create)
