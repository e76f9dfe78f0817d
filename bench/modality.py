"""The table of "Language Modeling Is Compression": text, images, sound through compressors of each.

    python -m bench.modality TEXT [--sounds FOLDER] [--samples N] [--models a,b] [--out DIR]

G. Delétang et al., arXiv 2309.10668v1, their chunks of 2048 bytes: pieces of the file TEXT; grey
patches of 32 x 64 from photographs that come with scikit-image; sound of 16 kHz in 8 bits from the
WAV files of FOLDER. Each piece is packed by itself. As in the paper, classic compressors may take
what they make of an empty piece only once for all; language models are given bytes as ASCII: those
of images and sound are halved, of text the highest bit is cleared, and the bit that is lost counts
as one. What a model takes is by its own probabilities, without Densor's model beside it. Adjusted
rates add two bytes for each parameter to 10^9 bytes of data, as in the paper.

Writes ``modality.csv`` into DIR, with --draw also a row of an image and some sound that several
compressors draw, `modality_rows.pgm` and `modality_*.wav`. FLAC needs the program.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import densor
from densor.codec.language_model.lines import Prepared
from densor.codec.language_model.meter import Meter
from densor.codec.language_model.params import segments
from densor.codec.language_model.session import Session
from densor.text import ArrayCompressor, generate_rows, generate_sound

Bytes = npt.NDArray[np.uint8]
SIZE, ROWS, COLUMNS, RATE = 2048, 32, 64, 16000
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "brick", "grass", "motorcycle_left")
_DATA = 1e9  # bytes that a model's size is spread over
_SEED = 1


class Codec(NamedTuple):
    """A compressor of pieces of 2048 bytes; `empty`: bytes that it takes for next to nothing."""

    name: str
    pack: Callable[[Bytes], bytes]
    empty: int


class Row(NamedTuple):
    """Share of the raw size that a compressor takes on a kind of data."""

    kind: str
    codec: str
    pieces: int
    raw: float
    adjusted: float
    seconds: float  # for a piece, processor time


# Data


def texts(path: Path, count: int) -> list[Bytes]:
    """Pieces of a file, evenly spread."""
    data = np.fromfile(path, np.uint8)
    places = np.linspace(0, data.size - SIZE, count).astype(int)
    return [data[at : at + SIZE].copy() for at in places]


def patches(count: int) -> list[Bytes]:
    """Grey patches of photographs, in turns, each from a place of its own."""
    from PIL import Image

    folder = _package_folder("skimage") / "data"
    paths = sorted(p for name in PHOTOGRAPHS for p in folder.glob(f"{name}.*"))
    images = [np.asarray(Image.open(path).convert("L")) for path in paths]
    images = [image for image in images if image.shape[0] >= ROWS and image.shape[1] >= COLUMNS]
    rng = np.random.default_rng(_SEED)
    found = []
    for i in range(count):
        image = images[i % len(images)]
        top, left = (
            int(rng.integers(0, n - m + 1))
            for n, m in zip(image.shape, (ROWS, COLUMNS), strict=True)
        )
        found.append(image[top : top + ROWS, left : left + COLUMNS].reshape(-1).copy())
    return found


def _package_folder(name: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"needs the package {name}")
    return Path(spec.origin).parent


def sounds(folder: Path, count: int) -> list[Bytes]:
    """Pieces of WAV files, first channel, at 16 kHz in 8 bits, from where they are loud enough."""
    found: list[Bytes] = []
    paths = sorted(folder.glob("*.wav"))
    rng = np.random.default_rng(_SEED)
    for turn in range(8 * count):
        samples = _at_rate(paths[turn % len(paths)])
        if samples.size >= SIZE and len(found) < count:
            at = int(rng.integers(0, samples.size - SIZE + 1))
            piece = samples[at : at + SIZE]
            if piece.std() > 1:  # silence says little
                found.append(piece.copy())
    return found


def _at_rate(path: Path) -> Bytes:
    """A file of 16 bits by means of whole numbers of samples, in 8 bits."""
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        data = data.reshape(-1, file.getnchannels())[:, 0].astype(np.float64)
        step = file.getframerate() / RATE
    edges = np.arange(0, data.size - step, step).astype(int)
    means = (
        np.add.reduceat(data, edges) / np.diff(np.append(edges, data.size)) if edges.size else data
    )
    return (np.clip(np.rint(means / 256), -128, 127) + 128).astype(np.uint8)


# Compressors


def as_png(piece: Bytes) -> bytes:
    """A grey image."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(piece.reshape(-1, min(COLUMNS, piece.size))).save(out, "PNG", optimize=True)
    return out.getvalue()


def as_wav(piece: Bytes) -> bytes:
    """Sound of one channel."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 1, RATE, 0, "NONE", ""))
        file.writeframes(piece.tobytes())
    return out.getvalue()


def as_flac(piece: Bytes) -> bytes:
    """What the program makes of samples."""
    command = "flac --best --silent --force-raw-format --endian=little --channels=1 --bps=8"
    command += f" --sample-rate={RATE} --sign=unsigned --no-padding --no-seektable -c -"
    return subprocess.run(
        command.split(), input=piece.tobytes(), check=True, capture_output=True
    ).stdout


def own_image(piece: Bytes, level: int = 9) -> bytes:
    """Densor's codec of images."""
    return densor.compress(piece.reshape(-1, min(COLUMNS, piece.size)), level, 1)


def own_sound(piece: Bytes, level: int = 9) -> bytes:
    """Densor's codec of sound."""
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(as_wav(piece)), out, level, threads=1)
    return out.getvalue()


def own_text(piece: Bytes) -> bytes:
    """Densor's context mixing of bytes, level 9."""
    return densor.compress(piece.tobytes(), 9, 1, text=True)


def codecs() -> Iterator[Codec]:
    """All that are at hand."""
    one = np.zeros(1, np.uint8)
    packs: dict[str, Callable[[Bytes], bytes]] = {
        "gzip -9": lambda piece: gzip.compress(piece.tobytes(), 9, mtime=0),
        "LZMA2 (xz -9e)": lambda piece: lzma.compress(
            piece.tobytes(), preset=9 | lzma.PRESET_EXTREME
        ),
        "PNG": as_png,
        "FLAC": as_flac,
        "densor, images": own_image,
        "densor, sound": own_sound,
        "densor, text": own_text,
    }
    for name, pack in packs.items():
        if name != "FLAC" or shutil.which("flac"):
            yield Codec(name, pack, len(pack(one)) - 1)


class _Asked(Meter):
    """Asks the network about every segment, whether it reads like a text or not."""

    def _chunk(self, content: Bytes, prepared: Prepared) -> Bytes:
        parts = segments(self._model, prepared.text.size)
        return self._payload(prepared, parts, [True] * len(parts))


def model_bits(piece: Bytes, session: Session, kind: str) -> float:
    """What a model by itself takes for a piece as ASCII, with the bits that this loses."""
    if kind == "text":
        given, lost = piece & np.uint8(127), int((piece > 127).sum())
    else:
        given, lost = piece >> np.uint8(1), piece.size
    costs = _Asked(given, session).costs
    return lost + sum(cost.bits if cost.alone is None else cost.alone for cost in costs)


# The table


def measured(kind: str, pieces: Sequence[Bytes], models: Sequence[str]) -> Iterator[Row]:
    """A row for each compressor."""
    size = len(pieces) * SIZE
    for codec in codecs():
        codec.pack(pieces[0])
        begin = time.process_time()
        stored = sum(len(codec.pack(piece)) - codec.empty for piece in pieces) + codec.empty
        seconds = (time.process_time() - begin) / len(pieces)
        yield Row(kind, codec.name, len(pieces), stored / size, stored / size, seconds)
    for name in models:
        session = Session(name)
        parameters = session.weights().parameters
        begin = time.process_time()
        share = sum(model_bits(piece, session, kind) for piece in pieces) / 8 / size
        seconds = (time.process_time() - begin) / len(pieces)
        yield Row(kind, name, len(pieces), share, share + 2 * parameters / _DATA, seconds)


def draw(patch: Bytes, sound: Bytes, out: Path) -> None:
    """Half of a patch and a row more, and sound and 32 samples more, from compressors.

    Those of arrays at level 3, since each value takes 256 calls.
    """
    above = patch.reshape(ROWS, COLUMNS)[: ROWS // 2]
    image = ArrayCompressor(lambda part: own_image(part, 3), ROWS)
    drawn = {
        "densor -9, bytes": generate_rows("densor", above, 1, _SEED),
        "gzip": generate_rows("gzip", above, 1, _SEED),
        "PNG": generate_rows(ArrayCompressor(as_png, ROWS), above, 1, _SEED),
        "densor -3, images": generate_rows(image, above, 1, _SEED),
    }
    whole = np.concatenate(list(drawn.values()), 1)
    head = f"P5 {whole.shape[1]} {whole.shape[0]} 255\n".encode()
    (out / "modality_rows.pgm").write_bytes(head + whole.tobytes())
    truth = patch.reshape(ROWS, COLUMNS)[ROWS // 2].astype(float)
    for name, rows in drawn.items():
        print(f"row from {name}: mean error {np.abs(rows[-1] - truth).mean():.1f}")
    heard = ArrayCompressor(lambda part: own_sound(part, 3), 256)
    for name, compressor in (("bytes", "densor"), ("sound", heard)):
        made = generate_sound(compressor, sound[:1024], 32, _SEED)  # type: ignore[arg-type]
        (out / f"modality_{name}.wav").write_bytes(as_wav(made))
        error = np.abs(made[1024:].astype(float) - sound[1024:1056]).mean()
        print(f"sound from densor, {name}: mean error {error:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.modality")
    parser.add_argument("text", type=Path)
    parser.add_argument("--sounds", type=Path, help="folder of WAV files of 16 bits")
    parser.add_argument("--samples", type=int, default=8, help="pieces of each kind")
    parser.add_argument("--models", default="smollm2,sample")
    parser.add_argument("--draw", action="store_true", help="also draw, which takes minutes")
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    models = [name for name in args.models.split(",") if name]
    data = {"text": texts(args.text, args.samples), "images": patches(args.samples)}
    if args.sounds:
        data["sound"] = sounds(args.sounds, args.samples)
    with (args.out / "modality.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for kind, pieces in data.items():
            for row in measured(kind, pieces, models):
                writer.writerow(row)
                file.flush()
                print(
                    f"{row.kind:6} {row.codec:16} {row.pieces:3} pieces {row.raw:8.1%}"
                    f" {row.adjusted:8.1%} {row.seconds:7.3f} s",
                    flush=True,
                )
    if args.draw and args.sounds:
        draw(data["images"][0], data["sound"][0], args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
