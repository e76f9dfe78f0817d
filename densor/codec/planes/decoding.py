"""What kernels that decode planes share with their callers: errors, and arrays by name."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# What `decode_planes` finds wrong.
(
    CHUNK_TOO_SHORT, PLANE_BEYOND_CHUNK, RAW_LENGTH, CONSTANT_LENGTH, NO_CLASSES, MAP_TOO_SHORT,
    MAP_CONTENT, SECTION_TOO_SHORT, STREAMS_TOO_LONG, SECTION_LENGTH, STREAM_END, UNUSED_BITS,
    UNKNOWN_MODE, CHUNK_TOO_LONG,
) = range(1, 15)  # fmt: skip
ERRORS = {
    CHUNK_TOO_SHORT: "chunk of planes is too short",
    PLANE_BEYOND_CHUNK: "plane reaches beyond its chunk",
    RAW_LENGTH: "raw plane has the wrong length",
    CONSTANT_LENGTH: "constant plane has the wrong length",
    NO_CLASSES: "plane is coded by classes, but its model has none",
    MAP_TOO_SHORT: "class map is too short",
    MAP_CONTENT: "class map names a class that the model does not have, or has bits left over",
    SECTION_TOO_SHORT: "class section is too short",
    STREAMS_TOO_LONG: "Huffman streams are longer than their section",
    SECTION_LENGTH: "class section has the wrong length",
    STREAM_END: "Huffman stream does not end with its last symbol",
    UNUSED_BITS: "unused bits at the end of a Huffman stream are not 0",
    UNKNOWN_MODE: "plane has an unknown mode",
    CHUNK_TOO_LONG: "chunk of planes is too long",
}


class Codes(NamedTuple):
    """Classes of all planes one after the other, those of plane p from `first[p]` on."""

    first: npt.NDArray[np.int64]  # int64[planes + 1]
    kinds: npt.NDArray[np.uint8]  # uint8[classes]
    symbols: npt.NDArray[np.uint8]  # uint8[classes]
    lengths: npt.NDArray[np.uint8]  # uint8[classes, 256]
    tables: npt.NDArray[np.uint64]  # as from `build_tables`
    bits: npt.NDArray[np.int64]  # likewise


class Work(NamedTuple):
    """Work space for one plane."""

    counts: npt.NDArray[np.int64]  # int64[16], elements of each class
    positions: npt.NDArray[np.uint64]  # uint64[4], of the streams, in bits
    ends: npt.NDArray[np.int64]  # int64[4], of the streams, in bytes
