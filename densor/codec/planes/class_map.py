"""The class map: the class of each run of a plane, in 1, 2 or 4 bits."""

import numpy as np
import numpy.typing as npt

from densor.codec.planes.payload import map_bits
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.runtime.types import Bytes

unpack_class_map = deferred("densor.codec.planes.kernels", "unpack_class_map")

RunClasses = npt.NDArray[np.uint8]


def pack(runs: RunClasses, classes: int) -> Bytes:
    """The map of `runs`, uint8[runs], each below `classes`; nothing where there is but one."""
    bits = map_bits(classes)
    if not bits:
        return np.empty(0, np.uint8)
    per_byte = 8 // bits
    padded = np.zeros(-(-runs.size // per_byte) * per_byte, np.uint8)
    padded[: runs.size] = runs
    shifted = padded.reshape(-1, per_byte) << (np.arange(per_byte, dtype=np.uint8) * bits)
    packed: Bytes = np.bitwise_or.reduce(shifted, axis=1)
    return packed


def unpack(section: Bytes, classes: int, runs: int) -> tuple[RunClasses, int]:
    """The class of each run, uint8[runs], and the bytes of the map that `section` begins with.

    FormatError unless the map is whole, names none but these classes and has no bits left over.
    """
    bits = map_bits(classes)
    size = (runs * bits + 7) // 8
    if size > section.size:
        raise FormatError("class map is too short")
    found = np.zeros(runs, np.uint8)
    if bits and not unpack_class_map(section[:size], bits, classes, found):
        raise FormatError(
            "class map names a class that the model does not have, or has bits left over"
        )
    return found, size
