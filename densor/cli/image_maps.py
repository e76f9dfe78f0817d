"""Images of an archive as pictures: themselves, prediction errors, and bits of each pixel."""

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from densor import image
from densor.codec.image.fitting import bits_and_errors
from densor.codec.image.layout import Layout
from densor.errors import DensorError

SHOWN = 4  # images of an archive, at most
MOST_SAMPLES = 1 << 22  # of an image, from its top
_SIDE = 400  # pixels of a picture, at most
_RAMP = ((0, 13, 8, 60), (64, 90, 20, 120), (128, 200, 60, 90), (192, 250, 140, 40))
_BRIGHTEST = (255, 252, 250, 190)
_RGB, _PALETTE, _GREY = 2, 3, 0  # colour types of PNG


def pictures(source: Any, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What a page shows of the images with these names; those that cannot be read are left out."""
    for name in list(names)[:SHOWN]:
        try:
            with image.Images(source, name) as images:
                height, width = images.shape[1:3]
                channels = images.shape[3] if len(images.shape) > 3 else 1
                rows = min(height, MOST_SAMPLES // (width * channels))
                if len(images) and rows:
                    yield _shown(name, images[0, :rows].reshape(rows, width, channels))
        except DensorError:
            continue


def _shown(name: str, pixels: npt.NDArray[Any]) -> dict[str, Any]:
    layout = Layout(pixels.shape[1], pixels.shape[2], pixels.itemsize)
    data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    bits, errors = (values.sum(2) for values in bits_and_errors(layout, data))
    figures = [
        {"source": _picture(pixels), "title": name},
        {"source": _heat(errors), "title": f"prediction error, 0 to {_most(errors):.0f}"},
        {"source": _heat(bits), "title": f"bits per pixel, 0 to {_most(bits):.1f}"},
    ]
    return {"name": name, "mean": round(float(bits.mean()), 3), "figures": figures}


def _most(values: npt.NDArray[Any]) -> float:
    """What the brightest colour stands for: all but the highest 1 % are at most that."""
    return max(float(np.quantile(values, 0.99)), 1.0)


def _reduced(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Means of squares of pixels, as many as fit."""
    factor = max(1, -(-max(values.shape[:2]) // _SIDE))
    rows, columns = (max(1, size // factor) for size in values.shape[:2])
    kept = values[: rows * factor, : columns * factor]
    factors = min(factor, values.shape[0]), min(factor, values.shape[1])
    squares = kept.reshape(rows, factors[0], columns, factors[1], -1)
    return np.asarray(squares.mean((1, 3)), np.float64)


def _picture(pixels: npt.NDArray[Any]) -> str:
    most = max(int(pixels.max()), 1) if pixels.itemsize > 1 else 255
    small = np.rint(_reduced(pixels) * (255 / most)).astype(np.uint8)
    if small.shape[2] >= 3:
        return _png(small[..., :3], _RGB)
    return _png(small[..., 0], _GREY)


def _heat(values: npt.NDArray[Any]) -> str:
    shades = np.minimum(_reduced(values)[..., 0] * (255 / _most(values)), 255)
    return _png(np.rint(shades).astype(np.uint8), _PALETTE)


def _png(pixels: npt.NDArray[np.uint8], colours: int) -> str:
    """A data URL of a PNG file, [rows, columns] or [rows, columns, 3]."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    filtered = np.zeros((height, rows.shape[1] + 1), np.uint8)  # each row has no filter
    filtered[:, 1:] = rows
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))]
    if colours == _PALETTE:
        chunks.append((b"PLTE", _palette()))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(file).decode()


def _palette() -> bytes:
    """Colours from dark to bright, which the colour-blind and a grey print tell apart too."""
    places, *parts = zip(*_RAMP, _BRIGHTEST, strict=True)
    colours = [np.interp(np.arange(256), places, part) for part in parts]
    return np.rint(np.stack(colours, 1)).astype(np.uint8).tobytes()
