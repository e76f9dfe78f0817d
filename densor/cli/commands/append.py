"""`densor append`: one more checkpoint into an archive."""

import argparse
import os

from densor.cli import checks, console
from densor.cli.arguments import Parser, add_base, add_levels, add_llm, add_quiet, add_threads
from densor.errors import FileError


def parser() -> argparse.ArgumentParser:
    """The parser of `densor append`."""
    found = Parser(
        "append",
        description="Adds a file to an archive, coded against the latest file in it. densor\n"
        "extract and densor cat restore each by its name. The archive is written anew\n"
        "beside the old one, which it then replaces.",
    )
    found.add_argument("archive", metavar="ARCHIVE")
    found.add_argument("file", metavar="FILE", help="the checkpoint to be added")
    found.add_argument("--name", metavar="NAME", help="what it is called in the archive")
    found.add_argument(
        "--base-entry", metavar="NAME", help="the file of the archive to code against"
    )
    add_levels(found)
    add_threads(found)
    add_base(found)
    add_llm(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the archive anew."""
    names = [args.archive, args.file]
    return console.each([args.archive], lambda _: names, lambda archive: _append(archive, args))


def _append(archive: str, args: argparse.Namespace) -> None:
    checks.source_file(archive)
    if not os.path.isfile(args.file):
        raise FileError(f"{args.file}: no such file")
    from densor.files.append import append

    with console.progress(args.file, lambda: os.path.getsize(args.file), args.quiet) as moved:
        sizes = append(
            archive,
            args.file,
            args.level,
            args.threads,
            name=args.name,
            base_entry=args.base_entry,
            base=args.base,
            llm=args.llm,
            progress=moved,
        )
    if not args.quiet:
        ratio = console.percent(sizes.stored, sizes.original)
        change = f"{console.size(sizes.original)} => {console.size(sizes.stored)}"
        console.say(f"{archive}: + {args.file}: {ratio} ({change})")
