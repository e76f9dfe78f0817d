"""Decoding in spans: one compiled call, without the GIL, for some megabytes of chunks.

Chunks that are stored raw, or as planes under Huffman codes, are decoded so, from their frames in
the archive straight into the result; those with Zstandard in them one by one. What is left, of
other codecs, is decoded the ordinary way beside it.
"""

import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.decoding import ERRORS
from densor.codec.spans import rans_table
from densor.codec.spans import table as t
from densor.codec.spans.rans_table import RansParameters
from densor.codec.spans.table import Bytes, Numbers, SpanParameters
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.deferred import deferred
from densor.errors import ChecksumError, DensorError, FormatError, LimitError
from densor.runtime.workers import Workers, settle

decode_span = deferred("densor.codec.spans.decode_kernels", "decode_span")

if TYPE_CHECKING:
    from densor.codec.spans.rans import RansSpans

_FEW = 32  # chunks
SPAN = 4 << 20  # bytes of original that are decoded by one call
_local = threading.local()

_MESSAGES: dict[int, tuple[type[DensorError], str]] = {
    t.IMPOSSIBLE: (FormatError, "planar chunk has an impossible length"),
    t.RAW_LENGTH: (FormatError, "raw chunk has the wrong length"),
    t.MANY_RUNS: (LimitError, f"chunk has more than {t.MAX_RUNS} runs"),
    t.OUTSIDE: (FormatError, "chunk lies outside of the archive or of the result"),
    t.HEADER_DAMAGED: (ChecksumError, "frame header is damaged"),
    t.HEADER_OTHER: (FormatError, "index contradicts a frame"),
    t.PAYLOAD_DAMAGED: (ChecksumError, "data of a frame is damaged"),
    t.ZSTD_FORMAT: (FormatError, "Zstandard frame is damaged, or of another size"),
    t.ZSTD_LIMIT: (LimitError, "Zstandard frame has too large a window"),
}


_TEXTS = {**ERRORS, **rans_table.ERRORS}


def error_of(status: int) -> DensorError:
    """The error that a status other than 0 and `NOT_MINE` stands for."""
    kind, text = _MESSAGES.get(status) or (FormatError, _TEXTS[status])
    return kind(text)


class _Work:
    """Work space of a thread. `owner`: serial number of the parameters that used it last."""

    def __init__(self) -> None:
        self.owner = -1
        self.scratch = np.empty(0, np.uint8)
        self.where = np.empty(0, np.int32)
        self.numbers = np.zeros(t.NUMBERS, np.int64)
        self.edge = np.empty(t.EDGE, np.uint8)
        self.tables = np.empty((t.MOST_CLASSES, 1 << 12), np.uint64)
        self.words = np.empty(t.WORDS, np.uint64)
        self.codes = np.empty(t.CODES, np.uint32)

    def arrays(self, owner: int, needs: tuple[int, int]) -> tuple[npt.NDArray[Any], ...]:
        """Work space for chunks of such sizes."""
        scratch, where = needs
        if self.owner != owner:
            self.owner = owner
            self.numbers[t.READY] = -1
        if self.scratch.size < scratch:
            self.scratch = np.empty(scratch, np.uint8)
        if self.where.size < where:
            self.where = np.empty(where, np.int32)
        fixed = self.edge, self.tables, self.numbers, self.words, self.codes
        return self.scratch, self.where, *fixed


def _work() -> _Work:
    """The work space of this thread."""
    work: _Work | None = getattr(_local, "work", None)
    if work is None:
        work = _local.work = _Work()
    return work


class _PlanesSpans:
    """What the span decoder calls for planes under Huffman codes."""

    def __init__(self, parameters: SpanParameters, table: Numbers) -> None:
        self._parameters = parameters
        self._needs = _needs(parameters, table)

    def decode(
        self,
        data: Bytes,
        table: Numbers,
        begin: int,
        end: int,
        out: Bytes,
        status: Bytes,
        prepared: bool = False,
    ) -> int:
        """Decodes chunks; see `decode_span`."""
        parameters = self._parameters
        work = _work().arrays(parameters.serial, self._needs)
        arrays = parameters.arrays
        return int(decode_span(data, table, begin, end, *arrays, prepared, out, status, *work))

    def decode_with_zstd(
        self, data: Bytes, table: Numbers, chunk: int, out: Bytes, status: Bytes
    ) -> None:
        """Decodes a chunk of which some planes are stored with Zstandard."""
        row = table[chunk].tolist()
        if not 0 <= row[t.PARAMETERS] < len(self._parameters.heads):
            return
        payload = data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
        planes = int(self._parameters.heads[row[t.PARAMETERS], 1])
        n = row[t.SIZE] // planes
        scratch = _work().arrays(self._parameters.serial, self._needs)[0]
        at = 5 * planes
        for p in range(planes):
            size = int(payload[5 * p + 1 : 5 * p + 5].view("<u4")[0])
            if payload[5 * p] == registry.PLANE_ZSTD:
                zstd_decompress_into(payload[at : at + size], scratch[p * n : (p + 1) * n])
            at += size
        self.decode(data, table, chunk, chunk + 1, out, status, True)


def _needs(parameters: SpanParameters, table: Numbers) -> tuple[int, int]:
    """The most scratch bytes and entries of `where` that a chunk of the table may need."""
    if len(table) <= _FEW:
        return _needs_of_few(parameters, table)
    known = (table[:, t.PARAMETERS] >= 0) & (table[:, t.PARAMETERS] < len(parameters.heads))
    mine = table[known & (table[:, t.SIZE] > 0)]
    if not len(mine):
        return 0, 0
    heads = parameters.heads[mine[:, t.PARAMETERS]]
    planes = heads[:, 1]
    sizes = np.minimum(mine[:, t.SIZE], t.CHUNK_LIMIT)  # larger ones are refused
    runs = np.minimum(sizes // planes // heads[:, 2] + 1, t.MAX_RUNS)
    return int(sizes.max()), int((planes * runs).max())


def _needs_of_few(parameters: SpanParameters, table: Numbers) -> tuple[int, int]:
    """Likewise row by row."""
    scratch = where = 0
    heads = parameters.heads[:, 1:3].tolist()
    for row in table.tolist():
        number, size = row[t.PARAMETERS], min(row[t.SIZE], t.CHUNK_LIMIT)
        if 0 <= number < len(heads) and size > 0:
            planes, run = heads[number]
            scratch = max(scratch, size)
            where = max(where, planes * min(size // planes // run + 1, t.MAX_RUNS))
    return scratch, where


def _rans_spans(parameters: RansParameters, table: Numbers) -> "RansSpans":
    from densor.codec.spans.rans import RansSpans  # kernels that few archives need

    return RansSpans(parameters, table)


class SpanDecoder:
    """Decodes the chunks of a table. Safe to use from several threads at once, for chunks apart.

    `table`: as from `chunk_table`, for these parameters. `status`, uint8[chunks], tells what
    became of each chunk that was decoded: 0 if all is well, `NOT_MINE` where the ordinary way is
    needed (its frame was checked, though), else what `error_of` makes an error of.
    """

    def __init__(self, parameters: SpanParameters | RansParameters, table: Numbers) -> None:
        if table.ndim != 2 or table.shape[1] != t.COLUMNS:
            raise ValueError("not a table of chunks")
        self.parameters = parameters
        self.table = np.ascontiguousarray(table, np.int64)
        self.status = np.zeros(len(table), np.uint8)
        self._planes: _PlanesSpans | None = None
        self._rans: RansSpans | None = None
        if isinstance(parameters, SpanParameters):
            self._planes = _PlanesSpans(parameters, self.table)
        else:
            self._rans = _rans_spans(parameters, self.table)

    def spans(self, size: int = SPAN) -> list[tuple[int, int]]:
        """Chunks from and to, about `size` bytes of original each."""
        total = np.cumsum(self.table[:, t.SIZE])
        count = len(self.table)
        if not count:
            return []
        cuts = np.searchsorted(total, np.arange(size, int(total[-1]), size)) + 1
        borders = sorted({0, count, *cuts[cuts < count].tolist()})
        return list(itertools.pairwise(borders))

    def decode(self, data: Bytes, begin: int, end: int, out: Bytes) -> int:
        """Decodes chunks `begin` to `end` into their places in `out`, uint8[], C-contiguous.

        `data`: the bytes that the table's offsets are in. Returns how many have a status that
        is not 0.
        """
        if not 0 <= begin <= end <= len(self.table):
            raise ValueError("no such chunks")
        if self._rans is not None:
            return self._rans.decode(data, self.table, begin, end, out, self.status)
        assert self._planes is not None
        return self._planes.decode(data, self.table, begin, end, out, self.status)

    def decode_rest(self, data: Bytes, begin: int, end: int, out: Bytes) -> None:
        """Decodes what `decode` left of these chunks, as far as just Zstandard stood in the way.

        Chunks of other codecs stay `NOT_MINE`.
        """
        for chunk in (begin + np.flatnonzero(self.status[begin:end] == t.NOT_MINE)).tolist():
            try:
                self._decode_zstd(data, chunk, out)
            except LimitError:
                self.status[chunk] = t.ZSTD_LIMIT
            except DensorError:
                self.status[chunk] = t.ZSTD_FORMAT

    def _decode_zstd(self, data: Bytes, chunk: int, out: Bytes) -> None:
        row = self.table[chunk].tolist()
        if row[t.PARAMETERS] == t.ZSTD:
            payload = data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
            zstd_decompress_into(payload, out[row[t.PLACE] : row[t.PLACE] + row[t.SIZE]])
            self.status[chunk] = 0
        elif self._planes is not None:
            self._planes.decode_with_zstd(data, self.table, chunk, out, self.status)

    def decode_all(
        self,
        data: Bytes,
        out: Bytes,
        workers: Workers,
        finished: Callable[[int, int], None] | None = None,
    ) -> Numbers:
        """Decodes all chunks, `decode_rest` included; threads of `workers` draw tickets for spans.

        `finished` is called by whoever has decoded chunks from and to. Returns the numbers of
        the chunks whose status is not 0.
        """
        spans = self.spans()
        tickets = itertools.count()

        def work() -> None:
            while (ticket := next(tickets)) < len(spans):
                begin, end = spans[ticket]
                if self.decode(data, begin, end, out):
                    self.decode_rest(data, begin, end, out)
                if finished is not None:
                    finished(begin, end)

        tasks = [workers.submit(work) for _ in range(min(workers.threads, len(spans)) - 1)]
        try:
            work()
            for task in tasks:
                task.result()
        finally:
            settle(tasks)
        return np.flatnonzero(self.status)
