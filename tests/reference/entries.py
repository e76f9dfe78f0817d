"""JSON and entries of a container (docs/format/container.md, sections 1 and 5)."""

import hashlib
import json
import math
import struct
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import xxhash

from reference.frames import Frame
from reference.reading import Refused, fail

MAX_NAME = 4096
MAX_DIMENSIONS = 64

HASH_XXH3_128, HASH_SHA256 = 1, 2

ENTRY_KINDS = ("file", "dir", "tensor", "array", "bytes", "step", "update")
HASH_NAMES = {"xxh3-128": 1, "sha256": 2}  # `hash` of an entry -> hash kind of its ENTRY_END
ELEMENT_SIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "VOID"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
    "C128": 16,
}


# 1. JSON


def parse_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object as section 1 restricts it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            fail("a duplicate JSON key")
        return dict(pairs)

    def refuse_number(token: str) -> NoReturn:
        fail(f"the JSON number {token[:40]}")

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise Refused("format", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        fail("the JSON value is not an object")
    return value


def is_integer(value: object) -> bool:
    """A JSON integer from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 1 << 63


def is_integer_list(value: object) -> bool:
    """A JSON list of such integers."""
    return isinstance(value, list) and all(is_integer(item) for item in value)


# 5. Entries


def parse_entry(payload: bytes) -> dict[str, Any]:
    """ENTRY payload: the keys of the table, with their types (5)."""
    # What is null counts as absent. Keys that mean nothing for a kind are not looked at.
    meta = {key: value for key, value in parse_json(payload).items() if value is not None}
    kind = meta.get("kind")
    if not isinstance(kind, str) or kind not in ENTRY_KINDS:
        fail("kind of an entry")
    verify_name(meta.get("name"), kind)
    verify_optional(meta, "size", is_integer(meta.get("size")))
    verify_optional(meta, "hash", isinstance(meta.get("hash"), str))
    if meta.get("hash", "xxh3-128") not in HASH_NAMES:
        raise Refused("unsupported", f"hash {meta['hash'][:40]}")
    if kind in ("tensor", "array"):
        if not isinstance(meta.get("dtype"), str) or meta["dtype"] not in ELEMENT_SIZE:
            fail("dtype of an entry")
        if kind == "tensor" and meta["dtype"] == "VOID":
            fail("a tensor of type VOID")
        if meta["dtype"] == "VOID" and "descr" not in meta:
            fail("an array of type VOID without description")
        if "size" not in meta:
            fail("a tensor or array without size")
        if not is_integer_list(meta.get("shape")) or len(meta["shape"]) > MAX_DIMENSIONS:
            fail("shape of an entry")
    if kind == "array":
        verify_optional(meta, "order", meta.get("order") in ("C", "F"))
        verify_optional(meta, "host", meta.get("host") in ("numpy", "torch"))
    if kind in ("file", "dir"):
        verify_path(meta)
    if kind == "file":
        verify_optional(meta, "format", isinstance(meta.get("format"), str))
        verify_optional(meta, "lossy", isinstance(meta.get("lossy"), bool))
    verify_optional(meta, "base", kind != "dir" and is_base(meta.get("base")))
    if "base" in meta and meta["base"]["digest"][0] not in (HASH_XXH3_128, HASH_SHA256):
        raise Refused("unsupported", "hash kind of a base")
    return meta


def verify_path(meta: dict[str, Any]) -> None:
    """The keys of what has a path (5)."""
    verify_optional(meta, "mode", is_integer(meta.get("mode")) and meta["mode"] <= 511)
    owner = meta.get("owner")
    numbers = owner if isinstance(owner, list) and is_integer_list(owner) else []
    verify_optional(meta, "owner", len(numbers) == 2 and max(numbers) < (1 << 32) - 1)
    mtime = meta.get("mtime_ns")  # negative before 1970
    verify_optional(meta, "mtime_ns", type(mtime) is int and abs(mtime) < 1 << 63)
    verify_optional(meta, "escaped", isinstance(meta.get("escaped"), bool))
    if meta.get("escaped"):
        path = unquote_to_bytes(meta["name"])
        if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
            fail("a path that no file can have")


def is_hexadecimal(text: str) -> bool:
    """Lower-case digits, two for each byte."""
    return len(text) % 2 == 0 and set(text) <= set("0123456789abcdef")


def is_base(base: object) -> bool:
    """The value of the key base (5)."""
    if not isinstance(base, dict) or not is_integer(base.get("size")):
        return False
    digest = base.get("digest")
    if not isinstance(digest, list) or len(digest) != 2 or not is_integer(digest[0]):
        return False
    if not isinstance(digest[1], str):
        return False
    if not is_hexadecimal(digest[1]):
        return False
    if base.get("name") is not None:
        verify_name(base["name"], "bytes")
    return all(base.get(key) is None or is_integer(base[key]) for key in ("entry", "step"))


def verify_optional(meta: dict[str, Any], key: str, valid: bool) -> None:
    """A key that may be absent has to be valid where it is present (5)."""
    if key in meta and not valid:
        fail(f"{key} of an entry")


def verify_name(name: object, kind: str) -> None:
    """The rules for names (5)."""
    if not isinstance(name, str):
        fail("name of an entry")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError as error:  # a lone surrogate, written as a JSON escape
        raise Refused("format", "a name is not Unicode text") from error
    if size > MAX_NAME:
        fail("a name is too long")
    if "\0" in name:
        fail("a name holds NUL")
    if kind == "tensor" and not name:
        fail("a tensor has no name")
    if kind in ("file", "dir"):
        components = name.split("/")
        if any(component in ("", ".", "..") for component in components):
            fail("a component of a path is empty, . or ..")
        if any(character < " " or character in "\\:\x7f" for character in name):
            fail("a character that no path may hold")


def verify_size(meta: dict[str, Any], size: int) -> None:
    """The size of an entry against its ENTRY frame (5)."""
    if meta.get("size") not in (None, size):
        fail("ENTRY_END has another size than ENTRY")
    if meta["kind"] == "dir" and size != 0:
        fail("a dir that holds bytes")
    if meta["kind"] in ("tensor", "array"):
        elements = math.prod(meta["shape"])
        if meta["dtype"] == "VOID" and elements:
            # How many bytes an element has is told by descr alone, which is not interpreted here.
            if size % elements:
                fail("the elements of an array have no whole size")
        elif size != elements * ELEMENT_SIZE[meta["dtype"]]:
            fail("shape and dtype give another size")


def entry_end_payload(frame: Frame) -> tuple[int, int, bytes]:
    """ENTRY_END payload: size, hash kind, digest (5)."""
    size, hash_kind = struct.unpack_from("<QB", frame.payload)
    digest = frame.payload[9:]
    if hash_kind not in (HASH_XXH3_128, HASH_SHA256):
        raise Refused("unsupported", f"hash kind {hash_kind}")
    if len(digest) != (16 if hash_kind == HASH_XXH3_128 else 32):
        fail("length of a digest")
    return size, hash_kind, digest


def original_hash(hash_kind: int, data: bytes) -> bytes:
    """XXH3-128 in canonical byte order, or SHA-256 (1, 5)."""
    if hash_kind == HASH_XXH3_128:
        return xxhash.xxh3_128_digest(data)
    return hashlib.sha256(data).digest()
