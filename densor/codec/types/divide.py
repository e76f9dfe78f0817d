"""Divides bytes of which nothing is known: which stretch is coded as elements of which type.

What `find` suggests is coded both ways, a sample of it, and what does not pay stays bytes. Where
that is not clear, both ways are tried on all of it.
"""

import math
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import Batch, Bytes, Coding, Smallest
from densor.codec.choose.candidates import encode_batch
from densor.codec.choose.sizes import chunk_bytes
from densor.codec.choose.trials import coded_bytes
from densor.codec.history import History
from densor.codec.kind import BYTES, Kind
from densor.codec.levels import Level, level_settings
from densor.codec.sampling import sample
from densor.codec.types.find import (
    WORK,
    Region,
    Stretch,
    cost_of_differences,
    cost_together,
    find_stretches,
    region_of,
)
from densor.codec.zstd import zstd_compress, zstd_smallest
from densor.entropy.deferred import deferred

repeated = deferred("densor.codec.types.kernels", "repeated")

_QUICK = level_settings(1)
_QUICK_AGAIN = replace(_QUICK, try_zstd=True)  # where planes may repeat
_MIN_PIECE, _MAX_PIECE = 1 << 12, 1 << 13  # bytes at each place of a region that is tried
_PIECES = 8
_GLANCE, _MAX_LOOKED_AT = 1 << 16, 1 << 20  # bytes in which repetitions are looked for
_LOOKED_INTO = 1 << 13
_SAMPLED = 1 << 11  # size over bytes at each place
_LOOK, _LOOKS = 1 << 12, 4  # of one that is looked at first
_PIECE_OF_CM, _PIECES_OF_CM = 1 << 15, 2  # of them by context mixing of bytes
_PARAMETERS = 384  # bytes of a region's frames and parameters, and those of the bytes behind it
_MAX_SIZE = 0.98  # share of what the bytes take otherwise
_MAX_NEAR, _MAX_NEAR_BYTES = 1.75, 1 << 17  # likewise of short stretches, all of which is tried
_LITTLE, _MAX_LITTLE_BYTES = 8, 1 << 20  # size over what bytes take, of which all is tried
_MIN_TRIED = 1 / 64  # of the rest of a batch, what bytes take of which all is tried, or may save
_MIN_REST = 8  # size over that of what else is in a batch, from which that does not count
_MAX_TOGETHER = 1.1  # of the most that elements may take, what they do under one code
_MAX_CLEAR = 0.9  # share below which there is no trial of all
_SURELY = 1.4  # what Zstandard takes over what counts tell of elements: no sample is coded then
_DENSE, _MAX_DENSE = 0.7, 0.95  # what Zstandard leaves, and elements of that, where context mixing
# cannot do much more either
_MIN_DENSE = 0.62  # what elements take; less is of integers with few upper bytes, which it mixes
_MAX_TRIAL = 1 << 20  # bytes of which context mixing is tried as a whole
_FAST_ZSTD = 3
_ONLY_MATCHES = -1  # level of Zstandard at which literals stay as they are
_MIN_MATCHED = 1.05  # of what elements take: Zstandard codes what is left, too
_MAX_MATCHED = 0.99  # share that is left where something repeats
_MAX_REPEATED = 1 << 21  # bytes, among which Zstandard finds what repeats by default
_MIN_AGAIN = 2  # of 256 places for each megabyte that are looked at, where something repeats
_MUCH_AGAIN = 1 << 15  # size for each of these, where an eighth of it repeats
_SOME_AGAIN = 1 << 17  # likewise, a thirty-second
_WORTH = "worth"  # what the history calls stretches that were tried
_MAX_UNLIKE = 0.02  # of the shares of stretches of an archive of which one trial serves for all
_MIN_SHARE = 0.9  # of what elements take, with a code for each window; Zstandard's may be less


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
    for piece in _typed(batch, level) if level.types else ():
        if piece.begin > at:
            pieces.append(Piece(at, piece.begin, BYTES))
        pieces.append(piece)
        at = piece.end
    if at < batch.data.size or not pieces:
        pieces.append(Piece(at, batch.data.size, BYTES))
    return pieces


def _typed(batch: Batch, level: Level) -> list[Piece]:
    """The pieces that are worth coding as elements.

    What is of one type, but begins again and again at another place, may be something that repeats.
    """
    found: list[Piece] = []
    stretches = find_stretches(batch.data, quick=level.bytes == "zstd")
    rest = batch.data.size - sum(stretch.end - stretch.begin for stretch in stretches)
    if len(stretches) == 1:
        return _pieces(batch, stretches, level, rest)
    for _, group in groupby(stretches, key=lambda stretch: stretch.type):
        alike = list(group)
        pieces = _pieces(batch, alike, level, rest)
        if pieces and len(alike) > 1:
            some = batch.data[alike[0].begin : alike[-1].end][:_MAX_LOOKED_AT]
            share = math.fsum(stretch.share for stretch in alike) / len(alike)
            if len(zstd_compress(some, 1)) < _MIN_SHARE * share * some.size:
                continue
        found += pieces
    return found


def _pieces(batch: Batch, stretches: list[Stretch], level: Level, rest: int) -> list[Piece]:
    """What stretches become, but those whose bytes take as little.

    `rest`: bytes of the batch that are in no stretch at all.
    """
    pieces = []
    for stretch in stretches:
        region = region_of(batch.data, stretch)
        piece = None if region is None else _worth(batch, stretch, region, level, rest)
        if piece is not None:
            pieces.append(piece)
    return pieces


def may_be_bytes(data: Bytes, pieces: list[Piece], level: Level) -> bool:
    """Whether all of what was divided may be smaller as bytes, in one piece, and fast to try.

    No part of what is divided repeats anything of another one. Whether much would is looked at;
    little is tried.
    """
    if data.size <= _MAX_NEAR_BYTES:
        return True
    if level.bytes != "zstd":
        return False
    if not any(piece.clear for piece in pieces if piece.kind is not BYTES):
        return True
    within = sum(_again(data[piece.begin : piece.end]) for piece in pieces)
    return _SOME_AGAIN * (_again(data) - within) > min(data.size, _MAX_REPEATED)


def encode_piece(batch: Batch, piece: Piece, level: Level) -> Coding:
    """Starts coding a piece; `batch` has its bytes and kind."""
    coded = encode_batch(batch, level)
    if piece.clear:
        return coded
    return Smallest(coded, encode_batch(batch.of_kind(BYTES), level))


def _worth(batch: Batch, stretch: Stretch, region: Region, level: Level, rest: int) -> Piece | None:
    """The piece that a region of a stretch becomes; None where its bytes take as little.

    Slow levels try it both ways where it is little, and nothing is cut in two for that.
    """
    piece = _judged(batch, stretch, region, level, rest)
    alone = stretch.begin == 0 and stretch.end == batch.data.size <= _MAX_TRIAL
    if piece is None and alone and level.bytes != "zstd":
        return Piece(region.begin, region.end, region.kind, clear=False)
    return piece


def _judged(
    batch: Batch, stretch: Stretch, region: Region, level: Level, rest: int
) -> Piece | None:
    """Likewise, by what counts and samples tell."""
    data = batch.data[region.begin : region.end]
    like = _WORTH, level.bytes, stretch.way, region.kind.dtype
    kept = batch.history.kept(like)
    known = any(abs(stretch.share / share - 1) < _MAX_UNLIKE for share in kept)
    if known and _repeats(data, stretch.share):
        return None
    few = False
    if known or _likely_elements(data, stretch, region.kind, level):
        again = _again(data)
        if _MUCH_AGAIN * again > data.size:
            near = _again(data, chunk_bytes(region.kind, level))
            seen = _MUCH_AGAIN * near > data.size  # by what codes the planes of a chunk
            least = (1 / _LITTLE if seen else _MIN_SHARE) * stretch.share
            return None if _matched(data) < least else _tried(batch, region, level)
        few = True
        if known or again < _MIN_AGAIN:
            batch.history.keep(like, stretch.share)
            return Piece(region.begin, region.end, region.kind)
    if not region.kind.integers and _repeats_much(data, stretch, few):
        return None
    piece = _tried_by_sample(batch, stretch, region, level, rest)
    if piece is None or not piece.clear:
        return piece
    dense = not region.kind.integers and stretch.plain > _DENSE
    if level.bytes == "zstd" and not dense and _MIN_REST * rest > data.size:
        return piece._replace(clear=False)  # it may stand in the rest, too
    batch.history.keep(like, stretch.share)
    return piece


def _repeats_much(data: Bytes, stretch: Stretch, few: bool) -> bool:
    """Whether less is left without what repeats than elements take.

    `few`: whether little repeats far apart; if that is not known, it is looked at.
    """
    least = _MIN_MATCHED * stretch.share
    places = data, data[data.size // 2 :]  # something else may stand at one of them
    if all(_matched(some[:_LOOKED_INTO]) < _MIN_SHARE * least for some in places):
        return True
    if _matched(data[:_GLANCE]) < least:
        return True
    if few or _MUCH_AGAIN * _again(data) <= data.size:
        return False
    return _matched(data[:_MAX_LOOKED_AT]) < least


def _tried_by_sample(
    batch: Batch, stretch: Stretch, region: Region, level: Level, rest: int
) -> Piece | None:
    """Likewise, as samples tell."""
    data = batch.data[region.begin : region.end]
    some = _sample(data, region.kind.unit)
    share = data.size / some.size
    by_zstd = share * len(zstd_compress(some, min(level.zstd, _FAST_ZSTD)))
    repeating = by_zstd < _MIN_SHARE * stretch.share * data.size
    if repeating and not level.try_zstd:
        return None
    slow, integers = level.bytes != "zstd", region.kind.integers
    much = by_zstd > _MIN_TRIED * (batch.data.size - data.size)
    typed = region.share * data.size + _PARAMETERS  # a little more than it will be
    if not (slow or much) and typed > _MAX_CLEAR * by_zstd:
        return None
    most = _MAX_SIZE if slow else _max_near(data.size, by_zstd)
    dense = by_zstd > _DENSE * data.size and typed < _MAX_CLEAR * by_zstd
    if not slow:
        together = _together(some, stretch, region.kind)
        if not integers and share * together > _MAX_TOGETHER * most * by_zstd:
            return None
        typed = max(typed, share * together + _PARAMETERS)
    alone = slow or _MIN_REST * rest <= data.size
    pays = alone or by_zstd - typed > _MIN_TRIED * rest
    if (slow or _SURELY * typed > by_zstd) and (integers or not dense):
        if not pays:
            return None
        again = level.try_zstd and (repeating or integers)
        typed = share * _typed_bytes(batch, some, region.kind, again) + _PARAMETERS
        if typed > _MAX_SIZE * by_zstd:  # before all else that takes long
            near = not slow and much and typed < most * by_zstd
            return _tried(batch, region, level) if near else None
    repeated = _matched(data[:_GLANCE]) < _MAX_MATCHED
    if repeated and not pays:
        return None
    if not repeated:
        repeated = _matched(data[:_MAX_LOOKED_AT]) < _MAX_MATCHED
        if data.size > _MAX_LOOKED_AT and not repeated and _MUCH_AGAIN * _again(data) > data.size:
            return _tried(batch, region, level)
    return _unless_clear(batch, region, level, some, (typed, by_zstd), repeated)


def _together(some: Bytes, stretch: Stretch, kind: Kind) -> float:
    """What counts say that a sample takes as elements, all under one code."""
    if kind.integers:
        return cost_of_differences(some, kind.unit)
    return cost_together(some, stretch.type)


def _unless_clear(
    batch: Batch, region: Region, level: Level, some: Bytes, sizes: tuple[float, float],
    repeated: bool,
) -> Piece | None:  # fmt: skip
    """Likewise, of what takes so much as elements, and by Zstandard."""
    data = batch.data[region.begin : region.end]
    typed, by_zstd = sizes
    slow = level.bytes != "zstd"
    untried = slow and data.size > _MAX_TRIAL
    if untried and repeated:
        by_zstd = min(by_zstd, len(zstd_compress(data, min(level.zstd, _FAST_ZSTD))))
    dense = by_zstd > _DENSE * data.size and _MIN_DENSE * data.size < typed < _MAX_DENSE * by_zstd
    mixed = by_zstd
    if slow and not dense:
        mixed = data.size / some.size * _cm_bytes(batch, some, level)
    least = min(by_zstd, mixed)
    if typed > _MAX_SIZE * least:
        return None
    clear = typed < _MAX_CLEAR * least or (dense if slow else least > _MAX_CLEAR * data.size)
    clear = untried or (clear and not repeated)
    if not (clear or slow) and data.size <= _MAX_NEAR_BYTES:
        return _tried(batch, region, level)  # rather than what is divided for nothing
    return Piece(region.begin, region.end, region.kind, clear)


def _sample(data: Bytes, unit: int) -> Bytes:
    """Elements of `unit` bytes from all over a region."""
    piece = min(max(_MIN_PIECE, data.size // _SAMPLED), _MAX_PIECE, data.size // (2 * _PIECES))
    return np.ascontiguousarray(sample(data, unit, piece // unit, _PIECES, inner=True))


def _max_near(size: int, by_zstd: float) -> float:
    """The share of what bytes take, of what a sample does as elements, up to which all is tried.

    A quick level of Zstandard does not show what planes that repeat take by a slower one. So there
    is a trial where it takes little time: of what is short, or of which little is left.
    """
    if size <= _MAX_LITTLE_BYTES and _LITTLE * by_zstd < size:
        return math.inf
    return _MAX_NEAR if size <= _MAX_NEAR_BYTES else _MAX_SIZE


def _tried(batch: Batch, region: Region, level: Level) -> Piece | None:
    """The piece that a region becomes if all of it takes less as elements than by Zstandard."""
    data = batch.data[region.begin : region.end].copy()
    trial = replace(batch.alone(data), kind=region.kind, history=History())
    as_elements = encode_batch(trial, level).result().stored
    as_bytes = registry.FRAME_SIZE + len(zstd_smallest(data, level.zstd))
    return Piece(region.begin, region.end, region.kind) if as_elements < as_bytes else None


def _likely_elements(data: Bytes, stretch: Stretch, kind: Kind, level: Level) -> bool:
    """Whether a stretch takes far less as elements than as bytes, if nothing repeats far apart.

    Counts tell it then; of dense ones only, if bytes are mixed, which cannot do much more either.
    """
    if kind.integers or data.size < _GLANCE or stretch.share > _MAX_DENSE * stretch.plain:
        return False
    if level.bytes != "zstd" and (stretch.plain < _DENSE or stretch.share < _MIN_DENSE):
        return False
    if stretch.share > _MAX_CLEAR * stretch.plain < _MAX_CLEAR**2:
        return False
    some = data[:_LOOKED_INTO]
    if _matched(some) >= _MAX_MATCHED:
        return True
    return len(zstd_compress(some, 1)) >= _MIN_SHARE * stretch.plain * some.size


def _again(data: Bytes, near: int = _MAX_REPEATED) -> int:
    """How many of about 256 places for each megabyte hold what stood less than `near` before."""
    some, work = data[:_MAX_REPEATED], WORK
    again: int = repeated(some, near, work.counts, work.anchors, work.places)
    return again


def _repeats(data: Bytes, share: float) -> bool:
    """Whether Zstandard clearly takes less than the share that elements do.

    Not where a stretch begins and ends: what surrounds it may reach a little into it.
    """
    some = sample(data, 1, _LOOK, _LOOKS, inner=True)
    return len(zstd_compress(some, 1)) < _MIN_SHARE * share * some.size


def _matched(data: Bytes) -> float:
    """The share that is left without what repeats, which a sample does not show if far apart.

    Where nothing repeats, this takes hardly longer than a copy.
    """
    return len(zstd_compress(data, _ONLY_MATCHES)) / data.size


def _typed_bytes(batch: Batch, some: Bytes, kind: Kind, again: bool) -> int:
    """What elements take by a quick level. `again`: whether planes may repeat."""
    level = _QUICK_AGAIN if again else _QUICK
    trial = batch.alone(some).of_kind(kind)
    return coded_bytes(trial, level, registry.CODEC_PLANES_HUFFMAN)


def _cm_bytes(batch: Batch, some: Bytes, level: Level) -> float:
    """What context mixing of bytes takes, as a small part of the sample suggests."""
    part = sample(some, 1, _PIECE_OF_CM, _PIECES_OF_CM)
    trial = batch.alone(part).of_kind(BYTES)
    return coded_bytes(trial, level, registry.CODEC_BYTE_CM) * some.size / part.size
