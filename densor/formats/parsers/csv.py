"""Rows of cells with a separator between them, RFC 4180 and its relatives."""

from collections import Counter

from densor.codec.table.layout import MAX_COLUMNS, Layout

_SEPARATORS = b",\t;|:"
_MIN_ROWS = 8
_MIN_SHARE = 0.8  # of lines that have the same number of cells
_MAX_NAMES = 1 << 15
_LOOKED_AT = 64  # lines in which cells of the first one are looked for
_QUOTES = b"\"'"


def layout_of(lines: list[bytes]) -> Layout | None:
    """The layout that most lines fit; None where there is none."""
    best: tuple[float, Layout] | None = None
    if len(lines) < _MIN_ROWS:
        return None
    returns = sum(line.endswith(b"\r") for line in lines) > len(lines) / 2
    text, first = b"\n".join(lines), b"".join(lines[:_MIN_ROWS])
    quotes = _QUOTES if any(quote in text for quote in _QUOTES) else _QUOTES[:1]
    for separator in _SEPARATORS:
        if separator not in first:
            continue
        for quote in quotes:
            records = _records(lines, quote)
            counts = Counter(_columns(record, separator, quote) for record in records)
            columns, count = counts.most_common(1)[0]
            share = count / len(records)
            if 2 <= columns <= MAX_COLUMNS and share >= _MIN_SHARE:
                order = share, columns
                if best is None or order > (best[0], best[1].columns):
                    best = share, Layout(columns, separator, returns, quote)
    if best is None:
        return None
    layout = best[1]
    return Layout(layout.columns, layout.separator, returns, layout.quote, _names(lines, layout))


def _records(lines: list[bytes], quote: int) -> list[bytes]:
    """Lines, of which those belong together between which a quote is open."""
    mark = bytes([quote])
    if sum(line.count(mark) % 2 for line in lines) < len(lines) / _MIN_ROWS:
        return lines
    found: list[bytes] = []
    inside = False
    for line in lines:
        if inside:
            found[-1] += b"\n" + line
        else:
            found.append(line)
        inside ^= line.count(mark) % 2 == 1
    return found


def _columns(line: bytes, separator: int, quote: int) -> int:
    """Cells of a line; quotes count in pairs."""
    if quote not in line:
        return line.count(separator) + 1
    parts = line.split(bytes([quote]))
    return sum(part.count(separator) for part in parts[::2]) + 1


def _names(lines: list[bytes], layout: Layout) -> bytes:
    """The first line, unless cells of it begin as numbers do, or most of them occur below it."""
    first = lines[0]
    if (
        len(first) >= _MAX_NAMES
        or _columns(first, layout.separator, layout.quote) != layout.columns
    ):
        return b""
    if bool(layout.returns) != first.endswith(b"\r"):
        return b""
    cells = first.split(bytes([layout.separator]))
    below = [set(column) for column in zip(*_split(lines[1:_LOOKED_AT], layout), strict=True)]
    again = sum(cell in column for cell, column in zip(cells, below, strict=False))
    if any(_numeric(cell) for cell in cells) or 2 * again > len(cells):
        return b""
    return first + b"\n"


def _split(lines: list[bytes], layout: Layout) -> list[list[bytes]]:
    """Cells of lines without quotes, of those that have as many as the layout says."""
    found = [line.split(bytes([layout.separator])) for line in lines]
    return [cells for cells in found if len(cells) == layout.columns]


def _numeric(cell: bytes) -> bool:
    return cell.strip(b"\"' \r")[:1].isdigit()
