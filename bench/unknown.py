"""Files of which nothing is known: types found in bytes, and whether higher levels are smaller.

    python -m bench.unknown MODEL.safetensors [--ncnn FILE...] [--files FILE...] [--out DIR]

* What looking for types costs and brings, at level 3: weights of the model as BF16, F16 and F32
  without a header, at odd offsets, one type after the other, in cuts from 256 KB on; files of ncnn,
  which are F16; and FILEs that may hold no numbers. Sizes are compared with those of the same bytes
  with their type told, and without looking.
* All FILEs at all levels: the pair of levels of which the higher one is the most larger.
* The model's matrices in NVFP4 and MXFP4, beside a bound and `zstd -19`.

Time is of the processor, in one thread, the median of several runs. Writes ``unknown.md`` into DIR.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from bench import machine
from bench.four_bits import Bytes, Floats, entropy, entropy_of_scales, halves, mxfp4, nvfp4
from bench.inputs import as_tensor, load_fp32, to_bf16
from bench.report import markdown_table
from bench.tensors import safetensors_bytes
from densor.codec.batch import Batch
from densor.codec.kind import BYTES
from densor.codec.levels import Level
from densor.codec.types.divide import Piece, divide
from densor.files.single import compress_file
from densor.formats.container import writer

LEVEL = 3
LEVELS = range(1, 10)
CUTS = (1 << 18, 1 << 20, 3 << 20, 10 << 20)
_MOST_OF_FILE = 3 << 20  # bytes at all levels
_ENOUGH, _RUNS = 1.0, (5, 40)  # seconds of one input, and least and most runs
CASTS: dict[str, Callable[[Floats], object]] = {
    "BF16": to_bf16,
    "F16": lambda x: x.astype(np.float16),
    "F32": lambda x: x,
}


class Input(NamedTuple):
    """Bytes, and what they are made of: types and bytes, one after the other."""

    name: str
    data: bytes
    parts: list[tuple[str | None, bytes]]


class Cost(NamedTuple):
    """What looking takes, over all else, and sizes: found, told, and without looking."""

    share: float
    found: int
    told: int
    plain: int


def stored(data: bytes, level: int = LEVEL, dtype: str | None = None) -> int:
    """Bytes of an archive of a file without a name that tells."""
    out = io.BytesIO()
    compress_file(io.BytesIO(data), out, level, dtype=dtype, name="file", threads=1)
    return len(out.getvalue())


def nothing(batch: Batch, level: Level) -> list[Piece]:
    """As if no type was looked for."""
    return [Piece(0, batch.data.size, BYTES)]


def cost(given: Input) -> Cost:
    """Measures one input."""
    spent = 0.0

    def timed(batch: Batch, level: Level) -> list[Piece]:
        nonlocal spent
        begin = time.thread_time()
        pieces = divide(batch, level)
        spent += time.thread_time() - begin
        return pieces

    shares: list[float] = []
    end = time.monotonic() + _ENOUGH
    try:
        writer.divide = timed
        while len(shares) < _RUNS[0] or (time.monotonic() < end and len(shares) < _RUNS[1]):
            spent, begin = 0.0, time.process_time()
            found = stored(given.data)
            shares.append(spent / (time.process_time() - begin - spent))
        writer.divide = nothing
        plain = stored(given.data)
    finally:
        writer.divide = divide
    told = sum(stored(part, dtype=dtype) for dtype, part in given.parts)
    return Cost(statistics.median(shares), found, told if given.parts else plain, plain)


def model_bytes(model: dict[str, Floats], dtype: str) -> bytes:
    """The numbers of a file of a model, without its header."""
    return b"".join(np.asarray(CASTS[dtype](x)).tobytes() for x in model.values())


def typed_inputs(model: dict[str, Floats], ncnn: Sequence[Path]) -> Iterator[Input]:
    """Numbers in files of unknown format."""
    text = Path(__file__).read_bytes()
    mixed: list[tuple[str | None, bytes]] = []
    for dtype in CASTS:
        data = model_bytes(model, dtype)
        middle = data[len(data) // 2 :]
        for size in CUTS:
            yield Input(f"{dtype}, {size >> 10} KB", middle[:size], [(dtype, middle[:size])])
        yield Input(f"{dtype}, without header", data, [(dtype, data)])
        odd = middle[: 8 << 20]
        yield Input(f"{dtype}, at offset 3", text[:3] + odd, [(None, text[:3]), (dtype, odd)])
        mixed += [(dtype, odd), (None, text)]
    yield Input("BF16, text, F16, text, F32, text", b"".join(part for _, part in mixed), mixed)
    for path in ncnn:
        yield Input(f"ncnn {path.name}", path.read_bytes(), [("F16", path.read_bytes())])


def files_of(paths: Sequence[Path]) -> Iterator[Input]:
    """The first megabytes of files."""
    for path in paths:
        yield Input(path.name, path.read_bytes()[:_MOST_OF_FILE], [])


def detection_table(inputs: Iterator[Input]) -> str:
    """A line for each input."""
    lines = []
    for given in inputs:
        if not given.data:
            continue
        print(f"looking at {given.name}", file=sys.stderr)
        found = cost(given)
        size = len(given.data)
        more = f"{100 * (found.found / found.told - 1):+.2f} %" if given.parts else ""
        lines.append([
            given.name, f"{size / 1e6:.2f}", f"{found.found / size:.4f}",
            f"{found.told / size:.4f}" if given.parts else "", more, f"{found.plain / size:.4f}",
            f"{found.found - found.plain:+d}", f"{100 * found.share:.1f} %",
        ])  # fmt: skip
    head = ["input", "MB", "found", "told", "more than told", "as bytes", "bytes more", "time"]
    return markdown_table(head, lines)


def level_table(inputs: Iterator[Input]) -> str:
    """What each file takes at each level, and how much more at most than at a lower level."""
    lines = []
    for given in inputs:
        print(f"all levels of {given.name}", file=sys.stderr)
        sizes = [stored(given.data, level) for level in LEVELS]
        worst = max(
            (high - low, 100 * (high / low - 1)) for low, high in itertools.combinations(sizes, 2)
        )
        lines.append([given.name, *map(str, sizes), f"{worst[0]:+d}", f"{worst[1]:+.2f} %"])
    return markdown_table(["file", *map(str, LEVELS), "most more", ""], lines)


def four_bits(model: dict[str, Floats], quantise: Callable[[Floats], tuple[Bytes, Bytes]],
              dtype: str) -> tuple[bytes, float]:  # fmt: skip
    """A safetensors file of a model's matrices, and the bound of what is in it."""
    items, least, weights = [], 0.0, []
    for name, matrix in model.items():
        if matrix.ndim == 2 and matrix.shape[1] % 32 == 0 and "embeddings" not in name:
            packed, scales = quantise(matrix)
            items.append(as_tensor(f"{name}_packed", "U8", packed))
            items.append(as_tensor(f"{name}_scale", dtype, scales))
            weights.append(halves(packed))
            least += entropy_of_scales(scales)
    return safetensors_bytes(items), least + entropy(np.concatenate(weights))


def four_bits_table(model: dict[str, Floats]) -> str:
    """Both formats beside the bound and Zstandard."""
    lines = []
    for name, quantise, dtype in (("NVFP4", nvfp4, "F8_E4M3"), ("MXFP4", mxfp4, "U8")):
        data, least = four_bits(model, quantise, dtype)
        by_zstd = len(zstandard.compress(data, 19))
        cells = [f"{n / 1e6:.3f}" for n in (len(data), by_zstd, least)]
        for level in (3, 6):
            size = stored(data, level)
            cells.append(f"{size / 1e6:.3f} ({100 * (size / least - 1):+.1f} %)")
        lines.append([name, *cells])
    return markdown_table(["MB", "file", "`zstd -19`", "bound", "level 3", "level 6"], lines)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.unknown")
    parser.add_argument("model", type=Path, metavar="MODEL.safetensors")
    parser.add_argument("--ncnn", nargs="*", default=[], type=Path, metavar="FILE")
    parser.add_argument("--files", nargs="*", default=[], type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    model = load_fp32(args.model)
    described = list(machine.describe().items())
    looked = itertools.chain(typed_inputs(model, args.ncnn), files_of(args.files))
    parts = ["# Files of unknown format", "", "## Types found in bytes, level 3", ""]
    parts += [detection_table(looked), "", "## Levels", "", level_table(files_of(args.files)), ""]
    parts += ["## Weights of 4 bits", "", four_bits_table(model), ""]
    parts += ["## Machine", "", markdown_table(["what", "value"], described, 2)]
    text = "\n".join(parts) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "unknown.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
