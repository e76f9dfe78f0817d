"""Byte planes under Huffman codes: how classes are chosen, and symbols written."""

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.class_map import RunClasses
from densor.codec.planes.classes import Coding, Counts, Prices, RunCounts, search_classes
from densor.codec.planes.params import Classes
from densor.codec.planes.payload import LENGTHS_SIZE, map_bits
from densor.codec.planes.stages.stage import Precision, Stage, Writer
from densor.entropy.deferred import deferred
from densor.entropy.huffman.code import SLACK, fast_lengths, huffman_lengths
from densor.entropy.huffman.encode import EncodeTables, capacity, encode, encode_tables
from densor.runtime.buffers import ThreadBuffers
from densor.runtime.types import Bytes

group_runs = deferred("densor.codec.planes.kernels", "group_runs")

_CLASS_BITS = 300.0  # what a class must save: its code in the model, the time to build its table
_CODE_HEAD = 3  # bytes of a code in the model, beside half a byte for each symbol between two
_MAX_SIZE_OF_CODED = 0.997  # a Huffman code must save this much against raw, which decodes faster
_SECTION_BITS = 8 * (LENGTHS_SIZE + SLACK)
_BUFFERS = ThreadBuffers()


def _choose(counts: RunCounts, total: Counts, most: int, chunks: int) -> Coding[Classes] | None:
    """The cheapest coding of a plane found with at most `most` classes; None if raw is best.

    `counts`: uint16[runs, 256], the histogram of each run; `total`: int64[256], their sum;
    `chunks`: how often a section with its stream lengths will be written.
    """
    runs, by_class = search_classes(counts, total, most, _CLASS_BITS, _lengths_for_all)
    classes = Classes.empty(len(by_class))
    bits = float(chunks * _SECTION_BITS + len(counts) * map_bits(len(by_class)))
    for c, counted in enumerate(by_class):
        bits += _set_class(classes, c, counted)
    if bits >= _MAX_SIZE_OF_CODED * 8.0 * float(by_class.sum()):
        return None
    return Coding(classes, runs if len(by_class) > 1 else None)


def _lengths_for_all(by_class: npt.NDArray[np.int64], total: Counts) -> Prices:
    """Code lengths per class, for symbols that it does not have too, as rare ones."""
    lengths = [huffman_lengths(counted + (total > 0)) for counted in by_class]
    return np.array(lengths, np.float32)


def _set_class(classes: Classes, c: int, counted: Counts) -> float:
    """Chooses how to store symbols with these counts; returns the cost in bits."""
    used = np.flatnonzero(counted)
    if used.size <= 1:
        classes.kinds[c] = registry.CLASS_CONSTANT
        classes.symbols[c] = used[0] if used.size else 0
        return 0.0
    lengths, bits = fast_lengths(counted)
    bits += 8 * _CODE_HEAD + 4 * int(used[-1] - used[0] + 1)  # of its code in the model
    raw = 8 * int(counted.sum())
    if bits >= _MAX_SIZE_OF_CODED * raw:
        classes.kinds[c] = registry.CLASS_RAW
        return float(raw)
    classes.kinds[c] = registry.CLASS_HUFFMAN
    classes.lengths[c] = lengths
    return float(bits)


def _writer(classes: Classes, run: int) -> Writer:
    tables = encode_tables(classes.lengths)

    def write(plane: Bytes, runs: RunClasses | None, out: Bytes, at: int) -> int:
        grouped = plane
        counts = np.array([plane.size])
        if runs is not None:
            counts = np.bincount(runs, minlength=len(classes)) * run
            counts[runs[-1]] -= runs.size * run - plane.size
            grouped = _BUFFERS.take("grouped", plane.size)
            group_runs(plane, runs, run, np.cumsum(counts) - counts, grouped)
        return _write(classes, tables, grouped, counts, out, at)

    return write


def _write(
    classes: Classes,
    tables: EncodeTables,
    grouped: Bytes,
    counts: npt.NDArray[np.int64],
    out: Bytes,
    at: int,
) -> int:
    """Stream lengths, raw classes and streams; returns the end."""
    lengths_at = at
    coded = bool(counts[classes.kinds == registry.CLASS_HUFFMAN].any())
    at += LENGTHS_SIZE * coded
    for c in np.flatnonzero(classes.kinds == registry.CLASS_RAW).tolist():
        begin, count = int(counts[:c].sum()), int(counts[c])
        out[at : at + count] = grouped[begin : begin + count]
        at += count
    if coded:
        at, sizes = encode(grouped, counts, tables, out, at)
        out[lengths_at : lengths_at + LENGTHS_SIZE] = sizes.astype("<u4").view(np.uint8)
    out[at : at + SLACK] = 0
    return at + SLACK


def _capacity(n: int) -> int:
    return LENGTHS_SIZE + capacity(n) + SLACK


HUFFMAN = Stage(
    codec=registry.CODEC_PLANES_HUFFMAN,
    mode=registry.PLANE_CLASSES,
    precision=Precision(least=1.0, worth=0.985),
    choose=_choose,
    capacity=_capacity,
    writer=_writer,
)
