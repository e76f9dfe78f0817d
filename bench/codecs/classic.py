"""Compressors of any bytes: of Python's library, of packages, and programs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import platform
import shutil
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from densor.compare.codec import DTYPES, FILE, Item, PerItem


class Plain(PerItem):
    """A codec of bytes, one thread."""

    dtypes = dict.fromkeys((*DTYPES, FILE))

    def native(self, item: Item) -> bytes:
        return item.data.tobytes()


class Standard(Plain):
    """A codec of Python's library."""

    def version(self) -> str:
        return f"Python {platform.python_version()}"


class Gzip(Standard):
    """DEFLATE at level 9."""

    def encode(self, item: bytes, threads: int) -> bytes:
        return gzip.compress(item, compresslevel=9)

    def decode(self, blob: bytes, threads: int) -> bytes:
        return gzip.decompress(blob)


class Bzip2(Standard):
    """Blocks of 900 kB."""

    def encode(self, item: bytes, threads: int) -> bytes:
        return bz2.compress(item)

    def decode(self, blob: bytes, threads: int) -> bytes:
        return bz2.decompress(blob)


class Xz(Standard):
    """LZMA2 at preset 9, "extreme" or not."""

    def __init__(self, name: str, extreme: bool) -> None:
        super().__init__(name)
        self._preset = 9 | (lzma.PRESET_EXTREME if extreme else 0)

    def encode(self, item: bytes, threads: int) -> bytes:
        return lzma.compress(item, preset=self._preset)

    def decode(self, blob: bytes, threads: int) -> bytes:
        return lzma.decompress(blob)


class Brotli(Plain):
    """Quality 11, a window of 16 MiB."""

    package = "brotli"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._brotli = import_module("brotli")

    def encode(self, item: bytes, threads: int) -> Any:
        return self._brotli.compress(item, quality=11, lgwin=24)

    def decode(self, blob: bytes, threads: int) -> Any:
        return self._brotli.decompress(blob)


class Ppmd(Plain):
    """PPMd variant H of order 16 with 256 MiB; 8 bytes more for the size, which it leaves out."""

    package = "pyppmd"
    order, memory = 16, 256 << 20

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._ppmd = import_module("pyppmd")

    def encode(self, item: bytes, threads: int) -> bytes:
        encoder = self._ppmd.Ppmd7Encoder(self.order, self.memory)
        packed: bytes = encoder.encode(item) + encoder.flush()
        return len(item).to_bytes(8, "little") + packed

    def decode(self, blob: bytes, threads: int) -> Any:
        decoder = self._ppmd.Ppmd7Decoder(self.order, self.memory)
        return decoder.decode(blob[8:], int.from_bytes(blob[:8], "little"))


class Kanzi(Plain):
    """Level 9: context mixing."""

    package = "kanzi"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._kanzi = import_module("kanzi")

    def encode(self, item: bytes, threads: int) -> Any:
        return self._kanzi.compress(item, level=9)

    def decode(self, blob: bytes, threads: int) -> Any:
        return self._kanzi.decompress(blob)


class Program(Plain):
    """A program that makes the file `packed` of the file `content`, and the other way round."""

    pack: tuple[str, ...]
    unpack: tuple[str, ...]
    packed: str

    def version(self) -> str:
        if shutil.which(self.pack[0]) is None:
            raise ImportError(f"{self.pack[0]} is not installed")
        return "program"

    def encode(self, item: bytes, threads: int) -> bytes:
        return self._run(self.pack, "content", item, self.packed)

    def decode(self, blob: bytes, threads: int) -> bytes:
        return self._run(self.unpack, self.packed, blob, "content")

    def _run(self, command: tuple[str, ...], source: str, data: bytes, target: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / source).write_bytes(data)
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            return (Path(folder) / target).read_bytes()


class Lrzip(Program):
    """Long-range matches, then ZPAQ."""

    pack = ("lrzip", "-z", "-L9", "-p1", "-o", "packed.lrz", "content")
    unpack = ("lrzip", "-d", "-p1", "-o", "content", "packed.lrz")
    packed = "packed.lrz"


class Zpaq(Program):
    """Method 5: context mixing."""

    pack = ("zpaq", "a", "packed.zpaq", "content", "-m5", "-t1")
    unpack = ("zpaq", "x", "packed.zpaq", "-t1")
    packed = "packed.zpaq"
