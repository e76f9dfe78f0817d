"""The chunks of a batch: coded in parallel, each stored in the smallest way."""

from densor.codec import registry
from densor.codec.batch import OWN, Batch, Bytes, Chunk, Chunks, Coding
from densor.codec.interfaces import BatchCoder, ChunkCoder, Encoder
from densor.codec.zstd import zstd_compress, zstd_smallest

MAX_FAST_ZSTD = 3  # levels of Zstandard that cost little more than the fastest
MAX_GAIN_OF_SLOW_ZSTD = 1.25  # size at the fastest level over that at a slow one


def own_or_raw(payload: bytes | Bytes, chunk: Bytes) -> Chunk:
    """A chunk as its codec has coded it, or raw where that is not longer."""
    if len(payload) < chunk.size:
        return Chunk(OWN, payload, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def zstd_chunk(chunk: Bytes, level: int) -> Chunk:
    """A chunk by Zstandard, or raw where that is not longer."""
    packed = zstd_smallest(chunk, level)
    if len(packed) < chunk.size:
        return Chunk(registry.MODEL_ZSTD, packed, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def smallest_chunk(coder: ChunkCoder, chunk: Bytes, index: int, zstd: int) -> Chunk:
    """A chunk by its codec, by Zstandard of level `zstd` where something repeats, or raw."""
    payload = coder.encode(chunk, index)
    return smallest_of(payload, chunk, zstd) if coder.repeats else own_or_raw(payload, chunk)


def smallest_of(payload: bytes | Bytes, chunk: Bytes, zstd: int) -> Chunk:
    """A chunk as its codec has coded it, by Zstandard of level `zstd`, or raw."""
    if _may_win(chunk, len(payload), zstd):
        plain = zstd_chunk(chunk, zstd)
        if len(plain.payload) < len(payload):
            return plain
    return own_or_raw(payload, chunk)


def _may_win(chunk: Bytes, coded: int, zstd: int) -> bool:
    """Whether the fastest level of Zstandard comes near enough for a slow one to be tried."""
    return zstd <= MAX_FAST_ZSTD or len(zstd_compress(chunk, 1)) < MAX_GAIN_OF_SLOW_ZSTD * coded


class ChunkEncoder(Encoder):
    """An `Encoder` of chunks by a coder whose parameters are settled from the start."""

    def __init__(self, coder: ChunkCoder, batch: Batch, zstd: int) -> None:
        self.coder = coder
        self.batch = batch
        self._zstd = zstd

    def encode(self) -> Coding:
        """Starts coding all chunks."""
        submit, chunks = self.batch.workers.submit, self.batch.chunks()
        return Chunks(self.coder, [submit(self._store, chunk, i) for i, chunk in enumerate(chunks)])

    def _store(self, chunk: Bytes, index: int) -> Chunk:
        """Chunk number `index`, coded."""
        return smallest_chunk(self.coder, chunk, index, self._zstd)


class CountingEncoder(ChunkEncoder):
    """An `Encoder` of chunks by a coder that counts all of them first."""

    coder: BatchCoder

    def __init__(self, coder: BatchCoder, batch: Batch, zstd: int) -> None:
        super().__init__(coder, batch, zstd)
        self._settled = False

    def settle(self) -> None:
        """Counts all chunks and settles the parameters, once."""
        if not self._settled:
            self._settled = True
            chunks = self.batch.chunks()
            tasks = [self.batch.workers.submit(self.coder.count, chunk) for chunk in chunks]
            self.coder.decide([task.result() for task in tasks])

    def encode(self) -> Coding:
        """Counts all chunks, then starts coding them."""
        self.settle()
        return super().encode()
