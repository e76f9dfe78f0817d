"""`densor append`: one more checkpoint into an archive."""

import argparse
import os

from densor.cli import checks, frame, streams
from densor.cli.arguments import WRITING, Parser, add_flags, write_options
from densor.errors import FileError


def parser() -> argparse.ArgumentParser:
    """The parser of `densor append`."""
    parser = Parser(
        "append",
        description="Adds a file to an archive, coded against the latest file in it. densor\n"
        "extract and densor cat restore each by its name. The archive is written anew\n"
        "beside the old one, which it then replaces.",
    )
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("file", metavar="FILE", help="the checkpoint to be added")
    parser.add_argument("--name", metavar="NAME", help="what it is called in the archive")
    parser.add_argument(
        "--base-entry", metavar="NAME", help="the file of the archive to code against"
    )
    add_flags(parser, "level", "threads", "base", "language_model", "image_model", "quiet")
    add_flags(parser, *WRITING, "max_output_size")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the archive anew."""
    return frame.subject(args, [args.archive, args.file], _append)


def _append(args: argparse.Namespace) -> str:
    begin = f"; it begins with: densor pack {args.archive} {args.file}"
    checks.source_file(args.archive, missing=begin)
    if os.path.isdir(args.file):
        raise FileError(f"{args.file}: is a folder; densor append adds one file")
    if not os.path.exists(args.file):
        hint = "; densor append reads no stdin" if args.file == streams.DASH else ""
        raise FileError(f"{args.file}: no such file{hint}")
    from densor.files.append import append

    with frame.moving(args, args.file, lambda: streams.regular_size(args.file)) as moved:
        options = write_options(args, moved)
        sizes = append(
            args.archive, args.file, name=args.name, base_entry=args.base_entry, options=options
        )
    return f"{args.archive}: + {args.file}: {frame.packed(sizes)}"
