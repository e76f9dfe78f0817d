"""`densor warm`: compiles the kernels now, so that no later run has to."""

import argparse

from densor.cli import console, frame
from densor.cli.arguments import Parser, add_flags, levels


def parser() -> argparse.ArgumentParser:
    """The parser of `densor warm`."""
    parser = Parser(
        "warm",
        description="Compiles the kernels that the levels need and keeps them on the disk, for\n"
        "images of containers and for CI: a made sample of each type goes through each level,\n"
        "in as many processes as there are cores, four at most.",
    )
    parser.add_argument(
        "--level", type=levels, default=[1, 3, 6], metavar="N,N", help="levels (1,3,6)"
    )
    parser.add_argument(
        "--into",
        metavar="FOLDER",
        help="put the kernels there too, for a package that brings them along, as its setup.py\n"
        "does; other kernels in the folder are removed",
    )
    parser.add_argument(
        "--processor",
        type=_processors,
        default=["here"],
        metavar="P,P",
        help="with --into: for which ones, of here (the default), x86-64-v3, x86-64-v4-vbmi2",
    )
    add_flags(parser, "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Sends the samples through."""
    return frame.subject(args, ["warm"], _warm)


def _processors(text: str) -> list[str]:
    from densor.entropy import kernel_files

    chosen = text.split(",")
    known = (kernel_files.HERE, *kernel_files.LEVELS)
    if not set(chosen) <= {*known}:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(known)}")
    return chosen


def _warm(args: argparse.Namespace) -> str:
    import time
    from pathlib import Path

    from densor.cli import compiling

    begin = time.perf_counter()
    with console.status(args.quiet) as doing:
        compiling.warm(args.level, lambda trip: doing(f"level {trip.level}: {trip.name}"))
        chosen = f"kernels of levels {', '.join(map(str, args.level))}"
        if args.into is None:
            return f"{chosen} are ready ({time.perf_counter() - begin:.1f} s)"
        doing("for a package")
        count = compiling.package(args.processor, Path(args.into))
    return f"{chosen}: {count} files in {args.into} ({time.perf_counter() - begin:.1f} s)"
