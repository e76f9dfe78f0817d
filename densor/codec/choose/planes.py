"""Blocks, sparse elements, and planes of whatever elements."""

import math

from densor.codec import registry
from densor.codec.batch import Batch, Chunk, CodedBatch, Coding, Smallest, smallest
from densor.codec.choose.trials import by_zstd, coded_bytes, encoded, proposed
from densor.codec.codecs import CODECS
from densor.codec.interfaces import Encoder
from densor.codec.kind import Data, Kind
from densor.codec.levels import Level, with_few_codes, with_huffman_codes
from densor.codec.planes.classes import MIN_RUNS
from densor.codec.sparse.encoder import with_zeros
from densor.entropy.rans.constants import STATES

MAX_SIZE_OF_SPARSE = 0.98  # share of what the sample takes as planes
# Where a trial of the whole batch costs little
MAX_BYTES_OF_ZSTD = 1 << 12  # and where parameters must prove their worth
MAX_BYTES_OF_HUFFMAN = 1 << 18  # codes may be smaller than rANS, for their simpler parameters
MIN_BYTES_OF_SPANS = 1 << 16  # below, what the ordinary way finds better counts
MAX_BYTES_OF_ZEROS = 1 << 23  # of sparse elements and planes, where a sample takes about the same
SMALL_FOR_CODES = 3  # size over what a chunk takes, from which fewer codes may be smaller
MUCH_FOR_CODES = 1000  # a batch over the parameters in it, up to which these count
SMALL = 8  # size over what a sample takes, from which trials cost little
NOTHING = 64  # size over what a sample takes, from which it has met too little to tell


def least_of_simpler(coded: CodedBatch, kind: Kind) -> float:
    """Bytes that planes under Huffman codes, or fewer ones, will not go below, given those of rANS.

    They may save parameters and states, and take more for the rest.
    """
    if coded.model is None or kind.layout is None:
        return coded.stored
    states = 4 * STATES * kind.layout.size * len(coded.chunks)
    return coded.stored - len(coded.model) - states


def as_planes(batch: Batch, level: Level, enough: float = math.inf) -> Coding:
    """Blocks, sparse elements, and planes of whatever elements; see `as_planes_or_spans`."""
    if batch.kind.data is Data.MATRICES:
        batch = batch.in_chunks_of(batch.kind.whole_runs)
    if batch.data.size <= batch.chunk_bytes:
        return batch.workers.submit(_one_chunk, batch.alone(), level, enough)
    ways = [encoded(encoder, batch, level) for encoder in _of_elements(batch, level)]
    return ways[0] if len(ways) == 1 else Smallest(*ways)


def _of_elements(batch: Batch, level: Level) -> list[Encoder | None]:
    """The encoders of blocks or elements that are worth a trial; None where Zstandard does better.

    Mostly there is one. Where little is left, Huffman codes may be smaller for their parameters.
    """
    if batch.kind.fields:
        return [proposed(registry.CODEC_BLOCKS, batch, level)]
    pieces = with_zeros(batch.data, batch.kind)
    trial = batch.alone(batch.data[:0] if pieces is None else pieces)
    by_planes = registry.CODEC_PLANES_RANS
    number, small = by_planes, False
    also: list[int] = []
    if pieces is not None:
        plain = coded_bytes(trial, level, by_planes)
        sparse = coded_bytes(trial, level, registry.CODEC_SPARSE)
        if sparse < MAX_SIZE_OF_SPARSE * plain:
            number = registry.CODEC_SPARSE
        small = min(plain, sparse) < pieces.size // SMALL
        near = MAX_SIZE_OF_SPARSE**2 < sparse / max(plain, 1) < 1 / MAX_SIZE_OF_SPARSE
        empty = min(plain, sparse) < pieces.size // NOTHING
        little = batch.data.size < MIN_BYTES_OF_SPANS  # of which a sample says too little
        if empty or little or (near and batch.data.size <= MAX_BYTES_OF_ZEROS):
            also = [by_planes + registry.CODEC_SPARSE - number]
    found = [CODECS[one].propose(batch, level) for one in (number, *also)]
    if small and level.planes == "rans":
        found.append(CODECS[number].propose(batch, with_huffman_codes(level)))
    return found


def _one_chunk(batch: Batch, level: Level, enough: float = math.inf) -> CodedBatch:
    """A batch of one chunk, where parameters count and a simpler way may be smaller.

    `enough`: see `as_planes_or_spans`.
    """
    size = batch.data.size
    ways: list[CodedBatch] = []

    def by(settings: Level) -> bool:
        """Codes it under these settings; whether they propose more than Zstandard."""
        encoders = _of_elements(batch, settings)
        ways.extend(encoded(encoder, batch, level).result() for encoder in encoders)
        return encoders != [None]

    settings, goes_on = level, by(level)
    goes_on = goes_on and min(least_of_simpler(way, batch.kind) for way in ways) < enough
    goes_on = goes_on and not (level.planes == "huffman" and _has_one_code(batch))
    if goes_on and level.planes == "rans" and size <= MAX_BYTES_OF_HUFFMAN:
        settings = with_few_codes(level)
        goes_on = by(with_huffman_codes(level)) and not _has_one_code(batch) and by(settings)
    least = min(ways, key=lambda way: way.stored)
    small = MAX_BYTES_OF_ZSTD < size < MIN_BYTES_OF_SPANS
    if MIN_BYTES_OF_SPANS <= size <= MAX_BYTES_OF_HUFFMAN:
        small = MUCH_FOR_CODES * len(least.model or b"") > least.stored
    goes_on = goes_on and (small or SMALL_FOR_CODES * least.stored < size)
    while goes_on and settings.classes > 1:
        settings = with_few_codes(settings)
        goes_on = by(settings)
    if size <= MAX_BYTES_OF_ZSTD and any(way.model is not None for way in ways):
        ways.append(by_zstd(batch, level).result())
    raw = Chunk(registry.MODEL_RAW, batch.data, size)
    return smallest([*ways, CodedBatch(None, [raw])])


def _has_one_code(batch: Batch) -> bool:
    """Whether elements are so few that all levels have one code for a plane."""
    kind = batch.kind
    if kind.layout is None or kind.fields or with_zeros(batch.data, kind) is not None:
        return False
    return batch.data.size <= (2 * MIN_RUNS - 1) * kind.run * kind.layout.size
