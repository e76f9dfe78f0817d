"""The fixed parts of a fields model."""

import struct

HEAD = struct.Struct("<BB")  # codec, number of fields
FIELD = struct.Struct("<H")  # bytes per block; the model of the field follows
