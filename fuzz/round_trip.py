"""Files and arrays that are packed and restored: the same bytes, and never much more of them.

An input of `files` is a byte that chooses how, then a file. One of `arrays` is a number from which
everything is drawn.
"""

import io
import struct
import wave
from functools import cache
from random import Random
from typing import Any

import numpy as np
from helpers import safetensors_bytes
from written_bytes import Pipe

import densor
from densor import dtypes
from densor.errors import DensorError
from fuzz import parsers
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_LEVELS = (1, 2, 3, 4, 5, 6, 7, 9)
_MOST_MORE = 800  # bytes by which an archive may be larger than a file, in the ordinary form
_NAMES = ("U8", "I8", "U16", "I16", "U32", "F32", "U64", "F64", "F16", "BF16", "F8_E4M3", "C64")


def _restored(packed: bytes, **options: Any) -> Any:
    try:
        return densor.decompress(packed, 1, **options)
    except DensorError as error:
        raise Wrong(f"what was packed cannot be restored: {error!r:.300}") from error


def run_file(data: bytes) -> object:
    """Packed from a file or a pipe."""
    if not data:
        return None
    level, piped = _LEVELS[data[0] & 7], bool(data[0] & 8)
    content = data[1:]
    source: Any = Pipe(content) if piped else io.BytesIO(content)
    archive, found = io.BytesIO(), io.BytesIO()
    densor.compress_file(source, archive, level, 1)
    packed = archive.getvalue()
    try:
        densor.decompress_file(io.BytesIO(packed), found, 1)
    except DensorError as error:
        raise Wrong(f"what was packed cannot be restored: {error!r:.300}") from error
    if found.getvalue() != content:
        raise Wrong("another file was restored")
    if len(packed) > len(content) + _MOST_MORE:
        raise Wrong("an archive is larger than its file")
    return level, piped


def numbers(rng: np.random.Generator, most: int) -> Any:
    """uint64: smooth or not, few or many, with bits that are all alike, runs, repetitions."""
    size = int(rng.integers(1, most))
    bits = int(rng.integers(1, 65))
    kind = rng.integers(5)
    if kind == 0:
        steps = rng.normal(0, 10.0 ** rng.integers(-2, 9), size)
        found = np.cumsum(np.rint(steps)).astype(np.int64).view(np.uint64)
    elif kind == 1:
        found = rng.integers(0, 1 << int(rng.integers(1, 63)), size).astype(np.uint64)
    elif kind == 2:
        found = rng.choice(rng.integers(0, 1 << 63, int(rng.integers(1, 40))), size)
        found = found.astype(np.uint64)
    elif kind == 3:
        scale = np.exp(rng.normal(0, 2, size // 32 + 1)).repeat(32)[:size]
        floats = (rng.normal(size=size) * scale).astype(rng.choice(["<f2", "<f4", "<f8"]))
        found = floats.view(f"<u{floats.itemsize}").astype(np.uint64)
    else:
        found = np.arange(size).astype(np.uint64) * np.uint64(rng.integers(1, 99))
    if bits < 64 and rng.random() < 0.5:
        found &= np.uint64((1 << bits) - 1)
    if rng.random() < 0.3:
        found <<= np.uint64(rng.integers(0, 64))
    if rng.random() < 0.2:
        found[rng.random(size) < rng.random()] = 0
    if rng.random() < 0.2:
        at = int(rng.integers(size))
        found[at:] = found[: size - at]
    return found


def _as_bytes(found: Any, width: int, big: bool) -> bytes:
    rows = found.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    return bytes(np.ascontiguousarray(rows[:, ::-1] if big else rows))


def made(rng: np.random.Generator) -> bytes:
    """A file of one of many formats, with numbers in it."""
    found = numbers(rng, 6000)
    width, big = int(rng.choice([1, 2, 3, 4, 8])), bool(rng.integers(2))
    content = _as_bytes(found, width, big)
    columns, channels = int(rng.integers(1, 70)), int(rng.integers(1, 5))
    kind = rng.integers(8)
    if kind == 0:
        return rng.bytes(int(rng.integers(9))) + content
    if kind == 1:
        most = int(rng.choice([255, 1023, 65535]))
        form = {1: b"P5", 3: b"P6"}.get(channels, b"P5")
        planes = 3 if form == b"P6" else 1
        rows = len(content) // (columns * planes * (1 + (most > 255)))
        return b"%s %d %d %d\n" % (form, columns, rows, most) + content
    if kind == 2:
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setparams((channels, min(width, 4), 44100, 0, "NONE", ""))
            sound.writeframes(content[: len(content) // (channels * 4) * channels * 4])
        return file.getvalue()
    if kind == 3:
        file = io.BytesIO()
        size = {3: 2}.get(width, width)
        form = (
            f"{'>' if big else '<'}{rng.choice(['u', 'i'] if size < 2 else ['u', 'i', 'f'])}{size}"
        )
        array = np.frombuffer(content[: len(content) // size * size], form)
        rows = array[: array.size // columns * columns].reshape(-1, columns)
        np.save(file, np.asfortranarray(rows) if rng.integers(2) else rows)
        return file.getvalue()
    if kind == 4:
        name = str(rng.choice(_NAMES))
        size = dtypes.SIZES[name] * columns
        rows = content[: len(content) // size * size]
        shape = (len(rows) // size, columns)
        return safetensors_bytes({"a": (name, shape, rows), "b": ("U8", (0,), b"")})
    if kind == 5:
        signed = found.view(np.int64)
        ends, comma = rng.choice(["\n", "\r\n"]), rng.choice([",", "\t", ";"])
        cells = [str(int(x) // (10 if i % 2 else 1)) for i, x in enumerate(signed[:1500])]
        rows = [comma.join(cells[i : i + columns]) for i in range(0, len(cells), columns)]
        return ends.join(rows).encode()
    if kind == 6:
        rows = [f'{{"id": {i}, "x": {int(x) / 8}}}\n' for i, x in enumerate(found[:800])]
        return "".join(rows).encode()
    head = struct.pack(">4sIIIII", b".snd", 24, len(content), 1 + min(width, 4), 8000, channels)
    return head + content


def mutate_file(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a file, or makes another."""
    if rng.random() < 0.6:
        content = made(np.random.default_rng(rng.getrandbits(64)))
        return bytes([rng.randrange(16)]) + (
            content if rng.random() < 0.8 else mutated(content, rng)
        )
    return bytes([rng.randrange(16)]) + mutated(data[1:], rng, [other[1:] for other in others])


@cache
def file_seeds() -> list[bytes]:
    """Files of all formats, at all levels."""
    found = []
    for target in parsers.TARGETS:
        if target.name not in ("pickle", "json"):
            for seed in target.seeds():
                found += [bytes([len(found) % 16]) + seed]
    return found


def _changed(array: Any, rng: np.random.Generator) -> Any:
    """The array with some numbers changed a little, in the same order of elements."""
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    width = array.itemsize // (2 if array.dtype.kind == "c" else 1)
    bits = np.frombuffer(array.tobytes(order), f"u{width}").copy()
    places = rng.random(bits.size) < 10.0 ** -rng.integers(0, 4)
    bits[places] += rng.integers(0, 3, int(places.sum())).astype(bits.dtype)
    return np.frombuffer(bits.tobytes(), array.dtype).reshape(array.shape, order=order)


def run_array(data: bytes) -> object:
    """An array in any order of bytes and elements, alone or against another."""
    seed = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(seed)
    kind = np.dtype(str(rng.choice(["u1", "i2", "u2", "f2", "i4", "f4", "f8", "u8", "c8"])))
    content = _as_bytes(numbers(rng, 20000), 8, False)
    array = np.frombuffer(content, kind)
    columns = int(rng.integers(1, 300))
    if array.size >= columns and rng.random() < 0.8:
        array = array[: array.size // columns * columns].reshape(-1, columns)
    if rng.random() < 0.2:
        array = array.T
    if rng.random() < 0.2:
        array = array[..., ::2]
    if rng.random() < 0.2:
        array = array.astype(kind.newbyteorder())
    base = _changed(array, rng) if rng.random() < 0.5 else None
    level = _LEVELS[seed >> 3 & 7]
    options: dict[str, Any] = {} if base is None else {"base": base}
    try:
        packed = densor.compress(array, level, 1, **options)
    except DensorError:
        if base is None:
            raise Wrong("an array cannot be packed") from None
        options, packed = {}, densor.compress(array, level, 1)
    found = _restored(packed, **options)
    if found.dtype != array.dtype or found.shape != array.shape:
        raise Wrong("an array of another kind was restored")
    if found.tobytes() != array.tobytes():
        raise Wrong("other numbers were restored")
    if len(packed) > array.nbytes + _MOST_MORE:
        raise Wrong("an archive is larger than its array")
    return kind.str, level, base is None


def mutate_array(data: bytes, rng: Random, others: Any) -> bytes:
    """Another number."""
    return rng.randbytes(8)


TARGETS = (
    Target("files", run_file, file_seeds, mutate_file, most_memory=1 << 28),
    Target("arrays", run_array, lambda: [bytes(8)], mutate_array, most_memory=1 << 28),
)
