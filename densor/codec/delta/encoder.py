"""The coding side of the change codec for a batch: look, count, decide, encode."""

import functools
import math
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Batch, Bytes, Chunk, Chunks, Coding, Smallest
from densor.codec.bound import order0_bytes
from densor.codec.chunks import own_or_raw
from densor.codec.delta import params, tokens
from densor.codec.delta.contexts import group
from densor.codec.delta.elements import by_size, elements
from densor.codec.delta.few_batch import FewBatch, expected_few, propose_few
from densor.codec.delta.payload import BLOCK, CODED, HEAD, LENGTH, RUN, SAME, WIDE
from densor.codec.delta.tokens import DIFFERENCE, OWN, XOR, Method, token_table, tokens_by_change
from densor.codec.interfaces import Encoder, Estimate
from densor.codec.levels import Level
from densor.codec.sampling import sample
from densor.codec.zstd import zstd_compress
from densor.entropy.deferred import deferred
from densor.entropy.rans import tables
from densor.entropy.rans.constants import LIKELY, STATES
from densor.entropy.rans.encode import capacity, encode_table
from densor.float_formats import FloatFormat, number_format
from densor.runtime.buffers import POOL, ThreadBuffers

_PIECE = 1 << 14  # elements at each place of a batch that is looked at
_MAX_BYTES_WITHOUT_ORDER0 = 1 << 12  # of a sample, for which an order-0 code is not counted on
_CHUNK = 1 << 21  # bytes
_MAX_BITS_OF_LONG_CHUNKS = 0.5  # bits per byte
_MAX_BYTES_EQUAL_ONLY = 512  # of a batch of which changes are not coded, unless there are none
_MAX_ERROR = 1.05  # of a rough estimate, a factor
_MAX_CONTEXTS = 32
_MIN_ELEMENTS_PER_CONTEXT = 1 << 13  # elements of a batch for each context
_TOP = 3  # leading mantissa bits that are looked at, where there is room
_INTEGERS = {1: (0, 8), 2: (8, 8), 4: (0, 0), 8: (0, 0)}  # by size; see `_looked_at`
_UNCLEAR = 1.25  # factor between two estimates, below which both ways are tried
_LARGE = 1 << 23  # bytes of a batch from which samples decide
_CLEAR = 1.1  # such a factor by these
_RARE = 4  # groups of tokens for each other one, for which those are rare
CODE, FIND = by_size("chunk_kernels", "code"), by_size("chunk_kernels", "find")
COMMON, TOKENS = by_size("kernels", "common"), by_size("kernels", "tokens")
VALUES = by_size("kernels", "values")
count_rows, rough_bits = deferred("densor.codec.delta.kernels", "count_rows", "rough_bits")
_BUFFERS = ThreadBuffers()


class _Choice(NamedTuple):
    """A method with contexts, and what it costs by the sample, in bits."""

    method: Method
    contexts: params.Contexts
    bits: float


def propose(batch: Batch, _: Level | None = None) -> Encoder:
    """An encoder for a batch that has a base."""
    by_all = DeltaEncoder(batch)
    large = batch.data.size >= _LARGE
    if large and not by_all.same:
        roughly = expected_few(batch)
        least = min(by_all.estimate().bytes, by_all.estimate().otherwise)
        if roughly is None or roughly > least:
            return by_all
    by_few = propose_few(batch)
    if by_few is None:
        return by_all
    expected = by_all.estimate()
    if by_few.bytes > _UNCLEAR * min(expected.bytes, expected.otherwise):
        return by_all
    if expected.bytes > (_CLEAR if large else _UNCLEAR) * by_few.bytes:
        return by_few
    return _Either(by_all, by_few)


class _Either(Encoder):
    """Codes a batch in two ways, and keeps the smaller."""

    def __init__(self, by_all: "DeltaEncoder", by_few: FewBatch) -> None:
        self._ways: tuple[Encoder, Encoder] = by_all, by_few
        expected = by_all.estimate()
        self._expected = Estimate(min(expected.bytes, by_few.bytes), expected.otherwise)

    def estimate(self) -> Estimate:
        """What the better way is expected to take."""
        return self._expected

    def encode(self) -> Coding:
        """Starts both."""
        return Smallest(*(way.encode() for way in self._ways))


class _Found(NamedTuple):
    """Tokens of a chunk, uint8[n], their contexts, uint8[n], both pooled, and how often each pair
    occurs, int64[contexts, 256]."""

    symbols: Bytes
    contexts: Bytes
    counts: npt.NDArray[np.int64]


class DeltaEncoder(Encoder):
    """Codes a batch by how it differs from as many bytes of its base."""

    def __init__(self, batch: Batch) -> None:
        size = 1 if batch.kind.layout is None else batch.kind.layout.size
        if batch.base is None or batch.data.size != batch.base.data.size or batch.data.size % size:
            raise ValueError("batch and base do not have the same whole elements")
        self._batch = batch
        self._base = batch.base
        self._size = size
        self._counts: npt.NDArray[np.int64] | None = None
        self._freqs = np.zeros((0, 256), np.uint16)
        self._starts = np.zeros(0, np.uint32)
        self._common = np.zeros(0, np.uint32)
        self._found: dict[int, _Found] = {}  # by where chunks begin
        self._lock = threading.Lock()
        self._same = _equal(batch.data, self._base.data)
        self._choice = _Choice(tokens.method(XOR, size, False), params.Contexts(), math.inf)
        if not self._same and batch.data.size > _MAX_BYTES_EQUAL_ONLY:
            self._choice = _choose(batch.data, self._base.data, batch.kind.dtype, size)

    @functools.cached_property
    def _window(self) -> tuple[int, Bytes]:
        return self._choice.contexts.window(self._size)

    @property
    def same(self) -> bool:
        """Whether all bytes are those of the base."""
        return self._same

    def estimate(self) -> Estimate:
        """By a sample, and what the batch is expected to take by itself."""
        return self._expected

    @functools.cached_property
    def _expected(self) -> Estimate:
        if self._same:
            return Estimate(0.0, math.inf)
        if self._choice.bits == math.inf:
            return Estimate(math.inf, self._batch.data.size)
        without = _bits_without_base(self._batch.data, self._batch.kind.dtype, self._size)
        return Estimate(self._choice.bits / 8, without / 8)

    def encode(self) -> Coding:
        """Counts all chunks, then starts coding them."""
        size, submit = self._batch.data.size, self._batch.workers.submit
        few = self._same or self._choice.bits <= _MAX_BITS_OF_LONG_CHUNKS * size
        step = 2 * _CHUNK if few else _CHUNK
        begins = range(0, size, step)
        if not self._same:
            for task in [submit(self._count, at, step) for at in begins]:
                task.result()
            self._decide()
        return Chunks(self, [submit(self._chunk, at, step) for at in begins])

    def _pair(self, begin: int, step: int) -> tuple[Bytes, Bytes]:
        """A chunk, and its bytes in the base."""
        part = slice(begin, begin + step)
        return self._batch.data[part], self._base.data[part]

    def _chunk(self, begin: int, step: int) -> Chunk:
        chunk, base = self._pair(begin, step)
        return own_or_raw(self._coded(chunk, base, begin), chunk)

    def _count(self, begin: int, step: int) -> None:
        """Finds and counts the tokens of a chunk; may run in several threads at once."""
        found = self._find(*self._pair(begin, step))
        if found is None:
            return
        with self._lock:
            self._found[begin] = found
            self._counts = found.counts if self._counts is None else self._counts + found.counts

    def _find(self, chunk: Bytes, base: Bytes) -> _Found | None:
        """The tokens of a chunk, None where nothing has changed."""
        if self._same or _equal(chunk, base):
            return None
        new, old = elements(chunk, self._size), elements(base, self._size)
        symbols, under = POOL.take(new.size), POOL.take(new.size)
        method, contexts, _ = self._choice
        counts = np.zeros((_contexts(self._choice), 256), np.int64)
        work = np.zeros(8 * (counts.size + 48), np.uint32)
        how = _arguments(method)
        rest = _BUFFERS.take("rest", 3 * (WIDE + RUN))
        where = contexts.shift, contexts.mapped, *self._window
        FIND[self._size](new, old, *how, *where, symbols, under, work, rest, counts)
        return _Found(symbols, under, counts)

    def _decide(self) -> None:
        """Settles the parameters, once all chunks were counted."""
        if self._counts is not None:
            self._freqs = tables.quantise(self._counts)
            self._starts = encode_table(self._freqs)
            others = int(self._counts[:, LIKELY:].sum())
            if others * STATES * _RARE <= int(self._counts.sum()):
                self._common = tables.starts_of_common(self._freqs)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        contexts = self._choice.contexts if len(self._freqs) else params.Contexts()
        return params.pack(params.Parameters(self._choice.method, contexts, self._freqs))

    def _coded(self, chunk: Bytes, base: Bytes, begin: int) -> Bytes:
        """The payload of a chunk whose first byte is number `begin` of the batch; pooled."""
        found = self._found.pop(begin, None) or self._find(chunk, base)
        if found is None:
            return np.frombuffer(HEAD.pack(self._base.offset + begin, SAME), np.uint8)
        method = self._choice.method
        counts = token_table(method).counts
        extra = -(-int((found.counts.sum(axis=0) * counts).sum()) // 8)
        words = _BUFFERS.take("words", capacity(found.symbols.size))
        extras = _BUFFERS.take("extras", extra + 8)
        new, old = elements(chunk, self._size), elements(base, self._size)
        how = method.number, method.floats, method.drop, method.bits, counts, method.plain
        states = _BUFFERS.take("states", 4 * STATES).view(np.uint32)
        at = CODE[self._size](
            new, old, *how, found.symbols, found.contexts, self._starts, self._common, states,
            words, extras,
        )  # fmt: skip
        if at < 0:
            raise ValueError("symbol without a frequency")
        payload = _joined(self._base.offset + begin, words[at:], extras[:extra])
        POOL.give(found.symbols)
        POOL.give(found.contexts)
        return payload


def _joined(offset: int, stream: Bytes, extras: Bytes) -> Bytes:
    """A payload, pooled."""
    start = HEAD.size + LENGTH.size
    payload = POOL.take(start + stream.size + extras.size)
    HEAD.pack_into(payload, 0, offset, CODED)
    LENGTH.pack_into(payload, HEAD.size, stream.size)
    payload[start : start + stream.size] = stream
    payload[start + stream.size :] = extras
    return payload


def estimate(data: Bytes, base: Bytes, dtype: str, size: int) -> float:
    """About how many bytes a batch takes that is coded against `base` where that pays."""
    bits = min(_choose(data, base, dtype, size).bits, _bits_without_base(data, dtype, size))
    return min(bits / 8, data.size)


def find_tokens(
    method: Method, new: npt.NDArray[Any], old: npt.NDArray[Any], symbols: Bytes
) -> None:
    """Fills `symbols`, uint8[n], with the tokens of elements that were `old`."""
    TOKENS[method.size](new, old, *_arguments(method), symbols)


def _arguments(method: Method) -> tuple[Any, ...]:
    """What the kernels that find tokens go by, and work space."""
    places = _BUFFERS.take("places", 2 * BLOCK).view(np.uint16)
    return *method.arguments, method.plain, tokens_by_change(method), places


def _equal(data: Bytes, base: Bytes) -> bool:
    """Whether all bytes are the same; most that differ do so early."""
    first = slice(_PIECE)
    return bool(np.array_equal(data[first], base[first]) and np.array_equal(data, base))


def _contexts(choice: _Choice) -> int:
    return int(choice.contexts.mapped.max()) + 1


def _choose(data: Bytes, base: Bytes, dtype: str, size: int) -> _Choice:
    """The method and the contexts that code a sample best."""
    new, old = (elements(sample(of, size, _PIECE), size) for of in (data, base))
    form = number_format(dtype)
    floats = form is not None and form.sign > 0
    common = int(COMMON[size](new))
    if not common & 1:
        common = int(COMMON[size](elements(data, size)))
    drop = min((common & -common).bit_length() - 1, 8 * size - 8) if common else 0
    shift, bits = _INTEGERS[size] if form is None else _looked_at(form)
    values = _BUFFERS.take("values", 2 * old.size).view(np.uint16)
    occur = np.zeros(1 << bits, np.uint32)
    VALUES[size](old, shift, values, occur)
    used = np.flatnonzero(occur)
    row_of = np.zeros(1 << bits, np.uint16)
    row_of[used] = np.arange(used.size)
    scale = data.size / new.nbytes
    tried: list[_Look] = []
    for number in (DIFFERENCE, XOR, OWN):
        method = tokens.method(number, size, floats, drop)
        least = min((look.bits for look in tried), default=math.inf)
        if number == OWN and new.size * (method.bits - 8) > _MAX_ERROR * least:
            break  # its extra bits alone are more
        tried.append(_look(method, new, old, (values, row_of), used.size))
    most = int(min(_MAX_CONTEXTS, 1 + data.size // size // _MIN_ELEMENTS_PER_CONTEXT))
    least = min(look.bits for look in tried)
    found = []
    for look in tried:
        if look.bits <= _MAX_ERROR * least:
            grouping = group(look.counts, used, 1 << bits, scale, most)
            contexts = params.Contexts()
            if grouping.mapped.any():
                contexts = params.Contexts(shift, grouping.mapped)
            found.append(_Choice(look.method, contexts, grouping.bits + scale * look.extra))
    return min(found, key=lambda choice: choice.bits)


def _looked_at(form: FloatFormat) -> tuple[int, int]:
    """Bits behind exponent and leading mantissa bits, and the number of these together."""
    top = min(_TOP, form.mantissa, params.MAX_CONTEXT_BITS - form.exponent)
    return form.mantissa - top, form.exponent + top


class _Look(NamedTuple):
    """A method on a sample: tokens by value of the base, extra bits, what both cost about."""

    method: Method
    counts: npt.NDArray[np.int64]
    extra: int
    bits: float


def _look(
    method: Method,
    new: npt.NDArray[Any],
    old: npt.NDArray[Any],
    rows: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]],
    used: int,
) -> _Look:
    """`rows`: values of bits of the base, and the row of each."""
    symbols = np.empty(new.size, np.uint8)
    find_tokens(method, new, old, symbols)
    counts = np.empty((used, 256), np.int64)
    work = np.zeros(2 * counts.size, np.uint32)
    extra = int(count_rows(symbols, *rows, token_table(method).counts, work, counts))
    return _Look(method, counts, extra, extra + float(rough_bits(counts)))


def _bits_without_base(data: Bytes, dtype: str, size: int) -> float:
    """About what the batch takes by itself: an order-0 code of its planes, or Zstandard."""
    pieces = sample(data, size, _PIECE)
    least = min(pieces.size, len(zstd_compress(pieces, 1)))
    if pieces.size > _MAX_BYTES_WITHOUT_ORDER0:  # else tables would count
        least = min(least, int(order0_bytes(pieces, dtype)))
    return 8 * least * data.size / pieces.size
