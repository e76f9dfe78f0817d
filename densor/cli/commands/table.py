"""`densor table`: columns and rows of a table in an archive."""

import argparse

from densor.cli import frame, streams
from densor.cli.arguments import Parser, UsageError, add_flags, read_options


def parser() -> argparse.ArgumentParser:
    """The parser of `densor table`."""
    parser = Parser(
        "table",
        description="Writes columns and rows of a CSV file in an archive to stdout, as they stand\n"
        "there. Only what is asked for is read and decoded.",
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
    from densor.tables import Table

    rows = _slice(args.rows)
    out = streams.stdout(args.overwrite, archive=False)
    with opened(args.archive, read_options(args)) as file:
        table = Table(file.archive, args.name)
        if args.action == "columns":
            write_all(out, "".join(f"{name}\n" for name in table.names).encode())
            return
        names = args.columns.split(",") if args.columns else table.names
        numbers = [table.column(name) for name in names]
        if table.layout.names:
            write_all(out, table.header(numbers))
        for lines in table.lines(numbers, rows, args.where):
            write_all(out, lines)
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
