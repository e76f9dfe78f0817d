"""`densor test`: verifies archives."""

import argparse

from densor.cli.arguments import Parser, UsageError, add_flags
from densor.cli.commands import files


def parser() -> argparse.ArgumentParser:
    """The parser of `densor test`."""
    parser = Parser("test", description="Decodes archives and verifies every check in them.")
    parser.add_argument("archives", metavar="ARCHIVE", nargs="+")
    add_flags(
        parser, "threads", "max_output_size", "base", "language_model", "image_model", "overwrite"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say how fast it was")
    add_flags(parser, "quiet")
    parser.add_argument(
        "--repair-info", action="store_true", help="say which bytes of which entries are lost"
    )
    add_flags(parser, "json", help="with --repair-info: write JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Tests each archive."""
    if args.repair_info:
        from densor.cli import damage

        return damage.show(args)
    if args.json:
        raise UsageError("--json goes with --repair-info", "densor test")
    return files.test_archives(args.archives, args)
