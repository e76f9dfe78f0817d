"""Bytes and speed on sound, beside lossless codecs of it.

    python -m bench.audio FOLDER... [--levels 3,6,9] [--peers a,b] [--out DIR] [--plot PNG]

Each folder is a set of WAV files. Every file is packed, restored and compared by every codec, one
after the other. MB/s is of processor time, that of child processes included, over all files of a
set; compilation does not count. Peers are the programs `flac`, `wavpack`, `ffmpeg` (True Audio) and
`mac` (Monkey's Audio), where they are installed, and Zstandard and xz. What they add for padding is
turned off. Writes ``audio.csv`` into DIR; --plot needs
matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import io
import lzma
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import zstandard

import densor

LEVELS = (1, 3, 5, 9)
PEERS = ("flac -8", "flac -5", "wavpack -hh", "tta", "monkey 4000", "zstd -19", "xz -9")
_PROGRAMS = {"flac": "flac", "wavpack": "wavpack", "tta": "ffmpeg", "monkey": "mac"}


class Codec(NamedTuple):
    """A lossless codec of files."""

    name: str
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]


class Row(NamedTuple):
    """What a codec made of a set."""

    folder: str
    codec: str
    files: int
    size: int
    packed: int
    pack_speed: float
    unpack_speed: float


def own(level: int) -> Codec:
    """Densor, in one thread."""

    def pack(data: bytes) -> bytes:
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, level, threads=1)
        return out.getvalue()

    def unpack(packed: bytes) -> bytes:
        out = io.BytesIO()
        densor.decompress_file(io.BytesIO(packed), out, threads=1)
        return out.getvalue()

    return Codec(f"densor -{level}", pack, unpack)


def _run(command: Sequence[str], data: bytes, suffixes: tuple[str, str]) -> bytes:
    """What a program makes of a file; IN and OUT in its command stand for the paths."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"IN": f"{folder}/in{suffixes[0]}", "OUT": f"{folder}/out{suffixes[1]}"}
        Path(paths["IN"]).write_bytes(data)
        given = [paths.get(part, part) for part in command]
        subprocess.run(given, check=True, capture_output=True)
        return Path(paths["OUT"]).read_bytes()


def _by_program(name: str, suffix: str, pack: str, unpack: str) -> Codec:
    return Codec(
        name,
        lambda data: _run(pack.split(), data, (".wav", suffix)),
        lambda packed: _run(unpack.split(), packed, (suffix, ".wav")),
    )


def peer(name: str) -> Codec | None:
    """A peer by its name; None where its program is not installed."""
    kind, _, setting = name.partition(" ")
    if kind == "zstd":
        level = int(setting[1:])
        return Codec(
            name,
            lambda data: zstandard.ZstdCompressor(level).compress(data),
            lambda packed: zstandard.ZstdDecompressor().decompress(packed),
        )
    if kind == "xz":
        return Codec(name, lambda data: lzma.compress(data, preset=9), lzma.decompress)
    program = _PROGRAMS[kind]
    if shutil.which(program) is None:
        return None
    if kind == "flac":
        pack = f"flac -s {setting} --no-padding --no-seektable --keep-foreign-metadata IN -o OUT"
        return _by_program(name, ".flac", pack, "flac -s -d --keep-foreign-metadata IN -o OUT")
    if kind == "wavpack":
        return _by_program(name, ".wv", f"wavpack -q {setting} IN -o OUT", "wvunpack -q IN -o OUT")
    if kind == "tta":
        quiet = "ffmpeg -v error -threads 1"
        return _by_program(name, ".tta", f"{quiet} -i IN -c:a tta OUT", f"{quiet} -i IN OUT")
    return _by_program(name, ".ape", f"mac IN OUT -c{setting}", "mac IN OUT -d")


def _seconds() -> float:
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(spent.ru_utime + spent.ru_stime for spent in map(resource.getrusage, who))


def measured(codec: Codec, folder: Path) -> Row:
    """Packs and restores all files of a set."""
    paths = sorted(folder.glob("*.wav"))
    first = paths[0].read_bytes()
    codec.unpack(codec.pack(first))
    size, packed_size, times = 0, 0, [0.0, 0.0]
    for path in paths:
        data = path.read_bytes()
        begin = _seconds()
        packed = codec.pack(data)
        middle = _seconds()
        restored = codec.unpack(packed)
        times[0] += middle - begin
        times[1] += _seconds() - middle
        same = restored == data
        if codec.name == "tta":  # which writes a header of its own
            same = data[44:] in restored
        if not same:
            raise SystemExit(f"{codec.name} does not restore {path}")
        size += len(data)
        packed_size += len(packed)
    speeds = [size / 1e6 / max(seconds, 1e-6) for seconds in times]
    return Row(folder.name, codec.name, len(paths), size, packed_size, *speeds)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bytes against speed of the first set, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for row in rows:
        if row.folder != rows[0].folder or row.codec.startswith(("zstd", "xz")):
            continue
        colour = "#3b7dd8" if row.codec.startswith("densor") else "#9aa4b2"
        for at, speed in zip(axes, (row.pack_speed, row.unpack_speed), strict=True):
            at.plot(speed, row.packed / row.size, "o", color=colour)
            at.annotate(row.codec, (speed, row.packed / row.size), fontsize=8)
    for at, what in zip(axes, ("packing", "restoring"), strict=True):
        at.set_xscale("log")
        at.set_xlabel(f"MB/s, {what}")
    axes[0].set_ylabel(f"share of the bytes, {rows[0].folder}")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _rows_in(path: Path) -> list[Row]:
    """What a CSV file of this benchmark says."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    return [
        Row(
            *(row["folder"], row["codec"], int(row["files"]), int(row["size"])),
            *(int(row["packed"]), float(row["pack_speed"]), float(row["unpack_speed"])),
        )
        for row in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--plot", type=Path, metavar="PNG", help="a picture of the first set")
    args = parser.parse_args()
    codecs = [own(int(level)) for level in args.levels.split(",") if level]
    for name in filter(None, args.peers.split(",")):
        found = peer(name)
        if found is None:
            print(f"{name}: not installed", file=sys.stderr)
        else:
            codecs.append(found)
    with (args.out / "audio.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(Row._fields)
        for folder in args.folders:
            for codec in codecs:
                row = measured(codec, folder)
                speeds = f"{row.pack_speed:.1f}", f"{row.unpack_speed:.1f}"
                out.writerow((*row[:5], *speeds))
                file.flush()
                print(*row[:5], *speeds, sep="\t", flush=True)
    if args.plot:
        draw(_rows_in(args.out / "audio.csv"), args.plot)


if __name__ == "__main__":
    main()
