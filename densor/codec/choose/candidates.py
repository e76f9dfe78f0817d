"""How a batch is coded: which codecs are candidates for it at which level, and which one is taken.

| data | levels | candidates | decided by |
|---|---|---|---|
| many tensors with a base, above 1 MiB | 6 to 9 | delta, in one or as lower levels join | trial |
| what else has a base | all | delta, or one of those below | estimate |
| bytes with a language model | all | language model, or byte_cm | trial, of texts |
| bytes from 4 KiB on | 5 to 9 | byte_cm, Zstandard | trial of each chunk |
| other bytes | all | Zstandard | |
| floats in many small matrices, in 32 batches | 3 to 5 | rANS, as below | trial; of low rank at 3 |
| floats in matrices from 64 KiB on | 1 to 3 | planes by spans, or as below | it declines |
| floats in matrices that are told | 1 to 5 | scale_context by spans, or as below | estimate |
| floats in matrices | 9 | float_cm, or both ways below | trial |
| floats in matrices, few zeros | 6 to 8 | scale_context, or planes | trial to 128 KiB, estimate |
| floats in matrices, few rows | 4 to 9 | also planes by spans | trial from 64 to 512 KiB |
| blocks | all | blocks | |
| DEFLATE streams | 3 to 9 | deflate, Zstandard | trial |
| FLAC files to 16 MiB | 5 to 9 | audio, bytes as above | trial |
| tables | all | table, bytes as above | table, bytes of a sample where it is not clearly less |
| pages of Parquet files | all | pages, bytes as above | pages, trial where it is hardly less |
| elements in another form | all | notation, bytes as above | trial, or clearly less |
| images of a circuit's size, with one | all | circuit | asked for |
| rows of images | all | image, elements as below, byte_cm at 5 to 9 | trial, byte_cm of a sample |
| tables and images to 1 MiB | 5 to 9 | also with fewer contexts | trial |
| integers that look like tokens | 5 to 9 | tokens, what else fits | sample, then trial |
| integers that are said to be tokens | all | tokens, what else fits | trial |
| samples of sound | 5 to 9 | audio, also as at lower levels | trial |
| samples of sound | all | audio, elements as below, byte_cm at 5 to 9 | trial of samples, or all |
| elements with zeros | all | sparse, planes | trial of a sample |
| two values, one of them zero | all | sparse, what else fits | trial |
| other elements | all | planes, Zstandard | estimate |
| one chunk of elements, blocks | all | also Huffman codes, to 64 KiB; Zstandard, to 4 KiB | trial |

The first row that fits is taken, see `_rows`. Within a batch each chunk is stored in the smallest
of several ways, see `chunks.py`; context mixing of bytes has its own, see `byte_cm/encoder.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from densor.codec import registry
from densor.codec.batch import Batch, Before, Coding, InTurn, Smallest
from densor.codec.choose.forms import as_notation, as_pages, as_stream, as_table
from densor.codec.choose.matrices import (
    as_float_cm,
    as_matrix_spans,
    as_planes_or_spans,
    as_scale_context,
    as_small_matrices,
    as_spans,
)
from densor.codec.choose.planes import as_planes
from densor.codec.choose.signals import as_audio, as_circuit, as_image
from densor.codec.choose.sizes import GROUP, chunk_bytes
from densor.codec.choose.texts import as_byte_cm, as_text, as_tokens
from densor.codec.choose.trials import Encode, Row, by_zstd, proposed
from densor.codec.codecs import CODECS
from densor.codec.kind import Data
from densor.codec.levels import Level, level_settings
from densor.codec.sparse.encoder import is_mask

MAX_SIZE_OF_CHANGES = 0.98  # share of what a batch takes without its base
_FAST_MASKS = 3  # a level that codes masks in a simpler way


def encode_batch(batch: Batch, level: Level) -> Coding:
    """Starts coding at most a batch of one kind.

    Batches are given in the order that they will have in the archive.
    """
    data = batch.kind.data
    batch = batch.in_chunks_of(chunk_bytes(batch.kind, level))
    coding = next(filter(None, (row(batch, level) for row in _rows(data, level))))
    for codec in CODECS.values():
        if codec.suits is not None and codec.suits(batch, level):
            encoder = codec.propose(batch, level)
            coding = coding if encoder is None else Smallest(coding, encoder.encode())
    if data in (Data.ELEMENTS, Data.MATRICES) and batch.base is None and is_mask(batch):
        coding = Smallest(coding, proposed(registry.CODEC_SPARSE, batch, level).encode())
        fast = level_settings(_FAST_MASKS)
        if level.planes != fast.planes:  # bits of a mask may take less by the simpler way
            coding = Smallest(coding, proposed(registry.CODEC_SPARSE, batch, fast).encode())
    return coding


def _rows(data: Data, level: Level) -> tuple[Row, ...]:
    """What is tried in turn; the last row takes all."""
    if data is Data.BYTES:
        by_model = () if level.bytes == "zstd" else (as_byte_cm,)
        return _as_delta, _in_turn(as_text), *by_model, by_zstd
    if data is Data.IMAGE:
        return as_circuit, _in_turn(as_image)
    if data is Data.STREAM:
        return (_in_turn(as_stream),)
    if data is Data.TABLE:
        return (_in_turn(as_table),)
    if data is Data.PAGES:
        return (_in_turn(as_pages),)
    if data is Data.NOTATION:
        return (_in_turn(as_notation),)
    if data is Data.AUDIO:
        return (_in_turn(as_audio),)
    if data is Data.MATRICES:
        by_rows: dict[str, tuple[Row, ...]] = {
            "planes": (),
            "matrix_spans": (as_matrix_spans,),
            "scale_context": (as_scale_context,),
            "float_cm": (as_float_cm,),
        }
        small = (as_small_matrices,) if level.planes == "huffman" and level.classes >= 4 else ()
        by_spans = (as_spans,) if level.spans else ()
        return _as_delta, *by_rows[level.floats], *small, *by_spans, as_planes_or_spans
    return _as_delta, _in_turn(as_tokens), as_planes


def _in_turn(row: Callable[[Batch, Level, Encode], Coding | None]) -> Row:
    """A row that also codes its batch as another kind of data."""
    return lambda batch, level: row(batch, level, encode_batch)


def _as_delta(batch: Batch, level: Level) -> Coding | None:
    if batch.base is None:
        return None
    delta = registry.CODEC_DELTA
    encoder = proposed(delta, batch, level)
    expected = encoder.estimate()
    assert expected is not None
    if expected.bytes >= MAX_SIZE_OF_CHANGES * expected.otherwise:
        return None
    coding, groups = encoder.encode(), _groups(batch)
    if len(groups) < 2:
        return coding
    return Smallest(coding, InTurn([proposed(delta, one, level).encode() for one in groups]))


def _groups(batch: Batch) -> list[Batch]:
    """A batch of many tensors that has a base, in groups about as large as lower levels have."""
    assert batch.base is not None
    groups = max(1, -(-batch.data.size // GROUP))
    sizes = [rows * columns * batch.kind.unit for rows, columns in batch.kind.parts]
    if groups < 2 or len(sizes) < 2 or sum(sizes) != batch.data.size:
        return [batch]
    ends = np.cumsum(sizes)
    wanted = batch.data.size * np.arange(1, groups) // groups
    cuts = [0, *np.unique(ends[ends.searchsorted(wanted)]).tolist(), batch.data.size]
    return [
        replace(
            batch, data=batch.data[a:b], base=Before(batch.base.data[a:b], batch.base.offset + a)
        )
        for a, b in pairwise(cuts)
        if a < b
    ]
