"""Changes against a base: round trips, chains, `diff`; wrong, missing and hostile bases."""

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
import zstandard
from helpers import (
    CHUNK,
    CONTENTS,
    END,
    ENTRY,
    ENTRY_END,
    MODEL,
    NUMPY_DTYPES,
    REF,
    Array,
    Frame,
    assert_same,
    bits_of,
    header,
    make_array,
    put_together,
    random_state,
    safetensors_bytes,
    take_apart,
    weights,
)
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed
from reference import container, rans
from reference import delta as reference
from reference.delta import DIFFERENCE, OWN, XOR
from reference.reading import Refused

import densor
from densor import verify_file
from densor.archives import append, differences
from densor.codec.batch import Batch, Before
from densor.codec.delta import tokens
from densor.codec.delta.chunk_kernels import CODE, FIND
from densor.codec.delta.decoder import DeltaDecoder
from densor.codec.delta.encoder import DeltaEncoder, find_tokens
from densor.codec.delta.params import Contexts, Parameters, pack, parse
from densor.codec.delta.payload import BLOCK, RUN, WIDE
from densor.codec.kind import Kind
from densor.codec.planes.layout import layout_for
from densor.dtypes import SIZES
from densor.entropy.rans.kernels import build_starts
from densor.entropy.rans.tables import quantise, starts_of_common
from densor.formats.io.sources import MemoryRandomSource
from densor.runtime.workers import Workers

BASE = 2  # the feature
SOURCES: dict[str, Callable[[Array, np.random.Generator], Array]] = {}


def changed_by(name: str) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        SOURCES[name] = function
        return function

    return add


# How a base, as unsigned integers, may have become something else


@changed_by("same")
def _same(base: Array, rng: np.random.Generator) -> Array:
    return base.copy()


@changed_by("steps")
def _steps(base: Array, rng: np.random.Generator) -> Array:
    step = rng.integers(-1, 2, base.size) * (rng.random(base.size) < 0.2)
    return base + step.astype(base.dtype)


@changed_by("scaled")
def _scaled(base: Array, rng: np.random.Generator) -> Array:
    reach = 1 << (base.itemsize * 4 - 1)
    return base + rng.integers(-reach, reach, base.size).astype(base.dtype)


@changed_by("few bits")
def _few_bits(base: Array, rng: np.random.Generator) -> Array:
    one = base.dtype.type(1)
    places = rng.integers(0, 8 * base.itemsize, base.size).astype(base.dtype)
    return base ^ (one << places) * (rng.random(base.size) < 0.3).astype(base.dtype)


@changed_by("signs")
def _signs(base: Array, rng: np.random.Generator) -> Array:
    return base ^ base.dtype.type(1 << (8 * base.itemsize - 1))


@changed_by("unrelated")
def _unrelated(base: Array, rng: np.random.Generator) -> Array:
    return rng.permutation(base)


@changed_by("rounded")
def _rounded(base: Array, rng: np.random.Generator) -> Array:
    return _steps(base >> base.dtype.type(base.itemsize * 4), rng) << base.dtype.type(
        base.itemsize * 4
    )


def coded(new: Array, old: Array, dtype: str) -> tuple[bytes, bytes]:
    """Parameters and payload of one chunk, whatever it costs; the stretch begins at byte 24."""
    data, before = new.view(np.uint8), old.view(np.uint8)
    layout = layout_for(f"U{8 * new.itemsize}")  # C64 is taken for elements of 4 bytes
    batch = Batch(data, Kind(layout, dtype=dtype), Workers(1), base=Before(before, 24))
    encoder = DeltaEncoder(batch)
    encoder.encode().result()
    payload = encoder._coded(data, before, 0)
    return encoder.model(), payload.tobytes()


def zeros32(count: int) -> npt.NDArray[np.uint32]:
    return np.zeros(count, np.uint32)


def decoded(model: bytes, payload: bytes, size: int, base: bytes) -> bytes:
    """By the library."""
    out = np.empty(size, np.uint8)
    source = MemoryRandomSource(base)
    DeltaDecoder(parse(model)).decode_from(np.frombuffer(payload, np.uint8), out, source)
    return out.tobytes()


# The codec


@pytest.mark.parametrize("dtype", [dtype for dtype in SIZES if dtype not in ("VOID", "C128")])
@pytest.mark.parametrize("how", SOURCES)
def test_every_dtype_and_kind_of_change(dtype: str, how: str) -> None:
    size = 4 if dtype == "C64" else SIZES[dtype]
    for content in CONTENTS:
        rng = random_state(dtype, content, how)
        old = bits_of(content, size, 531, rng)
        new = SOURCES[how](old, rng)
        base = bytes(24) + old.tobytes() + b"behind"
        model, payload = coded(new, old, dtype)
        assert decoded(model, payload, new.nbytes, base) == new.tobytes()
        parsed = reference.parse_model(model)
        assert reference.decode(parsed, payload, new.nbytes, base) == new.tobytes()
        assert how != "same" or len(payload) == 9


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("number", [DIFFERENCE, XOR, OWN])
def test_all_pairs_of_notable_elements(size: int, floats: bool, number: int) -> None:
    """Kernels against the reference, for zeros, infinities, NaN and all neighbours of powers."""
    w = 8 * size
    notable = {
        (sign + (1 << k) + d) % (1 << w)
        for k in range(w)
        for d in (-1, 0, 1)
        for sign in (0, 1 << (w - 1))
    }
    values = np.array(sorted(notable), f"u{size}")
    if values.size > 60:
        step = -(-values.size // 30)
        values = np.concatenate([values[:12], values[12:-12:step], values[-12:]])
    old, new = np.repeat(values, values.size), np.tile(values, values.size)
    for drop in (0, w // 2) if size > 1 else (0,):
        method = tokens.method(number, size, floats, drop)
        assert method.known()
        fitting = new >> drop << drop
        symbols, under = np.empty(old.size, np.uint8), np.empty(old.size, np.uint8)
        counts = np.zeros((1, 256), np.int64)
        how = *method.arguments, method.plain, tokens.tokens_by_change(method)
        places, one, work = np.empty(BLOCK, np.uint16), np.zeros(1, np.uint8), zeros32(8 * 304)
        rest = np.empty(3 * (WIDE + RUN), np.uint8)
        where = 0, one, *Contexts().window(size)
        FIND[size](fitting, old, *how, places, *where, symbols, under, work, rest, counts)
        table = tokens.token_table(method)
        assert table.valid[symbols].all()
        assert np.array_equal(counts[0], np.bincount(symbols, minlength=256))
        parameters = Parameters(method, Contexts(), quantise(counts))
        starts, states = np.empty(256, np.uint32), zeros32(32)
        build_starts(parameters.freqs, starts)
        bits = int(table.counts[symbols].sum(dtype=np.int64))
        words, extras = (
            np.empty(2 * new.size + 192, np.uint8),
            np.zeros(-(-bits // 8) + 8, np.uint8),
        )
        facts = number, floats, drop, method.bits, table.counts, method.plain
        likely = starts_of_common(parameters.freqs)
        at = CODE[size](fitting, old, *facts, symbols, under, starts, likely, states, words, extras)
        assert at >= 0
        coded = struct.pack("<QBI", 0, 1, words.size - at) + words[at:].tobytes()
        coded += extras[: -(-bits // 8)].tobytes()
        model = reference.parse_model(pack(parameters))
        assert reference.decode(model, coded, new.nbytes, old.tobytes()) == fitting.tobytes()
        found = decoded(pack(parameters), coded, new.nbytes, old.tobytes())
        assert found == fitting.tobytes()


def test_a_step_in_numeric_order_is_a_step() -> None:
    """From -0 to +0, over powers of two, to infinity: token 1 or 2, whatever the exponent."""
    for size, infinity in ((2, 0x7F80), (4, 0x7F800000)):
        up = np.array([0, 1, infinity // 2, infinity - 1, infinity], f"u{size}")
        method = tokens.method(DIFFERENCE, size, True)
        symbols = np.empty(up.size, np.uint8)
        for sign in (0, 1 << (8 * size - 1)):
            old = up | up.dtype.type(sign)
            find_tokens(method, old + up.dtype.type(1), old, symbols)
            assert symbols.tolist() == [2] * up.size  # away from zero
            find_tokens(method, old, old + up.dtype.type(1), symbols)
            assert symbols.tolist() == [1] * up.size
        zeros = np.array([0, 1 << (8 * size - 1)], f"u{size}")
        find_tokens(method, zeros[::-1].copy(), zeros, symbols[:2])
        assert symbols[:2].tolist() == [1, 1]


def test_small_steps_cost_their_entropy() -> None:
    """Like the bench's pair: 4 % one step away, more of those with long mantissas."""
    rng = random_state("entropy")
    old = weights("bf16", 256, 1024).reshape(-1)
    likely = 0.02 + 0.04 * (old & 127) / 128
    moved = rng.random(old.size) < likely
    new = old + np.where(moved, rng.choice([1, -1], old.size), 0).astype(old.dtype)
    p = likely.astype(float)
    bound = -(p * np.log2(p / 2) + (1 - p) * np.log2(1 - p)).sum() / 8
    model, payload = coded(new, old, "BF16")
    assert len(model) + len(payload) < 1.02 * bound + 300
    parsed = parse(model)
    assert parsed.method.number == DIFFERENCE and len(parsed.freqs) > 1


def test_the_base_says_nothing_then_it_is_not_used() -> None:
    new, old = weights("bf16", 64, 512, "new"), weights("bf16", 64, 512, "old")
    plain = densor.compress(new, dtype="bf16")
    based = densor.compress(new, dtype="bf16", base=old)
    assert len(based) < len(plain) + 200


# In memory


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_arrays_of_every_dtype(dtype: str) -> None:
    base = make_array(dtype, (23, 41), "random")
    array = base.copy()
    array.reshape(-1)[::7] = make_array(dtype, (base.size,), "weights")[::7]
    blob = densor.compress(array, base=base)
    assert_same(densor.decompress(blob, base=base), array)
    (entry,) = container.decode(blob, base.tobytes())
    assert entry.data == array.tobytes()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_bytes(size: int) -> None:
    base = random_state("bytes").integers(0, 256, size, np.uint8).tobytes()
    data = bytes(b ^ (i % 50 == 0) for i, b in enumerate(base))
    for given_base in (base, bytearray(base), memoryview(base)):
        blob = densor.compress(data, base=given_base)
        assert densor.decompress(blob, base=base) == data
    assert size < 1000 or len(blob) < 600


def test_fortran_order_and_unaligned_memory() -> None:
    base = np.asfortranarray(make_array("float32", (30, 50), "weights"))
    array = np.asfortranarray(base * np.float32(1.001))
    blob = densor.compress(array, base=base)
    assert_same(densor.decompress(blob, base=base), array)
    memory = np.empty(array.nbytes + 1, np.uint8)
    target = memory[1:].view(np.uint8)
    flat = np.ascontiguousarray(array)
    off = np.empty(array.nbytes + 1, np.uint8)[1:]
    off[:] = np.ascontiguousarray(base).reshape(-1).view(np.uint8)
    unaligned = off.view(np.float32).reshape(base.shape)
    blob = densor.compress(flat, base=unaligned)
    densor.decompress(blob, base=unaligned, out=target)
    assert target.tobytes() == flat.tobytes()


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    base = torch.randn(40, 60, generator=torch.Generator().manual_seed(1)).bfloat16()
    tensor = base * 1.01
    blob = densor.compress(tensor, base=base)
    back = densor.decompress(blob, base=base)
    assert back.dtype == tensor.dtype and torch.equal(
        back.view(torch.int16), tensor.view(torch.int16)
    )
    assert len(blob) < len(densor.compress(tensor))


@pytest.mark.parametrize(
    "base",
    [
        np.zeros((4, 5), np.float64),
        np.zeros((5, 4), np.float32),
        np.zeros(20, np.float32),
        np.zeros((4, 5), np.int32),
        np.zeros((5, 4), np.float32).T,
        bytes(80),
        b"",
    ],
)
def test_bases_that_do_not_fit(base: Any) -> None:
    with pytest.raises(densor.ArgumentError, match="base must have"):
        densor.compress(np.ones((4, 5), np.float32), base=base)


def test_missing_and_wrong_bases_in_memory() -> None:
    base = np.arange(100, dtype=np.float32)
    blob = densor.compress(base + 1, base=base)
    with pytest.raises(
        densor.ArgumentError, match="needs a base, a file of 400 bytes with xxh3-128"
    ):
        densor.decompress(blob)
    with pytest.raises(densor.ArgumentError, match=r"base has xxh3-128 .*; needed is"):
        densor.decompress(blob, base=base + 2)
    with pytest.raises(densor.ArgumentError, match="base has 396 bytes; needed is"):
        densor.decompress(blob, base=base[1:])


# Files


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tiny_batches: Callable[[int], None]) -> None:
    """Several batches and chunks also in small files."""

    tiny_batches(8192)
    from densor.codec.delta import encoder

    monkeypatch.setattr(encoder, "_CHUNK", 1024)


def checkpoint(step: int = 0, **tensors: tuple[str, tuple[int, ...], bytes]) -> bytes:
    """A model after so many small steps; `tensors` replace or join its own."""
    rng = random_state("checkpoint")
    layers = {f"layer.{i}": weights("bf16", 20, 300, i).reshape(-1) for i in range(4)}
    small = {f"norm.{i}": weights("fp32", 1, 50, i).reshape(-1) for i in range(3)}
    for _ in range(step):
        layers = {name: _steps(bits, rng) for name, bits in layers.items()}
        small = {name: _scaled(bits, rng) for name, bits in small.items()}
    made: dict[str, Any] = {name: ("BF16", (20, 300), b.tobytes()) for name, b in layers.items()}
    made |= {name: ("F32", (50,), bits.tobytes()) for name, bits in small.items()}
    made["frozen"] = ("F16", (40, 100), weights("fp16", 40, 100).tobytes())
    return safetensors_bytes({**made, **tensors})


def compressed(data: bytes, base: Any, **arguments: Any) -> bytes:
    file = io.BytesIO()
    densor.compress_file(io.BytesIO(data), file, threads=1, name="new", base=base, **arguments)
    return file.getvalue()


def decompressed(archive: bytes, base: Any, **arguments: Any) -> bytes:
    file = io.BytesIO()
    densor.decompress_file(io.BytesIO(archive), file, threads=1, base=base, **arguments)
    return file.getvalue()


@pytest.mark.parametrize("threads", [1, 3])
def test_files(tmp_path: Path, threads: int) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(checkpoint())
    new.write_bytes(checkpoint(1))
    densor.compress_file(new, tmp_path / "a", threads=threads, base=old, verify=True)
    densor.compress_file(new, tmp_path / "plain", threads=threads)
    assert os.path.getsize(tmp_path / "a") < 0.5 * os.path.getsize(tmp_path / "plain")
    densor.decompress_file(tmp_path / "a", tmp_path / "b", threads=threads, base=old)
    assert (tmp_path / "b").read_bytes() == checkpoint(1)
    densor.verify_file(tmp_path / "a", threads=threads, base=old)
    (entry,) = container.decode((tmp_path / "a").read_bytes(), checkpoint())
    assert entry.data == checkpoint(1)
    container.read_index((tmp_path / "a").read_bytes())
    with densor.open(tmp_path / "a", threads=threads, base=old) as file:
        for name in file:
            whole = file.get_tensor(name)
            assert file.get_slice(name)[3:9].tobytes() == whole[3:9].tobytes()
        assert file.read_file("new") == checkpoint(1)


def test_levels_and_dtype() -> None:
    base = weights("fp16", 50, 100).tobytes()
    data = _steps(np.frombuffer(base, "<u2"), random_state("levels")).tobytes() + b"odd"
    for level in range(1, 10):
        archive = compressed(data, io.BytesIO(base + b"bad"), level=level, dtype="f16")
        assert decompressed(archive, io.BytesIO(base + b"bad")) == data
        assert len(archive) < 0.5 * len(data)


def test_an_unchanged_file_takes_next_to_nothing() -> None:
    archive = compressed(checkpoint(), io.BytesIO(checkpoint()), hash="sha256")
    assert decompressed(archive, io.BytesIO(checkpoint())) == checkpoint()
    assert len(archive) < 0.15 * len(compressed(checkpoint(), None))
    models = [frame for frame in take_apart(archive) if frame.kind == MODEL]
    assert len({frame.payload for frame in models}) == len(models)


@pytest.mark.parametrize(
    "other",
    [
        checkpoint(1, aaa=("I16", (7,), bytes(14))),  # everything shifted by odd amounts
        checkpoint(1, zzz=("BF16", (700,), weights("bf16", 7, 100).tobytes())),
        checkpoint(1, **{"layer.1": ("BF16", (10, 300), weights("bf16", 10, 300).tobytes())}),
        checkpoint(1, **{"layer.1": ("F16", (20, 300), weights("fp16", 20, 300).tobytes())}),
        checkpoint(1, **{"norm.1": ("F32", (0,), b"")}),
        safetensors_bytes({}),
        b"",
        b"no safetensors file",
        b"x" * 300_000,
    ],
)
def test_tensors_are_matched_by_name_dtype_and_shape(other: bytes) -> None:
    for old, new in ((checkpoint(), other), (other, checkpoint())):
        archive = compressed(new, io.BytesIO(old))
        assert decompressed(archive, io.BytesIO(old)) == new
    if len(other) > 40_000 and b"layer.3" in other:
        plain = len(compressed(checkpoint(), None))
        assert len(compressed(checkpoint(), io.BytesIO(other))) < 0.8 * plain


def test_a_segment_of_small_tensors_is_cut_where_the_base_has_them_elsewhere() -> None:
    rng = random_state("cut")
    old = {f"t{i}": weights("bf16", 4, 100, i).reshape(-1) for i in range(12)}
    new = {name: _steps(bits, rng) for name, bits in old.items()}
    order = [*list(old)[6:], "t0", "t2", "t4", "t1"]
    base = safetensors_bytes({n: ("BF16", (400,), old[n].tobytes()) for n in order})
    data = safetensors_bytes({n: ("BF16", (400,), b.tobytes()) for n, b in new.items()})
    archive = compressed(data, io.BytesIO(base))
    assert decompressed(archive, io.BytesIO(base)) == data
    offsets = {
        struct.unpack_from("<Q", frame.payload)[0]
        for frame in take_apart(archive)
        if frame.kind == CHUNK and frame.model >= 16 and len(frame.payload) < frame.original / 2
    }
    assert len(offsets) >= 4


def test_pipes() -> None:
    """Neither side can seek: the header says from the start that there is a base."""

    class Pipe(io.RawIOBase):
        def __init__(self, data: bytes = b"") -> None:
            self.inner = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def writable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self.inner.readinto(buffer)

        def write(self, data: Any) -> int:
            return self.inner.write(data)

    out, back, base = Pipe(), Pipe(), io.BytesIO(checkpoint())
    densor.compress_file(Pipe(checkpoint(1)), out, threads=1, base=base)  # type: ignore[arg-type]
    archive = out.inner.getvalue()
    assert archive[12] & BASE
    densor.decompress_file(Pipe(archive), back, threads=1, base=base)  # type: ignore[arg-type]
    assert back.inner.getvalue() == checkpoint(1)


def test_a_base_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(checkpoint())
    densor.compress_file(tmp_path / "old", tmp_path / "old.densor")
    archive = compressed(checkpoint(1), tmp_path / "old.densor")
    assert decompressed(archive, tmp_path / "old") == checkpoint(1)
    assert decompressed(archive, tmp_path / "old.densor") == checkpoint(1)
    (tmp_path / "other").write_bytes(checkpoint(2))
    densor.pack([tmp_path / "other", tmp_path / "old"], tmp_path / "both.densor")
    assert decompressed(archive, tmp_path / "both.densor") == checkpoint(1)
    with pytest.raises(densor.ArgumentError, match=r"both\.densor is an archive of 2 files"):
        compressed(checkpoint(1), tmp_path / "both.densor")
    densor.compress_file(tmp_path / "other", tmp_path / "other.densor")
    with pytest.raises(densor.ArgumentError, match=r"other\.densor does not hold what is needed"):
        decompressed(archive, tmp_path / "other.densor")


def test_wrong_missing_and_truncated_bases(tmp_path: Path) -> None:
    old, target = tmp_path / "old.safetensors", tmp_path / "target"
    old.write_bytes(checkpoint())
    archive = compressed(checkpoint(1), old)
    hashed = xxhash.xxh3_128_hexdigest(checkpoint())
    with pytest.raises(densor.ArgumentError, match=f"needs a base, old.safetensors .*{hashed}"):
        densor.decompress_file(io.BytesIO(archive), target)
    for wrong in (checkpoint(2), checkpoint()[:-1], checkpoint() + b"x", b""):
        old.write_bytes(wrong)
        with pytest.raises(densor.ArgumentError, match=r"base old\.safetensors has"):
            densor.decompress_file(io.BytesIO(archive), target, base=old)
        with pytest.raises(densor.ArgumentError, match=r"base old\.safetensors has"):
            densor.verify_file(io.BytesIO(archive), base=old)
        with densor.open(archive, base=old) as file, pytest.raises(densor.ArgumentError):
            file.get_tensor("layer.0")
    for nowhere in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(densor.FileError):
            densor.decompress_file(io.BytesIO(archive), target, base=nowhere)
    assert not target.exists()
    with densor.open(archive) as file:
        assert set(file) >= {"layer.0"}
        with pytest.raises(densor.ArgumentError, match="needs a base"):
            file.get_tensor("layer.0")


class Restless(io.BytesIO):
    """A base that is another one after so many readings."""

    def __init__(self, data: bytes, good: int) -> None:
        super().__init__(data)
        self.good = good

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.good -= 1
        if self.good < 0:
            for i in range(count):
                buffer[i] ^= 1
        return count


def test_a_base_that_changes(tmp_path: Path) -> None:
    archive = compressed(checkpoint(1), io.BytesIO(checkpoint()))
    seen = set()
    for good in range(12):
        try:
            assert decompressed(archive, Restless(checkpoint(), good)) == checkpoint(1)
            seen.add(None)
        except densor.DensorError as error:
            seen.add(type(error))
    assert seen <= {None, densor.ArgumentError, densor.ChecksumError, densor.FormatError}
    assert densor.ChecksumError in seen

    path = tmp_path / "base"
    path.write_bytes(checkpoint())

    def touch(count: int) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(densor.FileError, match="base: changed while it was read"):
        densor.compress_file(
            io.BytesIO(checkpoint(1)), tmp_path / "out", name="x", base=path, progress=touch
        )
    assert not (tmp_path / "out").exists()


# Chains


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Ten checkpoints, one after the other."""
    path = tmp_path / "chain.densor"
    (tmp_path / "0").write_bytes(checkpoint())
    densor.pack([tmp_path / "0"], path)
    for step in range(1, 10):
        (tmp_path / str(step)).write_bytes(checkpoint(step))
        append(path, tmp_path / str(step), threads=1)
    return path


def test_a_chain_of_ten(chain: Path, tmp_path: Path) -> None:
    wanted = {str(step): checkpoint(step) for step in range(10)}
    archive = chain.read_bytes()
    assert {entry.name: entry.data for entry in container.decode(archive)} == wanted
    bases = [entry.meta.get("base", {}).get("entry") for entry in container.decode(archive)]
    assert bases == [None, 0, 1, 2, 3, 4, 5, 6, 7, None]  # at most eight hops
    container.read_index(archive)
    sizes = [entry.size for entry in verify_file(chain)]
    assert sizes == [len(data) for data in wanted.values()]
    with densor.open(chain, threads=2) as file:
        for name, data in wanted.items():
            assert file.read_file(name) == data
    for name in ("9", "8", "3"):
        assert densor.extract(chain, tmp_path / "out", [name]) == [name]
        assert (tmp_path / "out" / name).read_bytes() == wanted[name]
    with chain.open("rb") as stream:
        densor.extract(stream, tmp_path / "all", threads=1)
    assert {p.name: p.read_bytes() for p in (tmp_path / "all").iterdir()} == wanted
    with pytest.raises(densor.FormatError, match="use `densor extract`"):
        densor.decompress_file(chain, tmp_path / "one")
    plain = len(compressed(checkpoint(), None))
    assert len(archive) < 6 * plain


def test_append_chooses_base_and_name(tmp_path: Path, chain: Path) -> None:
    sizes = append(chain, tmp_path / "3", name="again", base_entry="3")
    assert sizes.original == len(checkpoint(3)) and sizes.stored < 0.1 * sizes.original
    with densor.open(chain) as file:
        assert file.read_file("again") == checkpoint(3)
    before = chain.read_bytes()
    for wrong in ({"name": "3"}, {"base_entry": "none"}, {"name": "../x"}, {"level": 0}):
        with pytest.raises(densor.ArgumentError):
            append(chain, tmp_path / "3", **wrong)  # type: ignore[arg-type]
    with pytest.raises(densor.FileError):
        append(chain, tmp_path / "nothing", name="y")
    with pytest.raises(densor.FileError):
        append(chain, tmp_path, name="y")
    with pytest.raises(densor.DensorError):
        append(tmp_path / "0", tmp_path / "3", name="y")
    assert chain.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_append_to_what_is_based_elsewhere(tmp_path: Path) -> None:
    for step in range(3):
        (tmp_path / str(step)).write_bytes(checkpoint(step))
    path = tmp_path / "archive"
    densor.compress_file(tmp_path / "1", path, base=tmp_path / "0")
    with pytest.raises(densor.ArgumentError, match="needs a base, 0 of"):
        append(path, tmp_path / "2")
    append(path, tmp_path / "2", base=tmp_path / "0")
    with densor.open(path, base=tmp_path / "0") as file:
        assert file.read_file("2") == checkpoint(2)
    verify_file(path, base=tmp_path / "0")
    densor.extract(path, tmp_path / "out", ["2"], base=tmp_path / "0")
    assert (tmp_path / "out" / "2").read_bytes() == checkpoint(2)


def test_append_keeps_what_is_there(tmp_path: Path) -> None:
    """Folders, repetitions, frames that nobody knows, permissions."""
    (tmp_path / "in" / "empty").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_bytes(checkpoint())
    path = tmp_path / "archive"
    densor.pack([tmp_path / "in"], path)
    assert any(frame.kind == REF for frame in take_apart(path.read_bytes()))
    path.chmod(0o640)
    (tmp_path / "c").write_bytes(checkpoint(1))
    append(path, tmp_path / "c")
    assert path.stat().st_mode & 0o777 == 0o640
    assert densor.extract(path, tmp_path / "out") == ["a", "b", "c"]
    assert (tmp_path / "out" / "empty").is_dir()
    assert (tmp_path / "out" / "c").read_bytes() == checkpoint(1)
    found = {entry.name: entry.data for entry in container.decode(path.read_bytes())}
    assert found["b"] == checkpoint() and found["c"] == checkpoint(1)


# Differences


def test_differences(tmp_path: Path) -> None:
    numbers = np.array([0.0, -0.0, 1.0, np.inf, np.nan, -2.0], np.float32)
    moved = numbers.copy()
    moved[0], moved[2] = -0.0, np.nextafter(np.float32(1), np.float32(2))
    old = {
        "same": ("U8", (4,), b"abcd"),
        "moved": ("F32", (6,), numbers.tobytes()),
        "signed": ("I16", (2,), np.array([-1, 5], np.int16).tobytes()),
        "gone": ("U8", (1,), b"x"),
        "other": ("U8", (2,), b"xy"),
    }
    new = {
        "same": old["same"],
        "moved": ("F32", (6,), moved.tobytes()),
        "signed": ("I16", (2,), np.array([1, 5], np.int16).tobytes()),
        "other": ("I8", (2,), b"xy"),
    }
    (tmp_path / "a").write_bytes(safetensors_bytes(old))
    (tmp_path / "b").write_bytes(safetensors_bytes(new))
    densor.compress_file(tmp_path / "b", tmp_path / "b.densor")
    for second in ("b", "b.densor"):
        found = list(differences(tmp_path / "a", tmp_path / second))
        by_name = {(one.name, one.only): one.changes for one in found}
        assert set(by_name) == {
            *(("same", None), ("moved", None), ("signed", None)),
            *(("other", "new"), ("gone", "old"), ("other", "old")),
        }
        assert by_name["same", None][:4] == (4, 0, 0, 0)
        assert by_name["moved", None][:4] == (6, 2, 2, 1)
        assert by_name["signed", None][:4] == (2, 1, 15, 2)
    (tmp_path / "c").write_bytes(b"text")
    with pytest.raises(densor.ArgumentError):
        list(differences(tmp_path / "c", tmp_path / "c"))


@given(st.data())
def test_differences_are_those_of_numpy(data: st.DataObject) -> None:
    from densor.codec.delta.compare import compare

    dtype = data.draw(st.sampled_from(["BF16", "F16", "F32", "F64", "I8", "U8", "I64", "BOOL"]))
    size = SIZES[dtype]
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, (1 << 8 * size) - 1)] * 2), max_size=9))
    new, old = (np.array([p[i] for p in pairs], f"<u{size}").view(np.uint8) for i in (0, 1))

    def place(x: int) -> int:
        top = 1 << (8 * size - 1)
        if dtype[0] in "BCF" and dtype not in ("BOOL", "F8_E8M0"):
            return -1 - (x - top) if x & top else x
        return x - 2 * top if dtype[0] == "I" and x & top else x

    found = compare(new, old, dtype)
    assert found[:4] == (
        len(pairs),
        sum(x != b for x, b in pairs),
        sum((x ^ b).bit_count() for x, b in pairs),
        max((abs(place(x) - place(b)) for x, b in pairs), default=0),
    )
    assert 0 <= found.coded <= new.size


# Hostile archives

OLD = bytes(range(256)) * 4
SIZE = 600  # original bytes of a chunk, more than its payload has
SYMBOLS = (0, 1, 2, 0, 3) * 60


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def good_model(**fields: Any) -> reference.Model:
    """BF16 differences under two contexts."""
    frequencies = [rans.even(range(40)), rans.even(range(5))]
    default = (2, True, DIFFERENCE, 0, 5, 3, 0, b"\0\1\0\1", frequencies)
    names = reference.Model.__dataclass_fields__
    return reference.Model(**dict(zip(names, default, strict=True)) | fields)


def good_chunk(
    model: reference.Model, offset: int = 8, symbols: tuple[int, ...] = SYMBOLS
) -> bytes:
    before = np.frombuffer(OLD, "<u2", SIZE // 2, offset).tolist()
    contexts = [model.mapped[(b >> model.shift) % len(model.mapped)] for b in before]
    return reference.chunk(model, offset, contexts, symbols, [1] * len(symbols))


def based_on(base: bytes | None = OLD, **more: Any) -> dict[str, Any]:
    """The value of `base`."""
    data = b"" if base is None else base
    return {"size": len(data), "digest": [1, xxhash.xxh3_128_hexdigest(data)], **more}


def entry(name: str, inner: list[Frame], data: bytes, base: Any = None) -> list[Frame]:
    meta = {"name": name, "kind": "bytes", "size": len(data)}
    if base is not None:
        meta["base"] = base
    end = struct.pack("<QB", len(data), 1) + xxhash.xxh3_128_digest(data)
    return [Frame(ENTRY, json.dumps(meta).encode()), *inner, Frame(ENTRY_END, end)]


def archive_of(*entries: list[Frame], features: int = 3) -> bytes:
    frames = [frame for one in entries for frame in one]
    return put_together([*frames, Frame(END, bytes(16))], header(features))


def one_entry(
    model: bytes, payload: bytes, data: bytes = bytes(SIZE), original: int = SIZE
) -> bytes:
    inner = [Frame(MODEL, model), Frame(CHUNK, payload, original, 16)]
    return archive_of(entry("x", inner, data, based_on()))


def read(archive: bytes, base: bytes | None = OLD) -> bytes:
    restored = densor.decompress(archive, base=base)
    assert isinstance(restored, bytes)
    return restored


REASONS = {
    "format": densor.FormatError,
    "limit": densor.LimitError,
    "unsupported": densor.UnsupportedError,
    "checksum": densor.ChecksumError,
}


def refused(archive: bytes, reason: str, base: bytes | None = OLD) -> None:
    with pytest.raises(Refused) as theirs:
        container.decode(archive, base)
    assert theirs.value.reason == reason, theirs.value
    with pytest.raises(densor.DensorError) as ours:
        verify_file(io.BytesIO(archive), threads=1, base=base)
    assert type(ours.value) is REASONS[reason], ours.value


def test_chunks_by_hand_are_read() -> None:
    model = good_model()
    packed, payload = reference.pack_model(model, zstd), good_chunk(model)
    parsed = reference.parse_model(packed)
    data = reference.decode(parsed, payload, SIZE, OLD)
    assert read(one_entry(packed, payload, data)) == data != OLD[8 : 8 + SIZE]
    same = struct.pack("<QB", 424, 0)
    assert read(one_entry(packed, same, OLD[424:])) == OLD[424:]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"method": 0}, "unsupported"),
        ({"method": 4}, "format"),  # whose fields mean something else
        ({"method": 5}, "unsupported"),
        ({"size": 3}, "format"),
        ({"size": 0}, "format"),
        ({"size": 16}, "format"),
        ({"floats": 2}, "format"),
        ({"dropped": 9}, "format"),
        ({"dropped": 255}, "format"),
        ({"direct": 16, "mantissa": 0}, "format"),
        ({"direct": 255}, "format"),
        ({"direct": 2, "mantissa": 3}, "format"),
        ({"direct": 7, "mantissa": 3}, "format"),
        ({"method": XOR, "direct": 9}, "format"),
        ({"method": OWN}, "format"),
        ({"shift": 16}, "format"),
        ({"mapped": bytes(8192)}, "format"),
        ({"mapped": b"\0\2"}, "format"),
        ({"frequencies": [rans.even(range(256))] * 2}, "format"),  # tokens without a meaning
        ({"frequencies": [[4095] + [0] * 255] * 2}, "format"),
        ({"frequencies": [rans.even(range(9))] * 65, "mapped": b"\0\1"}, "format"),
    ],
)
def test_hostile_models(fields: dict[str, Any], reason: str) -> None:
    model = reference.pack_model(good_model(**fields), zstd)
    refused(one_entry(model, good_chunk(good_model())), reason)


def test_models_that_are_cut_or_longer() -> None:
    model = reference.pack_model(good_model(), zstd)
    for end in range(1, len(model)):
        refused(one_entry(model[:end], good_chunk(good_model())), "format")
    refused(one_entry(model + b"\0", good_chunk(good_model())), "format")
    bomb = bytearray(reference.pack_model(good_model(mapped=b"\0" * 4096), zstd))
    bomb[9] = 2  # bits of the map
    refused(one_entry(bytes(bomb), good_chunk(good_model())), "format")


@pytest.mark.parametrize("offset", [425, 1024, 1025, 2**63, 2**64 - 1, 2**64 - SIZE])
@pytest.mark.parametrize("mode", [0, 1])
def test_offsets_behind_the_base(offset: int, mode: int) -> None:
    model = good_model()
    payload = struct.pack("<QB", offset, mode) + good_chunk(model)[9:] * mode
    refused(one_entry(reference.pack_model(model, zstd), payload), "format")


def test_hostile_chunks() -> None:
    model = good_model()
    packed, payload = reference.pack_model(model, zstd), good_chunk(model)
    data = reference.decode(model, payload, SIZE, OLD)
    refused(one_entry(packed, struct.pack("<QB", 8, 0) + b"\0", OLD[8 : 8 + SIZE]), "format")
    refused(one_entry(packed, payload[:8] + b"\2" + payload[9:], data), "format")
    refused(one_entry(packed, payload, data + b"\0", SIZE + 1), "format")
    for length in (0, 127, 129, 2**31, 2**32 - 1):
        lying = payload[:9] + struct.pack("<I", length) + payload[13:]
        refused(one_entry(packed, lying, data), "format")
    no_contexts = reference.pack_model(good_model(frequencies=[], mapped=b"\0"), zstd)
    refused(one_entry(no_contexts, payload, data), "format")
    same = struct.pack("<QB", 8, 0)
    assert read(one_entry(no_contexts, same, OLD[8 : 8 + SIZE])) == OLD[8 : 8 + SIZE]


def test_extra_bits_must_be_just_as_many() -> None:
    many = rans.even(range(200))
    model = good_model(frequencies=[many, many])
    packed = reference.pack_model(model, zstd)
    payload = good_chunk(model, 8, (150, 0, 90, 1, 75) + (0,) * 295)
    data = reference.decode(model, payload, SIZE, OLD)
    assert read(one_entry(packed, payload, data)) == data
    refused(one_entry(packed, payload + b"\0", data), "format")
    refused(one_entry(packed, payload[:-1], data), "format")
    refused(one_entry(packed, payload[:-1] + bytes([payload[-1] | 128]), data), "format")


def test_an_entry_without_base() -> None:
    model = good_model()
    inner = [
        Frame(MODEL, reference.pack_model(model, zstd)),
        Frame(CHUNK, struct.pack("<QB", 0, 0), 10, 16),
    ]
    refused(archive_of(entry("x", inner, OLD[:10])), "format", None)
    refused(archive_of(entry("x", [], b"", based_on()), features=1), "format")
    refused(archive_of(entry("x", [], b"", based_on()), features=7), "unsupported")


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ([], "format"),
        ("x", "format"),
        ({}, "format"),
        ({"size": 1024}, "format"),
        (based_on() | {"size": -1}, "format"),
        (based_on() | {"size": None}, "format"),
        (based_on() | {"digest": [1]}, "format"),
        (based_on() | {"digest": [1, "zz"]}, "format"),
        (based_on() | {"digest": [3, "00"]}, "unsupported"),
        (based_on(entry=-1), "format"),
        (based_on(entry="0"), "format"),
        (based_on(name=7), "format"),
        (based_on(name="a\0b"), "format"),
        (based_on(entry=0), "format"),  # itself
        (based_on(entry=1), "format"),
        (based_on(entry=2**62), "format"),
    ],
)
def test_hostile_descriptions_of_a_base(base: Any, reason: str) -> None:
    refused(archive_of(entry("x", [], b"", base)), reason)


RAW = [Frame(CHUNK, OLD, 1024)]
NO_TABLES = reference.pack_model(good_model(frequencies=[], mapped=b"\0"), zstd)


def links(count: int) -> list[list[Frame]]:
    """An entry, and so many based each on the one before."""
    same = Frame(CHUNK, struct.pack("<QB", 0, 0), 1024, 16)
    first = entry("0", [Frame(MODEL, NO_TABLES), *RAW], OLD)
    return [
        first,
        *(entry(str(i), [same], OLD, based_on(entry=i - 1)) for i in range(1, count + 1)),
    ]


def indexed(archive: bytes) -> bytes:
    """The archive with an index, as a writer would add it."""
    frames = take_apart(archive)[:-1]
    entries: list[dict[str, Any]] = []
    for number, frame in enumerate(frames):
        if frame.kind == ENTRY:
            entries.append({**json.loads(frame.payload), "frames": [number, 0]})
        elif frame.kind == ENTRY_END:
            entries[-1]["frames"][1] = number - entries[-1]["frames"][0] + 1
            entries[-1]["digest"] = [1, frame.payload[9:].hex()]
    columns = {
        "kinds": [frame.kind for frame in frames],
        "models": [frame.model for frame in frames],
        "stored": [len(frame.payload) for frame in frames],
        "original": [frame.original for frame in frames],
    }
    text = json.dumps({"entries": entries, **columns}).encode()
    return put_together(
        [*frames, Frame(6, zstd(text), len(text)), Frame(END, bytes(16))], archive[:32]
    )


def test_the_longest_chain() -> None:
    archive = indexed(archive_of(*links(64)))
    assert all(one.data == OLD for one in container.decode(archive))
    assert len(verify_file(io.BytesIO(archive))) == 65
    with densor.open(archive) as file:
        last = file._archive.entry("64")
        assert file._archive.read(last, 5, 90).tobytes() == OLD[5:90]
    too_long = indexed(archive_of(*links(65)))
    refused(too_long, "limit")
    with pytest.raises(densor.LimitError):
        densor.open(too_long)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_chains_that_loop_or_lie(number: int) -> None:
    first = entry("0", [Frame(MODEL, NO_TABLES), *RAW], OLD)
    same = [Frame(CHUNK, struct.pack("<QB", 0, 0), 1024, 16)]
    for archive in (
        archive_of(first, entry("1", same, OLD, based_on(entry=number))),
        archive_of(first, entry("1", same, OLD, based_on(bytes(1024), entry=0))),
        archive_of(first, entry("1", same, OLD, based_on(OLD + b"x", entry=0))),
    ):
        refused(archive, "format")
        with pytest.raises(densor.FormatError):
            densor.open(indexed(archive))


def test_a_repetition_of_what_comes_later_is_no_loop() -> None:
    """Entry 0 repeats entry 1, which is based on entry 0: random reading must see through it."""
    ref = Frame(REF, struct.pack("<IQ", 1, 0), 1024)
    same = Frame(CHUNK, struct.pack("<QB", 0, 0), 1024, 16)
    archive = archive_of(
        entry("0", [Frame(MODEL, NO_TABLES), ref], OLD), entry("1", [same], OLD, based_on(entry=0))
    )
    refused(archive, "format")
    with densor.open(indexed(archive)) as file, pytest.raises(densor.FormatError):
        file._archive.read(file._archive.entries[1], 0, 128)


def test_chunks_of_changes_are_of_limited_length() -> None:
    size = (1 << 23) + 1
    base = bytes(size)
    payload = struct.pack("<QB", 0, 0)
    model = reference.pack_model(
        good_model(size=1, method=XOR, direct=8, mantissa=0, frequencies=[], mapped=b"\0"), zstd
    )
    inner = [Frame(MODEL, model), Frame(CHUNK, payload, size, 16)]
    refused(archive_of(entry("x", inner, base, based_on(base))), "limit", base)


def test_a_chain_that_costs_too_much() -> None:
    """Each link needs two chunks of the one before, over and over; few bytes are read."""
    from densor.formats.container.entry_decoder import Budget
    from densor.runtime.lru import LruCache

    size = 1 << 16
    data = bytes(size)
    model = reference.pack_model(
        good_model(size=1, method=XOR, direct=8, mantissa=0, frequencies=[], mapped=b"\0"), zstd
    )
    entries = [entry("0", [Frame(MODEL, model), Frame(CHUNK, zstd(data), size, 1)], data)]
    for i in range(1, 64):
        inner = [Frame(CHUNK, struct.pack("<QB", 0, 0), size // 2, 16)] * 2
        entries.append(entry(str(i), inner, data, based_on(data, entry=i - 1)))
    archive = indexed(archive_of(*entries))
    with densor.open(archive) as file:
        inside = file._archive
        assert not inside.read(inside.entries[-1], 0, size).any()
        inside._kept = LruCache(size)
        budget = Budget(1, "too much to read")
        budget.left = 10 * size
        with pytest.raises(densor.LimitError, match="too much to read"):
            inside.fill(inside.entries[-1], 0, np.empty(size, np.uint8), budget)


@pytest.mark.parametrize("seed", range(80))
def test_damage_that_is_sealed_again(seed: int, chain_bytes: bytes) -> None:
    """Checks are right, contents are not: an error, or what the reference makes of it."""
    rng = np.random.default_rng(seed)
    frames = take_apart(chain_bytes)
    inner = [i for i, frame in enumerate(frames) if frame.kind in (MODEL, CHUNK, ENTRY)]
    for i in rng.choice(inner, 1 + seed % 2, replace=False):
        frames[i] = changed(frames[i], rng)
    archive = put_together(frames, chain_bytes[:32])
    wanted: dict[str, bytes] | None = None
    try:
        wanted = {one.name: one.data for one in container.decode(archive)}
    except Refused:
        with pytest.raises(densor.DensorError):
            verify_file(io.BytesIO(archive), threads=1)
    else:
        assert [one.size for one in verify_file(io.BytesIO(archive), threads=1)] == [
            len(data) for data in wanted.values()
        ]
    try:
        with densor.open(archive, threads=1) as file:
            for one in file._archive.entries:
                file._archive.read(one, 0, one.size)
    except densor.DensorError:
        pass


@pytest.fixture(scope="module")
def chain_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three small checkpoints in one archive."""
    folder = tmp_path_factory.mktemp("chain")
    rng = random_state("small chain")
    bits = weights("bf16", 4, 60).reshape(-1)
    for name in "abc":
        data = safetensors_bytes({"w": ("BF16", (4, 60), bits.tobytes())})
        (folder / name).write_bytes(data)
        if name == "a":
            densor.pack([folder / name], folder / "archive", threads=1)
        else:
            append(folder / "archive", folder / name, threads=1)
        bits = _steps(bits, rng)
    return (folder / "archive").read_bytes()
