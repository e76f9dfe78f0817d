"""`densor info`: how an archive is coded."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densor.cli import console, frame, table
from densor.cli.arguments import Parser

if TYPE_CHECKING:
    from densor.cli.contents import Opened


def parser() -> argparse.ArgumentParser:
    """The parser of `densor info`."""
    parser = Parser("info", description="Shows how an archive is coded.")
    parser.add_argument("archive", metavar="ARCHIVE")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints what the index says."""
    return frame.archive(args, args.archive, _show)


def _show(args: argparse.Namespace) -> None:
    path = args.archive
    from densor.cli.contents import opened, recovery_share

    with opened(path) as file:
        models = list(file.archive.models())
        facts = [*_facts(file, len(models)), *_language_models(models), *_image_models(models)]
        chunks = [["chunks", "number", "original", "stored", "ratio"], *_chunks(file, models)]
        hashes = list(_hashes(file))
    recovery = recovery_share(path)
    facts += [("recovery", recovery)] if recovery else []
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.put(f"{name:{width}}  {value}")
    if len(chunks) > 1:
        console.put(f"\n{table.render(chunks[0], chunks[1:])}")
    if hashes:
        console.put(
            f"\n{table.render(['hash', 'of the original', 'entry'], hashes, left=(0, 1, 2))}"
        )


def _facts(file: "Opened", models: int) -> Iterator[tuple[str, str]]:
    from densor.cli.contents import lossy_names
    from densor.formats.container import wire

    archive = file.archive
    yield "format version", str(file.version)
    names = {wire.BACKREFS: "back references", wire.BASE: "bases"}
    features = [name for bit, name in names.items() if archive.features & bit]
    yield "features", ", ".join(features) or "none"
    yield "entries", str(len(archive.entries))
    yield "tensors", str(len(archive.tensors()))
    yield "frames", f"{archive.frames.kinds.size}, {models} of them models"
    for lossy in lossy_names(archive.entries):
        yield "lossy", lossy
    ratio = console.percent(file.stored, file.original)
    yield "original", f"{console.size(file.original)} ({file.original} bytes)"
    yield "stored", f"{console.size(file.stored)} ({file.stored} bytes, {ratio})"


def _language_models(models: list[bytes]) -> Iterator[tuple[str, str]]:
    """Those that decoding needs, by name and digest."""
    from densor.codec import registry
    from densor.codec.language_model.params import parse

    names = {}
    for payload in models:
        if payload[:1] == bytes([registry.CODEC_LANGUAGE_MODEL]):
            model = parse(payload)
            name = console.escape(model.name) or "without a name, to be given with --llm"
            names[model.network] = f"{name} ({model.network.hex()})"
    for text in names.values():
        yield "language model", text


def _image_models(models: list[bytes]) -> Iterator[tuple[str, str]]:
    """Those that images were coded under, and of what size these are."""
    from densor.codec import registry
    from densor.codec.circuit.params import parse

    found = {parse(m) for m in models if m[:1] == bytes([registry.CODEC_CIRCUIT])}
    for model in sorted(found, key=lambda model: model.digest):
        size = model.size
        shape = f"{size.height} x {size.width} x {size.channels}"
        yield "image model", f"{model.digest.hex()}, of {shape} images; see --image-model"


def _chunks(file: "Opened", models: list[bytes]) -> Iterator[list[str]]:
    """Chunks by kind of coding, with the bytes that they stand for and those stored."""
    from densor.cli.contents import coded

    for row in coded(file.archive, models):
        sizes = [console.size(row.original), console.size(row.stored)]
        yield [row.codec, str(row.chunks), *sizes, console.percent(row.stored, row.original)]


def _hashes(file: "Opened") -> Iterator[list[str]]:
    from densor.cli.contents import hash_name

    for entry in file.archive.entries:
        yield [hash_name(entry), entry.digest.hex(), console.escape(entry.meta.name)]
