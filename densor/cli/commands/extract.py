"""`densor extract`: restores files and folders from an archive."""

import argparse

from densor.cli import checks, console, streams
from densor.cli.arguments import (
    Parser,
    UsageError,
    add_base,
    add_force,
    add_llm,
    add_max_size,
    add_quiet,
    add_threads,
)
from densor.cli.streams import DASH
from densor.errors import ChecksumError


def parser() -> argparse.ArgumentParser:
    """The parser of `densor extract`."""
    found = Parser("extract", description="Restores files and folders, byte for byte.")
    found.add_argument("archive", metavar="ARCHIVE", help="the archive, - for stdin")
    found.add_argument("names", metavar="NAME", nargs="*", help="only these files")
    found.add_argument(
        "-C", "-o", dest="folder", metavar="DIR", default=".", help="into this folder"
    )
    found.add_argument(
        "--salvage", action="store_true", help="get out what is left of a damaged archive"
    )
    add_threads(found)
    add_force(found)
    add_max_size(found)
    add_base(found)
    add_llm(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Extracts the archive."""
    if args.salvage:
        if args.names or args.archive == DASH:
            raise UsageError("--salvage takes one file and no names", "densor extract")
        return console.archive(args.archive, lambda archive: _salvage(archive, args))
    return console.archive(args.archive, lambda archive: _extract(archive, args), console.STDIN)


def _label(archive: str) -> str:
    return console.STDIN if archive == DASH else archive


def _extract(archive: str, args: argparse.Namespace) -> None:
    checks.source_file(archive)
    source = streams.stdin(args.force) if archive == DASH else archive
    from densor.cli.contents import original_size
    from densor.files.folder import extract

    def total() -> int | None:
        return None if archive == DASH else original_size(archive)

    with console.progress(_label(archive), total, args.quiet) as moved:
        done = extract(
            source,
            args.folder,
            args.names,
            args.threads,
            overwrite=args.force,
            max_output_size=args.max_size,
            base=args.base,
            llm=args.llm,
            progress=moved,
        )
    if not args.quiet:
        what = "1 file" if len(done) == 1 else f"{len(done)} files"
        console.say(f"{_label(archive)}: {what} => {args.folder}")


def _salvage(archive: str, args: argparse.Namespace) -> None:
    checks.source_file(archive)
    from densor.cli import damage
    from densor.cli.contents import original_size
    from densor.formats.damage.salvage import salvage

    with console.progress(archive, lambda: original_size(archive), args.quiet) as moved:
        found = salvage(
            archive,
            args.folder,
            args.threads,
            overwrite=args.force,
            max_output_size=args.max_size,
            base=args.base,
            llm=args.llm,
            progress=moved,
        )
    if not args.quiet:
        for line in damage.lines(archive, found):
            console.say(line)
    if not found.sound:
        raise ChecksumError("is damaged; salvage.json tells what was left")
