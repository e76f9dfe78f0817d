"""What both sides know of a chunk of changes. See docs/format/delta.md."""

import struct

HEAD = struct.Struct("<QB")  # where the chunk's bytes are in the base, mode
LENGTH = struct.Struct("<I")  # of the stream; it and the extra bits follow
SAME, CODED, FEW_CODED = 0, 1, 2  # modes
