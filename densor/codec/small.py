"""Many small tensors at once: those of a kind share parameters, where that takes less."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import Batch, Bytes, CodedBatch
from densor.codec.choose.candidates import encode_batch
from densor.codec.chunks import zstd_chunk
from densor.codec.history import History
from densor.codec.kind import Data, Kind
from densor.codec.levels import Level
from densor.codec.spans.alike import MAX_BYTES, encode_alike, run_of
from densor.runtime.workers import Workers

MAX_SMALL = MAX_BYTES  # bytes of such a tensor
_LEAST_PARAMETERS = registry.FRAME_SIZE + 8  # bytes with their frame: what is shorter needs none


class CodedSmall(NamedTuple):
    """Tensors that were coded, each as a chunk.

    `models`: of each, the payload of the MODEL frame that it needs, or the number of a fixed one.
    """

    payloads: list[Bytes | bytes]
    models: list[bytes | int]


def encode_small(
    tensors: Sequence[bytes], kinds: Sequence[Kind], level: Level, history: History
) -> CodedSmall:
    """Codes tensors of 1 to `MAX_SMALL` bytes; equal parameters are the same object."""
    found = CodedSmall([b""] * len(tensors), [-1] * len(tensors))
    groups: dict[tuple[int, int, int], list[int]] = {}
    keys: dict[tuple[int, int], list[int] | None] = {}  # by identity of the kind, and size
    for number, (data, kind) in enumerate(zip(tensors, kinds, strict=True)):
        same = id(kind), len(data)
        if same not in keys:
            key = _group_of(kind, len(data), level)
            keys[same] = None if key is None else groups.setdefault(key, [])
        members = keys[same]
        if members is not None:
            members.append(number)
    for members in groups.values():
        _share(tensors, members, kinds, level, history, found)
    for number, model in enumerate(found.models):
        if model == -1:
            _put(found, number, _by_itself(tensors[number], kinds[number], level, history))
    return found


def _group_of(kind: Kind, size: int, level: Level) -> tuple[int, int, int] | None:
    """What tensors that are coded together have in common; None for those that are coded alone."""
    run = run_of(kind, size) if level.spans and kind.data is Data.MATRICES else None
    if run is None:
        return None
    assert kind.layout is not None
    return kind.layout.number, run, size


def _share(
    tensors: Sequence[bytes],
    members: list[int],
    kinds: Sequence[Kind],
    level: Level,
    history: History,
    found: CodedSmall,
) -> None:
    """Codes what is alike, as far as it takes less together."""
    size = len(tensors[members[0]])
    data = np.frombuffer(b"".join([tensors[number] for number in members]), np.uint8)
    alike = encode_alike(data, size, kinds[members[0]], level)
    if alike is None:
        return
    parameters = alike.parameters
    rows = zip(members, alike.payloads, alike.raw, alike.closer, strict=True)
    for number, payload, raw, closer in rows:
        found.payloads[number] = payload
        found.models[number] = registry.MODEL_RAW if raw else parameters
        if closer:
            stored = registry.FRAME_SIZE + len(payload)
            alone = _by_itself(tensors[number], kinds[number], level, history)
            if alone.stored < stored:
                _put(found, number, alone)


def _put(found: CodedSmall, number: int, coded: CodedBatch) -> None:
    (chunk,) = coded.chunks
    found.payloads[number] = chunk.payload
    found.models[number] = coded.model if chunk.own and coded.model is not None else chunk.model


def _by_itself(data: bytes, kind: Kind, level: Level, history: History) -> CodedBatch:
    array = np.frombuffer(data, np.uint8)
    if array.size <= _LEAST_PARAMETERS and kind.layout is not None:
        return CodedBatch(None, [zstd_chunk(array, level.zstd)])
    return encode_batch(Batch(array, kind, Workers(1), history), level).result()
