"""Codecs that are given a base to code against: peers tensor by tensor, Densor a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from bench.tensors import safetensors_bytes
from densor.compare.codec import Bytes, Codec, Item

Encode = Callable[[Item, Bytes], Any]
Decode = Callable[[Any, Bytes], Any]


class DensorAgainstBase(Codec):
    """Densor, from file to file in memory: names, index and all checks included."""

    package = "densor"
    compiles = True

    def __init__(self, level: int, base: Mapping[str, Item]) -> None:
        super().__init__(f"densor-{level}")
        self._densor = import_module("densor")
        self._level = level
        self._base = safetensors_bytes(base.values())

    def supports(self, dtype: str) -> bool:
        return True

    def prepare(self, tensors: Sequence[Item]) -> Any:
        return safetensors_bytes(tensors), [t.data.size for t in tensors]

    def compress(self, prepared: Any, threads: int) -> Any:
        data, sizes = prepared
        packed = io.BytesIO()
        self._densor.compress_file(
            io.BytesIO(data), packed, self._level, threads, base=io.BytesIO(self._base)
        )
        return packed.getvalue(), sizes

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        blob, sizes = state
        out = io.BytesIO()
        self._densor.decompress_file(io.BytesIO(blob), out, threads, base=io.BytesIO(self._base))
        data = np.frombuffer(out.getbuffer(), np.uint8)[-sum(sizes) :]
        return np.split(data, np.cumsum(sizes)[:-1])

    def compressed_size(self, state: Any) -> int:
        return len(state[0])


class AgainstBase(Codec):
    """One peer: `make` imports it and gives a pair of functions, (tensor, base) and back."""

    def __init__(
        self,
        name: str,
        package: str,
        make: Callable[[], tuple[Encode, Decode]],
        base: Mapping[str, Item],
    ) -> None:
        super().__init__(name)
        self.package = package
        self._encode, self._decode = make()
        self._base = base

    def supports(self, dtype: str) -> bool:
        return True

    def prepare(self, tensors: Sequence[Item]) -> Any:
        return [(t, self._base[t.name].data) for t in tensors]

    def compress(self, prepared: Any, threads: int) -> Any:
        return [(self._encode(tensor, base), base) for tensor, base in prepared]

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        return [self._decode(blob, base) for blob, base in state]

    def compressed_size(self, state: Any) -> int:
        return sum(len(blob[0]) if isinstance(blob, tuple) else len(blob) for blob, _ in state)


def _zstd_of_xor() -> tuple[Encode, Decode]:
    zstandard = import_module("zstandard")
    pack, unpack = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    return (
        lambda tensor, base: pack.compress(tensor.data ^ base),
        lambda blob, base: np.frombuffer(unpack.decompress(blob), np.uint8) ^ base,
    )


def _zipnn() -> tuple[Encode, Decode]:
    """The XOR of both, as the class codes deltas, in the layout of the dtype."""
    zipnn = import_module("zipnn")
    names = import_module("bench.codecs.zipnn").DTYPES

    def encode(tensor: Item, base: Bytes) -> Any:
        codec = zipnn.ZipNN(
            input_format="byte", bytearray_dtype=names[tensor.dtype],
            delta_compressed_type="byte", threads=1,
        )  # fmt: skip
        return codec.compress(bytearray(tensor.data), delta_second_data=bytearray(base))

    decoder = zipnn.ZipNN(input_format="byte", delta_compressed_type="byte", threads=1)
    return encode, lambda blob, base: decoder.decompress(blob, delta_second_data=bytearray(base))


def _lmzip() -> tuple[Encode, Decode]:
    codec, planner = import_module("lmz.codec"), import_module("lmz.planner")
    size = import_module("lmz").DEFAULT_CHUNK_SIZE

    def encode(tensor: Item, base: Bytes) -> Any:
        kind = planner.KIND_BF16 if tensor.dtype == "BF16" else planner.KIND_BYTES
        width = tensor.words().dtype.itemsize
        parts = []
        for at in range(0, tensor.data.size, size):
            new, old = tensor.data[at : at + size].data, base[at : at + size].data
            coded, flags, crc = codec.encode_delta(new, old, width, kind=kind)
            parts.append((b"".join(coded), width, flags, len(new), crc))
        return b"".join(part[0] for part in parts), parts

    def decode(blob: Any, base: Bytes) -> Any:
        found, at = [], 0
        for payload, width, flags, length, crc in blob[1]:
            old = base[at : at + length].data
            found.append(codec.decode_delta(payload, width, flags, length, old, crc))
            at += length
        return found

    return encode, decode


def _z4ai() -> tuple[Encode, Decode]:
    z4ai = import_module("z4ai")
    names = import_module("bench.codecs.z4ai").DTYPES
    return (
        lambda tensor, base: z4ai.compress_delta(
            tensor.data.tobytes(), base.tobytes(), dtype=names[tensor.dtype], threads=1
        ),
        lambda blob, base: z4ai.decompress_delta(blob, base.tobytes()),
    )


def _glyd() -> tuple[Encode, Decode]:
    glyd = import_module("glyd")
    return (
        lambda tensor, base: glyd.compress_with_base(base.tobytes(), tensor.data.tobytes()),
        lambda blob, base: glyd.decompress_with_base(base.tobytes(), blob),
    )


class Peer(NamedTuple):
    """A codec that knows bases: distribution, and what makes its functions."""

    package: str
    make: Callable[[], tuple[Encode, Decode]]


PEERS = {
    "zstd-3 of XOR": Peer("zstandard", _zstd_of_xor),
    "zipnn": Peer("zipnn", _zipnn),
    "lmzip": Peer("lmzip", _lmzip),
    "z4ai": Peer("z4ai", _z4ai),
    "glyd": Peer("glyd", _glyd),
}


def load_peers(base: Mapping[str, Item]) -> tuple[list[Codec], dict[str, str]]:
    """All that can be imported, and why the others cannot."""
    found: list[Codec] = []
    absent: dict[str, str] = {}
    for name, peer in PEERS.items():
        try:
            version(peer.package)
            found.append(AgainstBase(name, peer.package, peer.make, base))
        except Exception as error:  # a peer may fail to load in any way it likes
            absent[name] = f"{type(error).__name__}: {error}"
    return [*found, *(DensorAgainstBase(level, base) for level in (3, 6))], absent
