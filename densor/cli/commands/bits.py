"""`densor bits`: how much information a file holds for the model of level 9."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from densor.cli import console, streams
from densor.cli.arguments import Parser, add_force, add_quiet

if TYPE_CHECKING:
    from densor.formats.source import Bytes

_ON_PAGE = 1 << 16  # bytes that a page shows


def parser() -> argparse.ArgumentParser:
    """The parser of `densor bits`."""
    found = Parser("bits", description="Measures a file with the model of text, -9.")
    found.add_argument("file", metavar="FILE", help="what to measure; - is stdin")
    found.add_argument(
        "--html", metavar="OUT", help="write a page that shows the bits of each character"
    )
    add_force(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Prints bits per byte, and writes the page."""
    return console.archive(args.file, lambda path: _measure(path, args), console.STDIN)


def _measure(path: str, args: argparse.Namespace) -> None:
    from densor.formats.output import errors_of

    if args.file == "-":
        _print(console.STDIN, streams.stdin(args.force), args)
        return
    with errors_of(Path(path)), Path(path).open("rb") as file:
        _print(path, file, args)


def _print(name: str, file: BinaryIO, args: argparse.Namespace) -> None:
    import numpy as np

    from densor import text
    from densor.codec.text.model import MAX_SEGMENT

    size = total = 0
    first: Bytes = np.empty(0, np.uint8)
    while data := file.read(MAX_SEGMENT):
        piece = np.frombuffer(data, np.uint8)
        first = first if size else piece[:_ON_PAGE].copy()
        size += piece.size
        total += text.bits(piece)
    per_byte = f"{total / size:.3f}" if size else "-"
    summary = f"{size} bytes, {per_byte} bits per byte ({console.percent(total, 8 * size)})"
    console.put(f"{console.escape(name)}: {summary}")
    if args.html is not None:
        if size > first.size:
            summary += f"; the first {first.size} bytes"
        _write_page(name, first, summary, args)


def _write_page(name: str, data: "Bytes", summary: str, args: argparse.Namespace) -> None:
    from densor import text
    from densor.cli import heat
    from densor.formats.output import whole_file, write_all

    content = heat.page(name, data.tobytes(), text.surprise(data).tolist(), summary)
    with whole_file(Path(args.html), args.force) as out:
        write_all(out, content.encode())
