"""`densor cat`: one file or tensor of an archive to stdout."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densor.cli import frame, streams
from densor.cli.arguments import Parser, add_flags, read_options
from densor.errors import FileError, UnsupportedError

if TYPE_CHECKING:
    from densor.formats.container.archive import Archive
    from densor.formats.container.listed_entries import IndexedEntry
    from densor.formats.io.sources import Bytes
    from densor.formats.tensors import TensorInfo


def parser() -> argparse.ArgumentParser:
    """The parser of `densor cat`."""
    parser = Parser("cat", description="Writes a file, or the bytes of a tensor, to stdout.")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("name", metavar="NAME", help="of the file or tensor, see densor list")
    add_flags(parser, "threads", "base", "language_model", "image_model")
    add_flags(parser, "max_output_size", "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the bytes."""
    return frame.archive(args, args.archive, _write)


def _write(args: argparse.Namespace) -> None:
    from densor.cli.contents import opened
    from densor.formats.io.outputs import write_all

    out = streams.stdout(args.overwrite, archive=False)
    with opened(args.archive, read_options(args), packed=True) as file:
        for piece in _pieces(file.archive, args.name):
            write_all(out, piece)
    out.flush()


def _pieces(archive: "Archive", name: str) -> "Iterator[Bytes]":
    from densor.formats.container.entry import DIR

    for entry in archive.entries:
        if entry.meta.name == name and entry.meta.kind == DIR:
            raise FileError(f"{name!r} is a folder; see densor extract")
        if entry.meta.name == name:
            archive.check_size({entry.number: entry.size})
            return archive.pieces(entry)
    others = archive.others()
    if name in others:
        return iter([_other(archive, *others[name])])
    if name in archive.tensors():
        entry, tensor = archive.tensors()[name]
        archive.check_size({entry.number: tensor.size})
        return archive.pieces(entry, tensor.offset, tensor.offset + tensor.size)
    raise FileError(f"no file or tensor named {name!r}; see densor list")


def _other(archive: "Archive", entry: "IndexedEntry", tensor: "TensorInfo") -> "Bytes":
    """The bytes of a tensor that does not lie in its file as it is."""
    from densor import arrays
    from densor.formats.tensors import is_readable, unreadable

    if not is_readable(tensor):
        raise UnsupportedError(unreadable(tensor))
    archive.check_size({entry.number: tensor.size})
    data = archive.read(entry, tensor.offset, tensor.offset + tensor.size)
    return data if tensor.view is None else arrays.viewed(tensor, data)
