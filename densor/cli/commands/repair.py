"""`densor repair`: mends a damaged archive."""

import argparse
from typing import TYPE_CHECKING

from densor.cli import checks, console
from densor.cli.arguments import Parser, add_force, add_quiet, add_recovery

if TYPE_CHECKING:
    from densor.formats.damage.repair import Repaired


def parser() -> argparse.ArgumentParser:
    """The parser of `densor repair`."""
    found = Parser(
        "repair",
        description="Mends a damaged archive by the recovery data in it, verifies the result and\n"
        "puts it in place of the archive. With --recovery, makes recovery data anew.\n"
        "For what cannot be mended: densor extract --salvage.",
    )
    found.add_argument("archive", metavar="ARCHIVE")
    found.add_argument("-o", dest="output", metavar="FILE", help="write to FILE, keep ARCHIVE")
    add_recovery(found)
    add_force(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Repairs the archive."""
    names = [args.archive, *([] if args.output is None else [args.output])]
    return console.each([args.archive], lambda _: names, lambda archive: _repair(archive, args))


def _repair(archive: str, args: argparse.Namespace) -> None:
    checks.source_file(archive)
    if args.output is not None:
        checks.target_file(args.output, args.force, archive)
    from densor.formats.damage.repair import repair

    done = repair(archive, args.output, overwrite=args.force, recovery=args.recovery)
    if not args.quiet:
        goal = "" if args.output is None else f" => {args.output}"
        console.say(f"{archive}: {_said(done)}{goal}")


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
