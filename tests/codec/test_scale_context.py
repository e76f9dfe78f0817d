"""The scale-context codec against a decoder and a writer made from its specification."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from archives import written
from helpers import CHUNK, MODEL, random_state, take_apart, to_bf16, to_fp8, weights
from mutations import by_stream, mutated
from reference import codecs, container, rans
from reference import planes_writer as planar
from reference import scale_context as reference
from reference.reading import Refused
from reference.scale_context import FORMS, Form, Matrix

import densor
from densor.codec.choose.sizes import chunk_bytes
from densor.codec.codecs import decoder_for
from densor.codec.history import History
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import level_settings
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.layout import layout_numbered
from densor.codec.planes.stages.huffman import HUFFMAN
from densor.codec.registry import CODEC_SCALE_CONTEXT, LAYOUT_WORD16
from densor.codec.scale_context.encoder import ScaleContextEncoder

Bits = npt.NDArray[np.unsignedinteger[Any]]
LEVEL = level_settings(6)
FORM_OF = {"BF16": 1, "F16": 2, "F8_E4M3": 3, "F8_E5M2": 4, "F32": 5, "C64": 5}
DTYPES = tuple(FORM_OF)
SMALL = ((), (1,), (31,), (32,), (33,), (7, 64), (64, 7), (5, 4, 3, 3))
LARGE = ((300, 65), (4, 96, 80))
CONTENTS = ("normal", "many zeros", "infinities", "random", "wild rows", "integers")


def content(name: str, dtype: str, shape: Sequence[int]) -> Bits:
    """Bit patterns of a tensor. C64: two elements each."""
    form = FORMS[FORM_OF[dtype]]
    rng = random_state(name, dtype, tuple(shape))
    shape = (*shape, 2) if dtype == "C64" else tuple(shape)
    unsigned = np.dtype(f"<u{form.size}")
    bits = 8 * form.size
    fraction = bits - 1 - form.exponent_bits
    noise = rng.integers(0, 256, (*shape, form.size), np.uint8).view(unsigned)[..., 0]
    sign = noise & unsigned.type(1 << (bits - 1))
    infinity = unsigned.type(((1 << form.exponent_bits) - 1) << fraction)
    normal = rng.standard_normal(shape)
    rows = shape[:1] + (1,) * (len(shape) - 1)
    if name == "normal":
        columns = shape[-1:]
        scale = np.exp(rng.standard_normal(rows)) * np.exp(rng.standard_normal(columns) / 2)
        return rounded(normal * scale / 16, dtype)
    if name == "many zeros":
        return np.where(rng.random(shape) < 0.6, unsigned.type(0), rounded(normal, dtype))
    if name == "infinities":
        return np.where(rng.random(shape) < 0.2, infinity | sign, rounded(normal, dtype))
    if name == "random":
        return noise
    if name == "wild rows":
        scale = 2.0 ** rng.integers(-100, 100, rows) if rows else np.float64(1)
        return rounded(normal * scale, dtype)
    return rounded(rng.integers(-40, 41, shape).astype(float), dtype)


def rounded(numbers: npt.NDArray[np.float64], dtype: str) -> Bits:
    """Bit patterns of the numbers nearest to some, or near."""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            return to_bf16(numbers.astype(np.float32))
        if dtype == "F8_E4M3":
            return to_fp8(numbers)
        half = numbers.astype(np.float16).view(np.uint16)
        if dtype == "F8_E5M2":
            return (half >> 8).astype(np.uint8)
        return half if dtype == "F16" else numbers.astype(np.float32).view(np.uint32)


def coded(data: bytes, kind: Kind, history: History, low: bool) -> tuple[bytes, list[bytes]]:
    """The model and the chunks' payloads of a batch. `low`: low halves have a model."""
    array = np.frombuffer(data, np.uint8)
    low_coder = None
    if low:
        halves = np.ascontiguousarray(array.view("<u2")[::2]).view(np.uint8)
        layout = layout_numbered(LAYOUT_WORD16)
        low_coder = PlanesEncoder(
            HUFFMAN, halves, layout, kind.run, replace(LEVEL, try_zstd=False), False
        )
    coder = ScaleContextEncoder(kind, history, low_coder)
    chunks = cut(data, kind)
    arrays = [np.frombuffer(chunk, np.uint8) for chunk in chunks]
    coder.decide([coder.count(chunk) for chunk in arrays])
    return coder.model(), [coder.encode(chunk, i).tobytes() for i, chunk in enumerate(arrays)]


def cut(data: bytes, kind: Kind) -> list[bytes]:
    """A batch in chunks."""
    step = chunk_bytes(kind, LEVEL)
    return [data[i : i + step] for i in range(0, len(data), step)]


def decoded(model: bytes, payload: bytes, size: int) -> bytes:
    """A payload decoded by the package."""
    out = np.full(size, 0xA5, np.uint8)
    decoder_for(model).decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


def by_reference(model: bytes, payload: bytes, size: int) -> bytes:
    """A payload decoded by the reference."""
    parsed = codecs.parse_model(model)
    return parsed.decode(payload, size)


def check(model: bytes, payload: bytes, expected: bytes) -> None:
    """Package and reference both decode to `expected`."""
    assert decoded(model, payload, len(expected)) == expected
    assert by_reference(model, payload, len(expected)) == expected


def refused(model: bytes, payload: bytes, size: int) -> None:
    """Package and reference both refuse."""
    with pytest.raises(densor.DensorError) as error:
        decoded(model, payload, size)
    assert isinstance(error.value, densor.FormatError | densor.LimitError)
    with pytest.raises(Refused):
        by_reference(model, payload, size)


# What the package writes


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_content_of_any_shape(dtype: str, name: str, low: bool) -> None:
    if low and FORMS[FORM_OF[dtype]].size != 4:
        return
    history = History()
    for shape in SMALL:
        data, kind = content(name, dtype, shape).tobytes(), kind_of(dtype, shape)
        model, payloads = coded(data, kind, history, low)
        for payload, chunk in zip(payloads, cut(data, kind), strict=True):
            check(model, payload, chunk)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_larger_matrices(dtype: str, shape: tuple[int, ...]) -> None:
    for name in ("normal", "random"):
        data, kind = content(name, dtype, shape).tobytes(), kind_of(dtype, shape)
        model, (payload,) = coded(data, kind, History(), False)
        check(model, payload, data)


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_archives_of_any_content(dtype: str, name: str) -> None:
    """By whatever codec is chosen, at level 6."""
    for shape in (*SMALL, *LARGE, (0, 5)):
        array = content(name, dtype, shape)
        given = array.view(np.complex64)[..., 0] if dtype == "C64" else array
        if dtype not in ("F32", "C64"):
            archive = densor.compress(given, 6, dtype=dtype.lower())
        else:
            archive = densor.compress(given if dtype == "C64" else given.view(np.float32), 6)
        (entry,) = container.decode(archive)
        assert entry.data == array.tobytes()
        assert densor.decompress(archive).tobytes() == array.tobytes()


# What no sensible writer would write


def frequencies(rng: np.random.Generator, symbols: int) -> list[int]:
    """Frequencies of some of the first so many symbols, however different."""
    chosen = rng.choice(symbols, int(rng.integers(1, symbols + 1)), replace=False)
    if rng.random() < 0.1:
        return [0] * 256
    weights = rng.random(chosen.size) ** rng.choice([0.1, 1, 8])
    spare = rng.multinomial(rans.ONE - chosen.size, weights / weights.sum())
    found = [0] * 256
    for symbol, more in zip(chosen.tolist(), spare.tolist(), strict=True):
        found[symbol] = 1 + more
    return found


def random_model(rng: np.random.Generator, form: Form) -> reference.Model:
    """Any model."""
    exponents = int(rng.integers(1, (254 >> form.mantissa_bits) + 1))
    tails = int(rng.integers(0, 255 - (exponents << form.mantissa_bits)))
    phase = int(rng.integers(0, 7))
    symbols = 256 if rng.random() < 0.3 else (exponents << form.mantissa_bits) + tails + 2
    tables = [frequencies(rng, symbols) for _ in range(1 << phase)]
    tables += [frequencies(rng, 256) for _ in range(2)]
    first = int(rng.integers(-128, 128))
    return reference.Model(form, phase, first, exponents, tails, tables)


def random_matrices(rng: np.random.Generator) -> list[Matrix]:
    """Up to five small matrices."""
    found = []
    for _ in range(int(rng.integers(1, 6))):
        rows, columns = rng.integers(1, [12, 40])
        flags, *centres = rng.integers(0, [16, 256, 256])
        found.append(Matrix(int(rows), int(columns), int(flags), *map(int, centres)))
    return found


def random_chunk(
    rng: np.random.Generator, model: reference.Model, matrices: Sequence[Matrix]
) -> tuple[reference.Chunk, int]:
    """Any chunk of these matrices, and the bytes that it decodes to."""

    def symbols_under(contexts: Sequence[int]) -> list[int]:
        usable = [
            np.flatnonzero(table) if any(table) else np.zeros(1, int) for table in model.frequencies
        ]
        return [int(rng.choice(usable[context])) for context in contexts]

    form = model.form
    offsets = symbols_under(reference.scale_contexts(model, matrices))
    scales = reference.scales_of(matrices, offsets)
    tops = [
        (symbol, int(rng.integers(0, 1 << 16)))
        for symbol in symbols_under([scale % (1 << model.phase) for scale in scales])
    ]
    blocks = -(-len(scales) // reference.BLOCK)
    below = (rng.bytes(blocks * form.rest_bytes), rng.bytes(blocks * form.sign_bytes))
    low = rng.bytes(2 * len(scales)) if form.size == 4 else b""
    base = int(rng.choice([-32768, 32767, int(rng.integers(-300, 300))]))
    chunk = reference.write(model, matrices, base, offsets, tops, below, low)
    return chunk, form.size * len(scales)


@pytest.mark.parametrize("form", FORMS)
def test_any_model_and_any_chunk(form: int) -> None:
    for seed in range(12):
        rng = random_state("any", form, seed)
        model = random_model(rng, FORMS[form])
        payload = reference.pack_model(model)
        for _ in range(2):
            chunk, size = random_chunk(rng, model, random_matrices(rng))
            expected = reference.decode(model, chunk.pack(), size)
            check(payload, chunk.pack(), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 500])
def test_ends_of_streams(form: int, count: int) -> None:
    """Streams of no, few and many words, with states that need them early or late."""
    for seed in range(3):
        rng = random_state("ends", form, count, seed)
        model = random_model(rng, FORMS[form])
        lines = int(rng.integers(0, 2))
        chunk, size = random_chunk(rng, model, [Matrix(1, count, 2 * lines)])
        expected = reference.decode(model, chunk.pack(), size)
        check(reference.pack_model(model), chunk.pack(), expected)
        for stream in (chunk.stream[:-2], chunk.stream + bytes(2), chunk.stream + b"x"):
            refused(reference.pack_model(model), replace(chunk, stream=stream).pack(), size)


# Hostile models and payloads


@cache
def sound(form: int) -> tuple[reference.Model, reference.Chunk, int]:
    """A small model with symbols of all sorts, and a chunk of two matrices."""
    rng = random_state("sound", form)
    table = rans.even(range(0, (2 << FORMS[form].mantissa_bits) + 5))
    lines = rans.even(range(120, 137))
    model = reference.Model(FORMS[form], 1, -1, 2, 3, [table, table, lines, lines])
    matrices = [Matrix(5, 9, 15, 40, 50), Matrix(1, 30, 2, 90, 3)]
    return model, *random_chunk(rng, model, matrices)


def sound_payload(form: int) -> tuple[bytes, bytes, int]:
    """The same as bytes: model, payload, original size."""
    model, chunk, size = sound(form)
    return reference.pack_model(model), chunk.pack(), size


def refused_model(payload: bytes, error: type[Exception] = densor.FormatError) -> None:
    """Package and reference both refuse."""
    with pytest.raises(error):
        decoder_for(payload)
    with pytest.raises(Refused):
        codecs.parse_model(payload)


@pytest.mark.parametrize("form", FORMS)
def test_sound_payloads_are_sound(form: int) -> None:
    model, payload, size = sound_payload(form)
    check(model, payload, by_reference(model, payload, size))


def test_heads_of_hostile_models() -> None:
    model = sound(1)[0]
    payload = reference.pack_model(model)
    for length in range(len(payload)):
        refused_model(payload[:length])
    refused_model(payload + b"\0")
    for form in (0, 6, 255):
        refused_model(payload[:1] + bytes([form]) + payload[2:], densor.UnsupportedError)
    for fields in ({"phase": 7}, {"phase": 255}, {"exponents": 0}):
        refused_model(reference.pack_model(replace(model, **fields)) + bytes(600))
    for exponents, tails in ((31, 7), (32, 0), (255, 0), (1, 247), (255, 255)):
        refused_model(reference.pack_model(replace(model, exponents=exponents, tails=tails)))
    decoder_for(reference.pack_model(replace(model, exponents=31, tails=6)))


def written_bits(*numbers: tuple[int, int]) -> bytes:
    """Numbers of so many bits."""
    bits = rans.BitWriter()
    for value, count in numbers:
        bits.put(value, count)
    return bits.finish()


def test_hostile_frequencies() -> None:
    model = replace(sound(1)[0], phase=0)
    head = reference.pack_model(replace(model, frequencies=[]))
    one = [rans.ONE] + [0] * 255
    decoder_for(head + rans.pack([one, one, one]))
    for wrong in (
        [4095] + [0] * 255,
        [4095, 2] + [0] * 254,
        [2048, 2048, 1] + [0] * 253,
        [16] * 255 + [17],
    ):
        for place in range(3):
            tables = [one, one, one]
            tables[place] = wrong
            refused_model(head + rans.pack(tables))
    for table in (
        ((1, 1), (5, 8), (4, 8)),  # the last symbol before the first
        ((1, 1), (0, 8), (0, 8), (1, 1), (1, 5)),  # -1
        ((1, 1), (0, 8), (0, 8), (0, 14), (1, 1), (0, 14), (0, 5)),  # 14 zeros
        ((1, 1), (0, 8), (0, 8), (0, 13), (1, 1), (0, 13), (0, 5)),  # a frequency over 4096
    ):
        refused_model(head + written_bits(*table) + bytes(40))
    bits = rans.BitWriter()
    bits.put(1, 1)
    rans.put_frequencies(bits, 7, [0, rans.ONE])  # the first symbol has no frequency
    refused_model(head + bits.finish() + bytes(1))
    bits = rans.BitWriter()
    bits.put(1, 1)
    rans.put_frequencies(bits, 7, [rans.ONE, 0])
    refused_model(head + bits.finish() + bytes(1))
    decoder_for(head + b"\x00")
    refused_model(head + b"\x08")  # an unused bit
    refused_model(head + b"\x00\x00")


@pytest.mark.parametrize("form", FORMS)
def test_hostile_heads_of_chunks(form: int) -> None:
    model, chunk, size = sound(form)
    payload = reference.pack_model(model)
    first, second = chunk.matrices
    for matrices in (
        [],
        [first],
        [second],
        [first, first],
        [first, second, second],
        [replace(first, rows=0), second],
        [replace(first, columns=0), second],
        [first, replace(second, rows=0, columns=0)],
        [replace(first, rows=(1 << 32) - 1, columns=(1 << 32) - 1), second],
        [replace(first, rows=1 << 31, columns=1 << 31)] * 4,  # 2^64 elements
        [replace(first, rows=1 << 31, columns=2), first, second],  # 2^32 and those
        [replace(first, rows=(1 << 32) - 1), second],
        [replace(first, rows=9, columns=6), second],
        [replace(first, reserved=1), second],
        *([replace(first, flags=first.flags | 1 << bit), second] for bit in range(4, 8)),
    ):
        refused(payload, replace(chunk, matrices=matrices).pack(), size)
    for count in (0, 1, 3, 65535):
        refused(payload, replace(chunk, count=count).pack(), size)
    for wrong in (0, 1, size - 1, size + 1, 2 * size, size + FORMS[form].size, 1 << 20):
        refused(payload, chunk.pack(), wrong)


@pytest.mark.parametrize("form", FORMS)
def test_hostile_sections(form: int) -> None:
    model, chunk, size = sound(form)
    payload = reference.pack_model(model)
    stream, apart = chunk.stream, chunk.apart
    for wrong in (
        *(replace(chunk, apart=piece) for piece in (b"", apart[:-1], apart + b"\0")),
        *(replace(chunk, stream=piece) for piece in (b"", stream[:127], stream[:128])),
        *(replace(chunk, stream=piece) for piece in (stream[:-2], stream[:-1], stream + b"\0\0")),
        *(replace(chunk, apart_size=n) for n in (0, len(apart) + 1, (1 << 32) - 1)),
        *(replace(chunk, stream_size=n) for n in (0, len(stream) + 2, (1 << 32) - 1)),
        replace(chunk, apart_size=(1 << 32) - 1, stream_size=(1 << 32) - 1),
        replace(chunk, low=chunk.low + b"\0"),
        replace(chunk, low=chunk.low[:-1] if chunk.low else b"\0"),
    ):
        refused(payload, wrong.pack(), size)
    for lane in range(rans.STATES):
        at = 4 * lane
        for state in (0, rans.FIRST - 1):  # no state is that small
            piece = stream[:at] + state.to_bytes(4, "little") + stream[at + 4 :]
            refused(payload, replace(chunk, stream=piece).pack(), size)


def test_unused_bits_of_what_stands_apart() -> None:
    table = rans.even([20])  # the escape
    model = reference.Model(FORMS[1], 0, 0, 2, 3, [table, table, table])
    chunk = reference.write(model, [Matrix(1, 3)], 0, [], [(20, 77)] * 3, (bytes(16), bytes(4)))
    payload = reference.pack_model(model)  # 3 * 11 bits
    check(payload, chunk.pack(), bytes.fromhex("d004d004d004"))
    for bit in range(1, 8):
        changed = chunk.apart[:-1] + bytes([chunk.apart[-1] | 1 << bit])
        refused(payload, replace(chunk, apart=changed).pack(), 6)


# Models of low halves


def planar_low(layout: str, low: bytes) -> tuple[bytes, bytes]:
    """A model of raw planes, and low halves as its payload."""
    elements = np.frombuffer(low, "<u2")
    planes = [(planar.PLANE_RAW, plane.tobytes()) for plane in planar.planes_of(layout, elements)]
    return bytes(planar.model(layout, 8, [[], []])), planar.chunk(planes)


@pytest.mark.parametrize("layout", ["word16", "bf16"])
def test_low_halves_with_a_model(layout: str) -> None:
    model, chunk, size = sound(5)
    expected = reference.decode(model, chunk.pack(), size)
    nested, low = planar_low(layout, chunk.low)
    payload = reference.pack_model(model, nested)
    chunk = replace(chunk, low=low)
    check(payload, chunk.pack(), expected)
    for wrong in (b"", low[:-1], low + b"\0", low[1:], bytes(len(low))):
        refused(payload, replace(chunk, low=wrong).pack(), size)
    for length in range(1, len(nested)):
        refused_model(reference.pack_model(model, nested[:length]), densor.DensorError)
    refused_model(reference.pack_model(model, nested + b"\0"))


def test_hostile_models_of_low_halves() -> None:
    model = sound(5)[0]
    alone = reference.pack_model(model)
    for layout, planes in (("byte", 1), ("fp32", 4), ("word32", 4), ("word64", 8)):
        nested = bytes(planar.model(layout, 8, [[]] * planes))
        refused_model(alone + nested)
    for nested in (alone, alone + alone, bytes([255]) * 9, bytes(9)):
        refused_model(alone + nested, densor.DensorError)
    for form in (1, 2, 3, 4):  # which have no low halves
        nested = bytes(planar.model("word16", 8, [[], []]))
        refused_model(reference.pack_model(sound(form)[0], nested))


# Damage


def payloads(form: int) -> list[tuple[bytes, bytes, int]]:
    """Small payloads by the reference writer and by the package, with their models."""
    found = [sound_payload(form)]
    dtype = next(name for name, number in FORM_OF.items() if number == form)
    for name in ("normal", "random"):
        array = content(name, dtype, (9, 64))
        model, chunks = coded(array.tobytes(), kind_of(dtype, array.shape), History(), False)
        found += [(model, chunk, array.nbytes) for chunk in chunks]
    if form == 5:
        model, chunk, size = sound(form)
        nested, low = planar_low("word16", chunk.low)
        found.append((reference.pack_model(model, nested), replace(chunk, low=low).pack(), size))
    return found


def outcome(decode: Callable[[], bytes], refusal: type[Exception]) -> bytes | None:
    """The bytes, or None for a refusal."""
    try:
        return decode()
    except refusal:
        return None


def mutate(form: int, rounds: int) -> int:
    """Package and reference agree on damaged models and payloads; how many were refused."""
    rng = random_state("damage", form)
    samples = payloads(form)
    found: list[bytes | None] = []
    for i in range(rounds):
        model, payload, size = samples[i % len(samples)]
        if rng.random() < 0.3:
            model = mutated(model, rng)
        else:
            payload = mutated(payload, rng)
        found.append(outcome(partial(decoded, model, payload, size), densor.DensorError))
        reading = partial(by_reference, model, payload, size)
        assert found[-1] == outcome(reading, Refused)
    return found.count(None)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_models_and_payloads(form: int) -> None:
    assert mutate(form, 400) > 200


def with_bounds_checks() -> None:
    """A short version of all this; `mutations` runs it under NUMBA_BOUNDSCHECK=1."""
    for dtype in DTYPES:
        for name in ("normal", "random"):
            test_any_content_of_any_shape(dtype, name, False)
    for form in FORMS:
        test_any_model_and_any_chunk(form)
        test_hostile_heads_of_chunks(form)
        test_hostile_sections(form)
        mutate(form, 100)
    test_hostile_frequencies()


# Archives


def entries_of(arrays: dict[str, tuple[str, Bits]]) -> dict[str, tuple[bytes, Kind]]:
    """Entries for `written`. `arrays`: dtype and bits."""
    return {n: (a.tobytes(), kind_of(dtype, a.shape)) for n, (dtype, a) in arrays.items()}


def models_and_chunks(archive: bytes) -> tuple[list[bytes], list[int]]:
    """The payloads of the MODEL frames, and the models that chunks name."""
    frames = take_apart(archive)
    models = [frame.payload for frame in frames if frame.kind == MODEL]
    return models, [frame.model - 16 for frame in frames if frame.kind == CHUNK]


def check_archive(archive: bytes, entries: dict[str, tuple[bytes, Kind]]) -> None:
    """The reference decoder finds what went in."""
    found = {entry.name: entry.data for entry in container.decode(archive)}
    assert found == {name: data for name, (data, _) in entries.items()}


def test_tensors_share_a_model() -> None:
    entries = entries_of({f"w{i}": ("BF16", weights("bf16", 120, 128, i)) for i in range(6)})
    archive = written(entries, level=6)
    models, chunks = models_and_chunks(archive)
    assert [model[0] for model in models] == [CODEC_SCALE_CONTEXT]
    assert chunks == [0] * 6
    check_archive(archive, entries)


@pytest.mark.parametrize("between", [254, 255, 256])
def test_a_model_is_written_again_once_it_is_out_of_reach(between: int) -> None:
    rng = random_state("between")
    ranges = [(i % 190, 20 + i % 190 + i // 190) for i in range(1, between + 1)]
    others = [("I16", rng.integers(*ends, (4, 512), np.int16)) for ends in ranges]
    entries = entries_of(
        {
            "first": ("BF16", weights("bf16", 40, 128)),
            **{f"other{i}": other for i, other in enumerate(others)},
            "last": ("BF16", weights("bf16", 40, 128)[::-1]),
        }
    )
    archive = written(entries, level=6)
    models, chunks = models_and_chunks(archive)
    assert len(set(models)) == between + 1
    assert len(models) == between + (2 if between == 256 else 1)
    assert chunks == [*range(between + 1), between + 1 if between == 256 else 0]
    check_archive(archive, entries)


def test_archives_do_not_depend_on_threads() -> None:
    """Batches of several chunks, all forms, tables that later batches share."""
    wide = {f"w{i}": ("BF16", weights("bf16", 700 * (i + 1), 2048, i)) for i in range(3)}
    small = {
        f"{dtype}{i}": (dtype, content("normal", dtype, (64 + i, 96)))
        for i in range(3)
        for dtype in DTYPES
    }
    entries = entries_of(wide | small | {"f": ("F32", weights("fp32", 700, 1024))})
    archive = written(entries, level=6)
    for threads in (2, 4):
        assert written(entries, level=6, threads=threads) == archive
    models, chunks = models_and_chunks(archive)
    assert {model[:2] for model in models} >= {bytes([CODEC_SCALE_CONTEXT, form]) for form in FORMS}
    assert len(chunks) > len(entries) > len(models)
    assert by_stream(archive) == {name: data for name, (data, _) in entries.items()}


def test_many_matrices_take_little_memory() -> None:
    """What the head of a chunk claims costs no more than a few times the chunk."""
    count, columns = 20000, 16
    model = reference.Model(FORMS[1], 3, 0, 2, 3, [[0] * 256] * 10)
    blocks = count * columns // reference.BLOCK
    stream = rans.encode([], model.frequencies)
    sections = (b"", bytes(16 * blocks), bytes(4 * blocks), stream)
    chunk = reference.Chunk([Matrix(1, columns, 3)] * count, 0, *sections)
    decoder = decoder_for(reference.pack_model(model))
    out = np.empty(2 * count * columns, np.uint8)
    payload = np.frombuffer(chunk.pack(), np.uint8)
    head = reference.MATRIX.pack(*[(1 << 32) - 1] * 2, 3, 0, 0, 0)
    lies = np.frombuffer(payload.tobytes().replace(payload[12:24].tobytes(), head), np.uint8)
    decoder.decode(payload, out)
    for piece, limit in ((payload, 8 * out.size), (lies, out.size)):
        tracemalloc.start()
        try:
            outcome(partial(decoder.decode, piece, out), densor.FormatError)
            assert tracemalloc.get_traced_memory()[1] < limit
        finally:
            tracemalloc.stop()
