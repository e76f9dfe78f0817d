"""What a chunk of tokens has beside the stream of those that a text has, see `token_encoder`."""

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.language_model.params import MAX_CHUNK, Parameters
from densor.errors import FormatError, LimitError
from densor.llm.vocabulary import MAX_TOKEN_BYTES, Vocabulary
from densor.runtime.types import Bytes
from densor.runtime.varint import append_varint

Tokens = npt.NDArray[np.uint32]
HEAD = struct.Struct("<QI")  # XXH3-64 of the original bytes; bytes of the other tokens
_SIZE = struct.Struct("<I")  # of a segment's text
_MAX_SHIFT = 28  # of a number of 32 bits in bytes of 7


class Others(NamedTuple):
    """Tokens that stand for nothing in a text: where they are in a chunk, and which."""

    places: npt.NDArray[np.int64]
    tokens: Tokens

    def packed(self) -> bytes:
        """Of each, how many tokens there are since the last one, and its number."""
        gaps = np.diff(self.places, prepend=-1) - 1
        out = bytearray()
        for pair in zip(gaps.tolist(), self.tokens.tolist(), strict=True):
            for number in pair:
                append_varint(out, number)
        return bytes(out)


class Chunk(NamedTuple):
    """The payload of a chunk, taken apart. `texts`: bytes of the text of each segment."""

    digest: int
    others: Others
    texts: list[int]
    stream: Bytes


def ranks_of(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """The rank of each number of the model, -1 for those that stand for nothing in a text."""
    ranks = np.full(vocabulary.numbers.size, -1, np.int64)
    ranks[vocabulary.numbers[: vocabulary.count]] = np.arange(vocabulary.count)
    return ranks


def parts_of(model: Parameters, count: int) -> list[slice]:
    """The segments of a chunk of so many tokens."""
    step = max(1, -(-count // model.slots))
    return [slice(at, min(at + step, count)) for at in range(0, count, step)]


def texts_at(sizes: list[int]) -> list[slice]:
    """Where the texts of segments lie, one after the other."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice(begin, end) for begin, end in pairwise(ends)]


def pack(digest: int, others: Others, texts: list[int], stream: Bytes) -> Bytes:
    """The payload of a chunk."""
    packed = others.packed()
    sizes = b"".join(_SIZE.pack(size) for size in texts)
    head = HEAD.pack(digest, len(packed)) + sizes + packed
    return np.concatenate([np.frombuffer(head, np.uint8), stream])


def parse(model: Parameters, payload: Bytes, count: int) -> Chunk:
    """The payload of a chunk of so many tokens; FormatError or LimitError for a bad one."""
    parts = parts_of(model, count)
    begin = HEAD.size + _SIZE.size * len(parts)
    if payload.size < begin:
        raise FormatError("chunk of tokens ends within its header")
    digest, size = HEAD.unpack_from(payload)
    if payload.size < begin + size:
        raise FormatError("chunk of tokens ends within those that no text has")
    others = _parse_others(payload[begin : begin + size].tobytes(), count, model.token_bytes)
    packed = payload[HEAD.size : begin].tobytes()
    texts = [text for (text,) in _SIZE.iter_unpack(packed)]
    if sum(texts) > MAX_CHUNK:
        raise LimitError(f"chunk of tokens has more than {MAX_CHUNK} bytes of text")
    for text, known in zip(texts, known_in(parts, others), strict=True):
        if not known <= text <= MAX_TOKEN_BYTES * known:
            raise FormatError(f"chunk has {known} tokens in {text} bytes of text")
    return Chunk(digest, others, texts, payload[begin + size :])


def known_in(parts: list[slice], others: Others) -> list[int]:
    """How many tokens of each segment a text has."""
    bounds = np.searchsorted(others.places, [[part.start, part.stop] for part in parts])
    missing = (bounds[:, 1] - bounds[:, 0]).tolist()
    return [part.stop - part.start - few for part, few in zip(parts, missing, strict=True)]


def _parse_others(packed: bytes, count: int, size: int) -> Others:
    numbers = list(_numbers(packed))
    if len(numbers) % 2:
        raise FormatError("chunk of tokens ends within one that no text has")
    places = np.cumsum(np.array(numbers[::2], np.int64) + 1) - 1
    tokens = np.array(numbers[1::2], np.int64)
    if places.size and (places[-1] >= count or int(tokens.max()) >> (8 * size)):
        raise FormatError("chunk of tokens has one that cannot be")
    return Others(places, tokens.astype(np.uint32))


def _numbers(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 127) << shift
        if byte > 127:
            shift += 7
            if shift > _MAX_SHIFT:
                raise FormatError("chunk of tokens has a number that is too long")
            continue
        yield number
        number = shift = 0
    if shift:
        raise FormatError("chunk of tokens ends within a number")
