"""`densor cat`: one file or tensor of an archive to stdout."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densor.cli import console, streams
from densor.cli.arguments import Parser, add_force, add_quiet, add_threads
from densor.errors import ChecksumError, FileError

if TYPE_CHECKING:
    from densor.formats.archive import Archive, IndexedEntry
    from densor.formats.source import Bytes

_PIECE = 1 << 25


def parser() -> argparse.ArgumentParser:
    """The parser of `densor cat`."""
    found = Parser("cat", description="Writes a file, or the bytes of a tensor, to stdout.")
    found.add_argument("archive", metavar="ARCHIVE")
    found.add_argument("name", metavar="NAME", help="of the file or tensor, see densor list")
    add_threads(found)
    add_force(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the bytes."""
    return console.archive(args.archive, lambda path: _write(path, args))


def _write(path: str, args: argparse.Namespace) -> None:
    from densor.cli.contents import opened
    from densor.formats.output import write_all

    out = streams.stdout(args.force, archive=False)
    with opened(path, args.threads) as found:
        for piece in _pieces(found.archive, args.name):
            write_all(out, piece)
    out.flush()


def _pieces(archive: "Archive", name: str) -> "Iterator[Bytes]":
    for entry in archive.entries:
        if entry.meta.name == name:
            return _entry(archive, entry)
    if name in archive.tensors():
        entry, tensor = archive.tensors()[name]
        return _range(archive, entry, tensor.offset, tensor.offset + tensor.size)
    raise FileError(f"no file or tensor named {name!r}; see densor list")


def _entry(archive: "Archive", entry: "IndexedEntry") -> "Iterator[Bytes]":
    from densor.formats.hashing import new_hash

    hasher = new_hash(entry.meta.hash)
    for piece in _range(archive, entry, 0, entry.size):
        hasher.update(piece)
        yield piece
    if hasher.digest() != entry.digest:
        raise ChecksumError(f"{entry.meta.name}: decoded data does not match its hash")


def _range(archive: "Archive", entry: "IndexedEntry", begin: int, end: int) -> "Iterator[Bytes]":
    for at in range(begin, end, _PIECE):
        yield archive.read(entry, at, min(end, at + _PIECE))
