"""The kernels of tables against a few lines that do the same."""

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state

from densor.codec.levels import level_settings
from densor.codec.table import cells as table_cells
from densor.codec.table import contexts
from densor.codec.table.cells import rows_of
from densor.codec.table.decoder import open_decoder
from densor.codec.table.dictionary import (
    DAYS,
    SECONDS,
    SECONDS_SPACE,
    SECONDS_ZULU,
    cells_of_times,
)
from densor.codec.table.encoder import TableCoder
from densor.codec.table.intern_kernels import intern
from densor.codec.table.layout import Layout
from densor.codec.table.prefix_code import code_of, lengths_for
from densor.codec.table.state import PADDING, QUICK
from densor.codec.table.symbol_kernels import fill_table, put_codes, take_codes
from densor.errors import FormatError

_FIRST_DAY, _LAST_DAY = -719162, 2932896  # of the years 1 to 9999


def _rows(quotes: float) -> list[list[bytes]]:
    """Rows of three cells, of all lengths about those that kernels look at at once."""
    rng = random_state("table kernels", quotes)
    rows = []
    for length in [*range(140), 300, 1000]:
        sizes = length, int(rng.integers(0, 12)), int(rng.integers(0, 70))
        cells = [rng.choice(list(b"abc "), size).astype(np.uint8).tobytes() for size in sizes]
        for i in range(3):
            if rng.random() < quotes:
                cells[i] = b'"' + cells[i].replace(b"a", b",").replace(b"b", b'""') + b'"'
        rows.append(cells)
    return rows


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("quotes", [0, 0.1])
def test_rows_and_cells_are_found_wherever_they_stand(ending: bytes, quotes: float) -> None:
    rows = _rows(quotes)
    layout = Layout(3, returns=len(ending) > 1)
    for before in range(0, 70, 7):
        pieces = b"x" * before + b"\n"  # a line that is no row
        text = pieces + ending.join(b",".join(cells) for cells in rows) + ending
        found = rows_of(np.frombuffer(text, np.uint8), layout)
        assert found is not None
        assert found.rows == len(rows)
        for column, cells in enumerate(found.cells()):
            assert [cells.text(i) for i in cells.ids] == [row[column] for row in rows]
        coder = TableCoder(layout, level_settings(3))
        out = np.full(len(text), 0xA5, np.uint8)
        open_decoder(coder.model()).decode(coder.encode(np.frombuffer(text, np.uint8), 0), out)
        assert out.tobytes() == text


@pytest.mark.parametrize("every", [2, 9, 40])
@pytest.mark.parametrize("cells", [3, 200])
def test_pieces_stand_where_they_stood(every: int, cells: int) -> None:
    lines = [b"%d,1%03d" % (i % cells, i % 7) if i % every else b"#" for i in range(1, 400)]
    text = b"\n".join(lines) + b"\n"
    coder = TableCoder(Layout(2), level_settings(3))
    payload = coder.encode(np.frombuffer(text, np.uint8), 0)
    assert payload.size < len(text)
    for more in (0, -1, 1, -len(text) // 2):
        memory = np.full(len(text) + 64, 0xA5, np.uint8)
        out = memory[: len(text) + more]
        if more:
            with pytest.raises(FormatError):
                open_decoder(coder.model()).decode(payload, out)
        else:
            open_decoder(coder.model()).decode(payload, out)
            assert out.tobytes() == text
        assert (memory[out.size :] == 0xA5).all()


def test_a_last_row_without_its_end_is_no_row() -> None:
    text = b"1,2\n" * 50 + b"3,4"
    found = rows_of(np.frombuffer(text, np.uint8), Layout(2))
    assert found is not None
    assert (found.rows, found.pieces) == (50, b"3,4")


def test_a_separator_that_ends_lines_is_refused() -> None:
    text = np.frombuffer(b"1\n2\n" * 50, np.uint8)
    for columns in (2, 4096):  # of which more are looked for than line feeds stand behind the text
        assert rows_of(text, Layout(columns, separator=10)) is None


@pytest.mark.parametrize("form", ["%07d", "abcdef%02x", "%08d", "%02d:00:00"])
def test_cells_that_differ_at_their_end_alone_have_places_of_their_own(form: str) -> None:
    rows = 2000
    data = np.frombuffer("".join(form % i for i in range(rows)).encode() + bytes(16), np.uint8)
    sizes = [len(form % i) for i in range(rows)]
    starts = np.concatenate([np.cumsum([0, *sizes[:-1]]), np.cumsum(sizes)]).astype(np.int32)
    slots, words = np.empty(1 << 12, np.int32), np.empty(rows, np.int64)
    lengths, places, ids = np.empty((3, rows), np.int32)
    sides = words, lengths, places, ids
    assert intern(data, starts, 0, rows, 0, rows, slots, *sides) == rows
    free = np.flatnonzero(slots < 0)
    assert np.diff(free).max() < 100  # that are looked at one by one


def test_many_different_cells_are_numbered_as_they_come() -> None:
    rng = random_state("many cells")
    numbers = rng.permutation(np.concatenate([np.arange(40000), np.arange(0, 40000, 2)]))
    names = [b"%d" % n if n % 3 else b"a name that is long %d" % n for n in numbers.tolist()]
    text = b"".join(b"k,%b\n" % name for name in names)
    found = rows_of(np.frombuffer(text, np.uint8), Layout(2))
    assert found is not None
    first, second = found.cells()
    assert (first.ids.max(), first.text(0)) == (0, b"k")
    known: dict[bytes, int] = {}
    assert second.ids.tolist() == [known.setdefault(name, len(known)) for name in names]
    assert [second.text(i) for i in range(len(known))] == list(known)


def test_columns_are_numbered_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_cells, "_MAX_SCRATCH", 2 * 4 << 8)  # of two columns of 100 rows
    asked: list[int] = []

    def scratch(_: str, size: int) -> npt.NDArray[np.uint8]:
        asked.append(size)
        return np.empty(size, np.uint8)

    monkeypatch.setattr(table_cells, "_scratch", scratch)
    rows = [[b"%d" % (i * i % 10**k) for k in range(7)] for i in range(100)]
    text = b"".join(b",".join(row) + b"\n" for row in rows)
    found = rows_of(np.frombuffer(text, np.uint8), Layout(7))
    assert found is not None
    for column, one in enumerate(found.cells()):
        assert [one.text(i) for i in one.ids] == [row[column] for row in rows]
    assert max(asked) <= 2 * 4 << 8


@pytest.mark.parametrize("kind", [DAYS, SECONDS, SECONDS_SPACE, SECONDS_ZULU])
@pytest.mark.parametrize("quoted", [False, True])
def test_times_are_written_as_numpy_writes_them(kind: int, quoted: bool) -> None:
    rng = random_state("times", kind)
    days = np.array([_FIRST_DAY, _LAST_DAY, -1, 0, *rng.integers(_FIRST_DAY, _LAST_DAY, 20000)])
    if kind == DAYS:
        values, texts = days, np.datetime_as_string(days.view("M8[D]"))
    else:
        values = days * 86400 + rng.integers(0, 86400, days.size)
        texts = np.datetime_as_string(values.view("M8[s]"))
    middle, end = {SECONDS_SPACE: (" ", ""), SECONDS_ZULU: ("T", "Z")}.get(kind, ("T", ""))
    quote = '"' * quoted
    expected = "".join(quote + text.replace("T", middle) + end + quote for text in texts.tolist())
    found = cells_of_times(values, kind, quoted, 34)
    assert found.blob[:-PADDING].tobytes().decode() == expected
    assert np.diff(found.offsets).tolist() == [len(expected) // values.size] * values.size


def _counts(kind: str, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    if kind == "few":
        return rng.integers(1, 100, 5)
    if kind == "many":
        return rng.integers(1, 3, 20000)
    return np.array([1, 1, *(1 << np.arange(22))])  # codes of up to 23 bits


@pytest.mark.parametrize("kind", ["few", "many", "long"])
def test_codes_come_back(kind: str) -> None:
    rng = random_state("codes", kind)
    counts = _counts(kind, rng)
    code = code_of(lengths_for(counts), counts.size)
    assert (code.lengths.max() > QUICK) == (kind != "few")
    for rows in (1, 2, 3, 1000):
        symbols = rng.integers(0, counts.size, rows).astype(np.int32)
        bits = int(code.lengths[symbols].sum())
        data = np.zeros((bits + 7 >> 3) + 16, np.uint8)
        assert put_codes(code, symbols, data) == bits + 7 >> 3
        table, found = np.zeros(1 << QUICK, np.int32), np.empty_like(symbols)
        fill_table(code, table)
        assert take_codes(code, table, data, bits + 7 >> 3, found) == bits
        assert np.array_equal(found, symbols)


def test_places_of_functions_are_empty_after_the_last_stamp() -> None:
    places, _ = contexts.function_places()
    places[:] = 1 << 32
    contexts._local.places = places, contexts._LAST_STAMP
    found, stamp = contexts.function_places()
    assert stamp == 1
    assert not (found >> 32 == stamp).any()
