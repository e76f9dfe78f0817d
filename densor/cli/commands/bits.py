"""`densor bits`: how much information a file holds for a model of text."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from densor.cli import checks, console, frame, streams
from densor.cli.arguments import Parser, add_flags, byte_count

if TYPE_CHECKING:
    from densor.codec.language_model.meter import Cost
    from densor.formats.io.sources import Bytes

_ON_PAGE = 1 << 16  # bytes that a page shows


def parser() -> argparse.ArgumentParser:
    """The parser of `densor bits`."""
    parser = Parser(
        "bits",
        description="Measures a file with the model of text that -9 has, or with a language model\n"
        "mixed with it, as --llm codes: per byte and per token, and what the language\n"
        "model alone would take. The headers of archives are left out.",
    )
    parser.add_argument("file", metavar="FILE", help="what to measure; - is stdin")
    parser.add_argument(
        "--html",
        metavar="OUT",
        help="write a page that shows the bits of each character, or each token, of the first\n"
        "64 KiB",
    )
    parser.add_argument(
        "--first", type=byte_count, metavar="N[K|M|G]", help="measure the first N bytes only"
    )
    add_flags(parser, "language_model", "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints bits per byte, and writes the page."""
    return frame.archive(args, args.file, _measure, console.STDIN)


def _measure(args: argparse.Namespace) -> None:
    path = args.file
    from densor.formats.io.outputs import errors_of

    if args.html is not None:
        checks.target_file(args.html, args.overwrite, path)
    report = _report if args.language_model is None else _report_tokens
    if args.file == streams.DASH:
        report(console.STDIN, streams.stdin(args.overwrite), args)
        return
    with errors_of(Path(path)), Path(path).open("rb") as file:
        report(path, file, args)


def _pieces(file: BinaryIO, first: int | None) -> "Iterator[Bytes]":
    """The file in pieces as large as the model of text takes them, up to so many bytes."""
    import numpy as np

    from densor.codec.byte_cm.params import MAX_SEGMENT

    left = first
    while data := file.read(MAX_SEGMENT if left is None else min(MAX_SEGMENT, left)):
        left = None if left is None else left - len(data)
        yield np.frombuffer(data, np.uint8)


def _report(name: str, file: BinaryIO, args: argparse.Namespace) -> None:
    from densor import text
    from densor.cli import heat

    size = total = 0
    shown = b""
    with _progress(name, args) as moved:
        for piece in _pieces(file, args.first):
            shown = shown if size else piece[:_ON_PAGE].tobytes()
            size += piece.size
            total += text.bits(piece)
            if moved is not None:
                moved(piece.size)
    summary = _summary(size, total)
    console.put(f"{console.escape(name)}: {summary}")
    if args.html is not None:
        import numpy as np

        costs = text.surprise(np.frombuffer(shown, np.uint8)).tolist()
        _write(heat.page(name, shown, costs, summary + _cut(size, len(shown))), args)


def _report_tokens(name: str, file: BinaryIO, args: argparse.Namespace) -> None:
    from densor.cli import heat
    from densor.text import token_costs

    count = _Count()
    shown: list[Cost] = []
    with _progress(name, args) as moved:
        for piece in _pieces(file, args.first):
            for cost in token_costs(piece, args.language_model, moved):
                if count.size < _ON_PAGE:
                    shown.append(cost)
                count.add(cost)
    lines = list(count.lines(console.escape(args.language_model)))
    console.put(f"{console.escape(name)}: {lines[0]}")
    for line in lines[1:]:
        console.put(f"  {line}")
    if args.html is not None:
        lines[0] += _cut(count.size, sum(len(cost.text) for cost in shown))
        _write(heat.token_page(name, shown, lines), args)


class _Count:
    """What tokens take, added up."""

    def __init__(self) -> None:
        self.size = 0
        self._bits = 0.0
        self._tokens = self._token_bytes = 0
        self._token_bits = self._alone = 0.0

    def add(self, cost: "Cost") -> None:
        """One more."""
        self.size += len(cost.text)
        self._bits += cost.bits
        if cost.alone is not None:
            self._tokens += 1
            self._token_bytes += len(cost.text)
            self._token_bits += cost.bits
            self._alone += cost.alone

    def lines(self, model: str) -> Iterator[str]:
        """All of it in words."""
        yield f"{_summary(self.size, self._bits)}, {model} mixed with the model of -9"
        if not self._tokens:
            yield "no tokens: this is not what the language model is asked about"
            return
        yield (
            f"{self._tokens} tokens, {self._token_bits / self._tokens:.3f} bits per token; "
            f"the language model alone: {self._alone / self._tokens:.3f}, "
            f"{self._alone / self._token_bytes:.3f} bits per byte"
        )
        if self._token_bytes < self.size:
            others = self.size - self._token_bytes
            yield (
                f"{others} bytes outside of tokens, "
                f"{(self._bits - self._token_bits) / others:.3f} bits per byte"
            )


def _summary(size: int, bits: float) -> str:
    per_byte = f"{bits / size:.3f}" if size else "-"
    return f"{size} bytes, {per_byte} bits per byte ({console.percent(round(bits), 8 * size)})"


def _cut(size: int, shown: int) -> str:
    return f"; the first {shown} bytes" if shown < size else ""


@contextlib.contextmanager
def _progress(name: str, args: argparse.Namespace) -> "Iterator[Callable[[int], object] | None]":
    def total() -> int | None:
        size = None if args.file == streams.DASH else streams.regular_size(args.file)
        return size if args.first is None or size is None else min(size, args.first)

    with console.progress(name, total, args.quiet) as moved:
        yield moved


def _write(content: str, args: argparse.Namespace) -> None:
    from densor.files.opened import open_output
    from densor.formats.io.outputs import write_all

    with open_output(args.html, args.overwrite) as out:
        write_all(out, content.encode())
