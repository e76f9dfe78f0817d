"""`densor repair`: mends a damaged archive."""

import argparse
from typing import TYPE_CHECKING

from densor.cli import checks, frame
from densor.cli.arguments import Parser, add_flags

if TYPE_CHECKING:
    from densor.formats.damage.repair import Repaired


def parser() -> argparse.ArgumentParser:
    """The parser of `densor repair`."""
    parser = Parser(
        "repair",
        description="Mends a damaged archive by the recovery data in it, verifies the result and\n"
        "puts it in place of the archive. With --recovery, makes recovery data anew.\n"
        "For what cannot be mended: densor extract --salvage.",
    )
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write to FILE, keep ARCHIVE")
    add_flags(parser, "recovery", "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Repairs the archive."""
    names = [args.archive, *([] if args.output is None else [args.output])]
    return frame.subject(args, names, _repair)


def _repair(args: argparse.Namespace) -> str:
    archive = args.archive
    checks.source_file(archive)
    if args.output is not None:
        checks.target_file(args.output, args.overwrite, archive)
    from densor.formats.damage.repair import repair

    done = repair(archive, args.output, overwrite=args.overwrite, recovery=args.recovery)
    goal = "" if args.output is None else f" => {args.output}"
    return f"{archive}: {_said(done)}{goal}"


def _said(done: "Repaired") -> str:
    if done.was_whole:
        return "was whole" if done.protected else "was whole; has no recovery data"
    parts = []
    if done.blocks:
        parts.append(f"{done.blocks} blocks")
    if done.frames:
        parts.append(f"{done.frames} frames of recovery data")
    if done.ends:
        parts.append("header or end")
    return f"repaired {', '.join(parts)}"
