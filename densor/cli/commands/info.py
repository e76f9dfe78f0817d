"""`densor info`: how an archive is coded."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densor.cli import console, table
from densor.cli.arguments import Parser

if TYPE_CHECKING:
    from densor.cli.contents import Opened


def parser() -> argparse.ArgumentParser:
    """The parser of `densor info`."""
    found = Parser("info", description="Shows how an archive is coded.")
    found.add_argument("archive", metavar="ARCHIVE")
    return found


def run(args: argparse.Namespace) -> int:
    """Prints what the index says."""
    return console.archive(args.archive, _show)


def _show(path: str) -> None:
    from densor.cli.contents import opened

    with opened(path) as found:
        facts = list(_facts(found))
        chunks = [["chunks", "number", "original", "stored", "ratio"], *_chunks(found)]
        hashes = list(_hashes(found))
    facts += _recovery(path)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.put(f"{name:{width}}  {value}")
    if len(chunks) > 1:
        console.put(f"\n{table.render(chunks[0], chunks[1:])}")
    if hashes:
        console.put(
            f"\n{table.render(['hash', 'of the original', 'entry'], hashes, left=(0, 1, 2))}"
        )


def _facts(found: "Opened") -> Iterator[tuple[str, str]]:
    from densor.formats import wire

    archive = found.archive
    models = int((archive.frames.kinds == wire.MODEL).sum())
    yield "format version", str(found.version)
    names = {wire.BACKREFS: "back references", wire.BASE: "bases"}
    features = [name for bit, name in names.items() if archive.features & bit]
    yield "features", ", ".join(features) or "none"
    yield "entries", str(len(archive.entries))
    yield "tensors", str(len(archive.tensors()))
    yield "frames", f"{archive.frames.kinds.size}, {models} of them models"
    ratio = console.percent(found.stored, found.original)
    yield "original", f"{console.size(found.original)} ({found.original} bytes)"
    yield "stored", f"{console.size(found.stored)} ({found.stored} bytes, {ratio})"


def _recovery(path: str) -> list[tuple[str, str]]:
    """How much recovery data there is."""
    from densor.cli.contents import random_source
    from densor.formats.recovery import find_layout

    with random_source(path) as source:
        layout = find_layout(source, thorough=False)
    return [] if layout is None else [("recovery", f"{layout.percent:g}%")]


def _chunks(found: "Opened") -> Iterator[list[str]]:
    """Chunks by kind of coding, with the bytes that they stand for and those stored."""
    from densor.codec import registry
    from densor.formats import wire

    frames = found.archive.frames
    chunk = frames.kinds == wire.CHUNK
    for name, chosen in (
        ("planes", chunk & (frames.models >= registry.FIRST_MODEL)),
        ("Zstandard", chunk & (frames.models == registry.MODEL_ZSTD)),
        ("raw", chunk & (frames.models == registry.MODEL_RAW)),
        ("repeated", frames.kinds == wire.REF),
    ):
        original, stored = int(frames.original[chosen].sum()), int(frames.stored[chosen].sum())
        if chosen.any():
            sizes = [console.size(original), console.size(stored)]
            yield [name, str(int(chosen.sum())), *sizes, console.percent(stored, original)]


def _hashes(found: "Opened") -> Iterator[list[str]]:
    from densor.cli.contents import hash_name

    for entry in found.archive.entries:
        yield [hash_name(entry), entry.digest.hex(), console.escape(entry.meta.name)]
