"""Changes of few elements in tensors of one dtype, under common parameters, each coded by itself.

Payload: u32 length of the parameters (docs/format/delta_few.md, MODEL) and these; for each tensor,
a u32 length for each stretch of at most 2^23 bytes, 0 where nothing has changed; then the streams.
"""

import struct
from collections.abc import Callable, Sequence

import numpy as np

from densor.codec.delta import few_decoder, few_params
from densor.codec.delta.few_encoder import FewEncoder, Part
from densor.dtypes import INTEGERS, SIZES
from densor.errors import FormatError
from densor.float_formats import number_format
from densor.formats.io.sources import Bytes
from densor.runtime.workers import Workers, settle
from densor.sync.weights import Described

_STRETCH = 1 << 23
_U32 = struct.Struct("<I")


def _stretches(size: int) -> range:
    return range(0, size, _STRETCH)


def encode(
    tensors: Sequence[Described],
    new: Sequence[Bytes],
    old: Sequence[Bytes],
    changed: Sequence[int],
    workers: Workers,
) -> bytes | None:
    """The payload of the tensors from the first to the last that has changed.

    `changed`: their numbers. None where these are not changes of few elements.
    """
    if not changed:
        return None
    dtype = tensors[changed[0]].dtype
    if number_format(dtype) is None and dtype not in INTEGERS:
        return None
    encoder = FewEncoder(dtype, SIZES[dtype])
    tasks = {
        (i, at): workers.submit(
            encoder.survey, new[i][at : at + _STRETCH], old[i][at : at + _STRETCH]
        )
        for i in changed
        for at in _stretches(tensors[i].size)
    }
    parts: dict[tuple[int, int], Part] = {}
    for place, task in tasks.items():
        part = task.result()
        if part is None:
            return None
        parts[place] = part
    if not _worth_it(list(parts.values())):
        return None
    encoder.fit(list(parts.values()))
    encoder.record_all(list(parts.values()), workers)
    parameters = few_params.pack(encoder.decide())
    coded = {
        place: workers.submit(encoder.code, part) for place, part in parts.items() if part.number
    }
    lengths, streams = [], []
    for i in range(changed[0], changed[-1] + 1):
        for at in _stretches(tensors[i].size):
            stream = coded[i, at].result() if (i, at) in coded else b""
            lengths.append(_U32.pack(len(stream)))
            streams.append(stream)
    return b"".join((_U32.pack(len(parameters)), parameters, *lengths, *streams))


def _worth_it(parts: Sequence[Part]) -> bool:
    """Whether a change of an element, of 2 bytes at least, is dearer than the elements are."""
    elements = sum(part.new.size for part in parts)
    return 0 < sum(part.number for part in parts) < _MAX_SHARE * elements


_MAX_SHARE = 0.15


def _parse(
    payload: bytes | memoryview, tensors: Sequence[Described]
) -> tuple[few_params.FewParameters, list[list[memoryview]]]:
    """Parameters, and the streams of each tensor."""
    view = memoryview(payload)
    if len(view) < _U32.size:
        raise FormatError("piece of a message is too short")
    length = _U32.unpack_from(view)[0]
    at = _U32.size + length
    counts = [len(_stretches(tensor.size)) for tensor in tensors]
    end = at + _U32.size * sum(counts)
    if end > len(view):
        raise FormatError("piece of a message is too short")
    few = few_params.parse(bytes(view[_U32.size : at]))
    if any(SIZES[tensor.dtype] != few.method.size for tensor in tensors):
        raise FormatError("piece of a message is of another dtype")
    streams: list[list[memoryview]] = []
    for count in counts:
        own = []
        for _ in range(count):
            size = _U32.unpack_from(view, at)[0]
            at += _U32.size
            own.append(view[end : end + size])
            end += size
        streams.append(own)
    if end != len(view):
        raise FormatError("piece of a message has another length than its streams")
    return few, streams


def check(payload: bytes | memoryview, tensors: Sequence[Described]) -> None:
    """FormatError for what can be seen to be wrong without decoding it."""
    _parse(payload, tensors)


def apply(
    payload: bytes | memoryview,
    first: int,
    tensors: Sequence[Described],
    data: Sequence[Bytes],
    workers: Workers,
    done: Callable[[int], None],
) -> None:
    """Changes `data`, the bytes of each tensor, in place; FormatError for a bad payload.

    `first`: number of the first of them, for `done`, which is called once each is whole.
    """
    few, streams = _parse(payload, tensors)

    def change(number: int) -> None:
        own = streams[number]
        for at, stream in zip(_stretches(tensors[number].size), own, strict=True):
            if len(stream):
                part = data[number][at : at + _STRETCH]
                few_decoder.apply(few, np.frombuffer(stream, np.uint8), part)
        if any(len(stream) for stream in own):
            done(first + number)

    tasks = [workers.submit(change, number) for number in range(len(tensors))]
    try:
        for task in tasks:
            task.result()
    finally:
        settle(tasks)  # or others would change what is put there once this has failed
