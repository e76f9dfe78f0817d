"""The span decoder: frames and tables that lie, beside the ordinary decoder as the judge.

An input is a case of `fuzz.codecs` whose base changes the frame and the table: byte 0 tells how,
the others what to. For rANS, the chunk stands there twice, so that both are decoded together.
"""

from random import Random
from typing import Any

import numpy as np

from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.codec.planes.params import parse
from densor.codec.spans import table as t
from densor.codec.spans.decode import SpanDecoder, error_of
from densor.codec.spans.rans_table import RansParameters
from densor.codec.spans.table import SpanParameters, chunk_table
from densor.errors import DensorError
from densor.formats.container import wire
from fuzz import codecs
from fuzz.codecs import Bytes, Case, decoded_twice, mutate_case, unpack
from fuzz.target import Target, Wrong

_SOUND, _UNCHECKED, _FLIP, _TABLE = range(4)  # what the first byte of the base asks for
_RANS = (bytes([registry.CODEC_SCALE_CONTEXT]), bytes([registry.CODEC_PLANES_RANS]))
_RAW = b"raw chunks beside it"


def run(data: bytes) -> None:
    """A chunk between two raw ones, which come whatever becomes of it."""
    case = unpack(data)
    way = (case.base or b"\0")[0] % 4
    values = case.base[1:].ljust(9, b"\0")
    payload = case.payload
    parameters = SpanParameters.of({16: parse(case.model)})
    begins = len(_RAW)
    size = begins + case.size + len(_RAW)
    archive, places = bytearray(), []
    for piece, original, model in (
        (_RAW, len(_RAW), registry.MODEL_RAW),
        (payload, case.size, registry.FIRST_MODEL),
        (_RAW, len(_RAW), registry.MODEL_RAW),
    ):
        archive += wire.pack_frame(wire.CHUNK, piece, original, model)
        places.append((len(archive), len(piece), model, original))
        archive += piece
    if way == _FLIP:
        at = places[1][0] - wire.FRAME_SIZE
        room = wire.FRAME_SIZE + len(payload)
        archive[at + int.from_bytes(values[:4], "little") % room] ^= values[4] | 1
    columns = np.array(places, np.int64).T
    ends = np.cumsum(columns[3])
    table = chunk_table(parameters, *columns[:3], ends - columns[3], columns[3])
    if way == _UNCHECKED:
        table[1, t.HEAD] = -1
    if way == _TABLE:
        table[1, values[0] % t.COLUMNS] = np.frombuffer(values[1:9], "<i8")[0]
    stored = np.frombuffer(bytes(archive), np.uint8)

    def decode(out: Bytes) -> None:
        decoder = SpanDecoder(parameters, table)
        out[begins : begins + case.size] = 0
        decoder.decode(stored, 0, 3, out)
        decoder.decode_rest(stored, 0, 3, out)
        if decoder.status[0] or decoder.status[2]:
            raise Wrong("a chunk fails for what is wrong with another one")
        status = int(decoder.status[1])
        if way != _TABLE:
            _check_raw(out, begins, case.size)
            _judge(case, way, status, out[begins : begins + case.size])
        if status not in (0, t.NOT_MINE):
            raise error_of(status)

    decoded_twice(decode, size)


def _check_raw(out: Bytes, begins: int, size: int) -> None:
    if out[:begins].tobytes() != _RAW or out[begins + size :].tobytes() != _RAW:
        raise Wrong("a chunk is not what it was")


def _judge(case: Case, way: int, status: int, out: Bytes) -> None:
    if way == _FLIP:
        too_long = len(case.payload) > case.size and status == t.HEADER_OTHER
        if status not in (t.HEADER_DAMAGED, t.PAYLOAD_DAMAGED) and not too_long:
            raise Wrong("a damaged frame goes unnoticed")
        return
    expected = np.empty(case.size, np.uint8)
    try:
        decoder: Any = decoder_for(case.model)
        decoder.decode(np.frombuffer(case.payload, np.uint8), expected)
    except DensorError:
        if status == 0:
            raise Wrong("a chunk is taken that the ordinary decoder refuses") from None
        return
    if way == _SOUND and len(case.payload) > case.size:
        if status != t.HEADER_OTHER:
            raise Wrong("a frame stores more than it may")
    elif status or out.tobytes() != expected.tobytes():
        raise Wrong("a chunk is not what the ordinary decoder makes of it")


def run_rans(data: bytes) -> None:
    """Two equal chunks between raw ones: both are refused, or both are right."""
    case = unpack(data)
    if case.model[:1] not in _RANS:
        return
    decoder: Any = decoder_for(case.model)
    way = (case.base or b"\0")[0] % 4
    values = case.base[1:].ljust(9, b"\0")
    parameters = RansParameters.of({16: decoder.model})
    payload = np.frombuffer(_RAW + case.payload + _RAW, np.uint8)
    ends = np.cumsum([len(_RAW), case.size, case.size, len(_RAW)])
    begins = [0, len(_RAW), len(_RAW), len(_RAW) + len(case.payload)]
    stored = [len(_RAW), len(case.payload), len(case.payload), len(_RAW)]
    models = [registry.MODEL_RAW, 16, 16, registry.MODEL_RAW]
    sizes = np.diff(ends, prepend=0)
    columns = [np.array(column, np.int64) for column in (begins, stored, models)]
    table = chunk_table(parameters, *columns, ends - sizes, sizes, checked=True)
    if way == _TABLE:
        table[2, values[0] % t.COLUMNS] = np.frombuffer(values[1:9], "<i8")[0]

    def decode(out: Bytes) -> None:
        spans = SpanDecoder(parameters, table)
        out[ends[0] : ends[2]] = 0
        spans.decode(payload, 0, 4, out)
        first, second = int(spans.status[1]), int(spans.status[2])
        if spans.status[0] or spans.status[3]:
            raise Wrong("a chunk fails for what is wrong with another one")
        if way != _TABLE:
            if first != second:
                raise Wrong("of two equal chunks one is refused")
            found = out[ends[0] : ends[2]].reshape(2, case.size)
            if first != t.NOT_MINE:
                for one in found:
                    _judge(case, _UNCHECKED, first, one)
        if first not in (0, t.NOT_MINE):
            raise error_of(first)

    decoded_twice(decode, int(ends[-1]))


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a case, and how its frame and table are changed."""
    case = unpack(mutate_case(data, rng, others))
    way = rng.choices(range(4), (1, 4, 1, 2))[0]
    value = rng.choice((rng.randrange(-(2**63), 2**63), rng.randrange(-40, 5000), 2**63 - 1))
    base = bytes([way, rng.randrange(256)]) + value.to_bytes(8, "little", signed=True)
    return case._replace(size=case.size - 1, base=base).pack()


def seeds() -> list[bytes]:
    """Chunks of all layouts, with classes of all kinds."""
    return _seeds(registry.CODEC_PLANES_HUFFMAN)


def rans_seeds() -> list[bytes]:
    """Chunks of scale contexts and of planes under rANS."""
    return _seeds(registry.CODEC_SCALE_CONTEXT) + _seeds(registry.CODEC_PLANES_RANS)


def _seeds(codec: int) -> list[bytes]:
    cases = [unpack(seed) for seed in codecs.seeds_of(codec)()]
    # `unpack` adds 1 to the size, so that it is never 0
    sound = [case._replace(size=case.size - 1, base=b"").pack() for case in cases]
    return list(dict.fromkeys(sound))


TARGETS = (
    Target("spans", run, seeds, mutate, most_memory=1 << 24),
    Target("spans-rans", run_rans, rans_seeds, mutate, most_memory=1 << 26),
)
