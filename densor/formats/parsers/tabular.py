"""Texts in rows: JSON lines, separated cells, fixed widths, by a guess from the first lines.

What turns out not to fit costs nothing but size: pieces that are no row are kept as they are.
"""

from collections.abc import Callable

from densor.codec.table.layout import MAX_BYTES, Layout
from densor.formats.parsers import csv, fixed_width, json_lines
from densor.formats.parsers.contents import Contents, Head, Stretch

SAMPLE = 1 << 16  # bytes that are looked at
_MIN_SIZE = 1 << 10
_CONTROLS = bytes(c for c in range(32) if c not in b"\t\n\r")
_UNKNOWN = 1 << 62  # of a stream: up to its end
_CERTAIN = b",\t;|"  # separators that lines of one length have by no accident


def _fixed(lines: list[bytes]) -> Layout | None:
    layout = fixed_width.layout_of(lines)
    if layout is None:
        return None
    separated = csv.layout_of(lines)
    return None if separated is not None and separated.separator in _CERTAIN else layout


_WAYS: dict[str, Callable[[list[bytes]], Layout | None]] = {
    "jsonl": json_lines.layout_of,
    "fixed-width": _fixed,
    "csv": csv.layout_of,
}
FORMATS = tuple(_WAYS)


def layout_in(sample: bytes, whole: bool, formats: tuple[str, ...] = FORMATS) -> Layout | None:
    """The layout of a text by its first bytes, or `whole`; None where it is no table."""
    if len(sample) < _MIN_SIZE or any(control in sample for control in _CONTROLS):
        return None
    lines = sample.split(b"\n")
    lines = lines[:-1] if not whole or not lines[-1] else lines
    return next(filter(None, (_WAYS[name](lines) for name in formats)), None)


def find_of(name: str) -> Callable[[Head], Contents | None]:
    """What finds the rows of one format."""

    def find(head: Head) -> Contents | None:
        sample = head.first(SAMPLE)
        whole = len(sample) == head.size or len(sample) < SAMPLE
        layout = layout_in(sample, whole, (name,))
        return None if layout is None else Contents([], _stretches(head, layout))

    return find


def _stretches(head: Head, layout: Layout) -> list[Stretch]:
    """The file in stretches that a chunk holds, cut at ends of lines where they can be found."""
    size = head.size
    if size is None or head.random is None or size <= MAX_BYTES:
        return [Stretch(0, size if size is not None else _UNKNOWN, "U8", (), table=layout)]
    found, at = [], 0
    while size - at > MAX_BYTES:
        look = at + MAX_BYTES - SAMPLE
        end = head.random.read_at(look, SAMPLE).tobytes().rfind(b"\n")
        length = MAX_BYTES - SAMPLE + end + 1 if end >= 0 else MAX_BYTES
        found.append(Stretch(at, length, "U8", (), table=layout))
        at += length
    return [*found, Stretch(at, size - at, "U8", (), table=layout)]
