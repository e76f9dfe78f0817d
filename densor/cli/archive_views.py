"""What a page about an archive shows of texts and tables: bits of characters, bytes of columns."""

import codecs
from collections.abc import Iterator
from typing import Any

from densor.cli import console, contents, heat
from densor.cli.tensor_page import share, size_of, text_of
from densor.formats.container.archive import Archive
from densor.formats.container.entry import FILE
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.parsers import tabular

_SHOWN = 8  # files, the largest ones
_TEXT_BYTES = 1 << 16  # that are shown of all texts together
_CONTROLS = frozenset(range(32)) - set(b"\t\n\v\f\r\x1b")
_COLUMNS = [
    text_of("column", "name"),
    size_of("stored"),
    share("share", "stored", "all"),
    {"title": "bits a cell", "key": "bits", "kind": "bits"},
]


def views(archive: Archive) -> list[dict[str, Any]]:
    """Sections of the page, for the largest files that are tables or texts."""
    files = [e for e in archive.entries if e.meta.kind == FILE and e.size and not e.meta.tensors]
    plain = [entry for entry in files if contents.is_readable(archive, entry)]
    found: list[dict[str, Any]] = []
    for entry in sorted(plain, key=lambda entry: -entry.size)[:_SHOWN]:
        if entry.meta.format in tabular.FORMATS:
            found += _table(archive, entry)
        elif entry.meta.format is None:
            found += _text(archive, entry)
    return found


def _table(archive: Archive, entry: IndexedEntry) -> Iterator[dict[str, Any]]:
    """The bytes of each column; nothing where no part is coded by columns."""
    from densor.tables import Table

    table = Table(archive, entry.meta.name)
    rows, sizes = table.stored_sizes()
    if rows:
        yield {
            "title": console.escape(entry.meta.name or "table"),
            "note": "Columns, each coded under others where that takes less.",
            "columns": _COLUMNS,
            "rows": [
                {
                    "name": console.escape(name),
                    "stored": size,
                    "all": sum(sizes),
                    "bits": round(8 * size / rows, 3),
                }
                for name, size in zip(table.names, sizes, strict=True)
            ],
            "sorted": 1,
        }


def _text(archive: Archive, entry: IndexedEntry) -> Iterator[dict[str, Any]]:
    """The bits of each character under the model of text that level 9 has."""
    size = min(entry.size, _TEXT_BYTES // _SHOWN)
    data = archive.read(entry, 0, size)
    if not _is_text(data.tobytes()):
        return
    from densor import text

    costs = text.surprise(data).tolist()
    yield {
        "title": console.escape(entry.meta.name or "text"),
        "note": f"Bits of each character of the first {size} bytes under the model of text of "
        f"level 9, which begins with nothing: {sum(costs) / size:.2f} per byte.",
        "steps": heat.CHARACTER,
        "spans": list(heat.shaded(data.tobytes(), costs)),
    }


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8 without controls; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return not _CONTROLS.intersection(data)
