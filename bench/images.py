"""Bits per sample and speed on images, beside lossless image formats.

    python -m bench.images [IMAGE...] [--levels 1,3,6,9] [--peers a,b] [--set IDX] [--out DIR]
                           [--plot PNG] [--threads N]

Images are files that Pillow reads, by default photographs and drawings that come with
scikit-image. Each is packed, restored and compared by every codec, one after the other. MB/s is
of processor time in one thread, the best of several runs, so that others at work on the machine
count little; compilation does not count. Peers are those of `imagecodecs`. Writes ``images.csv``
into DIR, and the mean of the photographs against speed as a picture, which needs matplotlib. With
--set, small images of an IDX file as well: as one set, each by itself under a model that is
learned from them (with its bytes) and from nine of ten, and as one mosaic by JPEG XL. With
--threads, how many times as fast N threads are as one, by the clock, on the channels of all images
in one stack of rows: that is meant for a quiet machine.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import densor

Image = npt.NDArray[Any]
PHOTOGRAPHS = (
    *("astronaut", "camera", "chelsea", "coffee", "coins", "brick", "grass", "gravel"),
    *("motorcycle_left", "ihc"),
)
DRAWINGS = ("moon", "page", "text", "clock_motion", "color", "cell", "logo", "phantom", "horse")
PEERS = ("jxl 1", "jxl 3", "jxl 7", "jxl 9", "webp", "jpegls", "j2k", "png 9", "qoi", "zstd 19")
_ENOUGH, _MOST_RUNS = 0.3, 5  # seconds of processor time, and runs


class Codec(NamedTuple):
    """A lossless codec of images; None from `pack` where it takes no such image."""

    name: str
    pack: Callable[[Image], bytes | None]
    unpack: Callable[[bytes, Image], Any]


class Row(NamedTuple):
    """What a codec made of an image."""

    image: str
    codec: str
    samples: int
    packed: int
    pack_speed: float
    unpack_speed: float

    @property
    def bits(self) -> float:
        """Per sample."""
        return 8 * self.packed / self.samples


def own(level: int) -> Codec:
    """densor at a level, in one thread."""
    return Codec(
        f"densor -{level}",
        lambda image: densor.compress(image, level, 1),
        lambda data, _: densor.decompress(data, threads=1),
    )


def peer(name: str) -> Codec:
    """A codec of `imagecodecs` by its name and effort."""
    import imagecodecs

    kind, _, effort = name.partition(" ")
    settings: dict[str, dict[str, Any]] = {
        "jxl": {"lossless": True, "effort": int(effort or 7), "numthreads": 1},
        "webp": {"lossless": True},
        "j2k": {"reversible": True, "level": 0},
        "png": {"level": int(effort or 6)},
        "zstd": {"level": int(effort or 3)},
    }
    module = {"jxl": "jpegxl", "j2k": "jpeg2k"}.get(kind, kind)
    encode = getattr(imagecodecs, f"{module}_encode")
    decode = getattr(imagecodecs, f"{module}_decode")

    def pack(image: Image) -> bytes | None:
        wide = image.ndim == 3
        if kind in ("webp", "qoi") and (not wide or image.dtype != np.uint8):
            return None
        return bytes(encode(image, **settings.get(kind, {})))

    return Codec(name, pack, lambda data, image: _shaped(decode(data), image))


def _shaped(found: Any, image: Image) -> Image:
    if isinstance(found, bytes):
        return np.frombuffer(found, image.dtype).reshape(image.shape)
    return np.asarray(found)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and the least processor time of several runs."""
    best = total = 0.0
    for number in range(_MOST_RUNS):
        begin = time.process_time()
        result = run()
        took = time.process_time() - begin
        best = took if not number else min(best, took)
        total += took
        if total > _ENOUGH:
            break
    return result, max(best, 1e-9)


def measured(name: str, image: Image, codec: Codec) -> Row | None:
    """What a codec makes of an image; None where it takes no such image."""
    packed, pack_time = _timed(lambda: codec.pack(image))
    if packed is None:
        return None
    back, unpack_time = _timed(lambda: codec.unpack(packed, image))
    if back.dtype != image.dtype or not np.array_equal(back, image):
        raise ValueError(f"{codec.name} does not restore {name}")
    mb = image.nbytes / 1e6
    return Row(name, codec.name, image.size, len(packed), mb / pack_time, mb / unpack_time)


def images(paths: Sequence[str]) -> Iterator[tuple[str, Image]]:
    """The images by name, uint8 or uint16, without alpha."""
    from PIL import Image as Pillow

    if not paths:
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        paths = [str(folder / f"{name}.png") for name in PHOTOGRAPHS + DRAWINGS]
    for path in paths:
        image = np.array(Pillow.open(path))
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * np.uint8(255)
        yield Path(path).stem, np.ascontiguousarray(image[..., :3] if image.ndim == 3 else image)


def summary(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    """A line per codec that took all images of these names: means of bits, MB/s of all bytes."""
    for codec in dict.fromkeys(row.codec for row in rows):
        found = [row for row in rows if row.codec == codec and row.image in names]
        if not found or len(found) < len(names):
            continue
        mean = float(np.mean([row.bits for row in found]))
        size = sum(row.samples for row in found)
        pack = size / sum(row.samples / row.pack_speed for row in found)
        unpack = size / sum(row.samples / row.unpack_speed for row in found)
        yield f"{codec:12} {mean:8.4f} {pack:9.2f} {unpack:9.2f}"


def small_images(path: Path) -> Iterator[str]:
    """Lines of bits per sample, and images per second of processor time, packed and unpacked."""
    from densor.codec.circuit.coding import decode_images, encode_images
    from densor.codec.circuit.model import pack, tables_of
    from densor.codec.circuit.training.learn import learn
    from densor.files.image_models import read_images

    size, samples = read_images(path)
    shape = (len(samples), size.height, size.width)
    array = samples.reshape(*shape, *([size.channels] if size.channels > 1 else []))

    def line(name: str, packed: int, into: float, out: float, count: int) -> str:
        speeds = "".join(f" {count / took:9.0f}" if took else f" {'-':>9}" for took in (into, out))
        return f"{name:28} {8 * packed / (count * size.samples):8.4f}{speeds}"

    for level in (1, 6, 9):
        codec = own(level)
        packed, into = _timed(functools.partial(codec.pack, array))
        back, out = _timed(functools.partial(codec.unpack, packed, array))
        if not np.array_equal(back, array):
            raise ValueError(f"{codec.name} does not restore {path}")
        yield line(codec.name, len(packed), into, out, len(samples))
    begin = time.process_time()
    circuit = learn(samples, size)
    took = time.process_time() - begin
    model, tables = len(densor.compress(pack(circuit), 9)), tables_of(circuit)
    packed, into = _timed(lambda: densor.compress(array, 3, 1, image_model=circuit))
    streams, sizes = encode_images(tables, samples.ravel())
    restored = np.zeros(samples.size, np.uint8)
    _, out = _timed(lambda: decode_images(tables, streams, sizes, restored))
    if not np.array_equal(restored, samples.ravel()):
        raise ValueError("a model does not restore its images")
    yield line("each alone, no model", len(packed), into, out, len(samples))
    yield line("each alone, and the model", len(packed) + model, into, out, len(samples))
    yield f"{'':28} model of {model} bytes, learned in {took:.0f} s of processor time"
    held = np.arange(len(samples)) % 10 == 0
    part = encode_images(tables_of(learn(samples[~held], size)), samples[held].ravel())[0]
    yield line("each alone, held out", part.size, 0, 0, int(held.sum()))
    side = int(np.sqrt(len(samples)))
    mosaic = array[: side * side].reshape(side, side, *array.shape[1:]).swapaxes(1, 2)
    mosaic = np.ascontiguousarray(mosaic.reshape(side * size.height, side * size.width, -1))
    jxl = peer("jxl 9")
    packed, into = _timed(lambda: jxl.pack(mosaic))
    _, out = _timed(lambda: jxl.unpack(packed, mosaic))
    yield line("jxl 9, mosaic", len(packed), into, out, side * side)


def by_threads(found: Sequence[tuple[str, Image]], level: int, threads: int) -> str:
    """A line: how many times as fast N threads pack and restore as one, medians of turns."""
    bytewise = [np.atleast_3d(image) for _, image in found if image.dtype == np.uint8]
    width = min(image.shape[1] for image in bytewise)
    planes = [image[:, :width, channel] for image in bytewise for channel in range(image.shape[2])]
    stack = np.concatenate(planes)
    packed = densor.compress(stack, level, threads)
    took: dict[tuple[int, bool], list[float]] = {}
    for _ in range(_MOST_RUNS):
        for number in (1, threads):
            begin = time.perf_counter()
            densor.compress(stack, level, number)
            middle = time.perf_counter()
            densor.decompress(packed, threads=number)
            took.setdefault((number, True), []).append(middle - begin)
            took.setdefault((number, False), []).append(time.perf_counter() - middle)
    median = {what: float(np.median(times)) for what, times in took.items()}
    into, out = (median[1, way] / median[threads, way] for way in (True, False))
    return f"densor -{level}, {stack.nbytes / 1e6:.1f} MB: {into:.2f} {out:.2f}"


def draw(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """Mean bits of these images against speed, of codecs that took all of them, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    for codec in dict.fromkeys(row.codec for row in rows):
        found = [row for row in rows if row.codec == codec and row.image in names]
        if len(found) < len(names) or codec.startswith("zstd"):
            continue
        bits = sum(row.bits for row in found) / len(found)
        size = sum(row.samples for row in found)
        colour = "#3b7dd8" if codec.startswith("densor") else "#9aa4b2"
        for at, kind in zip(axes, ("pack_speed", "unpack_speed"), strict=True):
            speed = size / sum(row.samples / getattr(row, kind) for row in found)
            at.plot(speed, bits, "o", color=colour)
            at.annotate(f" {codec}", (speed, bits), fontsize=8)
    for at, what in zip(axes, ("packing", "restoring"), strict=True):
        at.set_xscale("log")
        at.margins(x=0.2)
        at.set_xlabel(f"MB/s, {what}")
    axes[0].set_ylabel("bits per sample, mean")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", nargs="*")
    parser.add_argument("--levels", default="1,3,6,9")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--set", type=Path, metavar="IDX", dest="images_of_set")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--threads", type=int, metavar="N")
    options = parser.parse_args(arguments)
    levels = [int(level) for level in options.levels.split(",")]
    codecs = [own(level) for level in levels]
    codecs += [peer(name) for name in options.peers.split(",") if name]
    small = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3) // np.uint8(3)
    rows: list[Row] = []
    found = list(images(options.images))
    for codec in codecs:  # compiles
        for image in (small, found[0][1], found[0][1][..., 0] if found[0][1].ndim > 2 else small):
            measured("", image, codec)
    for name, image in found:
        for codec in codecs:
            row = measured(name, image, codec)
            if row is not None:
                rows.append(row)
                print(
                    f"{name:16} {codec.name:12} {row.bits:8.4f} {row.pack_speed:9.2f}", flush=True
                )
    names = [row.image for row in rows]
    groups = (
        {"photographs": PHOTOGRAPHS, "drawings": DRAWINGS} if not options.images else {"all": names}
    )
    for title, group in groups.items():
        print(f"\n{title:12} {'bits':>8} {'MB/s in':>9} {'out':>9}")
        print("\n".join(summary(rows, list(dict.fromkeys(group)))))
    if options.threads is not None:
        print(f"\n{options.threads} threads against one, in and out")
        for level in levels:
            print(by_threads(found, level, options.threads), flush=True)
    if options.images_of_set is not None:
        print(f"\n{options.images_of_set.name:28} {'bits':>8} {'images/s':>9} {'out':>9}")
        for text in small_images(options.images_of_set):
            print(text, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Row._fields, "bits"])
        writer.writerows([*row, f"{row.bits:.5f}"] for row in rows)
    if options.plot is not None:
        draw(rows, groups.get("photographs", names), options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
