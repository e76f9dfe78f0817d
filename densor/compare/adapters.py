"""The codecs that are there wherever Densor is: itself on files, Zstandard, memcpy."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard

from densor.compare.codec import DTYPES, FILE, Bytes, Codec, Item, PerItem
from densor.formats.container import entry
from densor.formats.container.sinks import MemorySink
from densor.formats.container.stream_reader import StreamReader
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file
from densor.options import ReadOptions, WriteOptions
from densor.version import __version__

_PLAIN = dict.fromkeys((*DTYPES, FILE))


class DensorFiles(Codec):
    """Densor, all checks included: one archive of all files. `dtype`: what their bytes are."""

    package = "densor"
    dtypes = _PLAIN
    compiles = True

    def __init__(self, name: str, level: int, dtype: str | None = None) -> None:
        super().__init__(name)
        self._level = level
        self._dtype = dtype

    def version(self) -> str:
        return __version__

    def prepare(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def compress(self, prepared: Sequence[Item], threads: int) -> tuple[bytes, list[int]]:
        out = io.BytesIO()
        writer = ArchiveWriter(out, WriteOptions(level=self._level, threads=threads))
        try:
            for item in prepared:
                dtype = item.dtype or self._dtype
                source, random = MemorySource(item.data), MemoryRandomSource(item.data)
                plan = plan_file(source, item.data.size, dtype, self._level, random=random)
                meta = entry.EntryMeta(item.name, entry.FILE, item.data.size, format=plan.format)
                writer.add(meta, plan.source, plan.segments, plan.listed)
            writer.close()
        finally:
            writer.abort()
        return out.getvalue(), [item.data.size for item in prepared]

    def decompress(self, state: tuple[bytes, list[int]], threads: int) -> Sequence[Bytes]:
        archive, sizes = state
        restored: list[Bytes] = []

        def sink(meta: entry.EntryMeta) -> MemorySink:
            restored.append(np.empty(sizes[len(restored)], np.uint8))
            return MemorySink(restored[-1])

        reader = StreamReader(MemorySource(archive), ReadOptions(threads=threads))
        try:
            for _ in reader.entries(sink):
                pass
        finally:
            reader.close()
        return restored

    def compressed_size(self, state: tuple[bytes, list[int]]) -> int:
        return len(state[0])


class Zstd(PerItem):
    """Compresses with `threads` workers; a frame is always decompressed by one thread."""

    package = "zstandard"
    dtypes = _PLAIN

    def __init__(self, name: str, level: int, long: bool = False) -> None:
        """`long`: matches within 128 MiB."""
        super().__init__(name)
        self.level = level
        self._long = long

    def encode(self, item: Any, threads: int) -> Any:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level,
            threads={1: 0, 0: -1}.get(threads, threads),
            **({"enable_ldm": True, "window_log": 27} if self._long else {}),
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(item)

    def decode(self, blob: Any, threads: int) -> Any:
        return zstandard.ZstdDecompressor().decompress(blob)


class Memcpy(Codec):
    """The roofline: copies away and back between buffers that exist already; one thread."""

    package = "numpy"
    dtypes = _PLAIN

    def native(self, item: Item) -> Any:
        return item.data, np.full_like(item.data, 1), np.full_like(item.data, 2)

    def compress(self, prepared: Any, threads: int) -> Any:
        for source, there, _back in prepared:
            np.copyto(there, source)
        return prepared

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        for _source, there, back in state:
            np.copyto(back, there)
        return [back for _source, _there, back in state]

    def compressed_size(self, state: Any) -> int:
        return sum(there.nbytes for _source, there, _back in state)
