"""The coding side of changes of few elements: survey, fit, record, code.

See docs/format/delta_few.md.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.delta import few_params, tokens
from densor.codec.delta.contexts import group
from densor.codec.delta.elements import by_size, elements
from densor.codec.delta.few_params import CLASSES, UNIT, FewParameters
from densor.codec.delta.payload import NEAR, SUMS
from densor.codec.delta.tokens import DIFFERENCE
from densor.entropy.deferred import deferred
from densor.entropy.rans import tables
from densor.float_formats import number_format
from densor.runtime.buffers import ThreadBuffers
from densor.runtime.workers import Workers

MAX_SHARE = 0.25  # of elements that change, beyond which other methods code faster and as well
_MAX_CONTEXTS = 8
_ROUNDS = 4  # of fitting rates and factors in turn
_CHANGES_PER_BLOCK = 0.45  # that blocks are chosen to have, about
_PARAMETER_BYTES = 80  # without tables of tokens, about
_MIN_SAMPLED = 1 << 15  # from so many elements on, one in so many stretches is counted:
_SAMPLED = 17  # odd, or rows of 2^n elements would always be met at the same columns
CODE, RECORD = by_size("few_kernels", "code"), by_size("few_kernels", "record")
SURVEY = by_size("few_kernels", "survey")
count_tokens = deferred("densor.codec.delta.few_kernels", "count_tokens")
rough_bits = deferred("densor.codec.delta.kernels", "rough_bits")
_BUFFERS = ThreadBuffers()

Counts = npt.NDArray[np.int64]


@dataclass(eq=False)
class Part:
    """A chunk, or a tensor, with what was found out about it.

    `all`, `changed`: int64[2^B], elements by bits of the base. `tokens`: of those at `positions`,
    with the bits of the base above 8 bits. The rest is there once it is recorded.
    """

    new: npt.NDArray[Any]
    old: npt.NDArray[Any]
    all: Counts
    changed: Counts
    positions: npt.NDArray[np.uint32]
    tokens: npt.NDArray[np.uint16]
    first: int = 0
    classes: Bytes | None = None
    counts: Bytes | None = None

    @property
    def number(self) -> int:
        """Of elements that changed."""
        return self.positions.size


def _looked_at(dtype: str, size: int) -> tuple[int, int]:
    """Where the bits of the base begin by which rates differ, and their number: the exponent."""
    form = number_format(dtype)
    if form is None:
        return 0, 0
    return form.mantissa, min(8, form.exponent)


class FewEncoder:
    """Codes parts of one dtype, of which few elements differ from as many of a base."""

    def __init__(self, dtype: str, size: int) -> None:
        form = number_format(dtype)
        self._size = size
        self._method = tokens.method(DIFFERENCE, size, form is not None and form.sign > 0)
        self._shift, self._bits = _looked_at(dtype, size)
        self._numbers = few_params.numbers_of(self._method)
        self._codes = np.zeros(1 << self._bits, np.uint8)
        self._rates = few_params.decoded_rates(self._codes)
        self._mapped = np.zeros(1 << self._bits, np.uint8)
        self._block_bits = few_params.MIN_BLOCK_BITS
        self._counted = np.zeros((CLASSES, 256), np.int64)
        self._seen = np.zeros((1, 256), np.int64)
        self._parameters: FewParameters | None = None
        self._lock = threading.Lock()

    def survey(self, new: Bytes, old: Bytes) -> Part | None:
        """Looks at a part, as many bytes as in the base; None where too many elements differ.

        May run in several threads at once.
        """
        before, after = elements(old, self._size), elements(new, self._size)
        every = np.zeros(1 << self._bits, np.int64)
        changed = np.zeros(1 << self._bits, np.int64)
        most = min(after.size, max(_MIN_SAMPLED, int(MAX_SHARE * after.size))) + 64
        room = _BUFFERS.take("positions", 4 * most).view(np.uint32)
        found = _BUFFERS.take("tokens", 2 * most).view(np.uint16)
        number = 0
        step = 1 if after.size < _MIN_SAMPLED else _SAMPLED
        if after.size:
            mask = (1 << self._bits) - 1
            arguments = self._shift, mask, step, self._numbers, every, changed, room, found
            number = int(SURVEY[self._size](after, before, *arguments))
        if number < 0:
            return None
        every = np.maximum(every * step, changed)
        return Part(after, before, every, changed, room[:number].copy(), found[:number].copy())

    def fit(self, parts: Sequence[Part]) -> None:
        """Settles how often elements change, by bits of the base, up to a factor of each part."""
        every = np.array([part.all for part in parts], np.float64)
        changed = np.array([part.changed for part in parts], np.float64)
        total = max(1.0, every.sum())
        factors = np.ones(len(parts))
        for _ in range(_ROUNDS):
            expected = factors @ every
            rates = (changed.sum(axis=0) + 0.3) / (expected + 1.0)
            found = changed.sum(axis=1)
            factors = (found + 0.1) / (every @ rates + 0.1)
        # In units that make one expected change a unit, on the whole
        rates *= changed.sum() / max(1e-9, float(rates @ every.sum(axis=0)))
        self._codes = few_params.rate_codes(rates)
        self._rates = few_params.decoded_rates(self._codes)
        share = max(1e-6, changed.sum() / total)
        bits = int(np.floor(np.log2(_CHANGES_PER_BLOCK / share) + 0.5))
        self._block_bits = min(max(bits, few_params.MIN_BLOCK_BITS), few_params.MAX_BLOCK_BITS)
        self._group(parts)
        self._counted = np.zeros((CLASSES, 256), np.int64)

    def estimate(self, parts: Sequence[Part]) -> float:
        """About how many bytes the parts take, parameters among them, once `fit` was called."""
        rates = self._rates / UNIT
        bits = 8.0 * (_PARAMETER_BYTES + 8 * len(parts)) + self._token_bits
        for part in parts:
            factor = part.number / max(1e-9, float(part.all @ rates))
            share = np.clip(rates * factor, 1e-9, 0.9)
            same = part.all - part.changed
            bits -= float(part.changed @ np.log2(share) + same @ np.log2(1 - share))
        return bits / 8

    def _group(self, parts: Sequence[Part]) -> None:
        """Joins bits of the base to contexts of tokens."""
        values = 1 << self._bits
        every = np.zeros((values, 256), np.int64)
        for part in parts:
            count_tokens(part.tokens, every)
        used = np.flatnonzero(every.any(axis=1))
        self._token_bits = 0.0
        if not used.size:
            return
        counts = every[used]
        grouping = group(counts, used, values, 1.0, _MAX_CONTEXTS)
        self._mapped = grouping.mapped
        self._seen = np.zeros((int(self._mapped.max()) + 1, 256), np.int64)
        np.add.at(self._seen, self._mapped[used], counts)
        table = tokens.token_table(self._method)
        extra = float((every.sum(axis=0) * table.counts).sum())
        self._token_bits = min(grouping.bits, float(rough_bits(counts)) * 1.02 + 500) + extra

    def record_all(self, parts: Sequence[Part], workers: Workers) -> None:
        """Counts what is to be coded of all parts, once `fit` was called with them."""
        by_size = sorted(parts, key=lambda part: -part.new.size)
        groups = [by_size[k :: workers.threads] for k in range(workers.threads)]
        for task in [workers.submit(self.record, *some) for some in groups if some]:
            task.result()

    def record(self, *parts: Part) -> None:
        """Likewise, of some of them. May run in several threads at once."""
        counted = np.zeros((CLASSES, 256), np.int64)
        for part in parts:
            self._record(part, counted)
        with self._lock:
            self._counted += counted

    def _record(self, part: Part, counted: Counts) -> None:
        rates = self._rates
        part.first = few_params.first_code(UNIT * part.number / max(1.0, float(part.all @ rates)))
        blocks = -(-part.new.size >> self._block_bits)
        classes = np.empty(-(-blocks // 16) * 16, np.uint8)
        part.classes, part.counts = classes[:blocks], np.empty(blocks, np.uint8)
        if part.new.size:
            RECORD[self._size](
                part.old,
                self._shift,
                (1 << self._bits) - 1,
                rates,
                np.empty(NEAR, np.uint32),
                self._block_bits,
                few_params.first_seen(part.first),
                part.positions,
                np.empty(SUMS, np.uint32),
                classes,
                part.counts,
                counted,
            )

    def decide(self) -> FewParameters:
        """Settles the parameters, once all parts were recorded."""
        # Classes of blocks without changes are told by having no frequencies
        self._counted[~self._counted[:, 1:].any(axis=1)] = 0
        self._parameters = FewParameters(
            self._method,
            self._shift,
            self._block_bits,
            self._mapped,
            self._codes,
            tables.quantise(self._counted),
            tables.quantise(self._seen),
        )
        return self._parameters

    def code(self, part: Part) -> bytes:
        """The payload of a recorded part. May run in several threads at once."""
        few = self._parameters
        assert few is not None and part.classes is not None and part.counts is not None
        # A count takes 12 bits at most; a change 24, 12 and its extra bits. The stream is written
        # from the end on: what it does not need is not touched.
        bits = 12 * part.counts.size + (24 + 12 + 8 * self._size + 16) * part.number
        words = _BUFFERS.take("words", 4 * (4 + bits // 32 + part.number)).view(np.uint32)
        at = CODE[self._size](
            part.new,
            part.old,
            few.shift,
            few.mask,
            few.rates,
            np.empty(NEAR, np.uint32),
            few.mapped,
            few.numbers,
            few.block_bits,
            part.classes,
            part.counts,
            part.positions,
            part.tokens,
            few.count_starts,
            few.token_starts,
            few.tokens.counts,
            np.empty(SUMS, np.uint32),
            words,
        )
        return bytes([part.first]) + words[at:].tobytes()
