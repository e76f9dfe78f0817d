"""What an archive says about an entry: name, kind, type, size."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from densor.dtypes import LATER, SIZES
from densor.errors import ArgumentError, FileError, FormatError, UnsupportedError
from densor.formats.container import strictjson
from densor.formats.container.hashing import KINDS as KINDS_OF_HASH
from densor.formats.tensor_table import TensorTable
from densor.formats.tensors import (
    MAX_NAME,
    TensorInfo,
    View,
    are_names,
    as_other,
    check_name,
    element_bytes,
    is_listable,
    is_view,
)
from densor.runtime.arguments import need

FILE = "file"
DIR = "dir"
TENSOR = "tensor"
ARRAY = "array"
BYTES = "bytes"
STEP = "step"  # of Adam, from one base to another; see step.py
UPDATE = "update"  # likewise, of weights too
STEPS = (STEP, UPDATE)
MAX_OWNER = (1 << 32) - 2  # the number above it means none
KINDS = (FILE, DIR, TENSOR, ARRAY, BYTES, STEP, UPDATE)
_TEXTS = {  # keys of strings, beside `hash`; what means nothing for a kind is ignored
    FILE: ("format",),
    TENSOR: ("dtype",),
    ARRAY: ("dtype", "order", "host"),
}


class BaseRef(NamedTuple):
    """What the chunks of an entry refer to: original bytes by size and hash.

    `entry`: number of the entry of this archive that holds them, else None; `name`: what the base
    was called, to help whoever has to find it. `step`: number of the entry that says what becomes
    of the base before anything refers to it, else None.
    """

    size: int
    hash_kind: int
    digest: bytes
    entry: int | None = None
    name: str | None = None
    step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The value of `base` in an ENTRY frame."""
        found: dict[str, Any] = {"size": self.size, "digest": [self.hash_kind, self.digest.hex()]}
        if self.entry is not None:
            found["entry"] = self.entry
        if self.name is not None:
            found["name"] = self.name
        if self.step is not None:
            found["step"] = self.step
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
    owner: tuple[int, int] | None = None  # numbers of user and group, where not the writer's own
    escaped: bool | None = None  # whether the name stands for a path of other bytes
    lossy: bool | None = None  # whether the file says that it only approximates another
    base: BaseRef | None = None
    tensors: Sequence[TensorInfo] = field(default_factory=list)  # index only

    def to_json(self) -> dict[str, Any]:
        """The keys of an ENTRY frame."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "size": self.size}
        for key in (
            "dtype",
            "order",
            "host",
            "descr",
            "format",
            "hash",
            "mode",
            "mtime_ns",
            "escaped",
            "lossy",
        ):
            value = getattr(self, key)
            if value is not None:
                found[key] = value
        if self.shape is not None:
            found["shape"] = list(self.shape)
        if self.owner is not None:
            found["owner"] = list(self.owner)
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


def escape_path(path: bytes) -> tuple[str, bool]:
    """The name by which an archive has a path of any bytes, and whether it is escaped.

    ArgumentError for one that no archive can have.
    """
    try:
        return check_path(path.decode()), False
    except (UnicodeDecodeError, FormatError):
        pass
    text = path.decode("utf-8", "surrogateescape")
    return new_path("".join(_escaped(c) if _is_odd(c) else c for c in text)), True


def _is_odd(character: str) -> bool:
    return character < " " or character in "%:\\\x7f" or "\ud800" <= character <= "\udfff"


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def real_path(meta: EntryMeta) -> str:
    """The path that an entry was packed from; FileError where no file here can have it."""
    if not meta.escaped:
        return meta.name
    if os.name == "nt":
        raise FileError(f"{meta.name}: no file can have the name that this stands for on Windows")
    return os.fsdecode(unquote_to_bytes(meta.name))


def _flag(found: dict[str, Any], key: str) -> bool | None:
    """True or None."""
    value = found.get(key)
    if value is not None and type(value) is not bool:
        raise FormatError(f"{key} of an entry is not true or false")
    return value or None


def _parse_path(meta: EntryMeta, found: dict[str, Any]) -> None:
    """What is known of a file or folder beside its content."""
    if found.get("mode") is not None:
        meta.mode = strictjson.integer(found["mode"], "mode", 0o777)
    if found.get("mtime_ns") is not None:
        most = (1 << 63) - 1
        meta.mtime_ns = strictjson.integer(found["mtime_ns"], "mtime_ns", most, -most)
    if found.get("owner") is not None:
        meta.owner = _parse_owner(found["owner"])
    meta.escaped = _flag(found, "escaped")
    if meta.escaped:
        path = unquote_to_bytes(meta.name)
        if any(part in (b"", b".", b"..") for part in path.split(b"/")) or b"\0" in path:
            raise FormatError(f"unsafe path in archive: {meta.name!r}")


def parse_entry(payload: Any) -> EntryMeta:
    """An entry's description from the payload of its ENTRY frame, all of it checked."""
    return parse(strictjson.loads(bytes(payload), "description of an entry"))


_KEYS_OF_TENSOR = {"name", "kind", "size", "dtype", "shape", "frames", "digest"}
Known = dict[tuple[object, ...], tuple[tuple[int, ...], int]]


def parse_listed(found: dict[str, Any], known: Known) -> EntryMeta:
    """Likewise from the JSON of the index. `known`: shape and bytes of tensors, by type and shape,
    that were checked before, as most are where there are many."""
    if found.get("kind") != TENSOR or found.keys() != _KEYS_OF_TENSOR:
        return parse(found)
    name, dtype, shape, size = found["name"], found["dtype"], found["shape"], found["size"]
    try:
        like = known.get((dtype, *shape))
        same = like is not None and like[1] == size and type(name) is str and name
        if like is not None and same and {int}.issuperset(map(type, (size, *shape))):
            return EntryMeta(check_name(name), TENSOR, size, dtype, like[0])
    except TypeError:  # no list, or types that have no hash
        pass
    meta = parse(found)
    assert meta.shape is not None and meta.size is not None
    known[dtype, *shape] = meta.shape, meta.size
    return meta


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
    for key in ("hash", *_TEXTS.get(kind, ())):
        value = found.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise FormatError(f"{key} of an entry is not a string")
            setattr(meta, key, value)
    if meta.hash is not None and meta.hash not in KINDS_OF_HASH:
        raise UnsupportedError(f"unknown hash {meta.hash!r}; a newer densor may read this")
    if kind in (FILE, DIR):
        _parse_path(meta, found)
    if kind == FILE:
        meta.lossy = _flag(found, "lossy")
    if kind == ARRAY:
        meta.descr = found.get("descr")
    if kind in (TENSOR, ARRAY):
        _parse_tensor(meta, found)
    if found.get("base") is not None:
        meta.base = _parse_base(found["base"])
    if kind == DIR and (size or meta.base is not None):
        raise FormatError("directory has a size or a base")
    return meta


def _parse_owner(found: object) -> tuple[int, int]:
    if not isinstance(found, list) or len(found) != 2:
        raise FormatError("owner of an entry is not a user and a group")
    user, group = (strictjson.integer(number, "owner", MAX_OWNER) for number in found)
    return user, group


def _parse_base(found: object) -> BaseRef:
    if not isinstance(found, dict):
        raise FormatError("base of an entry is not an object")
    size = strictjson.integer(found.get("size"), "size of a base")
    entry, name, step = found.get("entry"), found.get("name"), found.get("step")
    if entry is not None:
        entry = strictjson.integer(entry, "entry of a base")
    if step is not None:
        step = strictjson.integer(step, "step of a base")
    if name is not None and not isinstance(name, str):
        raise FormatError("name of a base is not a string")
    kind, digest = parse_digest(found.get("digest"), "base of an entry")
    if kind not in KINDS_OF_HASH.values():
        raise UnsupportedError("base with an unknown kind of hash; a newer densor may read this")
    return BaseRef(size, kind, digest, entry, None if name is None else check_name(name), step)


def parse_digest(found: object, what: str) -> tuple[int, bytes]:
    """Hash kind and digest from JSON; FormatError if malformed."""
    if not isinstance(found, list) or len(found) != 2 or not isinstance(found[1], str):
        raise FormatError(f"{what}: has no hash")
    kind = strictjson.integer(found[0], "digest")
    try:
        digest = bytes.fromhex(found[1])
    except ValueError:
        digest = b""
    if digest.hex() != found[1]:  # spaces or capitals in it
        raise FormatError(f"{what}: hash is not hexadecimal")
    return kind, digest


def _parse_tensor(meta: EntryMeta, found: dict[str, Any]) -> None:
    meta.shape = strictjson.shape(found.get("shape"), "shape")
    if meta.dtype is None:
        raise FormatError("tensor has no dtype")
    wanted = element_bytes(meta.dtype, meta.shape)
    if meta.kind != ARRAY and meta.dtype == "VOID":
        raise FormatError("tensor of an unusual type")
    if meta.dtype == "VOID":
        count = math.prod(meta.shape)
        if meta.descr is None or meta.size is None or (meta.size % count if count else meta.size):
            raise FormatError("array of an unusual type has no matching size")
    elif meta.size != wanted:
        raise FormatError("size of a tensor does not match its shape")
    if meta.order not in (None, "C", "F") or meta.host not in (None, "numpy", "torch"):
        raise FormatError("array has an unknown order or host")


def list_tensors(tensors: Iterable[TensorInfo], size: int) -> dict[str, list[Any]]:
    """The keys of an entry of so many bytes in the index that list its tensors.

    What turns out to reach beyond its end is listed without a place.
    Readers before densor 0.4 refuse types they do not know in `tensors`, and ignore `others`.
    """
    listed: list[Any] = []
    others: list[Any] = []
    for t in tensors:
        name, dtype, shape, offset, length, view = t
        if offset + length > size:
            t = as_other(t, inside=False)
            name, dtype, shape, offset, length, view = t
        item: list[Any] = [name, dtype, list(shape), offset, length]
        if view is not None:
            strides = None if view.strides is None else list(view.strides)
            found = {"strides": strides, "conj": view.conj, "neg": view.neg}
            item.append({key: value for key, value in found.items() if value})
        plain = dtype in SIZES and dtype not in LATER and is_listable(t)
        (listed if plain else others).append(item)
    return {key: value for key, value in (("tensors", listed), ("others", others)) if value}


def listed_text(tensors: Sequence[TensorInfo], size: int) -> str:
    """Likewise as JSON without braces."""
    if not isinstance(tensors, TensorTable) or not _is_listed(tensors, size):
        return strictjson.text(list_tensors(tensors, size))[1:-1]
    forms = [strictjson.text([dtype, shape])[1:-1] for dtype, shape, _ in tensors.forms]
    names = strictjson.strings(tensors.names)
    middles = map(forms.__getitem__, tensors.form_of.tolist())
    rows = zip(names, middles, tensors.offsets.tolist(), tensors.sizes.tolist(), strict=True)
    items = [f"[{name},{form},{offset},{length}]" for name, form, offset, length in rows]
    return f'"tensors":[{",".join(items)}]'


def _is_listed(table: TensorTable, size: int) -> bool:
    """Whether a table has some tensors, and any reader takes them as they are."""
    if not len(table) or (table.offsets + table.sizes > size).any():
        return False
    plain = (dtype in SIZES and dtype not in LATER for dtype, _, _ in table.forms)
    return all(plain) and all(map(is_listable, table.one_of_each)) and are_names(table.names)


class Listed(NamedTuple):
    """Tensors of a file, all checked but for its size; `end`: where the last one ends."""

    tensors: TensorTable
    end: int


def parse_tensors(
    item: dict[str, Any], size: int, listed: Listed | None = None
) -> Sequence[TensorInfo]:
    """The tensors that the index lists of a file, all of it checked; `item`: the entry there.

    `listed`: those that the item has no longer.
    """
    known: _Shapes = {}
    if listed is not None and listed.end > size:
        raise FormatError("tensor in the index does not fit its file")
    if listed is not None and item.get("tensors", []) == [] == item.get("others", []):
        return listed.tensors
    tensors = [] if listed is None else list(listed.tensors)
    tensors += [
        _plain(found, size, known) or _whole(_tensor(found, size), known)
        for found in _list(item, "tensors")
    ]
    others = [_tensor(found, size) for found in _list(item, "others")]
    if len({info.name for info in tensors + others}) != len(tensors) + len(others):
        raise FormatError("tensor name occurs twice")
    if others:
        tensors = sorted(tensors + others, key=lambda t: (t.offset, t.size))
    return tensors


_Shapes = dict[tuple[object, ...], tuple[tuple[int, ...], int]]


def _whole(info: TensorInfo, known: _Shapes) -> TensorInfo:
    """A tensor that must lie as it is; `known`: by type and shape, the shape and its bytes."""
    if info.dtype == "VOID" or element_bytes(info.dtype, info.shape) != info.size:
        raise FormatError(f"tensor {info.name!r} does not fit its file")
    if info.view is None:
        known[info.dtype, *info.shape] = info.shape, info.size
    return info


def _plain(item: Any, size: int, known: _Shapes) -> TensorInfo | None:
    """A tensor of a type and shape that were checked before, as most are where there are many;
    None where all has to be looked at."""
    try:
        name, dtype, shape, offset, length = item
        found = known.get((dtype, *shape))
        sane = name.isascii() and len(name) <= MAX_NAME and "\0" not in name
    except (TypeError, ValueError, AttributeError):
        return None
    if found is None or not sane or not {int}.issuperset(map(type, (offset, length, *shape))):
        return None
    if found[1] != length or not 0 <= offset <= size - length:
        return None
    return TensorInfo(name, dtype, found[0], offset, length)


def _list(item: dict[str, Any], key: str) -> list[object]:
    found = item.get(key, [])
    if not isinstance(found, list):
        raise FormatError(f"{key} of an entry are not a list")
    return found


def _tensor(item: object, size: int) -> TensorInfo:
    if not isinstance(item, list) or len(item) not in (5, 6):
        raise FormatError("tensor in the index is malformed")
    name, dtype, shape, offset, length = item[:5]
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise FormatError("tensor in the index is malformed")
    info = TensorInfo(
        check_name(name),
        dtype,
        strictjson.shape(shape, "shape"),
        strictjson.integer(offset, "offset", size),
        strictjson.integer(length, "bytes", size),
        _view(item[5]) if len(item) > 5 else None,
    )
    fits = info.offset + info.size <= size
    if not fits or (info.view is not None and not is_view(info)):
        raise FormatError(f"tensor {name!r} does not fit its file")
    return info


def _view(found: object) -> View:
    if not isinstance(found, dict):
        raise FormatError("view of a tensor is not an object")
    strides, conj, neg = found.get("strides"), found.get("conj", False), found.get("neg", False)
    if type(conj) is not bool or type(neg) is not bool:
        raise FormatError("view of a tensor is malformed")
    return View(None if strides is None else strictjson.shape(strides, "strides"), conj, neg)


def new_path(name: str) -> str:
    """A path for a new entry; ArgumentError if it cannot stand in an archive."""
    need(name, str, "name")
    try:
        return check_path(name)
    except FormatError as error:
        raise ArgumentError(str(error)) from None
