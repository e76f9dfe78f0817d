"""`densor cat`: one file or tensor of an archive to stdout."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densor.cli import console, streams
from densor.cli.arguments import (
    Parser,
    add_base,
    add_force,
    add_llm,
    add_max_size,
    add_quiet,
    add_threads,
)
from densor.errors import FileError

if TYPE_CHECKING:
    from densor.formats.container.archive import Archive
    from densor.formats.io.sources import Bytes


def parser() -> argparse.ArgumentParser:
    """The parser of `densor cat`."""
    found = Parser("cat", description="Writes a file, or the bytes of a tensor, to stdout.")
    found.add_argument("archive", metavar="ARCHIVE")
    found.add_argument("name", metavar="NAME", help="of the file or tensor, see densor list")
    add_threads(found)
    add_base(found)
    add_llm(found)
    add_max_size(found)
    add_force(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the bytes."""
    return console.archive(args.archive, lambda path: _write(path, args))


def _write(path: str, args: argparse.Namespace) -> None:
    from densor.cli.contents import opened
    from densor.formats.io.outputs import write_all

    out = streams.stdout(args.force, archive=False)
    with opened(path, args.threads, args.base, args.max_size, args.llm) as found:
        for piece in _pieces(found.archive, args.name):
            write_all(out, piece)
    out.flush()


def _pieces(archive: "Archive", name: str) -> "Iterator[Bytes]":
    for entry in archive.entries:
        if entry.meta.name == name:
            archive.check_size({entry.number: entry.size})
            return archive.pieces(entry)
    if name in archive.tensors():
        entry, tensor = archive.tensors()[name]
        archive.check_size({entry.number: tensor.size})
        return archive.pieces(entry, tensor.offset, tensor.offset + tensor.size)
    raise FileError(f"no file or tensor named {name!r}; see densor list")
