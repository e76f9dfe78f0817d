"""Hashes of an entry's original bytes."""

from typing import Any, Protocol

import xxhash

from densor.codec import registry
from densor.errors import ArgumentError

KINDS = {"xxh3-128": registry.HASH_XXH3_128, "sha256": registry.HASH_SHA256}
DEFAULT = "xxh3-128"

NAMES = {number: name for name, number in KINDS.items()}


class Hash(Protocol):
    """A running hash."""

    def update(self, data: Any, /) -> object: ...
    def digest(self) -> bytes: ...


def digest_of(name: str | None, data: Any) -> bytes:
    """The hash of bytes that are all there; `name` as for `new_hash`."""
    if name in (None, DEFAULT):
        return xxhash.xxh3_128_digest(data)
    hasher = new_hash(name)
    hasher.update(data)
    return hasher.digest()


def new_hash(name: str | None) -> Hash:
    """A hash by the name in an ENTRY frame; None is the default. ArgumentError if unknown."""
    if name in (None, DEFAULT):
        return xxhash.xxh3_128()
    if name == "sha256":
        import hashlib  # which loads OpenSSL

        return hashlib.sha256()
    raise _unknown(name)


def kind_of(name: str | None) -> int:
    """The number of a hash, None is the default; ArgumentError if unknown."""
    found = KINDS.get(DEFAULT if name is None else name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str | None) -> ArgumentError:
    return ArgumentError(f"unknown hash {name!r}; known are {', '.join(KINDS)}")
