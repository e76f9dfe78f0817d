"""The coding side of the scale-context codec."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import Batch, CodedBatch
from densor.codec.chunks import CountingEncoder
from densor.codec.history import History
from densor.codec.interfaces import BatchCoder, Estimate
from densor.codec.kind import Kind, matrices
from densor.codec.levels import Level, of_low_halves
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.layout import layout_numbered
from densor.codec.planes.propose import plane_coder
from densor.codec.scale_context.params import Parameters, pack_model
from densor.codec.scale_context.payload import pack_head
from densor.codec.scale_context.scales import (
    ALPHABET,
    Scales,
    SideInformation,
    base_of,
    code_scales,
    scales_of,
)
from densor.codec.scale_context.split_format import BLOCK, SplitFormat, split_format_of
from densor.codec.scale_context.tables import choose, keep
from densor.entropy.deferred import Kernels
from densor.entropy.rans.encode import StreamEncoder
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

kernels = Kernels("densor.codec.scale_context.kernels")


@dataclass(eq=False)
class _Tally:
    """What is known of a chunk before its frequencies are."""

    sides: list[SideInformation]
    base: int
    scales: Bytes
    symbols: Bytes
    counts: npt.NDArray[np.int64]
    low: Any  # of the low halves


def propose(batch: Batch, level: Level) -> "ScaleContextBatchEncoder":
    """An encoder for a batch of floating-point numbers in matrices."""
    return ScaleContextBatchEncoder(batch, level)


class ScaleContextBatchEncoder(CountingEncoder):
    """Codes a batch in order: which frequencies it may share is known when it is made."""

    coder: "ScaleContextEncoder"

    def __init__(self, batch: Batch, level: Level) -> None:
        layout = batch.kind.layout
        assert layout is not None
        planes = plane_coder(batch.data, layout, batch.kind, level)
        low = low_coder(batch.data, batch.kind, level)
        coder = ScaleContextEncoder(batch.kind, batch.history, low, planes.repeats)
        super().__init__(coder, batch, level.zstd)
        self.settle()
        form = split_format_of(batch.kind.dtype)
        sign_and_rest = 1.0 + form.low
        if form.half:
            sign_and_rest += 16 if low is None else low.element_bits(2)
        elements = batch.data.size // layout.size
        self._bytes = (coder.bits + elements * sign_and_rest) / 8
        self._by_planes = elements * planes.element_bits(layout.size) / 8

    def estimate(self) -> Estimate:
        """By counting; otherwise by planes, each under one code, from a sample."""
        return Estimate(self._bytes, self._by_planes)

    def shared(self, coded: CodedBatch) -> float:
        """Bytes of the parameters in `coded` that earlier or later batches bear."""
        return (registry.FRAME_SIZE + len(coded.model or b"")) * self.coder.free

    def keep(self) -> None:
        """Lets later batches share the frequencies."""
        self.coder.keep()


def low_coder(data: Bytes, kind: Kind, level: Level) -> PlanesEncoder[Any] | None:
    """A coder for the low halves of elements of 4 bytes, if anything is to be gained there."""
    if kind.layout is None or kind.layout.size != 4:
        return None
    layout = layout_numbered(registry.LAYOUT_WORD16)
    coder = plane_coder(data, layout, kind, of_low_halves(level), halves=True)
    return coder if coder.useful else None


class ScaleContextEncoder:
    """A `BatchCoder` for floating-point numbers in matrices.

    `history`: what earlier batches of the archive leave. `low`: codes the low halves of elements
    of 4 bytes, None to store them raw. `repeats`: as a `BatchCoder` tells it.
    """

    def __init__(
        self, kind: Kind, history: History, low: BatchCoder | None = None, repeats: bool = False
    ) -> None:
        self.repeats = repeats
        self._kind = kind
        self._format: SplitFormat = split_format_of(kind.dtype)
        self._history = history
        self._low = low
        self._tallies: list[_Tally] = []

    def count(self, chunk: Bytes) -> _Tally:
        """Scales, symbols and how often each occurs."""
        form, alphabet = self._format, ALPHABET
        elements = chunk.size // form.size
        low = None
        if form.half:
            chunk, halves = _halves(chunk)
            low = self._low.count(halves) if self._low is not None else None
            POOL.give(halves)
        high_bits, rest, signs = self._split(chunk, elements)
        lines = self._matrix_scales(high_bits, elements)
        base = base_of(lines)
        sides = [code_scales(line, base) for line in lines]
        scales, symbols = _element_scales(sides, elements), POOL.take(elements)
        kernels.find_symbols(high_bits, scales, alphabet.rule(form, base), symbols)
        counts = np.zeros((alphabet.contexts, 256), np.int64)
        tallies, places = np.empty((4, counts.size), np.uint32), np.empty(1 << 13, np.uint8)
        kernels.count_symbols(symbols, scales, alphabet.phase, tallies, places, counts)
        for side in sides:
            for context, coded in enumerate(side.symbols, 1 << alphabet.phase):
                counts[context] += np.bincount(coded, minlength=256)
        for buffer in (high_bits, rest, signs):
            POOL.give(buffer)
        return _Tally(sides, base, scales, symbols, counts, low)

    def decide(self, tallies: Sequence[_Tally]) -> None:
        """Chooses the frequencies."""
        self._tallies = list(tallies)
        counts = np.sum([tally.counts for tally in tallies], axis=0)
        self._choice = choose(self._history, counts, self._format, ALPHABET)
        self._freqs = self._choice.freqs
        self._known = self._freqs[:-2] > 0
        unknown = (~self._known & (counts[:-2] > 0)).any(axis=0)
        self._all_known = not unknown.any()
        self._plain = _stretch_without(unknown, int(counts[:-2].sum(axis=0).argmax()))
        if self._low is not None:
            self._low.decide([tally.low for tally in tallies])

    @property
    def bits(self) -> float:
        """What the high bits of all elements will take, known once `decide` was called."""
        return self._choice.bits

    @property
    def free(self) -> float:
        """The part of the model's cost that later or earlier batches bear."""
        return self._choice.free if self._low is None else 0.0

    def keep(self) -> None:
        """Lets later batches share the model; called where this one will stand in the archive."""
        keep(self._history, self._choice, self._format, ALPHABET)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        low = self._low.model() if self._low is not None else b""
        return pack_model(Parameters(self._format, ALPHABET, self._freqs, low))

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        form = self._format
        tally = self._tallies[index]
        low: list[Bytes] = []
        if form.half:
            chunk, halves = _halves(chunk)
            low.append(self._low.encode(halves, index) if self._low is not None else halves)
        high_bits, rest, signs = self._split(chunk, chunk.size // form.coded_size)
        escapes, stream = self._coded(tally, high_bits)
        parts = [side.part for side in tally.sides]
        head = pack_head(parts, tally.base, escapes.size, stream.size)
        sections = [np.frombuffer(head, np.uint8), escapes, rest, signs, stream, *low]
        payload = POOL.take(sum(section.size for section in sections))
        np.concatenate(sections, out=payload)
        for buffer in (high_bits, rest, signs, tally.scales, tally.symbols, *low):
            POOL.give(buffer)
        return payload

    def _split(self, chunk: Bytes, elements: int) -> tuple[Bytes, Bytes, Bytes]:
        """High bits, two bytes each, and the rest and signs of all blocks; pooled."""
        form = self._format
        blocks = -(-elements // BLOCK)
        high_bits = POOL.take(2 * blocks * BLOCK)
        rest, signs = POOL.take(blocks * form.rest), POOL.take(blocks * form.signs)
        form.split(chunk, np.empty(2 * BLOCK, np.uint8), high_bits, rest, signs)
        return high_bits, rest, signs

    def _matrix_scales(self, high_bits: Bytes, elements: int) -> list[Scales]:
        lines = []
        words = high_bits.view(np.uint16)
        at = 0
        for rows, columns in matrices(self._kind, elements):
            piece = words[at : at + rows * columns]
            lines.append(scales_of(piece, rows, columns, self._format.top))
            at += rows * columns
        return lines

    def _coded(self, tally: _Tally, high_bits: Bytes) -> tuple[Bytes, Bytes]:
        """Escape bits, and the stream of scales and high bits."""
        form, alphabet = self._format, ALPHABET
        main = alphabet.main(form)
        rare = int(tally.counts[:-2, main + 1 :].sum())
        if not self._all_known:
            rare += int(tally.counts[:-2][~self._known].sum())
        escapes = np.zeros(2 * rare + 2, np.uint8)
        contexts = POOL.take(tally.symbols.size)
        least, most = self._plain
        bits = kernels.put_escapes(
            high_bits.view(np.uint16), tally.scales, alphabet.phase, form.top, form.exponent, main,
            alphabet.low_exponents, self._known, (least, min(most, main)), tally.symbols, contexts,
            escapes,
        )  # fmt: skip
        coded = [symbols for side in tally.sides for symbols in side.symbols]
        kinds = np.tile(np.array([1, 2], np.uint8) + ((1 << alphabet.phase) - 1), len(tally.sides))
        side_contexts = np.repeat(kinds.astype(np.uint8), [symbols.size for symbols in coded])
        encoder = StreamEncoder(self._freqs, contexts.size + side_contexts.size)
        encoder.put(tally.symbols, contexts)
        encoder.put(np.concatenate(coded), side_contexts)
        POOL.give(contexts)
        return escapes[: (bits + 7) // 8], encoder.finish()


def _stretch_without(unknown: npt.NDArray[np.bool_], symbol: int) -> tuple[int, int]:
    """The first and the last symbol around one, none of which is unknown; empty where that is."""
    before, behind = np.flatnonzero(unknown[: symbol + 1]), np.flatnonzero(unknown[symbol:])
    first = int(before[-1]) + 1 if before.size else 0
    return first, symbol + int(behind[0]) - 1 if behind.size else unknown.size - 1


def _halves(chunk: Bytes) -> tuple[Bytes, Bytes]:
    high, low = POOL.take(chunk.size // 2), POOL.take(chunk.size // 2)
    kernels.split_halves(chunk, high, low)
    return high, low


def _element_scales(sides: list[SideInformation], elements: int) -> Bytes:
    scales = POOL.take(elements)
    at = 0
    for side in sides:
        size = side.rows.size * side.columns.size
        kernels.fill_scales(side.rows, side.columns, scales[at : at + size])
        at += size
    return scales
