"""Checks every GPU kernel on the machine at hand, and times it where that means anything.

With a GPU: decodes generated weights of every type by every kernel, compares bit for bit with the
CPU, damages packed bytes, and times decoding against a copy on the device, and nvCOMP where it is
installed. With torch also a model whose weights stay packed on the device, in a CUDA graph too.
Emulated, the same on the CPU, at a small size.
"""

import importlib.util
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.planes.units import entry_points
from densor.codec.scale_context.params import parse as parse_scales
from densor.codec.scale_context.payload import parse_head
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import ChecksumError
from densor.gpu import Backend, Block, Packed
from densor.gpu.palette import BATCHES, PaletteMatrix
from densor.gpu.samples import planar, scales, weights
from densor.gpu.tensors import PackedChunk
from densor.runtime.types import Bytes
from densor.version import __version__

DTYPES = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")
EDGES = (1, 255, 256, 257, 8192, 100003)  # elements
_ROW = 1024
_CHUNK = 1 << 18
SMALL, LARGE = 1 << 18, 1 << 27  # elements: emulated, on a GPU
_ROUNDS = 10
_DAMAGES = 8
_POINTS_HEAD = 16  # bytes before the numbers of units


class Case(NamedTuple):
    """A type of elements and a codec."""

    dtype: str
    codec: Callable[..., Packed]

    def pack(self, data: Bytes) -> Packed:
        """Packed by the codec, in rows, chunks of about the size that archives have."""
        return self.codec(data, self.dtype, _ROW, _CHUNK)


CASES = [Case(dtype, codec) for dtype in DTYPES for codec in (planar, scales)]


@dataclass
class Result:
    """One row: what was done, whether it was right, and how fast.

    `ratio`: stored bytes by original ones; `resident`: bytes kept on the device, likewise.
    `decode`, `copy` (of as many bytes, on the device): 10^9 original bytes per second.
    """

    what: str
    dtype: str
    elements: int
    right: bool
    ratio: float | None = None
    resident: float | None = None
    decode: float | None = None
    copy: float | None = None
    note: str = ""


def check_decoding(on: Backend, case: Case, elements: int, timed: bool) -> Result:
    """Decodes to just the bytes that were packed."""
    data = weights(case.dtype, elements, _ROW)
    block = Block([case.pack(data)], on, host=False)
    out = on.empty(data.size)
    block.decode_into([out])
    right = bool((on.read(out) == data).all())
    result = Result(", ".join(block.kernels), case.dtype, elements, right)
    result.ratio = block.contents[0].stored / data.size
    result.resident = block.resident / data.size
    if timed:
        result.decode = _speed(block.launch, block.check, data.size)
        result.copy = copy_speed(on, data.size)
    return result


def check_damage(on: Backend, case: Case, elements: int) -> Result:
    """Stored bits that change in the device's memory are told of, and nothing worse comes of it."""
    data = weights(case.dtype, elements, _ROW)
    packed = case.pack(data)
    block = Block([packed], on, host=False)
    good = on.read(block.data)
    out = on.empty(data.size)
    part = coded_part(packed.chunks[0])
    at = good.tobytes().find(part.tobytes())
    rng = np.random.default_rng(elements)
    told = 0
    for _ in range(_DAMAGES):
        bad = good.copy()
        bad[at + rng.integers(0, part.size, 16)] ^= 255
        on.write(block.data, bad)
        try:
            block.decode_into([out])
        except ChecksumError:
            told += 1
    on.write(block.data, good)
    block.decode_into([out])
    right = at >= 0 and 2 * told >= _DAMAGES and bool((on.read(out) == data).all())
    note = f"{told} of {_DAMAGES} told"
    return Result("damaged: " + ", ".join(block.kernels), case.dtype, elements, right, note=note)


def coded_part(chunk: PackedChunk) -> Bytes:
    """Some of the entropy-coded bytes of a chunk, in which damage hardly goes unnoticed."""
    if chunk.model[0] != registry.CODEC_SCALE_CONTEXT:
        return chunk.payload[128:1024]
    form = parse_scales(chunk.model).form
    head = parse_head(chunk.payload, form, chunk.size // form.size)
    return chunk.payload[max(head.stream, head.end - 2048) : head.end - 64]


def check_points(on: Backend, elements: int) -> Result:
    """Stored entry points are used; those that lie are told of."""
    data = weights("BF16", elements, _ROW)
    packed = planar(data, "BF16", _ROW, _CHUNK, level=1)
    told = []
    for lie in (False, True):
        chunks = [chunk._replace(points=_points(chunk, lie)) for chunk in packed.chunks]
        block = Block([packed._replace(chunks=chunks)], on, host=False)
        out = on.empty(data.size)
        try:
            block.decode_into([out])
            told.append(not (on.read(out) == data).all())
        except ChecksumError:
            told.append(True)
    return Result("stored entry points", "BF16", elements, told == [False, True])


def _points(chunk: PackedChunk, lie: bool) -> Bytes:
    """The entry points of a chunk; one of them a bit off, if they are to lie."""
    points = entry_points(chunk.model, chunk.payload, chunk.size) or b""
    if lie:
        head, count = points[:_POINTS_HEAD], int.from_bytes(points[12:_POINTS_HEAD], "little")
        halves = np.frombuffer(zstd_decompress(points[_POINTS_HEAD:], 2 * count), np.uint8).copy()
        low = halves[: count // 4]  # of the first stream
        at = int(np.flatnonzero((low[:-1] < 255) & (low[1:] > 0))[0])
        low[at] += 1
        low[at + 1] -= 1
        points = head + zstd_compress(halves, 1)
    return np.frombuffer(points, np.uint8)


def check_models(on: Backend, elements: int, timed: bool) -> Iterator[Result]:
    """Models of torch whose weights are packed on the device, where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return
    from densor.torch.check import check_models as checks

    for what, right, note in checks(on, elements, timed):
        yield Result(what, "BF16", elements, right, note=note)


def check_palette(on: Backend, rows: int, columns: int, timed: bool) -> Iterator[Result]:
    """The format of fixed width, and products with it, against sums in FP64."""
    elements = rows * columns
    bits = weights("BF16", elements, columns).view("<u2").reshape(rows, columns)
    matrix = PaletteMatrix(bits, on)
    out = on.empty(bits.nbytes)
    matrix.decode(out)
    right = bool((on.read(out).view("<u2").reshape(bits.shape) == bits).all())
    result = Result("palette_decode", "BF16", elements, right)
    result.resident = matrix.resident / bits.nbytes
    if timed:
        wait = partial(on.read, on.empty(1))
        result.decode = _speed(partial(matrix.decode, out), wait, bits.nbytes)
        result.copy = copy_speed(on, bits.nbytes)
    yield result
    some = slice(0, min(rows, 512))
    wide = (bits[some].astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    for batch in BATCHES:
        x_bits = weights("BF16", batch * columns, columns, seed=2).view("<u2")
        x_bits = x_bits.reshape(batch, columns)
        x = on.new("BF16", (batch, columns))
        on.write(on.wrap(x), x_bits)
        y = on.new("F32", (batch, rows))
        matrix.multiply(x, y)
        product = on.read(on.wrap(y)).view(np.float32).reshape(batch, rows)[:, some]
        factors = (x_bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        off = np.abs(product - factors @ wide.T) / (np.abs(factors) @ np.abs(wide).T)
        result = Result(f"palette_product_{batch}", "BF16", elements, bool(off.max() < 1e-5))
        result.note = f"off by {off.max():.1e} at most"
        if timed:
            result.decode = _speed(partial(matrix.multiply, x, y), wait, bits.nbytes)
        yield result


def _speed(run: Callable[[], object], wait: Callable[[], object], size: int) -> float:
    """10^9 bytes per second, over several rounds after one to warm up."""
    run()
    wait()
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        run()
    wait()
    return _ROUNDS * size / (time.perf_counter() - begin) / 1e9


def copy_speed(on: Backend, size: int) -> float:
    """A copy within the device's memory, counted once."""
    source, target = on.new("U8", (size,)), on.new("U8", (size,))

    def copy() -> None:
        target[...] = source

    return _speed(copy, lambda: on.read(on.wrap(target[:256])), size)


def time_nvcomp(on: Backend, elements: int) -> Iterator[Result]:
    """The same bytes by nvCOMP, if its Python package is installed."""
    if importlib.util.find_spec("nvidia") is None:
        return
    if importlib.util.find_spec("nvidia.nvcomp") is None:
        return
    import cupy
    from nvidia import nvcomp

    data = weights("BF16", elements)
    for algorithm in ("ANS", "Bitcomp", "Cascaded", "GDeflate", "LZ4", "Zstd"):
        result = Result(f"nvCOMP {algorithm}", "BF16", elements, False)
        try:
            codec = nvcomp.Codec(algorithm=algorithm)
            coded = codec.encode(nvcomp.as_array(cupy.asarray(data)))
            decoded = cupy.asarray(codec.decode(coded))
            result.right = bool((cupy.asnumpy(decoded).view(np.uint8) == data).all())
            result.ratio = coded.buffer_size / data.size
            wait = cupy.cuda.get_current_stream().synchronize
            result.decode = _speed(partial(codec.decode, coded), wait, data.size)
        except Exception as error:  # a peer that fails is no fault of ours
            result.right, result.note = True, f"failed: {error}"[:200]
        yield result


def run(on: Backend, elements: int, timed: bool) -> Iterator[Result]:
    """All checks, one row each."""
    for case in CASES:
        for size in EDGES:
            yield check_decoding(on, case, size, False)
        yield check_decoding(on, case, elements, timed)
        yield check_damage(on, case, min(elements, SMALL))
    yield check_points(on, max(EDGES[-2], min(elements, SMALL)))
    yield from check_models(on, elements, timed)
    columns = 4 * _ROW
    yield from check_palette(on, -(-elements // columns), columns, timed)
    if timed:
        yield from time_nvcomp(on, elements)


def machine(on: Backend) -> dict[str, Any]:
    """What the checks ran on."""
    told = {
        "densor": __version__,
        "backend": on.name,
        "processors": on.processors,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    if on.name == "cuda":
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        told["gpu"] = properties["name"].decode()
        told["memory"] = properties["totalGlobalMem"]
        told["cuda"] = cupy.cuda.runtime.runtimeGetVersion()
        told["driver"] = cupy.cuda.runtime.driverGetVersion()
        told["cupy"] = cupy.__version__
    return told


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def markdown(told: dict[str, Any], results: Sequence[Result]) -> str:
    """The rows as a table."""
    lines = [f"{key}: {value}  " for key, value in told.items()]
    lines += [
        "",
        "| what | dtype | elements | right | ratio | resident | GB/s | copy GB/s | note |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for r in results:
        right = "yes" if r.right else "**NO**"
        numbers = [_number(r.ratio, 4), _number(r.resident, 4)]
        numbers += [_number(r.decode, 1), _number(r.copy, 1)]
        row = [r.what, r.dtype, str(r.elements), right, *numbers, r.note]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
