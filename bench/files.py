"""Sizes of whole files packed by Densor and by codecs that take any file.

    python -m bench.files FILE... [--dtype f16] [--levels 3,6,9] [--out DIR]

Every file is packed and restored; a codec that does not give the same bytes is an error. `--dtype`
is told to the codecs that must be told what a file's bytes are. Writes ``files.md`` into DIR.
"""

from __future__ import annotations

import argparse
import lzma
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from bench import machine
from bench.report import markdown_table

Pack = Callable[[Path, Path], None]  # from a file to a file
Unpack = Callable[[Path, Path], None]


def _in_memory(
    pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]
) -> tuple[Pack, Unpack]:
    return (
        lambda source, target: _write(target, pack(source.read_bytes())),
        lambda source, target: _write(target, unpack(source.read_bytes())),
    )


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)


def _densor(level: int) -> tuple[Pack, Unpack]:
    densor = import_module("densor")
    return (
        lambda source, target: densor.compress_file(source, target, level, 1, overwrite=True),
        lambda source, target: densor.decompress_file(source, target, 1, overwrite=True),
    )


def _zstd() -> tuple[Pack, Unpack]:
    zstandard = import_module("zstandard")
    return _in_memory(
        zstandard.ZstdCompressor(level=19).compress, zstandard.ZstdDecompressor().decompress
    )


def _xz() -> tuple[Pack, Unpack]:
    return _in_memory(lambda data: lzma.compress(data, preset=9), lzma.decompress)


def _zipnn(dtype: str | None) -> tuple[Pack, Unpack]:
    zipnn = import_module("zipnn")
    names = {"f16": "float16", "f32": "float32", "bf16": "bfloat16"}
    coder = zipnn.ZipNN(input_format="byte", bytearray_dtype=names[dtype or "f32"], threads=1)
    return _in_memory(
        lambda data: bytes(coder.compress(bytearray(data))),
        lambda data: bytes(coder.decompress(data)),
    )


def _lmzip() -> tuple[Pack, Unpack]:
    lmz = import_module("lmz")
    return (
        lambda source, target: lmz.compress(str(source), str(target), workers=1),
        lambda source, target: lmz.decompress(str(source), str(target), overwrite=True),
    )


def _glyd() -> tuple[Pack, Unpack]:
    glyd = import_module("glyd")
    return _in_memory(lambda data: glyd.compress(data, threads=1), glyd.decompress)


def _z4ai(dtype: str | None) -> tuple[Pack, Unpack]:
    z4ai = import_module("z4ai")
    names = {"f16": "fp16", "f32": "fp32", "bf16": "bf16"}
    return _in_memory(
        lambda data: z4ai.compress(data, dtype=names.get(dtype or ""), threads=1), z4ai.decompress
    )


def codecs(
    levels: Sequence[int], dtype: str | None
) -> dict[str, Callable[[], tuple[Pack, Unpack]]]:
    """All codecs by name; a call imports one."""
    ours = {f"densor-{level}": partial(_densor, level) for level in levels}
    return ours | {
        "zstd-19": _zstd, "xz-9": _xz, "zipnn": lambda: _zipnn(dtype), "lmzip": _lmzip,
        "glyd": _glyd, "z4ai": lambda: _z4ai(dtype),
    }  # fmt: skip


def measured(path: Path, make: Callable[[], tuple[Pack, Unpack]]) -> tuple[str, str, str]:
    """Ratio and speeds in MB/s, or what went wrong."""
    try:
        pack, unpack = make()
        with tempfile.TemporaryDirectory() as folder:
            packed, again = Path(folder) / "packed", Path(folder) / "again"
            begin = time.perf_counter()
            pack(path, packed)
            middle = time.perf_counter()
            unpack(packed, again)
            end = time.perf_counter()
            if again.is_dir():
                (again,) = again.iterdir()
            if again.read_bytes() != path.read_bytes():
                return "wrong bytes", "", ""
            size = path.stat().st_size
            ratio = f"{packed.stat().st_size / size:.4f}"
            speeds = f"{size / (middle - begin) / 1e6:.1f}", f"{size / (end - middle) / 1e6:.1f}"
            return (ratio, *speeds)
    except Exception as error:  # whatever a peer raises is its result
        return f"{type(error).__name__}: {error}".replace("|", "/")[:80], "", ""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.files")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--dtype", choices=("f16", "f32", "bf16"))
    parser.add_argument("--levels", default="3,6,9", metavar="a,b")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; what failed is in the table."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    levels = [int(level) for level in args.levels.split(",")]
    parts = ["# Whole files", ""]
    parts.append(
        "Ratio is packed ÷ original size; MB/s of one run, from file to file, compilation included."
    )
    for path in args.files:
        print(f"measuring {path.name}", file=sys.stderr)
        lines = [[name, *measured(path, make)] for name, make in codecs(levels, args.dtype).items()]
        lines.sort(key=lambda line: line[1])
        parts += ["", f"## {path.name}, {path.stat().st_size / 1e6:.1f} MB", ""]
        parts.append(markdown_table(["codec", "ratio", "pack MB/s", "unpack MB/s"], lines))
    parts += [
        "",
        "## Machine",
        "",
        markdown_table(["what", "value"], list(machine.describe().items()), 2),
    ]
    text = "\n".join(parts) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "files.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
