"""`densor extract`: restores files and folders from an archive."""

import argparse

from densor.cli import checks, console, frame, streams
from densor.cli.arguments import Parser, UsageError, add_flags, read_options
from densor.cli.streams import DASH
from densor.errors import ChecksumError


def parser() -> argparse.ArgumentParser:
    """The parser of `densor extract`."""
    parser = Parser("extract", description="Restores files and folders, byte for byte.")
    parser.add_argument("archive", metavar="ARCHIVE", help="the archive, - for stdin")
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these files and folders")
    parser.add_argument(
        "-C", "-o", dest="folder", metavar="DIR", default=".", help="into this folder"
    )
    parser.add_argument(
        "--salvage", action="store_true", help="get out what is left of a damaged archive"
    )
    add_flags(parser, "threads", "overwrite", "sync", "max_output_size")
    add_flags(parser, "base", "language_model", "image_model", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Extracts the archive."""
    if args.salvage:
        if args.names or args.archive == DASH:
            raise UsageError("--salvage takes one file and no names", "densor extract")
        return frame.archive(args, args.archive, _salvage)
    return frame.archive(args, args.archive, _extract, console.STDIN)


def _extract(args: argparse.Namespace) -> str:
    archive = args.archive
    checks.source_file(archive)
    source = streams.stdin(args.overwrite) if archive == DASH else archive
    from densor.cli.contents import original_size
    from densor.files.folder import extract

    def total() -> int | None:
        return None if archive == DASH else original_size(archive)

    name = console.STDIN if archive == DASH else archive
    with frame.moving(args, name, total) as moved:
        done = extract(
            source,
            args.folder,
            args.names,
            overwrite=args.overwrite,
            options=read_options(args, moved),
        )
    what = "1 file" if len(done) == 1 else f"{len(done)} files"
    return f"{name}: {what} => {args.folder}"


def _salvage(args: argparse.Namespace) -> None:
    archive = args.archive
    checks.source_file(archive)
    from densor.cli import damage
    from densor.cli.contents import original_size
    from densor.formats.damage.salvage import salvage

    with frame.moving(args, archive, lambda: original_size(archive)) as moved:
        options = read_options(args, moved)
        salvaged = salvage(archive, args.folder, overwrite=args.overwrite, options=options)
    if not args.quiet:
        for line in damage.lines(archive, salvaged):
            console.say(line)
    if not salvaged.sound:
        raise ChecksumError("is damaged; salvage.json tells what was left")
