"""Kernels of `densor.gpu` under the emulator: bit for bit what went in, in any order of lanes."""

import importlib.util
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state
from paths import GOLDEN

import densor
from densor.cli import gpu_check
from densor.cli.main import main
from densor.codec.codecs import decoder_for
from densor.codec.planes.params import parse
from densor.codec.scale_context import encoder as scales_coder
from densor.codec.scale_context.params import Alphabet
from densor.errors import ArgumentError, ChecksumError, DensorError, FormatError, UnsupportedError
from densor.formats.container.packed_array import PackedArray
from densor.gpu import Block, DeviceTensor, Scratch, emulate, read_blob, read_packed, samples
from densor.gpu.emulate import EmulatedBackend, KernelError
from densor.gpu.palette import BATCHES, PaletteMatrix
from densor.gpu.tensors import Packed
from densor.gpu.uploaded import upload_arrays

if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

Bytes = npt.NDArray[np.uint8]
SIZES = (0, 1, 255, 256, 257, 8192, 100003)
LARGE = pytest.param(1 << 22, marks=pytest.mark.slow)
FLAGS = os.environ.get("DENSOR_EMULATOR_FLAGS", "").split()  # of test_gpu_sanitizers


@cache
def backend(order: str = "up") -> EmulatedBackend:
    return EmulatedBackend(order, flags=FLAGS)


def run(block: Block, on: EmulatedBackend) -> list[Bytes]:
    """Decodes to guarded memory, so that writes beyond a tensor are found."""
    outs = [on.empty(tensor.size) for tensor in block.contents]
    block.decode_into(outs)
    return [on.read(out) for out in outs]


def decode(tensor: Packed, order: str = "up", kernels: set[str] | None = None) -> Bytes:
    block = Block([tensor], backend(order), host=False)
    if kernels is not None:
        assert kernels <= set(block.kernels)
    (found,) = run(block, backend(order))
    return found


HUFFMAN = {"BF16": "bf16", "F16": "word16", "F32": "fp32", "F8_E4M3": "byte"}
RANS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2"}


@pytest.mark.parametrize("order", emulate.ORDERS)
@pytest.mark.parametrize("dtype", HUFFMAN)
@pytest.mark.parametrize("size", [*SIZES, LARGE])
def test_huffman(dtype: str, size: int, order: str) -> None:
    data = samples.weights(dtype, size)
    expected = {f"huffman_{HUFFMAN[dtype]}"} if size else set()
    assert (decode(samples.planar(data, dtype), order, expected) == data).all()


@pytest.mark.parametrize("order", emulate.ORDERS)
@pytest.mark.parametrize("dtype", RANS)
@pytest.mark.parametrize("size", [*SIZES, LARGE])
def test_rans(dtype: str, size: int, order: str) -> None:
    data = samples.weights(dtype, size)
    expected = {f"rans_{RANS[dtype]}"} if size else set()
    assert (decode(samples.scales(data, dtype), order, expected) == data).all()


@pytest.mark.parametrize("dtype", HUFFMAN)
@pytest.mark.parametrize("run_length", [1, 7, 77, 100, 391, 1024, 5000])
def test_runs_of_any_length(dtype: str, run_length: int) -> None:
    """Runs, and so units and groups, begin anywhere; the last chunk ends anywhere."""
    data = samples.weights(dtype, 30011, max(run_length, 16))
    chunk = max(1, 7001 // run_length) * run_length
    tensor = samples.planar(data, dtype, run_length, chunk, level=6)
    assert (decode(tensor) == data).all()


def test_classes_of_all_kinds() -> None:
    """Rows of random bits and rows of one value make classes that are raw and constant."""
    rng = random_state("gpu classes")
    data = samples.weights("BF16", 512 * 256, 256)
    rows = data.view(np.uint16).reshape(512, 256)
    rows[::3] = rng.integers(0, 1 << 16, (171, 256))
    rows[1::3] = 0x3F80 | rng.integers(0, 128, (171, 256))
    tensor = samples.planar(data, "BF16", 256, level=6)
    classes = parse(tensor.chunks[0].model).planes[0]
    assert classes is not None and {0, 2} <= set(classes.kinds.tolist())
    assert (decode(tensor) == data).all()


def test_planes_that_are_decoded_first() -> None:
    """Mantissas with few values are coded by classes too, and need scratch memory."""
    rng = random_state("gpu planes")
    bits = rng.integers(0, 3, (40000, 4), np.uint8) * np.uint8(85)
    bits[:, 0] = 17
    data = bits.reshape(-1)
    block = Block([samples.planar(data, "F32", 100, 9000)], backend(), host=False)
    assert block.kernels == ["huffman_byte", "huffman_fp32"]
    assert (run(block, backend())[0] == data).all()


@pytest.mark.parametrize("columns", [1, 5, 31, 33, 1000])
@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_rows_of_any_length(dtype: str, columns: int) -> None:
    data = samples.weights(dtype, 20011, columns)
    tensor = samples.scales(data, dtype, columns, max(1, 5001 // columns) * columns)
    assert (decode(tensor) == data).all()


def test_many_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that do not fit in shared memory, as no coder makes them so far."""
    alphabet = Alphabet(phase=5, first=-2, exponents=5, low_exponents=3)
    monkeypatch.setattr(scales_coder, "ALPHABET", alphabet)
    data = samples.weights("BF16", 20011)
    assert (decode(samples.scales(data, "BF16")) == data).all()


def test_any_bits_under_scale_contexts() -> None:
    """Random bits: escapes and tails in every step, NaN payloads, a stream of many words."""
    for dtype in RANS:
        data = random_state("gpu bits", dtype).integers(0, 256, 8 * 4099, np.uint8)
        assert (decode(samples.scales(data, dtype)) == data).all()


# Matrices of fixed width


def matrix_bits(rows: int, columns: int, wild: bool) -> npt.NDArray[np.uint16]:
    if wild:
        rng = random_state("gpu palette", rows, columns)
        return rng.integers(0, 1 << 16, (rows, columns), np.uint16)
    data = samples.weights("BF16", rows * columns, max(columns, 1))
    return data.view("<u2").reshape(rows, columns)


@pytest.mark.parametrize("order", emulate.ORDERS)
@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        *((0, 0), (3, 0), (0, 8), (1, 1), (1, 255), (3, 256), (5, 257), (1, 8192)),
        pytest.param((101, 1000)),
        pytest.param((1024, 4096), marks=pytest.mark.slow),
    ],
)
def test_palette(shape: tuple[int, int], wild: bool, order: str) -> None:
    """Escaped exponents are rare in weights and frequent in random bits."""
    bits = matrix_bits(*shape, wild)
    out = backend(order).empty(bits.nbytes)
    PaletteMatrix(bits, backend(order)).decode(out)
    assert (backend(order).read(out).view("<u2").reshape(shape) == bits).all()


@pytest.mark.parametrize("order", emulate.ORDERS)
@pytest.mark.parametrize("batch", BATCHES)
def test_product(batch: int, order: str) -> None:
    """Against sums in FP64, within what FP32 can be off by."""
    rng = random_state("gpu product", batch)
    for rows, columns in ((1, 8), (19, 264), (33, 1024)):
        bits = matrix_bits(rows, columns, wild=False)
        x = rng.standard_normal((batch, columns)).astype(np.float32)
        x_bits = (x.view(np.uint32) >> 16).astype(np.uint16)
        source = backend(order).new("BF16", (batch, columns)).view(np.uint16)
        source[:] = x_bits
        found = PaletteMatrix(bits, backend(order)).multiply(source)
        wide = [(b.astype(np.uint32) << 16).view(np.float32).astype(float) for b in (bits, x_bits)]
        wanted = wide[1] @ wide[0].T
        most = np.abs(wide[1]) @ np.abs(wide[0]).T
        assert found.shape == (batch, rows) and found.dtype == np.float32
        assert (np.abs(found - wanted) <= 1e-6 * most).all()


def test_palette_of_packed_tensors() -> None:
    data = samples.weights("BF16", 64 * 100)
    packed = samples.planar(data, "BF16")
    place = packed.tensors[0]._replace(shape=(100, 64))
    matrix = PaletteMatrix.from_packed(packed._replace(tensors=(place,)), backend())
    assert matrix.decode().tobytes() == data.tobytes()
    assert matrix.resident > 0
    with pytest.raises(ArgumentError, match="matrix of BF16"):
        PaletteMatrix.from_packed(packed, backend())


def test_products_that_cannot_be() -> None:
    matrix = PaletteMatrix(matrix_bits(4, 16, False), backend())
    new = backend().new
    for x in (new("BF16", (3, 16)), new("BF16", (1, 8)), new("BF16", (16,)), new("F32", (1, 16))):
        with pytest.raises(ArgumentError):
            matrix.multiply(x)
    with pytest.raises(ArgumentError):
        matrix.multiply(new("BF16", (2, 16)), new("F32", (1, 4)))
    with pytest.raises(ArgumentError):
        matrix.multiply(new("U8", (80,))[2:34].view("<u2").reshape(1, 16))
    with pytest.raises(ArgumentError):
        PaletteMatrix(matrix_bits(4, 7, False), backend()).multiply(new("BF16", (1, 7)))
    with pytest.raises(ArgumentError):
        matrix.decode(new("BF16", (3, 16)))
    with pytest.raises(ArgumentError):
        PaletteMatrix(np.zeros(8, np.uint16), backend())


# Archives


def model(level: int) -> bytes:
    """Tensors of all sizes and types, some that share chunks, some twice the same."""
    tensors: dict[str, Any] = {}
    rng = random_state("gpu model")
    for i, (dtype, shape) in enumerate(
        [("f4", (300, 257)), ("f2", (128, 512)), ("f4", (7,)), ("i4", (999,)), ("f2", (0, 3))]
    ):
        tensors[f"t{i}"] = (rng.standard_normal(shape) * 0.02).astype(dtype)
    tensors["tied"] = tensors["t0"].copy()
    bits = samples.weights("BF16", 64 * 3000)
    tensors["bf16"] = bits.view(ml_dtypes.bfloat16).reshape(3000, 64)
    return densor.save(tensors, level=level)


@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_archives(level: int) -> None:
    blob = model(level)
    with densor.open(blob) as file:
        found = densor.gpu.decode(file, backend=backend())
        assert set(found) == set(file.keys())
        for name in file:
            wanted = file.get_tensor(name)
            assert found[name].dtype == wanted.dtype and found[name].shape == wanted.shape
            assert found[name].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("**/*.densor")), ids=lambda p: p.name)
def test_golden(path: Path) -> None:
    """Archives of every version: the same bytes as on the CPU, or the same refusal."""
    blob = path.read_bytes()
    try:
        with densor.open(blob) as file:
            wanted = {name: file.get_tensor(name) for name in file}
            found = densor.gpu.decode(file, backend=backend())
    except DensorError:
        return
    for name, array in wanted.items():
        assert found[name].tobytes() == array.tobytes()


def test_resident_tensors() -> None:
    blob = model(3)
    tensors = densor.gpu.load(blob, ["t0", "bf16"], backend())
    assert set(tensors) == {"t0", "bf16"}
    packed = tensors["bf16"]
    assert isinstance(packed, DeviceTensor) and packed.block.resident < 0.95 * packed.size
    assert "bf16" in repr(packed)
    with densor.open(blob) as file:
        assert packed.decode().tobytes() == file.get_tensor("bf16").tobytes()
        out = backend().new("F32", (300, 257))
        assert tensors["t0"].decode(out) is out
        assert out.tobytes() == file.get_tensor("t0").tobytes()


def test_blobs() -> None:
    array = samples.weights("F16", 9000).view(np.float16).reshape(90, 100)
    for level in (3, 6):
        tensor = read_blob(densor.compress(array, level=level))
        assert tensor.tensors[0][1:3] == ("F16", (90, 100))
        assert decode(tensor).tobytes() == array.tobytes()
    for other in (b"no tensor", np.asfortranarray(array)):
        with pytest.raises(UnsupportedError, match="plain arrays"):
            read_blob(densor.compress(other))
    with pytest.raises(DensorError):
        read_blob(densor.compress(array)[:-60])


def test_one_block_with_shared_scratch() -> None:
    """Tensors of several kinds together; a second block needs more scratch than the first."""
    rng = random_state("gpu shared")
    scratch = Scratch(backend())
    few = rng.integers(0, 3, 4 * 5000, np.uint8) * np.uint8(40)
    kinds = [(samples.weights("BF16", 5000), "BF16"), (few, "F32"), (few[:400], "F32")]
    blocks = [
        Block([samples.planar(data, dtype) for data, dtype in part], backend(), scratch=scratch)
        for part in (kinds[2:], kinds)
    ]
    for _ in range(2):
        for block, part in zip(blocks, (kinds[2:], kinds), strict=True):
            for found, (data, _) in zip(run(block, backend()), part, strict=True):
                assert (found == data).all()


def test_parts_of_a_block() -> None:
    """Some tensors of a block, in any order, of every codec, with and without scratch memory."""
    rng = random_state("gpu parts")
    few = rng.integers(0, 3, 4 * 5000, np.uint8) * np.uint8(40)
    weights = samples.weights("BF16", 9000)
    packed = [
        samples.planar(weights, "BF16"),
        samples.planar(few, "F32"),
        samples.scales(weights, "BF16"),
        samples.planar(weights, "BF16"),  # under the code of another one
        samples.scales(weights, "BF16"),
        read_blob(densor.compress(np.arange(3000, dtype=np.int32))),
    ]
    wanted = [weights, few, weights, weights, weights, np.arange(3000, dtype="<i4").view(np.uint8)]
    block = Block(packed, backend())
    assert block.on_host == [5] and block.part([5, 2]).on_host == [0]
    for numbers in ([0], [1], [2], [3, 0], [4, 5, 1], [], range(6)):
        part = block.part(numbers)
        assert part.resident == block.resident and len(part.contents) == len(numbers)
        for number, found in zip(numbers, run(part, backend()), strict=True):
            assert (found == wanted[number]).all()
    assert block.part([0]).kernels == ["huffman_bf16"] and block.part([2]).kernels == ["rans_bf16"]


def test_held_arrays() -> None:
    """Archives without the bytes that are on the device, and put together again."""
    bits = samples.weights("BF16", 30000).view(np.uint16).reshape(300, 100)
    arrays = [
        PackedArray(densor.compress(array, level=level))
        for level in (1, 6)
        for array in (bits.view(ml_dtypes.bfloat16), bits.astype(np.float32), bits, bits[:0])
    ]
    for array, found in zip(arrays, upload_arrays(arrays, backend()), strict=True):
        assert found.download().blob.tobytes() == array.blob.tobytes()
        assert (found.shape, found.dtype, found.size) == (array.shape, array.dtype, array.size)
        array.check(run(found.alone(), backend())[0])
    largest = max(found.block.coded_in(arrays[0].blob).tolist(), key=lambda row: row[1])
    found = upload_arrays(arrays, backend())[0]
    found.block.data.array[largest[2] + 50] ^= 1  # type: ignore[attr-defined]
    with pytest.raises(ChecksumError):
        found.download()


def test_repeated_chunks(tiny_batches: Callable[[int], None]) -> None:
    """What is stored once is decoded to both places."""
    tiny_batches(1 << 12)
    data = np.tile(samples.weights("F16", 1 << 14), 2)
    array = PackedArray(densor.compress(data.view(np.float16), level=1))
    (found,) = upload_arrays([array], backend())
    assert array.stored < 0.6 * data.size
    assert (run(found.alone(), backend())[0] == data).all()
    assert found.download().blob.tobytes() == array.blob.tobytes()


# What must be refused


def test_arguments() -> None:
    tensor = samples.planar(samples.weights("BF16", 300), "BF16")
    block = Block([tensor], backend())
    with pytest.raises(ArgumentError, match="memory"):
        block.decode_into([])
    with pytest.raises(ArgumentError, match="too small"):
        block.decode_into([backend().empty(599)])
    with pytest.raises(ArgumentError, match="aligned"):
        block.decode_into([backend().new("U8", (616,))[16:]])
    with pytest.raises(ArgumentError, match="unknown backend"):
        densor.gpu.backend("abacus")
    rng = random_state("dependent columns")
    mixed = (rng.standard_normal((3000, 2)) @ rng.standard_normal((2, 64))).astype(np.float32)
    by_mixing = densor.save({"mixed": mixed.astype(ml_dtypes.bfloat16)}, level=9)
    with pytest.raises(UnsupportedError, match="kernel"):
        densor.gpu.load(by_mixing, ["mixed"], backend(), host=False)


def test_without_a_gpu() -> None:
    """The message names what to install, or what is missing."""
    try:
        densor.gpu.backend("cuda")
    except UnsupportedError as error:
        assert "densor[gpu]" in str(error) or "GPU" in str(error)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulate, "compiler", lambda: None)
    with pytest.raises(UnsupportedError, match="compiler"):
        EmulatedBackend()
    monkeypatch.setattr(emulate, "compiler", lambda: "false")
    with pytest.raises(UnsupportedError, match="cannot compile"):
        EmulatedBackend(flags=["-DANOTHER"])


CODERS = {"planar": samples.planar, "scales": samples.scales}


def _damaged(tensor: Packed, change: Callable[[Bytes], Bytes]) -> Packed:
    chunk = tensor.chunks[0]
    payload = change(chunk.payload.copy())
    return tensor._replace(chunks=[chunk._replace(payload=payload), *tensor.chunks[1:]])


def _on_cpu(tensor: Packed) -> Bytes | None:
    """What the CPU makes of the first chunk; None where it refuses."""
    chunk = tensor.chunks[0]
    out = np.zeros(chunk.size, np.uint8)
    try:
        decoder_for(chunk.model).decode(chunk.payload, out)
    except DensorError:
        return None
    return out


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_damaged_chunks(coder: str, dtype: str) -> None:
    """Whatever the CPU refuses is refused, and what it takes decodes to the same."""
    rng = random_state("gpu damage", coder, dtype)
    tensor = CODERS[coder](samples.weights(dtype, 3000), dtype)
    size = tensor.chunks[0].payload.size
    refused = 0
    for number in range(120):
        if number % 4 == 3:  # cut short, or made longer
            cut = int(rng.integers(0, size))
            hurt = _damaged(tensor, lambda p, cut=cut: np.concatenate([p[:cut], p[: cut % 3]]))
        else:  # heads and maps are hit as often as streams
            place = int(rng.integers(0, size if number % 2 else 60))
            flip = np.uint8(1 << int(rng.integers(0, 8)))

            def change(payload: Bytes, place: int = place, flip: np.uint8 = flip) -> Bytes:
                payload[place] ^= flip
                return payload

            hurt = _damaged(tensor, change)
        wanted = _on_cpu(hurt)
        try:
            found = decode(hurt)
        except DensorError:
            assert wanted is None
            refused += 1
        else:
            assert wanted is not None and (found == wanted).all()
    assert 20 < refused < 120


@pytest.mark.parametrize("coder", CODERS)
def test_damage_in_device_memory(coder: str) -> None:
    """Stored bits that change after they were checked: told by the status word, or at worst wrong
    numbers, but never an access out of bounds."""
    rng = random_state("gpu memory", coder)
    tensor = CODERS[coder](samples.weights("BF16", 20000), "BF16")
    chunk = tensor.chunks[0]
    told = 0
    for _ in range(30):
        block = Block([tensor], backend())
        memory = block.data.array  # type: ignore[attr-defined]
        part = chunk.payload[200:1200] if coder == "planar" else chunk.payload[-2000:-1000]
        begin = memory.tobytes().find(part.tobytes())
        assert begin >= 0
        places = begin + rng.integers(0, 1000, int(rng.integers(1, 50)))
        memory[places] ^= rng.integers(1, 256, places.size, np.uint8)
        try:
            run(block, backend())
        except ChecksumError as error:
            told += "w:" in str(error)
    assert told >= 25


def test_impossible_tensors() -> None:
    tensor = samples.planar(samples.weights("BF16", 3000), "BF16")
    place, chunk = tensor.tensors[0], tensor.chunks[0]
    for wrong in (place._replace(size=6002), place._replace(skip=2), place._replace(skip=-2)):
        with pytest.raises(FormatError, match="all of it"):
            Block([tensor._replace(tensors=(wrong,))], backend())
    odd = Packed((place._replace(size=5999),), [chunk._replace(size=5999)])
    with pytest.raises(FormatError, match="length"):
        Block([odd], backend())
    raw = chunk._replace(number=0, model=b"", payload=chunk.payload[:10])
    with pytest.raises(FormatError, match="length"):
        Block([tensor._replace(chunks=[raw])], backend())


# The emulator itself

_WRONG = {
    "lane .* is not in mask": "if (threadIdx.x < 8u) __ballot_sync(0xfu, 1);",
    "divergence": "if (threadIdx.x & 1u) __syncwarp(); else __ballot_sync(0xffffffffu, 1);",
    "exited": "if (threadIdx.x == 3u) return; __syncwarp();",
    "outside mask": "if (threadIdx.x < 4u) out[threadIdx.x] = __shfl_sync(0xfu, 1u, 9);",
    "divergent __syncthreads": "if (threadIdx.x < 32u)\n__syncthreads();\nelse\n__syncthreads();",
    "deadlock": "if (threadIdx.x < 16u) __syncwarp(); else __syncthreads();",
    "without threads that have exited": "if (threadIdx.x < 32u) return; __syncthreads();",
    "out of bounds": "out[64u + threadIdx.x % 2u] = 1u;",
}


@pytest.mark.parametrize("order", emulate.ORDERS)
def test_emulator_is_strict(order: str) -> None:
    names = {f"wrong_{i}": text for i, text in enumerate(_WRONG.values())}
    source = "\n".join(
        f'extern "C" __global__ void {name}(uint32_t* out) {{\n{text}\n}}'
        for name, text in names.items()
    )
    source = source.replace(" __global__ void ", " __global__ __launch_bounds__(64) void ")
    on = EmulatedBackend(order, parts=[source.replace("(uint32_t* out)", "(\nuint32_t* out)")])
    for name, message in zip(names, _WRONG, strict=True):
        out = on.empty(256)
        with pytest.raises(KernelError, match=message):
            on.launch(name, 1, 64, [np.uint64(out.pointer)])
            on.read(out)


def test_emulator_runs_blocks_and_shared_memory() -> None:
    text = """
extern "C" __global__ void sums(
    const uint32_t* in, uint32_t* out) {
    __shared__ uint32_t part[2];
    uint32_t v = in[blockIdx.x * 64u + threadIdx.x];
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    if (!(threadIdx.x & 31u)) part[threadIdx.x >> 5] = v;
    __syncthreads();
    if (!threadIdx.x) out[blockIdx.x] = part[0] + part[1];
}"""
    values = np.arange(192, dtype=np.uint32)
    for order in emulate.ORDERS:
        for flags in ((), ("-DEMU_UCONTEXT=1",)):
            on = EmulatedBackend(order, parts=[text], flags=flags)
            source, out = on.empty(values.nbytes), on.empty(12)
            on.write(source, values)
            on.launch("sums", 3, 64, [np.uint64(source.pointer), np.uint64(out.pointer)])
            assert (on.read(out).view(np.uint32) == values.reshape(3, 64).sum(axis=1)).all()


def test_read_packed_by_name() -> None:
    with densor.open(model(3)) as file:
        (packed,) = read_packed(file.archive, ["t0"])
        assert packed.name == "t0" and packed.stored < packed.size
        with pytest.raises(KeyError):
            read_packed(file.archive, ["t99"])


def test_check_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs, at a small size, and tells of what is wrong."""
    json_file, table = tmp_path / "check.json", tmp_path / "check.md"
    arguments = ["--emulate", "--elements", "20000"]
    assert main(["gpu-check", *arguments, "--json", str(json_file), "--markdown", str(table)]) == 0
    results = json.loads(json_file.read_text())["results"]
    wanted = {"huffman_bf16", "rans_bf16", "stored entry points", "model: no_grad"}
    assert wanted <= {row["what"] for row in results}
    assert all(row["right"] for row in results) and "emulate" in table.read_text()
    capsys.readouterr()


def test_check_script_tells_of_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "CASES", gpu_check.CASES[:1])
    monkeypatch.setattr(EmulatedBackend, "launch", lambda *args: None)
    assert main(["gpu-check", "--emulate", "--elements", "300"]) == 1
    assert "WRONG" in capsys.readouterr().err
    if importlib.util.find_spec("cupy") is None:
        assert main(["gpu-check"]) == 1
