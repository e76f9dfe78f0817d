"""Many small tensors at once: those of a kind share parameters, where that takes less."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import OWN, Batch, Bytes, Chunk, CodedBatch
from densor.codec.choose import encode_batch
from densor.codec.chunks import zstd_chunk
from densor.codec.history import History
from densor.codec.kind import Data, Kind
from densor.codec.levels import Level
from densor.codec.spans.alike import MAX_BYTES, encode_alike, run_of
from densor.runtime.workers import Workers

MAX_SMALL = MAX_BYTES  # bytes of such a tensor
_LEAST_PARAMETERS = registry.FRAME_SIZE + 8  # bytes with their frame: what is shorter needs none


class Small(NamedTuple):
    """A tensor: its bytes, 1 or more, and what they are."""

    data: Bytes
    kind: Kind


def encode_small(tensors: Sequence[Small], level: Level, history: History) -> list[CodedBatch]:
    """Codes tensors, a chunk for each; equal parameters are the same for all that have them."""
    found: list[CodedBatch | None] = [None] * len(tensors)
    groups: dict[tuple[int, int, int], list[int]] = {}
    for number, (data, kind) in enumerate(tensors):
        run = run_of(kind, data.size) if level.spans and kind.data is Data.MATRICES else None
        if run is not None:
            assert kind.layout is not None
            groups.setdefault((kind.layout.number, run, data.size), []).append(number)
    for members in groups.values():
        _share(tensors, members, level, history, found)
    return [
        _by_itself(tensor, level, history) if coded is None else coded
        for tensor, coded in zip(tensors, found, strict=True)
    ]


def _share(
    tensors: Sequence[Small],
    members: list[int],
    level: Level,
    history: History,
    found: list[CodedBatch | None],
) -> None:
    """Codes what is alike, as far as it takes less together."""
    size, kind = tensors[members[0]].data.size, tensors[members[0]].kind
    data = np.concatenate([tensors[number].data for number in members])
    alike = encode_alike(data, size, kind, level)
    if alike is None:
        return
    parameters = alike.parameters
    rows = zip(members, alike.payloads, alike.raw, alike.closer, strict=True)
    for number, payload, raw, closer in rows:
        chunk = Chunk(registry.MODEL_RAW if raw else OWN, payload, size)
        coded = found[number] = CodedBatch(None if raw else parameters, [chunk])
        if closer:
            alone = _by_itself(tensors[number], level, history)
            if alone.stored < coded.stored - (0 if raw else _model(parameters)):
                found[number] = alone


def _model(parameters: bytes) -> int:
    return registry.FRAME_SIZE + len(parameters)


def _by_itself(tensor: Small, level: Level, history: History) -> CodedBatch:
    data, kind = tensor
    if data.size <= _LEAST_PARAMETERS and kind.layout is not None:
        return CodedBatch(None, [zstd_chunk(data, level.zstd)])
    return encode_batch(Batch(data, kind, Workers(1), history), level).result()
