"""How much of a kind of data a chunk and a batch hold."""

from densor.codec import registry
from densor.codec.codecs import CODECS
from densor.codec.deflate.stream import MAX_STREAM
from densor.codec.kind import BATCH_BYTES, Data, Kind
from densor.codec.levels import Level
from densor.codec.pages.layout import MAX_STRETCH
from densor.codec.table.layout import MAX_BYTES as MAX_TABLE

TABLE_CHUNK, SMALL_TABLE_CHUNK = MAX_TABLE, 1 << 22
MOST_MIXED_IN_PARTS = 4  # contexts of a table, with more of which parts are not read by themselves
ZSTD_CHUNK = 1 << 22  # bytes
GROUP = 1 << 20  # bytes of small tensors that are coded together at most, about a chunk
MIXED_CHUNK = 1 << 23  # bytes of an image by context mixing, which learns as it goes
SECONDS = 8  # of sound in a chunk, within these bytes
LEAST_FRAME, MOST_FRAME = 1 << 20, 1 << 22
FLOAT_CODECS = {
    "matrix_spans": registry.CODEC_SCALE_CONTEXT,
    "scale_context": registry.CODEC_SCALE_CONTEXT,
    "float_cm": registry.CODEC_FLOAT_CM,
}


def chunk_bytes(kind: Kind, level: Level) -> int:
    """Original bytes per chunk, whole runs or rows."""
    data = kind.data
    if data is Data.BYTES:
        return ZSTD_CHUNK if level.bytes == "zstd" else CODECS[registry.CODEC_BYTE_CM].chunk
    if kind.table is not None and kind.table.arrays:
        return kind.table.max_bytes
    if data is Data.TABLE:
        whole = level.tables > MOST_MIXED_IN_PARTS or level.latents
        return TABLE_CHUNK if whole else SMALL_TABLE_CHUNK
    if data is Data.BLOCKS:
        return kind.whole_rows(CODECS[registry.CODEC_BLOCKS].chunk)
    if data is Data.STREAM:
        return MAX_STREAM
    if data is Data.PAGES:
        return MAX_STRETCH
    if data is Data.NOTATION:
        assert kind.notation is not None
        return kind.notation.most
    if data is Data.IMAGE:
        gradient = level.images == "gradient"
        return kind.whole_rows(CODECS[registry.CODEC_IMAGE].chunk if gradient else MIXED_CHUNK)
    if data is Data.AUDIO:
        return kind.whole_rows(_frame_bytes(kind))
    if data is Data.MATRICES and level.floats in FLOAT_CODECS:
        return kind.whole_rows(matrix_chunk(level))
    return kind.whole_runs


def _frame_bytes(kind: Kind) -> int:
    """Bytes of some seconds of sound."""
    assert kind.audio is not None
    size = SECONDS * kind.audio.rate * kind.audio.stride
    return min(max(size, LEAST_FRAME), MOST_FRAME)


def matrix_chunk(level: Level) -> int:
    """Bytes of a chunk, about, where floats are coded in matrices; 0 at other levels."""
    return CODECS[FLOAT_CODECS[level.floats]].chunk if level.floats in FLOAT_CODECS else 0


def batch_bytes(kind: Kind, level: Level) -> int:
    """Original bytes per batch, whole chunks, or images."""
    chunk = chunk_bytes(kind, level)
    if kind.table is not None:
        return kind.table.max_bytes
    if kind.image is not None and 0 < kind.image.stride * kind.image.height <= BATCH_BYTES:
        whole = kind.image.stride * kind.image.height  # images are not cut in two
        return BATCH_BYTES // whole * whole
    return max(1, BATCH_BYTES // chunk) * chunk
