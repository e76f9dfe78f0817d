"""`densor bench`: ratio and speed on the user's own file."""

import argparse

from densor.cli import checks, console, frame
from densor.cli.arguments import Parser, add_flags, canonical_dtype, count, levels


def parser() -> argparse.ArgumentParser:
    """The parser of `densor bench`."""
    parser = Parser(
        "bench",
        description="Measures densor beside Zstandard and memcpy, in memory; checks every round\n"
        "trip. MB/s are of original data, the median of the repetitions.",
    )
    parser.add_argument("file", metavar="FILE", help="a file, or a folder of them")
    parser.add_argument(
        "--level", type=levels, default=[1, 3, 6, 9], metavar="N,N", help="levels (1,3,6,9)"
    )
    parser.add_argument(
        "--repeat", type=count, default=5, metavar="N", help="repetitions (5; slow codecs run once)"
    )
    add_flags(parser, "dtype", help="take all bytes as numbers of this type")
    add_flags(parser, "threads", default=1)
    add_flags(parser, "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    args.dtype = canonical_dtype(args)
    return frame.archive(args, args.file, _bench)


def _bench(args: argparse.Namespace) -> None:
    path = args.file
    checks.existing(path)
    from densor.cli import measure, report

    files = measure.load(path)
    codecs = measure.codecs(args.level, (3, 19), args.dtype)
    with console.status(args.quiet) as doing:
        repeat = max(args.repeat, 1)
        rows = measure.rows(files, codecs, args.threads, repeat, args.dtype, doing)
    threads = args.threads or "all"
    console.put(f"{console.escape(path)}: {console.size(rows[0].original)}, threads: {threads}")
    console.put(report.rows_table(rows))
