"""What is damaged of archives, in words."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densor.cli import checks, console, frame
from densor.cli.arguments import read_options
from densor.errors import ChecksumError, FileError

if TYPE_CHECKING:
    from densor.formats.damage.salvage import Damage, EntryDamage

_MAX_TENSORS = 8  # named in one line


def show(args: argparse.Namespace) -> int:
    """`densor test --repair-info`."""

    def one(path: str) -> None:
        damage = _damage(path, args)
        if args.json:
            frame.as_json({"archive": path} | damage.to_json())
        elif not args.quiet:
            for line in lines(path, damage):
                console.put(line)
        if not damage.sound:
            raise ChecksumError("is damaged")

    return console.each(args.archives, lambda path: [path], one)


def _damage(path: str, args: argparse.Namespace) -> "Damage":
    if path == "-":
        raise FileError("--repair-info needs a file")
    checks.source_file(path)
    from densor.formats.damage.salvage import damage

    return damage(path, options=read_options(args))


def lines(path: str, damage: "Damage") -> Iterator[str]:
    """A report for people."""
    if damage.sound:
        protected = "" if damage.protected else "; it has no recovery data"
        yield f"{path}: nothing is lost{protected}"
        return
    for damaged in damage.damaged:
        yield f"{path}: bytes {damaged.begin} to {damaged.end} are damaged: {damaged.what}"
    if damage.truncated:
        yield f"{path}: does not end as an archive ends"
    if not damage.has_index:
        yield f"{path}: no index is left"
    for entry in damage.lost:
        yield from _entry(entry)
    whole = len(damage.entries) - len(damage.lost)
    yield f"{path}: {whole} of {len(damage.entries)} entries are whole"
    if damage.repairable:
        yield f"{path}: densor repair mends all of it"
        return
    if damage.protected:
        yield f"{path}: more is damaged than its recovery data can mend"
    if damage.lost:
        yield f"{path}: densor extract --salvage gets out what is left"


def _entry(entry: "EntryDamage") -> Iterator[str]:
    name = console.escape(name_of(entry))
    for lost in entry.lost:
        end = "its unknown end" if lost.end is None else str(lost.end)
        yield f"{name}: bytes {lost.begin} to {end} are lost: {lost.why}"
    if entry.unplaced:
        yield f"{name}: {entry.unplaced} bytes are left whose place is not known"
    if entry.name is None and not entry.lost:
        yield f"{name}: its name is lost, no bytes are"
    if entry.tensors:
        more = len(entry.tensors) - _MAX_TENSORS
        shown = ", ".join(console.escape(name) for name in entry.tensors[:_MAX_TENSORS])
        yield f"{name}: tensors with lost bytes: {shown}{f' and {more} more' if more > 0 else ''}"


def name_of(entry: "EntryDamage") -> str:
    """What to call an entry."""
    if entry.name:
        return entry.name
    return "an entry" if entry.number is None else f"entry {entry.number}"
