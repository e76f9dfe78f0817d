"""`densor quantize`: a smaller model, with losses."""

import argparse

from densor.cli import checks, console, frame
from densor.cli.arguments import Parser, add_flags


def parser() -> argparse.ArgumentParser:
    """The parser of `densor quantize`."""
    parser = Parser(
        "quantize",
        description="Makes a model smaller with losses: replaces its weights by few values, such\n"
        "that the archive takes at most a share of the bytes of its tensors. The archive\n"
        "says that it is lossy wherever it is listed.",
    )
    parser.add_argument("model", metavar="MODEL", help="file with tensors, or archive of one")
    parser.add_argument(
        "--size", type=float, required=True, metavar="SHARE", help="such as 0.1 for a tenth"
    )
    parser.add_argument("-o", dest="out", metavar="FILE", required=True, help="where to")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="a tensor that stays as it is; may be given several times",
    )
    add_flags(parser, "threads", "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the archive."""
    return frame.subject(args, [args.model, args.out], _quantize)


def _quantize(args: argparse.Namespace) -> str:
    checks.source_file(args.model)
    checks.target_file(args.out, args.overwrite, args.model)
    from densor.lossy import quantize
    from densor.lossy.files import read_tensors

    found = quantize(
        read_tensors(args.model),
        size=args.size,
        keep=args.keep,
        threads=args.threads,
    )
    found.save(args.out, overwrite=args.overwrite)
    stored = len(found.archive)
    change = f"{console.size(found.original)} => {console.size(stored)}"
    share = console.percent(stored, found.original)
    return f"{console.escape(args.out)}: {share} ({change}), lossy"
