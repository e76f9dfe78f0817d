"""What both sides know of parts: how a chunk's payload lists them. See `docs/format.md`."""

import struct

PART = struct.Struct("<BI")  # mode, stored length
MODEL_LENGTH = struct.Struct("<I")
