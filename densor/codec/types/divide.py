"""Divides bytes of which nothing is known: which stretch is coded as elements of which type.

What `find` suggests is coded both ways, a sample of it, and what does not pay stays bytes. Where
that is not clear, both ways are tried on all of it.
"""

from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import Batch, Bytes, Coding, Smallest
from densor.codec.choose import coded_bytes, encode_batch
from densor.codec.kind import BYTES, Kind
from densor.codec.levels import Level, level_settings
from densor.codec.sampling import sample
from densor.codec.types.find import Region, find_regions
from densor.codec.zstd import zstd_compress

_QUICK = level_settings(1)
_PIECE, _PIECES = 1 << 14, 8  # bytes at each place of a region that is tried
_PIECE_OF_CM, _PIECES_OF_CM = 1 << 13, 4  # of them by context mixing of bytes
_PARAMETERS = 384  # bytes of a region's frames and parameters, and those of the bytes behind it
_MAX_SIZE = 0.98  # share of what the bytes take otherwise
_MAX_CLEAR = 0.9  # share below which there is no trial of all
_DENSE = 0.85  # share of a sample that Zstandard leaves where context mixing cannot do much more
_FAST_ZSTD = 3


class Piece(NamedTuple):
    """A stretch of a batch. `clear`: whether `kind` is smaller than plain bytes beyond doubt."""

    begin: int
    end: int
    kind: Kind
    clear: bool = True


def divide(batch: Batch, level: Level) -> list[Piece]:
    """Cuts a batch of plain bytes into pieces, all of it, in order; mostly it is one."""
    pieces: list[Piece] = []
    at = 0
    if level.types:
        for region in find_regions(batch.data):
            piece = _worth(batch, region, level)
            if piece is None:
                continue
            if region.begin > at:
                pieces.append(Piece(at, region.begin, BYTES))
            pieces.append(piece)
            at = region.end
    if at < batch.data.size or not pieces:
        pieces.append(Piece(at, batch.data.size, BYTES))
    return pieces


def encode_piece(batch: Batch, piece: Piece, level: Level) -> Coding:
    """Starts coding a piece; `batch` has its bytes and kind."""
    coded = encode_batch(batch, level)
    if piece.clear:
        return coded
    return Smallest(coded, encode_batch(batch.of_kind(BYTES), level))


def _worth(batch: Batch, region: Region, level: Level) -> Piece | None:
    """The piece that a region becomes; None where its bytes take as little."""
    data = batch.data[region.begin : region.end]
    some = np.ascontiguousarray(sample(data, region.kind.unit, _PIECE // region.kind.unit, _PIECES))
    share = data.size / some.size
    typed = share * _typed_bytes(batch, some, region.kind) + _PARAMETERS
    by_zstd = share * len(zstd_compress(some, min(level.zstd, _FAST_ZSTD)))
    least = by_zstd
    if level.bytes != "zstd" and by_zstd < _DENSE * data.size:
        least = min(least, share * _cm_bytes(batch, some, level))
    if typed > _MAX_SIZE * least:
        return None
    clear = typed < _MAX_CLEAR * least or least > _MAX_CLEAR * data.size
    return Piece(region.begin, region.end, region.kind, clear)


def _typed_bytes(batch: Batch, some: Bytes, kind: Kind) -> int:
    trial = batch.alone(some).of_kind(kind)
    return coded_bytes(trial, _QUICK, registry.CODEC_PLANES_HUFFMAN)


def _cm_bytes(batch: Batch, some: Bytes, level: Level) -> float:
    """What context mixing of bytes takes, as a small part of the sample suggests."""
    part = sample(some, 1, _PIECE_OF_CM, _PIECES_OF_CM)
    trial = batch.alone(part).of_kind(BYTES)
    return coded_bytes(trial, level, registry.CODEC_BYTE_CM) * some.size / part.size
