"""Headers of safetensors files: what the compiled scan takes must be what the parser of JSON gives.

An input: a safetensors file.
"""

import json
from functools import cache
from random import Random
from typing import Any

import numpy as np

from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import header_scan
from densor.formats.parsers.plan import Plan, plan_file
from fuzz.mutate import mutated, mutated_text
from fuzz.target import Target, Wrong

_LENGTH = 8  # bytes of the field before the header
_PIECES = (
    *(b'"', b"\\", b",", b":", b"[", b"]", b"{", b"}", b" ", b"  ", b"\0", b"\xff", b"null"),
    *(b"NaN", b"1.0", b"-1", b"1e1", b"999999999999999999", b"1000000000000000000"),
    *(b"4611686018427387904", b"\\u0041", "é".encode(), b"\t", b'"VOID"'),
    *(b'"C64"', b'"BOOL"', b'"F8_E4M3"'),
    *(b'"data_offsets"', b'"data_offsets":[0,4]', b'"dtype":"U8",', b'"dtype":"F4"'),
    *(b'"shape":[4],', b'"shape":[0],', b'"__metadata__":{}', b'"__metadata__":{"a":"b"},'),
    *(b'"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},', b'"lossy":"true"'),
)  # fmt: skip


def run(data: bytes) -> object:
    """Both ways plan the same, for a file of known size and for a pipe."""
    count = 0
    for size in (len(data), None):
        scanned, parsed = (_plan(data, least, size) for least in (0, 1 << 62))
        if _told(scanned) != _told(parsed):
            raise Wrong("the scan finds other tensors than the parser")
        count += len(parsed.tensors)
    return count


def _plan(data: bytes, least: int, size: int | None) -> Plan:
    before, header_scan.LEAST = header_scan.LEAST, least
    try:
        random = None if size is None else MemoryRandomSource(data)
        return plan_file(MemorySource(data), size, random=random)
    finally:
        header_scan.LEAST = before


def _told(plan: Plan) -> tuple[object, ...]:
    return plan.format, list(plan.segments), list(plan.tensors), list(plan.others), plan.lossy


@cache
def seeds() -> list[bytes]:
    """Files of tensors of several types and sizes, with and without metadata, gaps and spaces."""
    return [
        _file(["F32"] * 4, (",", ":"), 0),
        _file(["BF16", "U8", "F4", "I64", "BOOL"], (", ", ": "), 0, {"format": "pt"}),
        _file(["C64", "F8_E4M3", "F32", "F16"], (",", ":"), 3, {"lossy": "true", "é": "{"}),
    ]


def _file(
    dtypes: list[str], separators: tuple[str, str], gap: int, metadata: dict[str, str] | None = None
) -> bytes:
    bits = {"C64": 64, "I64": 64, "F32": 32, "F4": 4, "BF16": 16, "F16": 16}
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for number, dtype in enumerate(dtypes):
        shape = ([4, 6], [], [0, 3], [2])[number % 4]
        end = at + (int(np.prod(shape)) * bits.get(dtype, 8) + 7) // 8
        header[f"layer.{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end + gap
    text = json.dumps(header, separators=separators).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH, "little") + text + bytes(at)


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Mostly a header with pieces put in, moved and taken out, and its length told."""
    if rng.random() < 0.2:
        return mutated(data, rng, others)
    size = min(int.from_bytes(data[:_LENGTH], "little"), len(data) - _LENGTH)
    text = mutated_text(data[_LENGTH : _LENGTH + size], _PIECES, rng)
    return len(text).to_bytes(_LENGTH, "little") + text + data[_LENGTH + size :]


TARGETS = (Target("large header", run, seeds, mutate, most_memory=1 << 24, per_byte=1 << 9),)
