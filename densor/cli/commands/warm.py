"""`densor warm`: compiles the kernels now, so that no later run has to."""

import argparse

from densor.cli import console, frame
from densor.cli.arguments import Parser, add_flags, levels


def parser() -> argparse.ArgumentParser:
    """The parser of `densor warm`."""
    parser = Parser(
        "warm",
        description="Compiles the kernels that the levels need and keeps them on the disk, for\n"
        "images of containers and for CI: a made sample of each type goes through each level.",
    )
    parser.add_argument(
        "--level", type=levels, default=[1, 3, 6], metavar="N,N", help="levels (1,3,6)"
    )
    add_flags(parser, "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Sends the samples through."""
    return frame.subject(args, ["warm"], _warm)


def _warm(args: argparse.Namespace) -> str:
    import time

    from densor.cli import samples

    begin = time.perf_counter()
    with console.status(args.quiet) as doing:
        for trip in samples.trips(args.level, list(samples.SAMPLES), samples.WARM_BYTES):
            doing(f"level {trip.level}: {trip.name}")
    chosen = ", ".join(map(str, args.level))
    return f"kernels of levels {chosen} are ready ({time.perf_counter() - begin:.1f} s)"
