"""The fixed parts of a fields model."""

import struct

HEAD = struct.Struct("<BB")  # codec, number of fields
FIELD = struct.Struct("<HBBI")  # bytes per block; order, width, columns; its model follows
JOINED = struct.Struct("<BHBBHBBB")  # before that of a joined field, as `joined.Joined`
