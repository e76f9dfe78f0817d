"""`densor list`: entries and tensors of an archive."""

import argparse
from collections.abc import Iterator
from typing import Any

from densor.cli import console, frame, table
from densor.cli.arguments import Parser, add_flags

_HEADER = ["name", "type", "shape", "original", "stored", "ratio"]
_TREE = ["tree", "original", "stored", "ratio"]


def parser() -> argparse.ArgumentParser:
    """The parser of `densor list`."""
    parser = Parser(
        "list",
        description="Shows what an archive holds. Small tensors share stored bytes, of which\n"
        "each is given its part. Where files are coded against others of the archive, as\n"
        "densor append does, their tree follows.",
    )
    parser.add_argument("archive", metavar="ARCHIVE")
    add_flags(parser, "json")
    parser.add_argument(
        "--hash",
        action="store_true",
        help="write the hash of each file or tensor, as it was stored, and its name: what\n"
        "sha256sum --check reads, if the archive was made with --sha256; nothing is decoded",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the table or the JSON."""
    from densor.runtime.gc_pause import collection_paused

    with collection_paused():
        return frame.archive(args, args.archive, _show)


def _show(args: argparse.Namespace) -> None:
    from densor.cli.contents import describe, opened
    from densor.files.tree import tree

    with opened(args.archive, packed=True) as file:
        entries = describe(file)
        stored, original = file.stored, file.original
        nodes = tree(file.archive.entries)
        digests = [entry.digest.hex() for entry in file.archive.entries]
    if args.json:
        sizes = {"original": original, "stored": stored}
        frame.as_json({"archive": args.archive, **sizes, "entries": entries})
        return
    if args.hash:
        for digest, entry in zip(digests, entries, strict=True):
            console.put(f"{digest}  {console.escape(entry['name'] or '-')}")
        return
    rows = [row for entry in entries for row in _rows(entry)]
    rows.append(["total", "", "", *_sizes(original, stored)])
    console.put(table.render(_HEADER, rows, left=(0, 1, 2)))
    if any(depth for _, depth in nodes):
        console.put("")
        console.put(table.render(_TREE, [_branch(entries[n], d) for n, d in nodes], left=(0,)))


def _rows(entry: dict[str, Any]) -> Iterator[list[str]]:
    yield _row(entry, "")
    for tensor in entry.get("tensors", ()):
        yield _row(tensor, "  ")


def _row(thing: dict[str, Any], indent: str) -> list[str]:
    shape = "x".join(str(size) for size in thing["shape"]) if "shape" in thing else ""
    kind = thing.get("dtype") or thing.get("format") or thing["kind"]
    kind += ", lossy" if thing.get("lossy") else ""
    name = indent + console.escape(thing["name"])
    return [name, console.escape(kind), shape, *_sizes(thing["original"], thing["stored"])]


def _sizes(original: int, stored: int) -> list[str]:
    return [console.size(original), console.size(stored), console.percent(stored, original)]


def _branch(entry: dict[str, Any], depth: int) -> list[str]:
    name = "  " * depth + console.escape(entry["name"])
    return [name, *_sizes(entry["original"], entry["stored"])]
