"""The decoding side of parts."""

from collections.abc import Callable

from densor.codec import registry
from densor.codec.coder import Bytes, ChunkDecoder
from densor.codec.parts.payload import MODEL_LENGTH, PART
from densor.codec.zstd import zstd_decompress_into
from densor.errors import FormatError, UnsupportedError

Find = Callable[[bytes], ChunkDecoder]  # the decoder of a model that may not nest again


class PartDecoder:
    """Decodes one part of the chunks of a model. Safe to use from several threads at once."""

    def __init__(self, model: bytes, find: Find) -> None:
        self._decoder = find(model) if model else None

    def decode(self, mode: int, stored: Bytes, out: Bytes) -> None:
        """Decodes what is stored into all of `out`; FormatError if it does not fit."""
        if mode > registry.PART_MODEL:
            raise UnsupportedError(f"unknown mode {mode} of a part; a newer densor may read this")
        if not out.size and mode != registry.PART_RAW:
            raise FormatError("empty part of a chunk is not raw")
        if mode == registry.PART_MODEL:
            if self._decoder is None:
                raise FormatError("part of a chunk has no model")
            self._decoder.decode(stored, out)
        elif mode == registry.PART_ZSTD:
            zstd_decompress_into(stored, out)
        elif stored.size == out.size:
            out[:] = stored
        else:
            raise FormatError("raw part of a chunk has the wrong length")


def take_model(payload: bytes, at: int) -> tuple[bytes, int]:
    """The model of a part that stands at `at`, and where it ends."""
    begin = at + MODEL_LENGTH.size
    if begin > len(payload):
        raise FormatError("model is too short")
    end = begin + int(MODEL_LENGTH.unpack_from(payload, at)[0])
    if end > len(payload):
        raise FormatError("model is too short")
    return payload[begin:end], end


def split_parts(payload: Bytes, at: int, count: int) -> list[tuple[int, Bytes]]:
    """Mode and stored bytes of the `count` parts listed at `at`; they must end the payload."""
    begin = at + count * PART.size
    if payload.size < begin:
        raise FormatError("chunk is too short for its parts")
    parts = []
    for mode, length in PART.iter_unpack(payload[at:begin].tobytes()):
        if length > payload.size - begin:
            raise FormatError("part of a chunk is longer than the chunk")
        parts.append((mode, payload[begin : begin + length]))
        begin += length
    if begin != payload.size:
        raise FormatError("parts do not fill their chunk")
    return parts
