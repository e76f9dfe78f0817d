"""`densor pack`: files and folders into one archive."""

import argparse

from densor.cli import checks, console, streams
from densor.cli.arguments import (
    Parser,
    add_force,
    add_llm,
    add_no_verify,
    add_quiet,
    add_threads,
    add_writing,
    canonical_dtype,
)
from densor.cli.streams import DASH


def parser() -> argparse.ArgumentParser:
    """The parser of `densor pack`."""
    found = Parser(
        "pack",
        description="Packs files and folders into one archive. What a folder holds is named\n"
        "relative to it; densor extract restores it all.",
    )
    found.add_argument("archive", metavar="OUT.densor", help="the archive to be made, - for stdout")
    found.add_argument("paths", metavar="PATH", nargs="+", help="file or folder to be packed")
    add_threads(found)
    add_force(found)
    add_quiet(found)
    add_writing(found)
    add_llm(found)
    add_no_verify(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the archive."""
    args.dtype = canonical_dtype(args)
    return console.archive(args.archive, lambda archive: _pack(archive, args), "stdout")


def _pack(archive: str, args: argparse.Namespace) -> None:
    checks.target_file(archive, args.force)
    target = streams.stdout(args.force, archive=True) if archive == DASH else archive
    from densor.files.folder import members, pack

    def total() -> int:
        return sum(streams.regular_size(str(m.path)) or 0 for m in members(args.paths))

    with console.progress(archive, total, args.quiet) as moved:
        sizes = pack(
            args.paths,
            target,
            args.level,
            args.threads,
            dtype=args.dtype,
            overwrite=args.force,
            hash="sha256" if args.sha256 else None,
            text=args.text,
            llm=args.llm,
            verify=args.verify,
            recovery=args.recovery,
            gpu_index=args.gpu_index,
            progress=moved,
        )
    if not isinstance(target, str):
        target.flush()
    elif not args.quiet:
        ratio = console.percent(sizes.stored, sizes.original)
        change = f"{console.size(sizes.original)} => {console.size(sizes.stored)}"
        console.say(f"{archive}: {ratio} ({change})")
