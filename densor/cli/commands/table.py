"""`densor table`: columns and rows of a table in an archive."""

import argparse
from collections.abc import Iterator
from typing import Any

from densor.cli import frame, streams
from densor.cli.arguments import Parser, UsageError, add_flags, read_options


def parser() -> argparse.ArgumentParser:
    """The parser of `densor table`."""
    parser = Parser(
        "table",
        description="Writes columns and rows of a table in an archive to stdout: of a CSV file as\n"
        "they stand there, of Parquet, Arrow and .npy files as CSV. Only what is asked for is\n"
        "read and decoded.",
    )
    parser.add_argument("action", choices=["cat", "columns"], help="rows, or names of columns")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the file, where there are more")
    parser.add_argument("--columns", metavar="A,B", help="names of columns (default all)")
    parser.add_argument("--rows", metavar="BEGIN:END", default=":", help="of all rows, from 0 on")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="such as 'price >= 10' or 'cut == Ideal'; all that are given must hold",
    )
    add_flags(parser, "threads", "max_output_size", "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the rows."""
    return frame.archive(args, args.archive, _write)


def _write(args: argparse.Namespace) -> None:
    from densor.cli.contents import opened
    from densor.formats.io.outputs import write_all
    from densor.tables import Table, line_of, lines_of, numbers_of, select_typed, typed_table

    rows = _slice(args.rows)
    out = streams.stdout(args.overwrite, archive=False)
    with opened(args.archive, read_options(args)) as file:
        typed, _ = typed_table(file.archive, args.name)
        table = typed or Table(file.archive, args.name)
        if args.action == "columns":
            write_all(out, "".join(f"{name}\n" for name in table.names).encode())
            return
        numbers = numbers_of(table.names, args.columns.split(",") if args.columns else None)
        lines: Iterator[Any]
        if not isinstance(table, Table):
            head = line_of([table.names[number] for number in numbers])
            parts = select_typed(table, numbers, rows, args.where)
            lines = (some for part in parts for some in lines_of(part))
        else:
            head, lines = table.header(numbers), table.lines(numbers, rows, args.where)
        first = next(lines, b"")  # before anything is written: some columns cannot be read
        write_all(out, head)
        write_all(out, first)
        for some in lines:
            write_all(out, some)
    out.flush()


def _slice(text: str) -> slice:
    begin, colon, end = text.partition(":")
    try:
        found = slice(int(begin or 0), int(end) if end else None)
    except ValueError:
        colon = ""
        found = slice(0, 0)
    if not colon or min(found.start, found.stop or 0) < 0:
        raise UsageError(f"--rows takes BEGIN:END, not {text!r}", "densor table")
    return found
