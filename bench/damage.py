"""What codecs do with damaged data: refuse it, return wrong data, or bring the process down.

    python -m bench.damage INPUT [--codecs a,b] [--flips 500] [--cuts 200] [--seed 0] [--out DIR]

INPUT is a safetensors file, of which one stretch of its largest tensor is compressed by each codec.
Then, each time in a process of its own, one bit of what is stored is flipped, or its end is cut
off, at a seeded place, and it is decompressed. Writes ``damage.md`` into DIR and prints it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

import densor
from bench import machine
from bench.codecs import load_codecs
from bench.tensors import ITEMSIZE, read_safetensors
from densor.compare.adapters import Zstd
from densor.compare.codec import Codec, Item
from densor.compare.timing import difference

NAMES = ["zstd-3", "zipnn", "pcodec", "openzl", "lmzip", "glyd", "densor-3"]
STRETCH = 1 << 20  # bytes of the tensor that are compressed
SECONDS = 20  # after which decompressing is taken to hang
MEMORY = 16 << 30  # bytes of address space that a child may have

RIGHT, REFUSED, WRONG, CRASH = "right data", "refused", "wrong data", "crash"
OUTCOMES = (REFUSED, WRONG, RIGHT, CRASH)
_CODES = {10: RIGHT, 11: REFUSED, 12: WRONG}

Damage = Callable[[bytes, np.random.Generator], bytes]


class ZstdChecked(Zstd):
    """Zstandard with the checksum that its command line writes and its library leaves out."""

    def encode(self, item: Any, threads: int) -> Any:
        return zstandard.ZstdCompressor(level=self.level, write_checksum=True).compress(item)


class DensorRepaired(Codec):
    """Densor with 5 % of recovery data; what is damaged is repaired first."""

    package = "densor"
    dtypes = dict.fromkeys(ITEMSIZE)

    def version(self) -> str:
        return str(densor.__version__)

    def compress(self, prepared: Any, threads: int) -> Any:
        (data,) = prepared
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data.tobytes()), out, threads=1, dtype="bf16", recovery=5)
        return [out.getvalue()]

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        restored = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "archive"
            path.write_bytes(state[0])
            densor.archives.repair(path)
            densor.decompress_file(path, restored, threads=1)
        return [restored.getvalue()]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """One bit is another one."""
    out = bytearray(data)
    out[int(rng.integers(0, len(out)))] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing: up to all of it, a few bytes as often as many."""
    missing = int(len(data) ** float(rng.uniform(0, 1)))
    return data[: len(data) - min(missing, len(data))]


def damaged(state: Any, damage: Damage, rng: np.random.Generator) -> Any:
    """What a codec has stored, damaged in one place; numbers that it keeps apart stay."""
    blobs = _blobs(state)
    sizes = np.array([len(blob) for blob in blobs], float)
    chosen = int(rng.choice(len(blobs), p=sizes / sizes.sum()))
    return _replaced(state, blobs[chosen], damage(bytes(blobs[chosen]), rng))


def _blobs(state: Any) -> list[Any]:
    if isinstance(state, bytes | bytearray | memoryview):
        return [state] if len(state) else []
    if isinstance(state, list | tuple):
        return [blob for item in state for blob in _blobs(item)]
    return []


def _replaced(state: Any, old: Any, new: bytes) -> Any:
    if state is old:
        return type(old)(new)
    if isinstance(state, list | tuple):
        return type(state)(_replaced(item, old, new) for item in state)
    return state


def outcome(codec: Codec, state: Any, tensor: Item) -> str:
    """How decompressing ends, in a process of its own."""
    child = os.fork()
    if not child:
        code = 11
        try:
            _limit()
            buffers = codec.decompress(state, 1)
            code = 12
            code = 12 if difference([tensor], buffers) else 10
        finally:  # an exception is a refusal, one while comparing is wrong data
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return _CODES.get(os.waitstatus_to_exitcode(status), CRASH)


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def measure(codec: Codec, tensor: Item, damage: Damage, count: int, seed: int) -> Counter[str]:
    """How often each outcome came about; RuntimeError if undamaged data does not come back."""
    state = codec.compress(codec.prepare([tensor]), 1)
    if outcome(codec, state, tensor) != RIGHT:
        raise RuntimeError("does not restore what is not damaged")
    rng = np.random.default_rng(seed)
    return Counter(outcome(codec, damaged(state, damage, rng), tensor) for _ in range(count))


def stretch(path: Path) -> Item:
    """The middle of the largest tensor of a file."""
    largest = max(read_safetensors(path), key=lambda tensor: tensor.data.nbytes)
    begin = (largest.data.nbytes - STRETCH) // 2 // 16 * 16
    data = largest.data[max(0, begin) : max(0, begin) + STRETCH].copy()
    shape = (data.nbytes // ITEMSIZE[largest.dtype],)
    return Item(largest.name, largest.dtype, shape, data)


def row(name: str, codec: Codec, flips: Counter[str], cuts: Counter[str]) -> str:
    """A line of the table."""
    cells = [*(flips[o] for o in OUTCOMES), *(cuts[o] for o in OUTCOMES)]
    return f"| {name} | {codec.version()} | {' | '.join(map(str, cells))} |"


def table(codecs: list[Codec], tensor: Item, flips: int, cuts: int, seed: int) -> list[str]:
    """The table, as Markdown."""
    kinds = [f"{n} {word}: {o}" for n, word in ((flips, "flips"), (cuts, "cuts")) for o in OUTCOMES]
    lines = [f"| codec | version | {' | '.join(kinds)} |", "|---|---|" + "---:|" * len(kinds)]
    for codec in codecs:
        print(f"damaging what {codec.name} stores", file=sys.stderr)
        try:
            by_flips = measure(codec, tensor, flipped, flips, seed)
            by_cuts = measure(codec, tensor, cut, cuts, seed + 1)
        except Exception as error:  # whatever a peer raises is its result
            lines.append(f"| {codec.name} | {codec.version()} | {type(error).__name__}: {error} |")
            continue
        lines.append(row(codec.name, codec, by_flips, by_cuts))
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if Densor has not refused all damage."""
    parser = argparse.ArgumentParser(prog="python -m bench.damage")
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("--codecs", type=lambda text: text.split(","), default=NAMES)
    parser.add_argument("--flips", type=int, default=500, metavar="N")
    parser.add_argument("--cuts", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    args = parser.parse_args(argv)
    tensor = stretch(args.input)
    codecs, absent = load_codecs(args.codecs)
    extra = [ZstdChecked("zstd-3, checksum", 3), DensorRepaired("densor-3, 5 % recovery, repaired")]
    lines = table([*codecs, *extra], tensor, args.flips, args.cuts, args.seed)
    about = [f"- {label}: {text}" for label, text in machine.describe().items()]
    about += [f"- absent: {name}: {reason}" for name, reason in absent.items()]
    what = (
        f"- input: {tensor.data.nbytes} bytes of {tensor.name} ({tensor.dtype}), seed {args.seed}"
    )
    text = "\n".join([*lines, "", what, *about, ""])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "damage.md").write_text(text)
    print(text)
    ours = [line for line in lines if line.startswith("| densor-3 |")]
    with contextlib.suppress(IndexError):
        cells = [cell.strip() for cell in ours[0].split("|")[3:-1]]
        return int(any(cells[i] != "0" for i in (1, 3, 5, 7)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
