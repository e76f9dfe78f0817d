"""`densor fit`: whether a model fits into memory."""

import argparse

from densor.cli import checks, console, frame, table
from densor.cli.arguments import Parser, byte_count


def parser() -> argparse.ArgumentParser:
    """The parser of `densor fit`."""
    parser = Parser(
        "fit",
        description="Tells how much memory the weights of a model take: plain, packed in memory,\n"
        "and packed on the disk. What a run needs beside its weights (activations, caches)\n"
        "comes on top. MODEL: an archive, a packed folder, or plain files, of which samples\n"
        "are coded.",
    )
    parser.add_argument("model", metavar="MODEL", help="a file or a folder")
    parser.add_argument(
        "--memory",
        type=byte_count,
        metavar="N[K|M|G]",
        help="how much there is (what this machine has free)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    return frame.archive(args, args.model, _fit)


def _fit(args: argparse.Namespace) -> None:
    path = args.model
    checks.existing(path)
    from densor.cli import fit
    from densor.cli.machine import free_memory

    memory = free_memory() if args.memory is None else args.memory
    weights = fit.weights(path)
    rows = [
        [need.way, console.size(need.bytes), "-" if not memory else _answer(need.bytes, memory)]
        for need in fit.needs(weights)
    ]
    shown = console.size(memory) if memory else "unknown"
    console.put(f"{console.escape(path)}: {len(weights)} tensors, memory: {shown}")
    console.put(table.render(["weights", "memory", "fits"], rows))


def _answer(needed: float, memory: int) -> str:
    return "yes" if needed <= memory else "no"
