"""`densor doctor`: what this machine has, and whether the codecs work on it."""

import argparse
from typing import TYPE_CHECKING

from densor.cli import console, frame, table
from densor.cli.arguments import Parser, add_flags, levels

if TYPE_CHECKING:
    from densor.cli.samples import Trip

_BYTES = 1 << 23  # of a sample; the speeds of smaller ones would be those of the start
_SLOW_BYTES = 1 << 17


def parser() -> argparse.ArgumentParser:
    """The parser of `densor doctor`."""
    parser = Parser(
        "doctor",
        description="Tells what this machine has and tests the codecs on it, as text to paste\n"
        "into a report of a fault. Speeds are of one thread, of one run, of made samples.",
    )
    parser.add_argument(
        "--level", type=levels, default=[1, 3, 6], metavar="N,N", help="levels to test (1,3,6)"
    )
    add_flags(parser, "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints facts and the table; exit code 1 where a sample did not come back."""
    return frame.subject(args, ["doctor"], _doctor)


def _doctor(args: argparse.Namespace) -> None:
    from densor.cli import machine, samples

    found = list(machine.facts())
    width = max(len(name) for name, _ in found)
    for name, value in found:
        console.put(f"{name:{width}}  {console.escape(value)}")
    rows = []
    with console.status(args.quiet) as doing:
        for level in args.level:
            for name in samples.SAMPLES:
                doing(f"level {level}: {name}")
                size = _SLOW_BYTES if level == 9 or name == "image" else _BYTES
                samples.round_trip(name, level, min(size, samples.WARM_BYTES), 1)  # compiles
                rows.append(_row(samples.round_trip(name, level, size, 1)))
    header = ["data", "level", "ratio", "compress MB/s", "decompress MB/s", "restored"]
    console.put(f"\n{table.render(header, rows)}")


def _row(trip: "Trip") -> list[str]:
    speeds = [console.speed(trip.original / s / 1e6) for s in (trip.compress_s, trip.decompress_s)]
    ratio = console.percent(trip.stored, trip.original)
    return [trip.name, str(trip.level), ratio, *speeds, "bit for bit"]
