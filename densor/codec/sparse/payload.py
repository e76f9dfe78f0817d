"""The fixed parts of a sparse model and of its chunks."""

import struct

HEAD = struct.Struct("<BB")  # codec, bytes per element; models of bitmap and values follow
COUNT = struct.Struct("<I")  # elements of a chunk that are not zero
SIZES = (1, 2, 4, 8)  # bytes per element
