"""What an archive says about an entry: name, kind, type, size."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densor.errors import ArgumentError, FormatError, UnsupportedError
from densor.formats.container import strictjson
from densor.formats.container.hashing import KINDS as KINDS_OF_HASH
from densor.formats.tensors import TensorInfo, check_name, element_bytes

FILE = "file"
DIR = "dir"
TENSOR = "tensor"
ARRAY = "array"
BYTES = "bytes"
KINDS = (FILE, DIR, TENSOR, ARRAY, BYTES)


class BaseRef(NamedTuple):
    """What the chunks of an entry refer to: original bytes by size and hash.

    `entry`: number of the entry of this archive that holds them, else None; `name`: what the base
    was called, to help whoever has to find it.
    """

    size: int
    hash_kind: int
    digest: bytes
    entry: int | None = None
    name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The value of `base` in an ENTRY frame."""
        found: dict[str, Any] = {"size": self.size, "digest": [self.hash_kind, self.digest.hex()]}
        if self.entry is not None:
            found["entry"] = self.entry
        if self.name is not None:
            found["name"] = self.name
        return found


@dataclass(slots=True)
class EntryMeta:
    """The description of an entry; fields that do not apply are None."""

    name: str
    kind: str
    size: int | None = None  # original bytes, None if not known in advance
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    order: str | None = None  # C or F
    host: str | None = None  # numpy or torch
    descr: Any = None  # numpy type description
    format: str | None = None
    hash: str | None = None  # of the original bytes, None for the default
    mode: int | None = None
    mtime_ns: int | None = None
    base: BaseRef | None = None
    tensors: list[TensorInfo] = field(default_factory=list)  # index only

    def to_json(self) -> dict[str, Any]:
        """The keys of an ENTRY frame."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "size": self.size}
        for key in ("dtype", "order", "host", "descr", "format", "hash", "mode", "mtime_ns"):
            value = getattr(self, key)
            if value is not None:
                found[key] = value
        if self.shape is not None:
            found["shape"] = list(self.shape)
        if self.base is not None:
            found["base"] = self.base.to_json()
        return found


def check_path(name: str) -> str:
    """`name` if it is a harmless relative path, else FormatError."""
    parts = name.split("/")
    bad = (
        any(part in ("", ".", "..") for part in parts)
        or any(ord(c) < 32 or c in "\\\x7f" for c in name)
        or any(":" in part for part in parts)
    )
    if bad:
        raise FormatError(f"unsafe path in archive: {name!r}")
    return check_name(name)


def parse_entry(payload: Any) -> EntryMeta:
    """An entry's description from the payload of its ENTRY frame, all of it checked."""
    return parse(strictjson.loads(bytes(payload), "description of an entry"))


def parse(found: dict[str, Any]) -> EntryMeta:
    """An entry's description from the JSON of its ENTRY frame, all of it checked."""
    name, kind = found.get("name"), found.get("kind")
    if not isinstance(name, str) or kind not in KINDS:
        raise FormatError("entry has no valid name and kind")
    check_path(name) if kind in (FILE, DIR) else check_name(name)
    if kind == TENSOR and not name:
        raise FormatError("tensor has no name")
    size = found.get("size")
    meta = EntryMeta(name, kind, None if size is None else strictjson.integer(size, "size"))
    for key in ("dtype", "order", "host", "format", "hash"):
        value = found.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise FormatError(f"{key} of an entry is not a string")
            setattr(meta, key, value)
    if meta.hash is not None and meta.hash not in KINDS_OF_HASH:
        raise UnsupportedError(f"unknown hash {meta.hash!r}; a newer densor may read this")
    if found.get("mode") is not None:
        meta.mode = strictjson.integer(found["mode"], "mode", 0o777)
    if found.get("mtime_ns") is not None:
        most = (1 << 63) - 1
        meta.mtime_ns = strictjson.integer(found["mtime_ns"], "mtime_ns", most, -most)
    meta.descr = found.get("descr")
    if kind in (TENSOR, ARRAY):
        _parse_tensor(meta, found)
    if found.get("base") is not None:
        meta.base = _parse_base(found["base"])
    if kind == DIR and (size or meta.base is not None):
        raise FormatError("directory has a size or a base")
    return meta


def _parse_base(found: object) -> BaseRef:
    if not isinstance(found, dict):
        raise FormatError("base of an entry is not an object")
    size = strictjson.integer(found.get("size"), "size of a base")
    entry, name = found.get("entry"), found.get("name")
    if entry is not None:
        entry = strictjson.integer(entry, "entry of a base")
    if name is not None and not isinstance(name, str):
        raise FormatError("name of a base is not a string")
    kind, digest = parse_digest(found.get("digest"), "base of an entry")
    if kind not in KINDS_OF_HASH.values():
        raise UnsupportedError("base with an unknown kind of hash; a newer densor may read this")
    return BaseRef(size, kind, digest, entry, None if name is None else check_name(name))


def parse_digest(found: object, what: str) -> tuple[int, bytes]:
    """Hash kind and digest from JSON; FormatError if malformed."""
    if not isinstance(found, list) or len(found) != 2 or not isinstance(found[1], str):
        raise FormatError(f"{what}: has no hash")
    kind = strictjson.integer(found[0], "digest")
    try:
        return kind, bytes.fromhex(found[1])
    except ValueError:
        raise FormatError(f"{what}: hash is not hexadecimal") from None


def _parse_tensor(meta: EntryMeta, found: dict[str, Any]) -> None:
    meta.shape = strictjson.shape(found.get("shape"), "shape")
    if meta.dtype is None:
        raise FormatError("tensor has no dtype")
    wanted = element_bytes(meta.dtype, meta.shape)
    if meta.dtype == "VOID" and meta.kind != ARRAY:
        raise FormatError("tensor of an unusual type")
    if meta.dtype == "VOID":
        count = math.prod(meta.shape)
        if meta.descr is None or meta.size is None or (meta.size % count if count else meta.size):
            raise FormatError("array of an unusual type has no matching size")
    elif meta.size != wanted:
        raise FormatError("size of a tensor does not match its shape")
    if meta.order not in (None, "C", "F") or meta.host not in (None, "numpy", "torch"):
        raise FormatError("array has an unknown order or host")


def parse_tensors(found: object, size: int) -> list[TensorInfo]:
    """The list of tensors of a file in the index, all of it checked."""
    if not isinstance(found, list):
        raise FormatError("tensors of an entry are not a list")
    tensors = []
    for item in found:
        if not isinstance(item, list) or len(item) != 5:
            raise FormatError("tensor in the index is malformed")
        name, dtype, shape, offset, length = item
        if not isinstance(name, str) or not isinstance(dtype, str):
            raise FormatError("tensor in the index is malformed")
        info = TensorInfo(
            check_name(name),
            dtype,
            strictjson.shape(shape, "shape"),
            strictjson.integer(offset, "offset", size),
            strictjson.integer(length, "bytes", size),
        )
        fits = dtype != "VOID" and info.offset + info.size <= size
        if not fits or element_bytes(dtype, info.shape) != info.size:
            raise FormatError(f"tensor {name!r} does not fit its file")
        tensors.append(info)
    if len({info.name for info in tensors}) != len(tensors):
        raise FormatError("tensor name occurs twice")
    return tensors


def new_path(name: str) -> str:
    """A path for a new entry; ArgumentError if it cannot stand in an archive."""
    try:
        return check_path(name)
    except FormatError as error:
        raise ArgumentError(str(error)) from None
