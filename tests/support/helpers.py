"""What several test modules need: arrays, archives taken apart and put together, faulty files."""

import functools
import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.unsignedinteger[Any]]

# Arrays


def random_state(*seed: object) -> np.random.Generator:
    """Random numbers that depend on nothing but `seed`."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(repr(seed).encode()))


NUMPY_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
UNUSUAL_DTYPES = (
    *("S5", "U3", "V7", "M8[ns]", "m8[s]", ">M8[D]", "longdouble", "clongdouble"),
    "i4,f8,S3",
    ">i2,<i2",
)
CONTENTS = (
    *("random", "weights", "constant", "zeros", "nan_payloads", "signed_zeros"),
    *("denormals", "steps", "pattern", "few_values", "sparse"),
)


def bits_of(content: str, size: int, count: int, rng: np.random.Generator) -> Bits:
    """`count` unsigned integers of `size` bytes, seen as bit patterns of some typical content."""
    dtype = np.dtype(f"<u{size}")
    width = 8 * size
    exponent = {1: 4, 2: 5, 4: 8, 8: 11}[size]
    everything = rng.integers(0, 256, count * size, np.uint8).view(dtype)
    fraction = dtype.type((1 << (width - 1 - exponent)) - 1)
    if content == "random":
        return everything
    if content == "weights":
        numbers = rng.standard_normal(count) * np.exp(rng.standard_normal(count) / 4)
        if size == 1:
            return to_fp8(numbers)
        return numbers.astype(f"<f{size}").view(dtype)
    if content == "constant":
        return np.full(count, everything[0] if count else 0, dtype)
    if content == "zeros":
        return np.zeros(count, dtype)
    if content == "nan_payloads":
        infinity = dtype.type(((1 << exponent) - 1) << (width - 1 - exponent))
        return everything | infinity
    if content == "signed_zeros":
        return (everything & dtype.type(1)) << dtype.type(width - 1)
    if content == "denormals":
        return everything & (fraction | dtype.type(1 << (width - 1)))
    if content == "steps":
        with np.errstate(over="ignore"):
            return (np.arange(count) * 3 + 1000).astype(dtype)
    if content == "pattern":
        return np.resize(everything[:23], count) if count else everything
    if content == "few_values":
        return everything[rng.integers(0, 3, count)] if count > 3 else everything
    if content == "sparse":
        return np.where(rng.random(count) < 0.05, everything, dtype.type(0)).astype(dtype)
    raise ValueError(content)


def to_fp8(numbers: Array) -> npt.NDArray[np.uint8]:
    """Bits of FP8 E4M3 nearest to `numbers`."""
    table = np.arange(127, dtype=np.uint16)
    exponent, fraction = table >> 3, table & 7
    values = np.where(
        exponent > 0, (8 + fraction) * 2.0 ** (exponent.astype(int) - 10), fraction * 2.0**-9
    )
    middle = (values[1:] + values[:-1]) / 2
    magnitude = np.searchsorted(middle, np.abs(numbers)).astype(np.uint8)
    return (magnitude | np.where(np.signbit(numbers), 128, 0)).astype(np.uint8)


def make_array(dtype: str, shape: Sequence[int], content: str, seed: object = 0) -> Array:
    """A C-contiguous array; its content is chosen bit by bit, so any payload can occur."""
    wanted = np.dtype(dtype)
    rng = random_state(dtype, tuple(shape), content, seed)
    count = int(np.prod(shape, dtype=object))
    part = {"c": wanted.itemsize // 2, "U": 4}.get(wanted.kind, wanted.itemsize)
    if part not in (1, 2, 4, 8):
        part = 1
    bits = bits_of(content, part, count * wanted.itemsize // part, rng)
    if wanted.kind == "U":  # code points have to be valid
        bits = (bits & np.uint32(0x3FF)).astype("<u4")
    if not wanted.isnative and wanted.kind in "iufc":
        bits = bits.byteswap()
    if not bits.size:
        return np.empty(shape, wanted)
    return bits.view(np.uint8).view(wanted).reshape(shape)


LAYOUTS_IN_MEMORY = ("C", "F", "every_second", "reversed", "transposed", "broadcast", "unaligned")


def laid_out(array: Array, layout: str) -> Array:
    """An array of the same dtype, however its elements lie in memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "every_second":
        return np.repeat(array, 2, axis=0)[::2] if array.ndim else array
    if layout == "reversed":
        return array[::-1] if array.ndim else array
    if layout == "transposed":
        return array.T
    if layout == "broadcast":
        return np.broadcast_to(array, (2, *array.shape))
    if layout == "unaligned" and array.nbytes:
        memory = np.empty(array.nbytes + 1, np.uint8)
        memory[1:] = np.frombuffer(array.tobytes(), np.uint8)
        return memory[1:].view(array.dtype).reshape(array.shape)
    return array


def assert_same(restored: object, original: Array) -> None:
    """Type, byte order, shape and every bit are the same."""
    assert type(restored) is np.ndarray
    assert restored.dtype == original.dtype
    assert restored.dtype.str == original.dtype.str
    assert restored.shape == original.shape
    assert in_memory(restored) == in_memory(original)
    if original.flags.f_contiguous and not original.flags.c_contiguous:
        assert restored.flags.f_contiguous


def in_memory(array: Array) -> bytes:
    """The bytes of an array in the order of memory if it is contiguous, padding included."""
    return array.T.tobytes() if array.flags.f_contiguous else array.tobytes()


def weights(kind: str, rows: int, columns: int, seed: object = 0) -> Bits:
    """Bit patterns of a weight matrix whose rows differ in scale: normal numbers, rounded.

    `kind`: bf16, fp16, fp32, fp64, fp8; `fp32_of_bf16` and the like: cast up; `fp32_short`: FP32
    with the low 7 bits of the mantissa cleared.
    """
    rng = random_state("weights", rows, columns, seed)
    scale = 0.02 * np.exp(rng.standard_normal((rows, 1)) / 3)
    numbers = rng.standard_normal((rows, columns)) * scale
    single = numbers.astype(np.float32)
    if kind == "fp64":
        return numbers.view(np.uint64)
    if kind == "fp32":
        return single.view(np.uint32)
    if kind == "fp16":
        return numbers.astype(np.float16).view(np.uint16)
    if kind == "bf16":
        return to_bf16(single)
    if kind == "fp8":
        return to_fp8(numbers * 100)
    if kind == "fp32_of_bf16":
        return to_bf16(single).astype(np.uint32) << np.uint32(16)
    if kind == "fp32_of_fp16":
        return numbers.astype(np.float16).astype(np.float32).view(np.uint32)
    if kind == "fp64_of_fp32":
        return single.astype(np.float64).view(np.uint64)
    if kind == "fp32_short":
        return single.view(np.uint32) & np.uint32(0xFFFFFF80)
    raise ValueError(kind)


def to_bf16(single: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the BF16 numbers nearest to FP32 ones, ties to even."""
    bits = single.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def entropy_bytes(plane: Array) -> float:
    """Bytes that an ideal order-0 code of single bytes would take."""
    counts = np.bincount(plane.reshape(-1), minlength=256)
    used = counts[counts > 0]
    return float(-(used * np.log2(used / used.sum())).sum() / 8)


# Safetensors files, by hand


def safetensors_bytes(
    tensors: Mapping[str, tuple[str, Sequence[int], bytes]],
    metadata: Mapping[str, str] | None = None,
    *,
    padding: int = 0,
) -> bytes:
    """A well-formed file of `tensors`: name to dtype, shape, data; `padding`: spaces after JSON."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    data = b"".join(data for _, _, data in tensors.values())
    return with_header(header, data, padding=padding)


def with_header(header: object, data: bytes, *, padding: int = 0) -> bytes:
    """A file with just this header, however wrong. `header`: bytes, or what becomes JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * padding
    return struct.pack("<Q", len(text)) + text + data


@functools.cache
def model_file() -> bytes:
    """A small file of several tensors: safetensors, 60 KB, two of them equal."""
    bf16 = weights("bf16", 48, 256)
    return safetensors_bytes(
        {
            "embed": ("BF16", bf16.shape, bf16.tobytes()),
            "norm": ("F32", (64,), np.ones(64, np.float32).tobytes()),
            "scale": ("F16", (33,), weights("fp16", 1, 33).tobytes()),
            "steps": ("I64", (100,), np.arange(100).tobytes()),
            "head": ("BF16", bf16.shape, bf16.tobytes()),
            "flag": ("BOOL", (5,), bytes([0, 1, 0, 1, 1])),
            "none": ("F32", (0, 4), b""),
        },
        {"format": "pt"},
        padding=3,
    )


# Archives, taken apart and put together again; independent of the package

MAGIC = bytes.fromhex("89444E53520D0A1A")
ENTRY, MODEL, CHUNK, REF, ENTRY_END, INDEX, END = range(1, 8)


def varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first, as Protocol Buffers and short archives have them."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def header(features: int = 1, limit: int = 1 << 26, version: int = 1, reserved: int = 0) -> bytes:
    """The first 32 bytes of an archive, with a valid check."""
    fields = MAGIC + struct.pack("<HHIII", version, reserved, features, limit, 0)
    return fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields))


@dataclass(frozen=True)
class Frame:
    """A frame; its checks are made when it is packed."""

    kind: int
    payload: bytes = b""
    original: int = 0
    model: int = 0

    def pack(self, reserved: int = 0) -> bytes:
        """Header with valid checks, and payload."""
        fields = struct.pack(
            "<BBHIIIQ",
            self.kind,
            0,
            reserved,
            len(self.payload),
            self.original,
            self.model,
            xxhash.xxh3_64_intdigest(self.payload),
        )
        check = xxhash.xxh3_64_intdigest(fields) & 0xFFFFFFFF
        return fields + struct.pack("<I", check) + self.payload


def take_apart(archive: bytes) -> list[Frame]:
    """All frames of a sound archive."""
    return list(_frames(archive))


def _frames(archive: bytes) -> Iterator[Frame]:
    at = 32
    while at < len(archive):
        kind, _, _, stored, original, model, _, _ = struct.unpack_from("<BBHIIIQI", archive, at)
        at += 28
        yield Frame(kind, archive[at : at + stored], original, model)
        at += stored


def put_together(frames: Sequence[Frame], start: bytes | None = None) -> bytes:
    """An archive of these frames, sealed: checks are valid, END tells where the index is."""
    parts = [header() if start is None else start]
    at, index_at = 32, 0
    for number, frame in enumerate(frames):
        sealed = frame
        if frame.kind == INDEX:
            index_at = at
        if frame.kind == END and len(frame.payload) == 16:
            sealed = replace(frame, payload=struct.pack("<QQ", index_at, number))
        parts.append(sealed.pack())
        at += len(parts[-1])
    return b"".join(parts)


def one_object(meta: Mapping[str, Any], inner: Sequence[Frame], data: bytes) -> bytes:
    """An archive without index of one entry: `inner` frames, which decode to `data`."""
    end = struct.pack("<QB", len(data), 1) + xxhash.xxh3_128_digest(data)
    frames = [Frame(ENTRY, json.dumps(meta).encode()), *inner, Frame(ENTRY_END, end)]
    return put_together([*frames, Frame(END, bytes(16))])


def bytes_archive(inner: Sequence[Frame], data: bytes) -> bytes:
    """As `one_object`, for an entry of kind `bytes`."""
    return one_object({"name": "", "kind": "bytes", "size": len(data)}, inner, data)


# File objects that fail


class FaultyFile(io.RawIOBase):
    """A file that raises `error` once `good` bytes have been read or written."""

    def __init__(self, good: int, error: OSError, data: bytes = b"") -> None:
        self.failed = False
        self._left = good
        self._error = error
        self._data = memoryview(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def _spend(self, wanted: int) -> int:
        if self._left <= 0:
            self.failed = True
            raise self._error
        count = min(wanted, self._left)
        self._left -= count
        return count

    def readinto(self, buffer: Any) -> int:
        count = self._spend(min(len(buffer), max(1, len(self._data))))
        count = min(count, len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def write(self, data: Any) -> int:
        return self._spend(len(data))


def msgpack_bytes(value: Any) -> bytes:
    """A message as Flax writes it: maps, texts, small numbers and arrays."""
    if isinstance(value, dict):
        head = bytes([0x80 | len(value)])
        return head + b"".join(msgpack_bytes(key) + msgpack_bytes(v) for key, v in value.items())
    if isinstance(value, str):
        return b"\xd9" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return bytes([value])
    array = np.asarray(value)
    shape = b"".join(b"\xce" + size.to_bytes(4, "big") for size in array.shape)
    inner = b"\x93" + bytes([0x90 | array.ndim]) + shape + msgpack_bytes(array.dtype.name)
    inner += b"\xc6" + array.nbytes.to_bytes(4, "big") + array.tobytes()
    return b"\xc9" + len(inner).to_bytes(4, "big") + b"\x01" + inner
