"""What Densor writes, byte for byte, against a record: a guard for changes that change nothing.

    python tests/support/written_bytes.py --check [--quick] [--only PATTERN] [--jobs N]
    python tests/support/written_bytes.py --record [--only PATTERN] [--jobs N]

The record, written_bytes.json, holds for each input and level the length and the XXH3-128 of the
archive, which must not depend on the number of threads, and what commands print. It is written anew
only where a change of the bytes is intended. Inputs are made by integer arithmetic and SHAKE-256
alone, so that they are the same everywhere; should one differ, the check says so and goes on.
Only the public functions of the package and its command line are used.
"""

import argparse
import contextlib
import fnmatch
import functools
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

Array = npt.NDArray[Any]
Packer = Callable[[Any, int, int, Path], bytes]

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import densor  # noqa: E402
from densor.formats.container import short_form  # noqa: E402

# Encoders and frames are what is guarded here; the short form, which tiny archives are written in,
# is made of these frames, and has golden archives of its own.
short_form.MOST = 0

RECORD = Path(__file__).with_suffix(".json")
LEVELS = (1, 3, 5, 6, 9)
QUICK_LEVELS = (1, 3, 6)
THREADS = (1, 2)
INCOMPARABLE = 3  # exit code where a library of another version writes other bytes
MTIME = 1_700_000_000_123_456_789  # of all files, nanoseconds

# Numbers


def noise(seed: str, count: int) -> npt.NDArray[np.uint8]:
    """Uniform bytes that depend on `seed` alone."""
    return np.frombuffer(hashlib.shake_256(seed.encode()).digest(count), np.uint8)


def normal(seed: str, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """A matrix of nearly normal numbers, standard deviation .012 to .035, by row."""
    count = rows * columns
    parts = noise(seed, count * 16).view("<u2").reshape(count, 8)
    sums = parts.sum(1, dtype=np.int64) - 4 * 65535  # standard deviation 53510
    scale = (128 + noise(seed + " rows", rows).astype(np.float64)) / 128 / 64
    found: npt.NDArray[np.float64] = sums.reshape(rows, columns) / 65536 * scale[:, None]
    return found


def bf16(numbers: Array) -> npt.NDArray[np.uint16]:
    """Bits of the nearest BF16 numbers, ties to even."""
    bits = numbers.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def e4m3(numbers: Array) -> npt.NDArray[np.uint8]:
    """Bits of the nearest FP8 E4M3 numbers."""
    code = np.arange(127)
    exponent, fraction = code >> 3, code & 7
    values = np.ldexp(
        np.where(exponent > 0, 8 + fraction, fraction).astype(float), np.maximum(exponent, 1) - 10
    )
    magnitude = np.searchsorted((values[1:] + values[:-1]) / 2, np.abs(numbers)).astype(np.uint8)
    return magnitude | np.where(np.signbit(numbers), 128, 0).astype(np.uint8)


SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
SIZES |= {"U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4}
SIZES |= {"U64": 8, "I64": 8, "F64": 8, "C64": 8, "C128": 16}
EXPONENTS = {"F8_E4M3": 4, "F8_E5M2": 5, "F16": 5, "BF16": 8, "F32": 8, "F64": 11}


def weights(dtype: str, rows: int, columns: int, seed: str = "") -> Array:
    """Plausible content: weights for floats, quantised ones or counts for integers; bits."""
    numbers = normal(f"{dtype} {rows} {columns} {seed}", rows, columns * 2)
    pairs, numbers = numbers, numbers[:, ::2]
    whole = np.rint(numbers * 1500).astype(np.int64)
    steps = np.arange(rows * columns).reshape(rows, columns) * 3 + 1000 + (whole > 60)
    made: dict[str, Callable[[], Array]] = {
        "BOOL": lambda: numbers > 0.04,
        "U8": lambda: (whole + 128).clip(0, 255).astype(np.uint8),
        "I8": lambda: whole.clip(-128, 127).astype(np.int8),
        "F8_E4M3": lambda: e4m3(numbers * 100),
        "F8_E5M2": lambda: (numbers.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8),
        "F8_E8M0": lambda: (whole // 16 + 120).clip(0, 255).astype(np.uint8),
        "U16": lambda: (whole * 40 + 32768).astype(np.uint16),
        "I16": lambda: (whole * 40).astype(np.int16),
        "F16": lambda: numbers.astype(np.float16),
        "BF16": lambda: bf16(numbers),
        "U32": lambda: steps.astype(np.uint32),
        "I32": lambda: (whole * 100_003).astype(np.int32),
        "F32": lambda: numbers.astype(np.float32),
        "U64": lambda: (whole + 2**40).astype(np.uint64),
        "I64": lambda: steps,
        "F64": lambda: numbers.copy(),
        "C64": lambda: pairs.astype(np.float32).view(np.complex64),
        "C128": lambda: pairs.view(np.complex128),
    }
    return np.ascontiguousarray(made[dtype]())


def like(dtype: str, bits: Array) -> Array:
    """Unsigned integers as the numpy dtype that `weights` has for this type."""
    return bits.view(weights(dtype, 1, 1).dtype)


def specials(dtype: str) -> Array:
    """Random bits, NaN payloads, denormals, signed zeros, runs: 1021 elements."""
    size = min(SIZES[dtype], 8)
    count = SIZES[dtype] // size * 1021
    word = np.dtype(f"<u{size}")
    random = noise(f"{dtype} specials", count * size).view(word)
    if dtype == "BOOL":
        return (random & 1).astype(bool)
    width = 8 * size
    exponent = EXPONENTS.get(dtype, {1: 4, 2: 5, 4: 8, 8: 11}[size])
    infinity = word.type((2**exponent - 1) << (width - 1 - exponent))
    part = count // 6
    pieces = (
        random[:part],
        random[part : 2 * part] | infinity,
        random[2 * part : 3 * part] & ~infinity,
        (random[3 * part : 4 * part] & word.type(1)) << word.type(width - 1),
        np.full(part, random[0], word),
        np.resize(random[:7], count - 5 * part),
    )
    return like(dtype, np.concatenate(pieces))


def scalar(dtype: str) -> Array:
    """One element, without axes."""
    return weights(dtype, 1, 1).reshape(())


def empty(dtype: str) -> Array:
    """No elements."""
    return weights(dtype, 1, 1)[:0].reshape(0, 4)


# Texts

PROSE = """The keeper of the small lighthouse had written down the weather every evening for forty
years. On most days there was little to say: wind from the west, a few clouds, the sea grey and
calm. But when a storm came in from the north, he filled whole pages, and the letters leaned to one
side as if the gale had got into the room. "Nobody will ever read this," he told his daughter, who
counted the pages anyway. There were 14,203 of them in the end, bound in blue cloth.

"""
WORDS = PROSE.lower().replace(",", "").replace(".", "").replace('"', "").split()


def prose(size: int) -> bytes:
    """Text that begins like a story and goes on with its words in another order."""
    found = [PROSE]
    for number, word in enumerate(noise("prose", size)):
        found.append(WORDS[word % len(WORDS)] + (". " if number % 11 == 0 else " "))
    return "".join(found).encode()[:size]


def source_code(size: int) -> bytes:
    """JSON lines with numbers in them."""
    lines = [
        b'{"id": %d, "score": 0.%03d, "tags": ["a", "b%d"]}\n' % (i, 3 * part, part & 3)
        for i, part in enumerate(noise("json", size // 30).tolist())
    ]
    return b"".join(lines)[:size]


def multilingual() -> bytes:
    """UTF-8 of several scripts."""
    return "Größe, naïve façade; Привет, мир! 你好，世界。 שלום עולם 😀\n".encode() * 12


# Files


def tokens() -> npt.NDArray[np.uint16]:
    """Phrases of four tokens, some often, some a token each: so many that ranks code them."""
    phrases = noise("phrases", 8 * 2048).view("<u2").reshape(2048, 4) % 20_000
    chosen = noise("chosen", 80_000).view("<u2").astype(np.int64)
    found = phrases[chosen**3 >> 37]
    found[:, 0] = np.where(chosen % 3 == 0, found[:, 0], chosen % 997)
    numbers: npt.NDArray[np.uint16] = found.astype(np.uint16).reshape(-1)
    return numbers


def safetensors(tensors: Mapping[str, tuple[str, Array]], padding: int = 0) -> bytes:
    """A file of tensors: name to dtype and elements."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, array) in tensors.items():
        end = at + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode() + b" " * padding
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, a in tensors.values())


def model(seed: str = "", rows: int = 48) -> dict[str, tuple[str, Array]]:
    """Tensors of a small model, two of them equal."""
    shared = weights("BF16", rows, 256, seed)
    return {
        "embed": ("BF16", shared),
        "norm": ("F32", np.ones(64, np.float32)),
        "scale": ("F16", weights("F16", 1, 33, seed)[0]),
        "steps": ("I64", np.arange(100)),
        "head": ("BF16", shared),
        "up.weight": ("F32", weights("F32", 24, 100, seed)),
        "quantised": ("F8_E4M3", weights("F8_E4M3", 24, 128, seed)),
        "exponents": ("F8_E8M0", weights("F8_E8M0", 24, 4, seed)),
        "flag": ("BOOL", np.array([0, 1, 0, 1, 1], bool)),
        "none": ("F32", np.empty((0, 4), np.float32)),
        "one": ("F64", np.array(0.1)),
    }


@functools.cache
def model_bytes(seed: str = "", rows: int = 48) -> bytes:
    """A safetensors file of `model`."""
    return safetensors(model(seed, rows), padding=3)


@functools.cache
def later_model() -> bytes:
    """The same model some steps of training later: a third of the numbers has moved a little."""
    tensors = model()
    for name in ("embed", "head", "up.weight"):
        dtype, array = tensors[name]
        bits = array.view(f"u{array.itemsize}")
        moved = noise(f"{dtype} moved", array.size).reshape(array.shape)
        tensors[name] = dtype, bits + (moved < 50) - (moved > 205).astype(bits.dtype)
    return safetensors(tensors, padding=3)


def blocks(kind: int, count: int) -> bytes:
    """Quantised weights of GGUF: `count` blocks of peaked nibbles, scales and minimums in F16."""
    sizes = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 20: 18}
    scales = {10: (80, 82), 11: (108,), 14: (208,), 3: (0, 2), 7: (0, 2), 12: (0, 2), 13: (0, 2)}
    size = sizes[kind]
    places = scales.get(kind, (0,))
    nibbles = np.rint(8 + normal(f"gguf {kind}", count, 2 * size) * 100).clip(0, 15)
    whole = (nibbles[:, ::2] * 16 + nibbles[:, 1::2]).astype(np.uint8)
    if kind == 8:
        whole = np.rint(normal(f"gguf {kind}", count, size) * 1500).astype(np.int8).view(np.uint8)
    largest = np.abs(normal(f"gguf {kind} scales", count, 16)).max(1, keepdims=True) / 8
    varied = largest * (1 + normal(f"gguf {kind} minimums", count, 1))
    for place, numbers in zip(places, (largest, varied * -8), strict=False):
        whole[:, place : place + 2] = numbers.astype("<f2").view(np.uint8)
    found: bytes = whole.tobytes()
    return found


def gguf(times: int = 1) -> bytes:
    """A GGUF file with metadata, plain tensors and many types of blocks; `times`: their rows."""

    def text(string: str) -> bytes:
        return struct.pack("<Q", len(string)) + string.encode()

    pairs = text("general.name") + struct.pack("<I", 8) + text("tiny")
    pairs += text("a.list") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yz")
    tensors: dict[str, tuple[list[int], int, bytes]] = {
        "norm": ([96], 0, np.ones(96, np.float32).tobytes()),
        "half": ([64, 12], 1, weights("F16", 12, 64).tobytes()),
        "embed": ([64, 40], 30, weights("BF16", 40, 64).tobytes()),
    }
    for kind in (2, 3, 6, 7, 8, 20):
        tensors[f"small.{kind}"] = ([256, 10 * times], kind, blocks(kind, 80 * times))
    for kind in (10, 11, 12, 13, 14):
        tensors[f"large.{kind}"] = ([512, 6 * times], kind, blocks(kind, 12 * times))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2) + pairs
    data = b""
    for name, (dimensions, kind, content) in tensors.items():
        data += bytes(-len(data) % 32)
        head += text(name) + struct.pack("<I", len(dimensions))
        head += struct.pack(f"<{len(dimensions)}QIQ", *dimensions, kind, len(data))
        data += content
    return head + bytes(-len(head) % 32) + data


def npy(array: Array) -> bytes:
    """A .npy file, its header written here."""
    fortran = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
    text = f"{{'descr': '{array.dtype.str}', 'fortran_order': {fortran}, 'shape': {array.shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    data = (array.T if fortran else array).tobytes()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + data


def zip_file(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP file with fixed times."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (2024, 1, 2, 3, 4, 6))
            info.compress_type = method
            info.external_attr = 0o600 << 16
            info.create_system = 3
            file.writestr(info, data)
    return out.getvalue()


def npz() -> bytes:
    """An .npz file that is not deflated."""
    arrays = {
        "matrix": weights("F32", 30, 64),
        "order": np.asfortranarray(weights("F64", 20, 24)),
        "big": weights("I16", 20, 50).astype(">i2"),
        "empty": np.empty((0, 3)),
    }
    return zip_file({f"{name}.npy": npy(array) for name, array in arrays.items()})


def torch_zip() -> bytes:
    """What torch.save writes of a dict of tensors, its pickle written here."""
    matrices = {
        "Float": ("matrix", weights("F32", 40, 64)),
        "BFloat16": ("half", weights("BF16", 60, 96)),
        "Long": ("steps", weights("I64", 1, 300)),
    }
    pickled, members = b"\x80\x02}(", {}
    for key, (storage, (name, array)) in enumerate(matrices.items()):
        rows, columns = array.shape
        pickled += b"X" + struct.pack("<I", len(name)) + name.encode()
        pickled += b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        pickled += b"ctorch\n" + storage.encode() + b"Storage\nX\x01\x00\x00\x00%d" % key
        pickled += b"X\x03\x00\x00\x00cpuJ" + struct.pack("<i", array.size) + b"tQK\x00"
        pickled += b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
        pickled += b"J" + struct.pack("<i", columns) + b"K\x01\x86\x89NtR"
        members[f"model/data/{key}"] = array.tobytes()
    whole = {"model/data.pkl": pickled + b"u.", "model/byteorder": b"little"}
    return zip_file(whole | members | {"model/version": b"3\n"})


def varint(value: int) -> bytes:
    """A number as Protocol Buffers have it."""
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def onnx() -> bytes:
    """An ONNX model with initializers."""

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def tensor(name: str, kind: int, array: Array) -> bytes:
        shape = b"".join(b"\x08" + varint(size) for size in array.shape)
        return shape + b"\x10" + varint(kind) + field(8, name.encode()) + field(9, array.tobytes())

    graph = field(2, b"graph")
    graph += field(5, tensor("big", 1, weights("F32", 40, 64)))
    graph += field(5, tensor("half", 10, weights("F16", 40, 64)))
    graph += field(5, tensor("brain", 16, weights("BF16", 40, 64)))
    graph += field(5, tensor("ids", 7, weights("I64", 1, 400)))
    return b"\x08\x08" + field(7, graph)


def ctranslate2() -> bytes:
    """A CTranslate2 model of version 6."""

    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    kinds = [np.dtype(name) for name in ("f4", "i1", "i2", "i4", "f2")]
    variables = {
        "encoder/weight": weights("I8", 40, 128),
        "encoder/weight_scale": normal("scales", 1, 40)[0].astype(np.float32),
        "decoder/weight": weights("F32", 30, 64),
        "decoder/half": weights("F16", 30, 64),
        "flag": np.array(1, np.int8),
    }
    out = struct.pack("<I", 6) + text("TinySpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", kinds.index(array.dtype), array.nbytes) + array.tobytes()
    return out + struct.pack("<I", 0)


def put(folder: Path, name: str, data: bytes) -> Path:
    """Writes a file with fixed mode and time."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
    os.utime(path, ns=(MTIME, MTIME))
    return path


def put_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files below `folder`, whose folders get fixed modes and times too."""
    for name, data in files.items():
        put(folder, name, data)
    for place in sorted([folder, *(p for p in folder.rglob("*") if p.is_dir())], reverse=True):
        place.chmod(0o755)
        os.utime(place, ns=(MTIME, MTIME))
    return folder


def tree(files: Path) -> bytes:
    """Names and contents of all files in a folder."""
    found = sorted(path for path in files.rglob("*") if path.is_file())
    names = [path.relative_to(files).as_posix().encode() for path in found]
    return b"".join(
        name + b"\0" + path.read_bytes() for name, path in zip(names, found, strict=True)
    )


class Pipe(io.RawIOBase):
    """A file that can be read in pieces, and not be rewound."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), 40_000, len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


class Sink(io.RawIOBase):
    """A file that can only be written to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


# Ways to pack


def in_memory(**options: Any) -> Packer:
    """By densor.compress."""
    return lambda thing, level, threads, folder: densor.compress(thing, level, threads, **options)


def against_base(pair: Any, level: int, threads: int, folder: Path) -> bytes:
    """By densor.compress; `pair`: base and object."""
    return densor.compress(pair[1], level, threads, base=pair[0])


def one_file(file: str, /, **options: Any) -> Packer:
    """By densor.compress_file, from path to path."""

    def pack(data: bytes, level: int, threads: int, folder: Path) -> bytes:
        out = folder / "out.densor"
        densor.compress_file(put(folder, file, data), out, level, threads, **options)
        return out.read_bytes()

    return pack


def piped(data: bytes, level: int, threads: int, folder: Path) -> bytes:
    """By densor.compress_file, from a pipe to a pipe."""
    sink = Sink()
    densor.compress_file(Pipe(data), sink, level, threads)  # type: ignore[arg-type]
    return bytes(sink.data)


def file_against_base(pair: Any, level: int, threads: int, folder: Path) -> bytes:
    """By densor.compress_file with base=."""
    out, base = folder / "out.densor", put(folder, "base.safetensors", pair[0])
    source = put(folder, "model.safetensors", pair[1])
    densor.compress_file(source, out, level, threads, base=base)
    return out.read_bytes()


def appended(files: Any, level: int, threads: int, folder: Path) -> bytes:
    """By densor.append, one file after the other."""
    out = folder / "out.densor"
    first, *others = [put(folder, f"step-{i}.safetensors", data) for i, data in enumerate(files)]
    densor.compress_file(first, out, level, threads)
    for path in others:
        densor.archives.append(out, path, level, threads)
    return out.read_bytes()


def packed_folder(*others: str, **options: Any) -> Packer:
    """By densor.pack; `others`: names of copies of it, in more folders."""

    def pack(files: Mapping[str, bytes], level: int, threads: int, folder: Path) -> bytes:
        out = folder / "out.densor"
        paths = [put_tree(folder / "model", files)]
        for name in others:
            copied = {f"{name}/{file}": data for file, data in files.items()}
            paths.append(put_tree(folder / f"with-{name}", copied))
        densor.pack(paths, out, level, threads, **options)
        return out.read_bytes()

    return pack


def saved(**options: Any) -> Packer:
    """By densor.save."""
    return lambda tensors, level, threads, folder: densor.save(
        tensors, {"step": "7"}, level, threads, **options
    )


def saved_file(tensors: Any, level: int, threads: int, folder: Path) -> bytes:
    """By densor.save_file."""
    out = folder / "model.densor"
    densor.save_file(tensors, out, None, level, threads)
    return out.read_bytes()


def written(gpu_index: bool) -> Packer:
    """By densor.Writer: tensors and a file."""

    def pack(tensors: Any, level: int, threads: int, folder: Path) -> bytes:
        out = io.BytesIO()
        with densor.Writer(out, level, threads, gpu_index=gpu_index) as writer:
            for name, array in tensors.items():
                dtype = "bf16" if array.dtype == np.uint16 else None
                writer.add_tensor(name, array, dtype=dtype)
            writer.add_file(put(folder, "notes.txt", prose(700)), "notes/notes.txt")
        return out.getvalue()

    return pack


def torch_tensors(tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The same elements as torch tensors; 16-bit ones become BF16."""
    import torch

    found: dict[str, Any] = {}
    for name, array in tensors.items():
        half = array.dtype == np.uint16
        tensor = torch.from_numpy((array.view(np.int16) if half else array).copy())
        found[name] = tensor.view(torch.bfloat16) if half else tensor
    return found


def torch_file(tensors: Any, level: int, threads: int, folder: Path) -> bytes:
    """By densor.torch.save_packed_file: a packed safetensors file."""
    import densor.torch

    out = folder / "model.safetensors"
    made = torch_tensors(tensors)
    densor.torch.save_packed_file(made, out, {"a": "b"}, level=level, threads=threads)
    return out.read_bytes()


def torch_objects(tensors: Any, level: int, threads: int, folder: Path) -> bytes:
    """By densor.compress of torch tensors, one after the other."""
    found = torch_tensors(tensors)
    return b"".join(densor.compress(tensor, level, threads) for tensor in found.values())


def hf_folder(*options: str, base: bool = False) -> Packer:
    """By densor hf-pack: all files of the packed folder."""

    def pack(files: Any, level: int, threads: int, folder: Path) -> bytes:
        source = put_tree(folder / "model", files)
        more = list(options)
        if base:
            older = files | {"model.safetensors": model_bytes()}
            more += ["--base", put_tree(folder / "older", older).name]
        argv = ["hf-pack", source.name, "packed", f"-{level}", "-T", str(threads)]
        code, _, err = command([*argv, *more], folder)
        if code:
            raise RuntimeError(f"hf-pack: {err}")
        return tree(folder / "packed")

    return pack


def numcodecs_codec(array: Array, level: int, threads: int, folder: Path) -> bytes:
    """By the codec that numcodecs finds."""
    import numcodecs  # type: ignore[import-not-found,unused-ignore]

    codec = numcodecs.get_codec({"id": "densor", "level": level, "threads": threads})
    return bytes(codec.encode(array))


# Cases


@dataclass(frozen=True)
class Case:
    """An input and how it is packed. `needs`: a module without which it is left out."""

    make: Callable[[], Any]
    pack: Packer
    levels: tuple[int, ...] = LEVELS
    quick: bool = True
    needs: str | None = None


def raw_dtype(dtype: str) -> dict[str, str]:
    """Options that tell the type of elements that numpy has no dtype for."""
    return {"dtype": dtype} if dtype.startswith(("F8", "BF")) else {}


def array_cases() -> Iterator[tuple[str, Case]]:
    """Every dtype, with typical content, unusual bits, no elements and one; other arrays."""
    for dtype in SIZES:
        pack = in_memory(**raw_dtype(dtype))
        yield f"array/{dtype}/weights", Case(functools.partial(weights, dtype, 37, 211), pack)
        yield f"array/{dtype}/specials", Case(functools.partial(specials, dtype), pack)
        small = functools.partial(weights, dtype, 1, 1)
        yield f"array/{dtype}/one", Case(small, pack)
        yield f"array/{dtype}/scalar", Case(functools.partial(scalar, dtype), pack, (3,))
        yield f"array/{dtype}/empty", Case(functools.partial(empty, dtype), pack, (3, 9))
    others: dict[str, Callable[[], Array]] = {
        "VOID/record": lambda: weights("U8", 400, 15).view("i4,f8,S3"),
        "VOID/strings": lambda: weights("U8", 400, 5).view("S5"),
        "dates": lambda: weights("I64", 3, 300).view("M8[ns]"),
        "big-endian": lambda: weights("F32", 37, 211).astype(">f4"),
        "fortran": lambda: np.asfortranarray(weights("F32", 37, 211)),
        "every-second": lambda: weights("F16", 74, 211)[::2],
        "reversed": lambda: weights("F64", 37, 60)[::-1],
        "three-axes": lambda: weights("F32", 37, 210).reshape(5, 37, 42),
        "noise": lambda: noise("array", 9999),
        "constant": lambda: np.full((77, 91), 0.1, np.float32),
        "repeated": lambda: np.resize(weights("F32", 1, 999), (12, 999)),
        "sparse": lambda: weights("F32", 60, 211) * (noise("sparse", 60 * 211) < 9).reshape(60, -1),
        "short-mantissa": lambda: (weights("F32", 37, 211).view("u4") & 0xFFFFFF80).view("f4"),
        "fp32-of-bf16": lambda: (bf16(normal("up", 37, 211)).astype("u4") << 16).view("f4"),
        "fp64-of-fp32": lambda: weights("F32", 37, 211).astype(np.float64),
        "points": lambda: (normal("points", 700, 3) * 1000).round(2).astype(np.float32),
        "few-values": lambda: normal("few", 1, 13)[0][noise("few", 7000) % 13],
        "walk": lambda: np.cumsum(normal("walk", 1, 8000)[0]),
        "counts": lambda: np.cumsum(noise("counts", 8000), dtype=np.int64),
        "masks": lambda: np.repeat(noise("masks", 60) < 128, 150),
    }
    for name, make in others.items():
        yield f"array/{name}", Case(make, in_memory())
    for dtype in ("bf16", "fp32", "int8"):
        data = functools.partial(lambda: weights("BF16", 37, 212).tobytes() + b"xyz"[:2])
        yield f"array/bytes-as-{dtype}", Case(data, in_memory(dtype=dtype), (1, 3, 6))
    for dtype in ("BF16", "F16", "F32", "F8_E4M3"):
        options = {**raw_dtype(dtype), "gpu_index": True}
        make = functools.partial(weights, dtype, 200, 512)
        yield f"gpu-index/{dtype}", Case(make, in_memory(**options), (1, 3, 5))


def large_cases() -> Iterator[tuple[str, Case]]:
    """Several chunks, and several batches, so that threads share the work."""
    for dtype in ("BF16", "F32", "F8_E4M3", "F64"):
        make = functools.partial(weights, dtype, 1024, 4096 // SIZES[dtype])
        yield f"large/{dtype}", Case(make, in_memory(**raw_dtype(dtype)), (1, 3, 6), quick=False)
    many = functools.partial(np.resize, weights("BF16", 256, 1024), (13 << 10, 1024))
    yield "large/batches", Case(many, in_memory(dtype="BF16"), (1, 3), quick=False)
    half = functools.partial(weights, "BF16", 512, 1024)
    yield "large/smallest", Case(half, in_memory(dtype="BF16"), (5, 9), quick=False)
    long = functools.partial(prose, 200_000)
    yield "large/prose", Case(long, in_memory(), (5, 6, 9), quick=False)
    text = functools.partial(prose, 3 << 20)
    yield "large/text", Case(text, in_memory(), (1, 3), quick=False)
    big = functools.partial(model_bytes, "large", 6000)
    yield "large/safetensors", Case(big, one_file("model.safetensors"), (1, 3, 6), quick=False)
    quantised = functools.partial(gguf, 40)
    yield "large/gguf", Case(quantised, one_file("model.gguf"), (1, 3, 6), quick=False)
    yield (
        "large/gguf-smallest",
        Case(functools.partial(gguf, 6), one_file("model.gguf"), (9,), quick=False),
    )
    yield "large/pipe", Case(big, piped, (3,), quick=False)
    yield "large/tokens", Case(tokens, in_memory(tokens=True), (3, 6, 9), quick=False)


def text_cases() -> Iterator[tuple[str, Case]]:
    """Texts and bytes, in memory and from files."""
    texts: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "one": lambda: b"x",
        "prose": lambda: prose(6000),
        "short": lambda: prose(90),
        "repetitive": lambda: b"line of a text that repeats itself\n" * 200,
        "json": lambda: source_code(6000),
        "scripts": multilingual,
        "random": lambda: noise("bytes", 3001).tobytes(),
        "letters": lambda: (noise("letters", 4000) % 26 + 97).astype(np.uint8).tobytes(),
        "zeros": lambda: bytes(70_001),
        "mixed": lambda: prose(2000) + noise("mixed", 2000).tobytes() + source_code(2000),
    }
    for name, make in texts.items():
        yield f"bytes/{name}", Case(make, in_memory())
    text = texts["prose"]
    yield "text/file", Case(text, one_file("story.txt"))
    yield "text/option", Case(text, one_file("story.txt", text=True), (1, 3))
    yield "text/sha256", Case(text, one_file("story.txt", hash="sha256"), (3,))
    yield "text/pipe", Case(text, piped)
    passage = functools.partial(prose, 400)
    yield "llm/prose", Case(passage, in_memory(llm="sample"), (3, 9), quick=False)
    yield "llm/empty", Case(lambda: b"", in_memory(llm="sample"), (3,), quick=False)
    yield (
        "llm/scripts",
        Case(lambda: multilingual()[:230], in_memory(llm="sample"), (3,), quick=False),
    )
    file = one_file("story.txt", llm="sample")
    yield "llm/file", Case(passage, file, (3, 9), quick=False)
    notes = {"a.txt": prose(300), "b.json": source_code(200), "m.safetensors": model_bytes()}
    pack = packed_folder(llm="sample")
    yield "llm/folder", Case(lambda: notes, pack, (3,), quick=False)


def folder_files() -> dict[str, bytes]:
    """A folder as models come in."""
    return {
        "model-00001-of-00002.safetensors": model_bytes(),
        "model-00002-of-00002.safetensors": model_bytes()[:-7],
        "copy.safetensors": model_bytes(),
        "config.json": b'{"architectures": ["Llama"]}\n',
        "deep/deeper/größe.bin": bytes(range(256)) * 3,
        "deep/nothing.txt": b"",
        "deep/steps.npy": npy(weights("I64", 1, 300)),
        "story.txt": prose(2000),
    }


def hf_files(seed: str = "") -> dict[str, bytes]:
    """A folder of HuggingFace transformers."""
    config = b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 48}\n'
    data = model_bytes() if not seed else later_model()
    return {"config.json": config, "model.safetensors": data, "notes.txt": prose(300)}


def named_arrays() -> dict[str, Array]:
    """Tensors for densor.save."""
    return {
        "embed": weights("BF16", 48, 128),
        "matrix": weights("F32", 30, 100),
        "half": weights("F16", 30, 100),
        "steps": weights("I64", 1, 100)[0],
        "scalar": np.array(3, np.int32),
        "none": np.empty((0, 4), np.float32),
        "flag": weights("BOOL", 1, 77)[0],
    }


def file_cases() -> Iterator[tuple[str, Case]]:
    """Every file format, folders, bases, appended files, other functions."""
    files: dict[str, Callable[[], bytes]] = {
        "model.safetensors": model_bytes,
        "empty.safetensors": functools.partial(safetensors, {}),
        "cut.safetensors": lambda: model_bytes()[:-100],
        "model.gguf": gguf,
        "matrix.npy": lambda: npy(weights("F32", 37, 211)),
        "fortran.npy": lambda: npy(np.asfortranarray(weights("F16", 37, 211))),
        "arrays.npz": npz,
        "model.pt": torch_zip,
        "model.onnx": onnx,
        "model.bin": ctranslate2,
        "plain.bin": lambda: weights("BF16", 30, 211).tobytes(),
    }
    for name, make in files.items():
        yield f"file/{name}", Case(make, one_file(name))
        yield f"pipe/{name}", Case(make, piped, (3, 6))
    name = "model.safetensors"
    yield "file/sha256", Case(model_bytes, one_file(name, hash="sha256"), (3,))
    yield "file/name", Case(model_bytes, one_file(name, name="other/name"), (3,))
    yield "file/gpu-index", Case(model_bytes, one_file(name, gpu_index=True), (1, 3, 5))
    for percent in (5.0, 60.0):
        pack = one_file(name, recovery=percent)
        yield f"file/recovery-{percent:.0f}", Case(model_bytes, pack, (1, 3, 9), needs="zfec")
    yield "folder", Case(folder_files, packed_folder())
    two = packed_folder("notes")
    yield "folder/two", Case(folder_files, two, (3,))
    yield "folder/gpu-index", Case(folder_files, packed_folder(gpu_index=True), (3,))
    yield "folder/recovery", Case(folder_files, packed_folder(recovery=10.0), (3,), needs="zfec")
    yield "folder/text", Case(folder_files, packed_folder(text=True, hash="sha256"), (3,))
    yield "base/file", Case(lambda: (model_bytes(), later_model()), file_against_base)
    yield "base/same", Case(lambda: (model_bytes(), model_bytes()), file_against_base, (3,))
    yield "base/other", Case(lambda: (model_bytes(), model_bytes("x")), file_against_base, (3, 6))
    for dtype in ("BF16", "F16", "F32", "F64", "F8_E4M3", "I64"):
        yield f"base/array/{dtype}", Case(functools.partial(array_pair, dtype), against_base)
    yield "append", Case(lambda: (model_bytes(), later_model(), model_bytes()), appended)
    yield "save", Case(named_arrays, saved())
    yield "save/gpu-index", Case(named_arrays, saved(gpu_index=True), (1, 3))
    yield "save-file", Case(named_arrays, saved_file)
    yield "writer", Case(named_arrays, written(False))
    yield "writer/gpu-index", Case(named_arrays, written(True), (1, 3))
    yield "torch/file", Case(named_arrays, torch_file, needs="torch", quick=False)
    yield "torch/objects", Case(named_arrays, torch_objects, needs="torch", quick=False)
    codec = functools.partial(weights, "F32", 37, 211)
    yield "numcodecs", Case(codec, numcodecs_codec, (3, 6), needs="numcodecs")
    yield "hf-pack", Case(hf_files, hf_folder(), quick=False)
    yield "hf-pack/gpu-index", Case(hf_files, hf_folder("--gpu-index"), (3,), quick=False)
    later = functools.partial(hf_files, "later")
    yield "hf-pack/base", Case(later, hf_folder(base=True), (3,), quick=False)


def array_pair(dtype: str) -> tuple[Array, Array]:
    """An array and a later state of it."""
    old = weights(dtype, 37, 211)
    bits = old.view(f"u{SIZES[dtype]}")
    moved = noise(f"{dtype} pair", old.size).reshape(old.shape)
    new = bits + (moved < 40).astype(bits.dtype) - (moved > 215).astype(bits.dtype)
    return old, new.view(old.dtype)


@functools.cache
def cases() -> dict[str, Case]:
    """All of them by name."""
    makers = (array_cases, text_cases, file_cases, large_cases)
    return {name: case for maker in makers for name, case in maker()}


# What commands print

COMMANDS = (
    *("pack", "shards", "append", "list", "extract", "cat", "diff", "test", "repair", "gpu-check"),
    *("info", "demo", "bench", "bits", "hf-pack", "hf-unpack"),
)
CONSOLE = {
    "info": "info model.densor",
    "info folder": "info folder.densor",
    "info text": "info story.densor",
    "info recovery": "info kept.densor",
    "info base": "info later.densor",
    "info packed": "info packed/model.safetensors",
    "list": "list model.densor",
    "list folder": "list folder.densor",
    "list json": "list --json folder.densor",
    "-l": "-l model.densor folder.densor",
    "test": "test model.densor folder.densor",
    "test verbose": "test -v -T 1 model.densor",
    "test damaged": "test damaged.densor",
    "test damaged, where": "test --repair-info damaged.densor",
    "test damaged, where, json": "test --repair-info --json damaged.densor",
    "test without base": "test later.densor",
    "test with base": "test --base model.safetensors later.densor",
    "diff": "diff -T 1 model.safetensors later.safetensors",
    "diff json": "diff -T 1 --json model.densor later.safetensors",
    "bits": "bits story.txt",
    "cat": "cat folder.densor config.json",
    "cat unknown": "cat folder.densor nothing",
    "compress": "-v -T 1 -f -o new.densor model.safetensors",
    "compress, there already": "-o model.densor model.safetensors",
    "decompress": "-d -v -T 1 -o new.safetensors model.densor",
    "decompress damaged": "-d -o new.bin bad.densor",
    "decompress no archive": "-d -o new.bin model.safetensors",
    "pack": "pack -T 1 new-folder.densor model story.txt",
    "extract": "extract -C new-folder folder.densor",
    "extract salvage": "extract --salvage -C salvaged damaged.densor",
    "append": "append appended.densor later.safetensors",
    "repair": "repair hurt.densor",
    "repair, no data": "repair model.densor",
    "hf-pack": "hf-pack model packed-anew",
    "hf-unpack": "hf-unpack packed unpacked",
    "shards": "shards out model",
    "missing": "info missing.densor",
    "wrong option": "--nonsense x",
    "wrong level": "hf-pack model new --level 12",
    "wrong dtype": "--dtype fp17 -o x.densor model.safetensors",
    "version": "--version",
}
CONSOLE = {f"help {name}": f"{name} --help" for name in COMMANDS} | {"help": "--help"} | CONSOLE
_NOTICE = re.compile(r".*first run on this processor: compiling.*\n")
_UNSTEADY = (
    (re.compile(r"\d[\d.,]* ?([kMGT]i?)?B/s"), "N B/s"),
    (re.compile(r"\d[\d.,:]* ?(ms|s|min|seconds)\b"), "N s"),
    (re.compile(r"\d+\.\d  (packed|all there)"), r"N  \1"),
)


def command(argv: list[str], folder: Path) -> tuple[int, str, str]:
    """Runs the command line in a folder: exit code, stdout, stderr, without what varies."""
    settings = {"COLUMNS": "80", "NO_COLOR": "1", "TZ": "UTC", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "densor", *argv],
        cwd=folder,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )

    def plain(output: bytes) -> str:
        text = _NOTICE.sub("", output.decode(errors="backslashreplace"))
        for pattern, word in _UNSTEADY:
            text = pattern.sub(word, text)
        for path in {str(folder), str(folder.resolve())}:
            if path in text:  # whose length may set the width of a column
                text = re.sub("  +", "  ", text.replace(path, "FOLDER"))
        return text.replace(densor.__version__, "VERSION")

    return done.returncode, plain(done.stdout), plain(done.stderr)


def fill(folder: Path) -> None:
    """What `CONSOLE` is about."""
    source = put(folder, "model.safetensors", model_bytes())
    later = put(folder, "later.safetensors", later_model())
    story = put(folder, "story.txt", prose(1500))
    put_tree(folder / "model", {"config.json": hf_files()["config.json"], "a/b.txt": prose(300)})
    put_tree(folder / "model", {"model.safetensors": model_bytes()})
    densor.compress_file(source, folder / "model.densor", threads=1)
    densor.compress_file(source, folder / "appended.densor", threads=1)
    densor.compress_file(later, folder / "later.densor", threads=1, base=source)
    densor.compress_file(story, folder / "story.densor", 9, threads=1)
    densor.pack([folder / "model"], folder / "folder.densor", threads=1)
    densor.compress_file(source, folder / "kept.densor", threads=1, recovery=20.0)
    for name, start in {"hurt": "kept", "damaged": "folder", "bad": "model"}.items():
        data = bytearray((folder / f"{start}.densor").read_bytes())
        data[len(data) // 2] ^= 16
        put(folder, f"{name}.densor", bytes(data))
    command(["hf-pack", "model", "packed"], folder)


def console_of(names: list[str]) -> dict[str, list[Any]]:
    """What commands print: exit code and lines of stdout and stderr."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if any(not name.startswith("help") for name in names):
            fill(folder)
        for name in names:
            code, out, err = command(CONSOLE[name].split(), folder)
            found[name] = [code, out.splitlines(), err.splitlines()]
    return found


# Record and check


def fingerprint(thing: Any) -> str:
    """A hash of an input, whatever it is."""
    state = xxhash.xxh3_128()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key, value in part.items():
                add(key.encode())
                add(value)
        elif isinstance(part, tuple):
            for value in part:
                add(value)
        elif isinstance(part, bytes):
            state.update(b"%d:" % len(part) + part)
        else:
            state.update(f"{part.dtype.descr}{part.shape}".encode() + part.tobytes())

    add(thing)
    return state.hexdigest()


def outputs(
    name: str, quick: bool, levels: tuple[int, ...] | None = None
) -> dict[str, dict[str, Any]]:
    """What a case gives: its input's hash; by level and threads, length and hash of the bytes."""
    case = cases()[name]
    thing = case.make()
    found: dict[str, Any] = {"input": fingerprint(thing)}
    for level in case.levels if levels is None else levels:
        if quick and level not in QUICK_LEVELS:
            continue
        for threads in (1,) if quick else THREADS:
            with tempfile.TemporaryDirectory() as place:
                try:
                    data = case.pack(thing, level, threads, Path(place))
                    made: Any = [len(data), xxhash.xxh3_128_hexdigest(data)]
                except Exception as error:
                    made = f"{type(error).__name__}: {error}"
            found.setdefault(str(level), {})[str(threads)] = made
    return {name: found}


def made_with() -> dict[str, str]:
    """What else the bytes depend on: versions that the record holds for."""
    return {"zstd": ".".join(map(str, zstandard.ZSTD_VERSION))}


def compared(name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a case."""
    for level, by_threads in found.items():
        if level == "input":
            continue
        for threads, made in by_threads.items():
            if made != wanted.get(level):
                yield f"{name}, level {level}, threads {threads}: {made}, not {wanted.get(level)}"


def compared_output(name: str, wanted: list[Any] | None, found: list[Any]) -> Iterator[str]:
    """What is wrong with what a command printed."""
    if wanted is None:
        yield f"console/{name}: is not in the record"
        return
    if wanted[0] != found[0]:
        yield f"console/{name}: exit code {found[0]}, not {wanted[0]}"
    for stream, old, new in zip(("stdout", "stderr"), wanted[1:], found[1:], strict=True):
        if old != new:
            lines = [f"    - {line}" for line in old if line not in new]
            lines += [f"    + {line}" for line in new if line not in old]
            yield "\n".join([f"console/{name}: {stream} differs", *lines])


def collect(
    names: list[str], console: list[str], quick: bool, jobs: int
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Everything asked for, in `jobs` processes."""
    if jobs == 1:
        made = [outputs(name, quick) for name in names]
        printed = console_of(console)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context) as pool:
            print_later = pool.submit(console_of, console)
            made = list(pool.map(functools.partial(outputs, quick=quick), names))
            printed = print_later.result()
    return {name: value for part in made for name, value in part.items()}, printed


def record(found: Mapping[str, Any], printed: Mapping[str, Any], whole: bool) -> list[str]:
    """Writes the record; returns what cannot be recorded."""
    old = json.loads(RECORD.read_text()) if RECORD.exists() and not whole else {}
    wrong, entries = [], dict(old.get("written", {}))
    for name, value in found.items():
        entry: dict[str, Any] = {"input": value["input"]}
        for level, by_threads in value.items():
            if level == "input":
                continue
            kinds = list(by_threads.values())
            if isinstance(kinds[0], str) or any(kind != kinds[0] for kind in kinds):
                wrong.append(f"{name}, level {level}: {by_threads}")
            entry[level] = kinds[0]
        entries[name] = entry
    texts = {**old.get("console", {}), **printed}
    rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(entries.items())]
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(texts.items())]
    python = json.dumps(".".join(map(str, sys.version_info[:2])))
    text = f'{{"python": {python},\n "libraries": {json.dumps(made_with())},\n'
    text += ' "written": {\n' + ",\n".join(rows)
    text += '\n },\n "console": {\n' + ",\n".join(lines) + "\n }\n}\n"
    if not wrong:
        RECORD.write_text(text)
    return wrong


def check(
    found: Mapping[str, Any], printed: Mapping[str, list[Any]], whole: bool
) -> tuple[list[str], int]:
    """What differs from the record, and how many archives and outputs were compared."""
    known = json.loads(RECORD.read_text())
    wrong: list[str] = []
    count = 0
    for name, value in found.items():
        wanted = known["written"].get(name)
        if wanted is None:
            wrong.append(f"{name}: is not in the record")
        elif wanted["input"] != value["input"]:
            print(f"{name}: input differs, not compared")
        else:
            wrong += compared(name, wanted, value)
            count += sum(len(made) for level, made in value.items() if level != "input")
    same_python = known["python"] == ".".join(map(str, sys.version_info[:2]))
    for name, output in printed.items():
        if name.startswith("help") and not same_python:  # argparse words it otherwise
            continue
        wrong += compared_output(name, known["console"].get(name), output)
        count += 1
    if whole:
        wrong += [f"{name}: in the record only" for name in known["written"] if name not in cases()]
        wrong += [
            f"console/{name}: in the record only"
            for name in known["console"]
            if name not in CONSOLE
        ]
    return (wrong if count else [*wrong, "nothing was compared"]), count


def chosen(only: str | None, quick: bool) -> tuple[list[str], list[str]]:
    """Names of cases and of command lines; says which cannot be run here."""
    names = []
    for name, case in cases().items():
        if quick and (not case.quick or not set(case.levels) & set(QUICK_LEVELS)):
            continue
        if only and not fnmatch.fnmatch(name, f"*{only}*"):
            continue
        if case.needs and importlib.util.find_spec(case.needs) is None:
            print(f"{name}: left out, needs {case.needs}")
            continue
        names.append(name)
    console = [
        name
        for name in CONSOLE
        if (not only or fnmatch.fnmatch(f"console/{name}", f"*{only}*"))
        and (not quick or name.startswith(("help", "version", "missing", "wrong")))
    ]
    return names, console


def main() -> int:
    """Checks or records; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with the record")
    action.add_argument("--record", action="store_true", help="write the record anew")
    parser.add_argument("--quick", action="store_true", help="levels 1, 3, 6, one thread, no llm")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose names hold this")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    args = parser.parse_args()
    if args.record and args.quick:
        parser.error("what is recorded is the whole")
    if args.check and (wanted := json.loads(RECORD.read_text())["libraries"]) != made_with():
        print(f"cannot compare: the record was made with {wanted}, here are {made_with()}")
        return INCOMPARABLE
    start = time.monotonic()
    names, console = chosen(args.only, args.quick)
    with contextlib.redirect_stderr(sys.stdout):
        found, printed = collect(names, console, args.quick, args.jobs)
    if args.record:
        wrong, count = record(found, printed, not args.only), len(found) + len(printed)
    else:
        wrong, count = check(found, printed, not args.only)
    print("\n".join(wrong), end="\n" if wrong else "")
    seconds = time.monotonic() - start
    print(f"{count} compared or recorded, {len(wrong)} wrong, {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
