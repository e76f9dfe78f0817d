"""The MODEL frame, and the sizes of streams at the beginning of a chunk."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.circuit.model import HASH, Size
from densor.errors import FormatError

_MODEL = struct.Struct(f"<BHHB{HASH}s")
_HEAD = struct.Struct("<IB")
_MAX_BITS = 24

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parameters:
    """The size of all images, and the name of the circuit that they were coded under."""

    size: Size
    digest: bytes


def pack(parameters: Parameters) -> bytes:
    """The payload of a MODEL frame."""
    size = parameters.size
    sizes = size.height, size.width, size.channels
    return _MODEL.pack(registry.CODEC_CIRCUIT, *sizes, parameters.digest)


def parse(payload: bytes) -> Parameters:
    """The parameters in a MODEL frame; FormatError or LimitError for a bad one."""
    if len(payload) != _MODEL.size:
        raise FormatError("model of a circuit has the wrong length")
    _, height, width, channels, digest = _MODEL.unpack(payload)
    size = Size(height, width, channels)
    size.check()
    return Parameters(size, digest)


def pack_sizes(sizes: Places) -> bytes:
    """The smallest size, the bits of what others have more, and that, lowest bit first."""
    least = int(sizes.min())
    bits = int(sizes.max() - least).bit_length()
    more = (sizes - least)[:, None] >> np.arange(bits)
    packed = np.packbits((more & 1).astype(np.uint8).ravel(), bitorder="little")
    return _HEAD.pack(least, bits) + packed.tobytes()


def unpack_sizes(payload: Bytes, count: int) -> tuple[Places, int]:
    """int64[count] sizes of streams, and where the first one begins."""
    if payload.size < _HEAD.size:
        raise FormatError("chunk of images is too short")
    least, bits = _HEAD.unpack(payload[: _HEAD.size].tobytes())
    begin = _HEAD.size + (count * bits + 7) // 8
    if bits > _MAX_BITS or begin > payload.size:
        raise FormatError("chunk of images has impossible sizes")
    packed = np.unpackbits(payload[_HEAD.size : begin], bitorder="little")
    if packed[count * bits :].any():
        raise FormatError("chunk of images has sizes beyond its last")
    more = packed[: count * bits].reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))
    return more + least, begin
