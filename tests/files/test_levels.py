"""A level takes no more than any lower one, of data of many kinds: every pair of levels."""

import io
import itertools
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from densor.api import compress
from densor.files.single import compress_file, decompress_file
from tests.support.helpers import entropy_bytes, safetensors_bytes, to_bf16
from tests.support.helpers import weights as likely_weights

Array = npt.NDArray[Any]
LEVELS = range(1, 10)
QUICK = (1, 2, 3, 5, 6)
ALLOWED = 1.001  # size over that of a lower level
FRAME = 34  # bytes: frame and parameters may be so much longer, where nothing else is left


TYPES: dict[str, Callable[[Array], Array]] = {
    "BF16": lambda values: to_bf16(values.astype(np.float32)),
    "F16": lambda values: values.astype(np.float16),
    "F32": lambda values: values.astype(np.float32),
    "F64": lambda values: values.astype(np.float64),
}


def weights(rng: np.random.Generator, n: int) -> Array:
    """Normal."""
    return rng.standard_normal((n, n)) * 0.02


def rows_of_scales(rng: np.random.Generator, n: int) -> Array:
    """Rows that differ in scale, as embeddings do."""
    return rng.standard_normal((n, n)) * np.exp(rng.standard_normal((n, 1)) * 2) * 0.001


def second_moments(rng: np.random.Generator, n: int) -> Array:
    """As Adam's v of an embedding: squares, rows of many scales, some of them zero."""
    seen = rng.random((n, 1)) > 0.3
    squares: Array = (rows_of_scales(rng, n) * np.exp(rng.standard_normal((1, n)))) ** 2 * seen
    return squares


def repeated_rows(rng: np.random.Generator, n: int) -> Array:
    """One value in each row."""
    return np.repeat(rng.standard_normal((n, 1)), n, 1)


def probabilities(rng: np.random.Generator, n: int) -> Array:
    """As attention has them."""
    exponentials = np.exp(rng.standard_normal((n, n)) * 1.5)
    shares: Array = exponentials / exponentials.sum(-1, keepdims=True)
    return shares


def causal(rng: np.random.Generator, n: int) -> Array:
    """Probabilities, half of them zero."""
    lower = np.tril(probabilities(rng, n))
    shares: Array = lower / lower.sum(-1, keepdims=True)
    return shares


def dropout(rng: np.random.Generator, n: int) -> Array:
    """Two values."""
    return (rng.random((n, n)) > 0.1) / 0.9


def grid(rng: np.random.Generator, n: int) -> Array:
    """Few values."""
    return rng.integers(-8, 8, (n, n)) * 0.125


def sparse(rng: np.random.Generator, n: int) -> Array:
    """Mostly zeros."""
    return rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.1)


def steps(rng: np.random.Generator, n: int) -> Array:
    """A walk."""
    return np.cumsum(rng.standard_normal(n * n) * 0.01).reshape(n, n)


def constant(rng: np.random.Generator, n: int) -> Array:
    """One value."""
    return np.full((n, n), 0.3)


KINDS = (
    weights, rows_of_scales, second_moments, repeated_rows, probabilities, causal, dropout, grid,
    sparse, steps, constant,
)  # fmt: skip


def file_of(tensors: dict[str, tuple[str, Array]]) -> bytes:
    """A safetensors file."""
    return safetensors_bytes(
        {name: (dtype, a.shape, a.tobytes()) for name, (dtype, a) in tensors.items()}
    )


def of_one_kind(kind: Callable[..., Array], dtype: str, n: int) -> bytes:
    """A file with one tensor."""
    rng = np.random.default_rng(n)
    return file_of({"a": (dtype, TYPES[dtype](kind(rng, n)))})


def interleaved(dtype: str, n: int, count: int) -> bytes:
    """Weights and what an optimizer keeps of them in turn, each of another scale and shape."""
    rng = np.random.default_rng(n)
    tensors = {}
    for i in range(count):
        moments = rng.standard_normal((n, n)) * 1e-4
        for name, values in (
            ("weight", weights(rng, n)), ("exp_avg", moments), ("exp_avg_sq", moments**2)
        ):  # fmt: skip
            tensors[f"{i:04}.{name}"] = (dtype, TYPES[dtype](values))
    return file_of(tensors)


def adapters(dtype: str, count: int) -> bytes:
    """Low-rank matrices, two by two, with a vector of ones."""
    rng = np.random.default_rng(count)
    tensors = {}
    for i in range(count):
        down, up = rng.standard_normal((8, 384)) * 0.02, rng.standard_normal((384, 8)) * 0.001
        for name, values in (("a", down), ("b", up), ("c", np.ones(384))):
            tensors[f"{i:04}.{name}"] = (dtype, TYPES[dtype](values))
    return file_of(tensors)


def mixed(dtype: str) -> bytes:
    """Tensors of all kinds, one after the other."""
    rng = np.random.default_rng(3)
    kinds = zip(KINDS, itertools.cycle((64, 96, 160)))
    return file_of({kind.__name__: (dtype, TYPES[dtype](kind(rng, n))) for kind, n in kinds})


def integers() -> bytes:
    """Integers of several sizes."""
    rng = np.random.default_rng(4)
    found = {
        "weights": ("I8", np.clip(np.rint(rng.standard_normal((256, 256)) * 30), -127, 127)),
        "indices": ("I32", rng.integers(0, 50000, 20000)),
        "places": ("I64", np.sort(rng.integers(0, 1 << 40, 8000))),
        "samples": ("I16", np.rint(np.cumsum(rng.standard_normal(30000) * 20))),
        "mask": ("BOOL", rng.random((64, 384)) < 0.1),
        "nibbles": ("U8", rng.integers(0, 16, (256, 128))),
    }
    types = {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "BOOL": "?", "U8": "u1"}
    return file_of(
        {name: (dtype, values.astype(types[dtype])) for name, (dtype, values) in found.items()}
    )


def table() -> bytes:
    """Numbers as text."""
    rows = np.random.default_rng(5).standard_normal((4000, 5))
    return "\n".join(",".join(f"{value:.4f}" for value in row) for row in rows).encode()


def picture(channels: int, most: int) -> bytes:
    """A smooth image with noise as PGM or PPM."""
    y, x = np.mgrid[:200, :240]
    noise = np.random.default_rng(7).integers(0, 4 if most == 255 else 50, (200, 240, channels))
    slopes = (
        [(x + y) // 3, (2 * x + y) // 5, (x + 3 * y) // 7] if most == 255 else [200 * x + 150 * y]
    )
    samples = (np.stack(slopes[:channels], -1) + noise) % (most + 1)
    kind = b"P5" if channels == 1 else b"P6"
    return kind + b" 240 200 %d\n" % most + samples.astype(">u2" if most > 255 else "u1").tobytes()


def records() -> bytes:
    """A table whose columns are simple."""
    random = np.random.default_rng(8)
    rows = [
        f"{i},{'abcdefgh'[i % 8] * 3},{random.normal(20, 5):.2f},2024-0{1 + i % 9}-{10 + i % 18}"
        for i in range(15000)
    ]
    return "\n".join(["id,name,price,day", *rows]).encode()


def short_table() -> bytes:
    """A table too short for contexts, with columns that follow from others."""
    random = np.random.default_rng(0)
    first = random.integers(0, 50, 300)
    steps = np.cumsum(random.integers(0, 3, 300))
    rows = np.stack([first, 3 * first + 1, steps], 1).tolist()
    return "\n".join(["a,b,c", *(",".join(map(str, row)) for row in rows), ""]).encode()


def few_rows(rows: int, columns: int, seed: int) -> bytes:
    """A matrix of few long rows of different scale."""
    random = np.random.default_rng(seed)
    scales = 0.02 * np.exp(random.normal(0, 1, (rows, 1)))
    return file_of({"a": ("BF16", TYPES["BF16"](random.standard_normal((rows, columns)) * scales))})


def rounded() -> bytes:
    """Multiples of one number, many of them zero."""
    numbers = np.round(np.random.default_rng(4).standard_normal((400, 256)))
    return file_of({"a": ("F32", TYPES["F32"](numbers / 50))})


MADE: dict[str, Callable[[], bytes]] = {
    **{f"{kind.__name__}-{dtype}": (lambda kind=kind, dtype=dtype: of_one_kind(kind, dtype, 224))
       for kind in KINDS for dtype in TYPES},
    "wide-causal-F32": lambda: of_one_kind(causal, "F32", 640),  # nearly as small by planes
    "wide-sparse-F64": lambda: of_one_kind(sparse, "F64", 640),  # Zstandard wins at its level 1
    **{f"interleaved-{n}": (lambda n=n: interleaved("BF16", n, 60000 // n**2 + 2))
       for n in (32, 64, 160)},
    **{f"mixed-{dtype}": (lambda dtype=dtype: mixed(dtype)) for dtype in TYPES},
    "adapters-F16": lambda: adapters("F16", 20),
    "adapters-F32": lambda: adapters("F32", 20),
    "integers": integers,
    "table": table,
    "source": lambda: Path(np.__file__).read_bytes(),
    "noise": lambda: np.random.default_rng(6).bytes(50000),
    "short": lambda: b"0123456789" * 3,
    "short table": short_table,
    "rounded": rounded,
    **{f"rows-{rows}x{columns}": (lambda rows=rows, columns=columns: few_rows(rows, columns, 1))
       for rows, columns in ((8, 4096), (8, 16384), (32, 4096))},
}  # fmt: skip


def sizes(data: bytes, levels: Iterable[int]) -> dict[int, int]:
    """What a file takes at each level; it comes back as it was."""
    found = {}
    for level in levels:
        packed, back = io.BytesIO(), io.BytesIO()
        compress_file(io.BytesIO(data), packed, level, threads=1, name="file")
        found[level] = len(packed.getvalue())
        packed.seek(0)
        decompress_file(packed, back, threads=1)
        assert back.getvalue() == data
    return found


def larger_than_lower(found: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """Pairs of levels and sizes of which the higher level takes more."""
    return [
        (low, found[low], high, found[high])
        for low, high in itertools.combinations(sorted(found), 2)
        if found[high] > ALLOWED * found[low] + FRAME
    ]


@pytest.mark.parametrize("name", MADE)
def test_no_level_takes_more_than_a_lower_one(name: str) -> None:
    assert not larger_than_lower(sizes(MADE[name](), QUICK))


def test_one_small_matrix_bears_its_parameters(tmp_path: Path) -> None:
    """Nothing follows that could share them, whether it is a file or an array."""
    rng = np.random.default_rng(3)
    matrix = TYPES["F16"](weights(rng, 1000)[:, :16] * np.exp(rng.normal(0, 1, (1, 16))))
    file, packed = tmp_path / "file", tmp_path / "packed"
    file.write_bytes(file_of({"a": ("F16", matrix)}))
    arrays, files = {}, {}
    for level in QUICK:
        arrays[level] = len(compress(matrix, level=level))
        files[level] = compress_file(file, packed, level, overwrite=True).stored
    assert not larger_than_lower(arrays)
    assert not larger_than_lower(files)


def test_little_that_is_left_is_coded_under_few_codes() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((32, 256)).astype(np.float32) * np.float32(0.02)
    rows = np.tile(rows, (4, 1))
    assert not larger_than_lower({level: len(compress(rows, level=level)) for level in QUICK})
    for seed in range(3):
        rng = np.random.default_rng(seed)
        matrix = weights(rng, 100)[:64] * np.exp(rng.standard_normal((64, 1)))
        small = np.clip(matrix * 1000 + 128, 0, 255).astype(np.uint8)
        assert not larger_than_lower({level: len(compress(small, level=level)) for level in QUICK})


def test_small_floats_under_fewer_codes() -> None:
    """Filters of slightly different scale: codes of their own take more than they save."""
    rng = np.random.default_rng(2)
    numbers = 0.1 * rng.standard_normal(35000)
    scales = np.exp(0.2 * np.repeat(rng.standard_normal(61), 576)[:35000])
    filters = (numbers * scales).astype(np.float16)
    assert not larger_than_lower(sizes(filters.tobytes(), (1, 2, 3)))


def test_bytes_that_faster_levels_of_zstandard_code_better() -> None:
    """A sample shows it of the fastest one alone; the one between is the best."""
    records = pickle.dumps([{"a": i, "b": str(i)} for i in range(50000)], 4)
    assert not larger_than_lower(sizes(records, (1, 2, 3)))


@pytest.mark.parametrize("seed", [1, 7, 8])
def test_few_rounded_numbers(seed: int) -> None:
    """Parameters count there, which a sample of elements does not tell."""
    numbers = np.round(np.random.default_rng(seed).standard_normal((8, 256)).astype(np.float32))
    small = numbers / np.float32(50)
    assert not larger_than_lower({level: len(compress(small, level=level)) for level in LEVELS})


def test_little_data_that_slower_levels_took_more_for() -> None:
    """Types are tried both ways, few codes too, and nothing that follows shares parameters."""
    rng = np.random.default_rng(2)
    cut = causal(rng, 48).astype(np.float32).view(np.uint32) & 0xFFFFE000
    assert not larger_than_lower(sizes(cut.tobytes(), (4, 5)))
    bits = np.rint(rng.standard_normal((384, 260)) * 30).clip(-127, 127).astype(np.int8)
    assert not larger_than_lower(sizes(file_of({"a": ("I8", bits)}), (2, 3)))
    file = io.BytesIO()
    np.savez(file, (rng.standard_normal((65, 384)) * 0.05).astype(np.float32))
    assert not larger_than_lower(sizes(file.getvalue(), (5, 6)))


SIMPLE: dict[str, Callable[[], bytes]] = {
    "records": records,
    "picture": lambda: picture(3, 255),
    "deep picture": lambda: picture(1, 65535),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_files_at_slow_levels(name: str) -> None:
    """Models with many contexts have too little to learn from; simpler ones are kept then."""
    assert not larger_than_lower(sizes(SIMPLE[name](), (4, 5, 8, 9)))


def test_adapters_take_little_more_than_their_entropies() -> None:
    """Low-rank matrices of BF16: all frames and the index within 1 % of the sum of entropies."""
    tensors, bound = {}, 0.0
    for i in range(128):
        matrix = likely_weights("bf16", *((16, 256) if i % 2 else (256, 16)), ("adapter", i))
        tensors[f"layers.{i // 4}.{i % 4}"] = ("BF16", matrix)
        exponents = (matrix >> 7 & 255).astype(np.uint8)
        bound += entropy_bytes(exponents) + matrix.size
    for level, size in sizes(file_of(tensors), (3, 4, 6)).items():
        assert size < 1.01 * bound, level


@pytest.mark.slow
def test_no_level_takes_more_than_a_lower_one_of_larger_files() -> None:
    wide = {
        f"{kind.__name__}-{dtype}": of_one_kind(kind, dtype, 640)
        for kind in KINDS
        for dtype in TYPES
    }
    wide |= {f"interleaved-{n}": interleaved("BF16", n, 600000 // n**2 + 2) for n in (32, 512)}
    wide |= {"adapters": adapters("F32", 100)}
    for path in os.environ.get("DENSOR_FILES", "").split(os.pathsep):
        wide |= {file.name: file.read_bytes() for file in Path(path or os.devnull).glob("*")}
    found = {name: larger_than_lower(sizes(data, LEVELS)) for name, data in wide.items()}
    assert {name: pairs for name, pairs in found.items() if pairs} == {}


def test_many_small_tensors_that_have_a_base() -> None:
    """Slow levels join more of them; where they change by other amounts, joining costs."""
    rng = np.random.default_rng(6)
    old, new = {}, {}
    for i in range(180):
        before = (rng.standard_normal((64, 64)) * 0.02).astype(np.float32)
        scale = 10.0 ** -(2 + i // 60)
        after = before + (rng.standard_normal((64, 64)) * scale * 0.02).astype(np.float32)
        old[f"{i:03}"], new[f"{i:03}"] = ("F32", before), ("F32", after)
    base, data = file_of(old), file_of(new)
    found = {}
    for level in (3, 6, 9):
        packed, whole = io.BytesIO(), io.BytesIO()
        compress_file(io.BytesIO(data), packed, level, 2, base=io.BytesIO(base))
        found[level] = len(packed.getvalue())
        decompress_file(io.BytesIO(packed.getvalue()), whole, base=io.BytesIO(base))
        assert whole.getvalue() == data
    assert not larger_than_lower(found)


@pytest.mark.parametrize("seed", range(4))
def test_walks_of_few_runs(seed: int) -> None:
    """So few that two classes are looked for, and four are not."""
    walk = np.random.default_rng(seed).standard_normal(12613).cumsum()
    sizes = [len(compress(walk, level, 1)) for level in (1, 2, 3, 4)]
    assert sizes == sorted(sizes, reverse=True)
