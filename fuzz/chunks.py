"""Pieces of bytes that are coded by themselves, `densor.chunk`."""

from random import Random
from typing import Any

import numpy as np
import xxhash
from helpers import random_state
from reference import chunk as reference
from reference.reading import Refused

from densor import chunk
from densor.codec.stateless.decode import decode_into, size_of
from densor.errors import ChecksumError, DensorError
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_GUARD = 64
_MOST = 1 << 16


def run(data: bytes) -> object:
    """Decoded twice into memory of different content; the reference decides alike."""
    piece = np.frombuffer(data, np.uint8)
    size = size_of(piece)
    if size > _MOST:
        return "large"
    found = []
    errors: list[DensorError | None] = []
    for filled in (0, 255):
        memory = np.full(size + 2 * _GUARD, filled, np.uint8)
        error: DensorError | None = None
        try:
            decode_into(piece, memory[_GUARD : _GUARD + size])
        except DensorError as caught:
            error = caught
        if (memory[:_GUARD] != filled).any() or (memory[_GUARD + size :] != filled).any():
            raise Wrong("bytes beside the result were changed")
        errors.append(error)
        decoded = error is None or isinstance(error, ChecksumError)
        found.append(memory[_GUARD : _GUARD + size].tobytes() if decoded else b"")
    if found[0] != found[1] or str(errors[0]) != str(errors[1]):
        raise Wrong("the result depends on what memory held before")
    _compare(data, found[0], errors[0])
    if errors[0] is not None:
        raise errors[0]
    return data[0]


def _compare(data: bytes, content: bytes, error: DensorError | None) -> None:
    try:
        right = reference.decode(data)
    except Refused:
        if error is None:
            raise Wrong("a piece that the reference refuses is taken") from None
        return
    if error is not None or content != right:
        raise Wrong("the reference decodes other bytes")


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a piece; often the check is made right again, where there is anything to check."""
    changed = mutated(data, rng, others)
    if len(changed) < 8 or rng.random() < 0.3:
        return changed
    piece = np.frombuffer(changed, np.uint8)
    size = size_of(piece)
    if size > _MOST:
        return changed
    out = np.zeros(size, np.uint8)
    try:
        decode_into(piece, out)
    except ChecksumError:
        check = xxhash.xxh3_64_intdigest(out) & 0xFFFFFFFF
        return changed[:4] + check.to_bytes(4, "little") + changed[8:]
    except DensorError:
        pass
    return changed


def seeds() -> list[bytes]:
    """Pieces of all ways."""
    floats = random_state("fuzz chunks").normal(0, 0.02, 1200).astype(np.float32)
    words = floats.view(np.uint16)[1::2].tobytes()
    contents = [
        words,
        words[1:],
        floats.astype(np.float16).tobytes(),
        floats.tobytes()[3:],
        (floats.view(np.uint32) & 0xFFFF0000).tobytes(),
        (floats * 500).astype(np.int8).tobytes(),
        b"the same again and " * 40,
        words[:200],
        b"",
    ]
    return [chunk.compress(content) for content in contents]


TARGETS = (Target("chunk", run, seeds, mutate),)
