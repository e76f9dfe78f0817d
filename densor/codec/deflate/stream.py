"""How a stream lies in a file, and what it holds; without any need of its codec."""

from dataclasses import dataclass

from densor.codec.audio.layout import Layout as AudioLayout
from densor.codec.image.layout import Layout

# Forms: DEFLATE bare; with zlib's header and checksum; that in IDAT chunks; frames of FLAC.
RAW, ZLIB, PNG, FLAC = 0, 1, 2, 3
MAX_STREAM = 1 << 24  # bytes of a stream that is undone
MAX_RAW = 1 << 26  # bytes of its content
MAX_EXPANSION = 1032  # of which a byte of a stream can hold so many at most


@dataclass(frozen=True)
class Stream:
    """One stream from its first byte to its last.

    `row`: bytes of a row of pixels, 0 where its content is not known; `pixel`: bytes to the pixel
    before; `image`: how rows lie. `audio`: of FLAC, how its samples would lie; `depth`: their bits.
    """

    form: int
    row: int = 0
    pixel: int = 0
    image: Layout | None = None
    audio: AudioLayout | None = None
    depth: int = 0
