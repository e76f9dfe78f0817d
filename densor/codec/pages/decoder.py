"""The decoding side of pages: decodes the values of columns, and makes their pages of them."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.interfaces import ChunkDecoder
from densor.codec.pages.content import ColumnsReader
from densor.codec.pages.payload import FIRST, NEWEST, Table, model_of, parse
from densor.codec.pages.values import PageMaker
from densor.codec.table import params
from densor.codec.table.decoder import TableDecoder
from densor.errors import FormatError, UnsupportedError
from densor.runtime.memory import MEMORY

_ROW = 72  # bytes that a row of a column takes beside its value, about, while pages are made


class PagesDecoder(ChunkDecoder):
    """Decodes chunks of pages. Safe to use from several threads at once."""

    weight = 2

    def __init__(self, form: int = FIRST) -> None:
        self._form = form

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        found = parse(payload, out.size, self._form)
        columns = ColumnsReader(found.columns)
        for table in found.tables:
            columns.add(_content(table), table.rows)
        writer = _Writer(out, np.frombuffer(found.rest, np.uint8))
        with MEMORY.borrowed(_ROW * sum(table.rows for table in found.tables)):
            for number, recipe in enumerate(found.columns):
                maker = PageMaker(recipe, columns.column(number))
                writer.copy(recipe.before)
                for page in recipe.pages:
                    writer.copy(page.header)
                    for part in maker.page(page):
                        writer.put(part)
        writer.end()


class _Writer:
    """Fills `out` from its first byte on, with pages and with what is between them."""

    def __init__(self, out: Bytes, rest: Bytes) -> None:
        self._out = out
        self._rest = rest
        self._at = 0

    def copy(self, size: int) -> None:
        """The next bytes that are as they are."""
        self.put(self._rest[:size])
        self._rest = self._rest[size:]

    def put(self, part: Bytes) -> None:
        """Further bytes; FormatError where there is no room."""
        end = self._at + part.size
        if end > self._out.size:
            raise FormatError("pages are longer than their chunk")
        self._out[self._at : end] = part
        self._at = end

    def end(self) -> None:
        """All bytes that are left."""
        self.put(self._rest)
        if self._at != self._out.size:
            raise FormatError("pages do not fill their chunk")


def _content(table: Table) -> Bytes:
    """The values of some rows as arrays."""
    if not table.model:
        if len(table.stored) != table.size:
            raise FormatError("values of pages do not have their size")
        return np.frombuffer(table.stored, np.uint8)
    out = np.empty(table.size, np.uint8)
    TableDecoder(params.parse(table.model)).decode(np.frombuffer(table.stored, np.uint8), out)
    return out


def open_decoder(payload: bytes, _: object = None) -> PagesDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    if len(payload) != len(model_of(FIRST)):
        raise FormatError("model of pages has a wrong length")
    form = payload[1]
    if form > NEWEST:
        raise UnsupportedError("pages are made in an unknown way; a newer densor may read this")
    return PagesDecoder(form)
