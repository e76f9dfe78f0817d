"""`densor shards`: many files, each to an archive of its own, in parallel, resumable."""

import argparse
from typing import TYPE_CHECKING

from densor.cli import console, streams, table
from densor.cli.arguments import (
    Parser,
    UsageError,
    add_flags,
    add_writing,
    canonical_dtype,
    count,
    write_options,
)
from densor.formats.io.urls import label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from densor.errors import DensorError
    from densor.files.shards import Report

_HEADER = ["shard", "original", "stored", "ratio", "seconds", "state"]


def parser() -> argparse.ArgumentParser:
    """The parser of `densor shards`."""
    parser = Parser(
        "shards",
        description="Compresses files and what is in folders, each to DIR/NAME.densor; paths or\n"
        "URLs. What is there already, whole and of the same source, is passed over, so\n"
        "that the command can be run again after anything that has stopped it.",
    )
    parser.add_argument("folder", metavar="DIR", help="where the archives go")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="file or folder to be compressed")
    parser.add_argument(
        "--jobs",
        default="0",
        metavar="#|ray",
        help="processes, 0 for one per processor (default 0), or a Ray cluster",
    )
    add_flags(parser, "threads", default=1)
    parser.add_argument(
        "--retries",
        type=count,
        default=2,
        metavar="#",
        help="how often a shard that has failed is tried again (default 2)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="decode what is written, and what is there, and compare it with the source",
    )
    add_flags(parser, "quiet")
    add_writing(parser)
    add_flags(parser, "language_model", "image_model", "base", "max_output_size")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compresses the shards; 1 if any has failed."""
    args.dtype = canonical_dtype(args)
    if args.jobs != "ray" and not (args.jobs.isascii() and args.jobs.isdigit()):
        raise UsageError(f"argument --jobs: {args.jobs!r} is neither a number nor ray")
    from densor.files.shards import Stats, compress_shards, list_shards

    left_out: list[DensorError] = []
    pairs = list_shards(args.folder, args.paths, left_out.append)
    for error in left_out:
        console.say(f"densor: {error}; left out")
    executor, window = _executor(args)
    options = write_options(args)

    def total() -> int:
        return sum(streams.regular_size(source) or 0 for source, _ in pairs)

    with console.progress(f"{len(pairs)} shards", total, args.quiet) as moved:
        report = compress_shards(
            pairs,
            options,
            executor,
            window=window,
            retries=args.retries,
            progress=lambda end: moved(end.original) if moved and isinstance(end, Stats) else None,
        )
    for failure in report.failed:
        console.fail([label(failure.source), label(failure.target)], Exception(failure.reason))
    if not args.quiet:
        places = [label(target) for _, target in pairs]
        console.put(table.render(_HEADER, list(_rows(report, places)), left=(0, 5)))
    return 1 if report.failed or left_out else 0


def _executor(args: argparse.Namespace) -> "tuple[Callable[[], Executor], int | None]":
    """What makes an executor, and how many shards it is given at a time."""
    from functools import partial

    from densor.files.shards import processes
    from densor.runtime.workers import thread_count

    if args.jobs == "ray":
        from densor.files.ray_executor import RayExecutor

        return partial(RayExecutor, max(1, args.threads)), None
    jobs = thread_count(int(args.jobs))
    return processes(jobs), jobs


def _rows(report: "Report", places: list[str]) -> "Iterator[list[str]]":
    """A line for each shard, in the order in which they were given, and one for all."""
    lines = {}
    for done in report.done:
        state = "was there" if done.skipped else "packed"
        sizes = _sizes(done.original, done.stored)
        lines[label(done.target)] = [*sizes, f"{done.seconds:.1f}", state]
    for failure in report.failed:
        tries = "1 try" if failure.attempts == 1 else f"{failure.attempts} tries"
        lines[label(failure.target)] = ["", "", "", "", f"failed, {tries}"]
    for place in places:
        yield [console.escape(place), *lines[place]]
    original = sum(done.original for done in report.done)
    stored = sum(done.stored for done in report.done)
    seconds = sum(done.seconds for done in report.done)
    states = f"{len(report.failed)} failed" if report.failed else "all there"
    yield ["total", *_sizes(original, stored), f"{seconds:.1f}", states]


def _sizes(original: int, stored: int) -> list[str]:
    return [console.size(original), console.size(stored), console.percent(stored, original)]
