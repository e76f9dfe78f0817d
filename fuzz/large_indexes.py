"""The text of large indexes: what the compiled scan takes must be what the parser of JSON gives.

An input: where the index stands, in 8 bytes, and its JSON.
"""

import io
from functools import cache
from random import Random
from typing import Any

import numpy as np

import densor
from densor.codec.zstd import zstd_compress
from densor.errors import DensorError
from densor.formats.container import index, short_form, wire
from densor.formats.container.frames import Frame
from densor.formats.io.sources import MemoryRandomSource
from fuzz.mutate import mutated, mutated_text
from fuzz.target import Target, Wrong

_AT = 8  # bytes
_PIECES = (
    *(b'"', b"\\", b",", b"[", b"]", b"{", b"}", b"[]", b"{}", b" ", b"\0", b"\xff", b"null"),
    *(b"1.0", b"-1", b"999999999999999999", b"1000000000000000000", b"9223372036854775808"),
    *(b"\\u0041", b'"VOID"', b'"F4"', b"[4611686018427387904,2]", b"[0,4611686018427387904,4]"),
    *(b'{"name":"', b',"kind":"tensor",', b'"kind":"file"', b',"frames":[1,2]'),
    *(b'"digest":[1,"00"]', b'"size":0', b'"kinds":['),
    *(b',"tensors":[["a","F32",[],0,4]]', b',"others":[["a","F4",[2],0,1]]', b',"tensors":[['),
)  # fmt: skip


def run(data: bytes) -> object:
    """Both ways end in the same index, or in the same kind of error."""
    at, text = int.from_bytes(data[:_AT], "little") % (1 << 32), data[_AT:]
    payload = np.frombuffer(zstd_compress(text, 1), np.uint8)
    frame = Frame(wire.FrameHeader(wire.INDEX, 0, len(text), 0, 0), payload, at, payload)
    found: list[Any] = []
    for least in (0, 1 << 62):
        before, index.LEAST = index.LEAST, least
        try:
            frames, entries = index.read_index(frame)
            found.append(([column.tolist() for column in frames], list(entries)))
        except DensorError as error:
            found.append(error)
        finally:
            index.LEAST = before
    scanned, parsed = found
    if isinstance(parsed, DensorError):
        if type(scanned) is not type(parsed):
            raise Wrong("the scan takes what the parser refuses, or ends in another error")
        raise parsed
    if scanned != parsed:
        raise Wrong("the scan finds another index than the parser")
    return len(parsed[1])


@cache
def seeds() -> list[bytes]:
    """Indexes of tensors of three forms, of these beside others, and of files with tensors."""
    value = np.arange(96, dtype=np.float32)
    tensors = {f"layer.{n}.é": value[: (64, 80, 96)[n % 3]] for n in range(6)}
    others = {"empty": np.zeros((0, 3)), "big": np.zeros((40, 64), np.float32)}
    before, short_form.MOST = short_form.MOST, 0  # large archives are in the ordinary form
    try:
        found = [_archive(tensors), _archive(tensors | others)]
        found += [densor.save({f"t{n}": value[: 3 * n] for n in range(count)}) for count in (2, 7)]
        return [_index_of(archive) for archive in found]
    finally:
        short_form.MOST = before


def _archive(tensors: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with densor.Writer(file, 1) as writer:
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
    return file.getvalue()


def _index_of(archive: bytes) -> bytes:
    frame = index.find_index(MemoryRandomSource(archive), wire.CHUNK_LIMIT)
    return frame.offset.to_bytes(_AT, "little") + index._text(frame, None)


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Mostly pieces of an index put in, moved and taken out, and numbers changed."""
    if rng.random() < 0.2:
        return mutated(data, rng, others)
    return data[:_AT] + mutated_text(data[_AT:], _PIECES, rng)


TARGETS = (Target("large index", run, seeds, mutate, most_memory=1 << 24, per_byte=1 << 9),)
