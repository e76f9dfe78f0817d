"""What every codec must do, whatever is special about it; the table is `codec_table.CODECS`.

Round trips over dtype, shape and content; threads; damage; hostile parameters; memory; bounds.
"""

import contextlib
import tracemalloc
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from archives import written
from codec_table import CODECS, Codec, Coded, tensor_bytes
from helpers import CHUNK, CONTENTS, MODEL, Frame, bytes_archive, random_state
from mutations import NUMBERS, by_stream, mutated
from reference import codecs as reference_codecs
from reference.reading import Refused

import densor
from densor.codec import registry
from densor.codec.kind import kind_of
from densor.dtypes import SIZES

SHAPES = ((), (1,), (2,), (31,), (33,), (7, 64), (64, 7), (5, 4, 3, 3), (9, 130))
FEW_SHAPES = ((1,), (31,), (9, 64))
_SLOW = (registry.CODEC_BYTE_CM, registry.CODEC_LANGUAGE_MODEL)
_GUARD = 64  # bytes before and behind the output, which must stay as they are
_SLOW_BYTES = 400  # original bytes up to which a slow reference decoder is asked
_ODD = 3  # bytes by which the output lies off the alignment of any element


def by_package(codec: Codec, coded: Coded, size: int | None = None) -> bytes:
    """Decodes to unaligned memory, of which nothing outside may be touched."""
    size = len(coded.data) if size is None else size
    memory = np.full(size + 2 * _GUARD, 0xA5, np.uint8)
    try:
        codec.decode_into(coded, memory[_GUARD + _ODD :][:size])
    finally:
        assert (memory[: _GUARD + _ODD] == 0xA5).all() and (
            memory[_GUARD + _ODD + size :] == 0xA5
        ).all()
    return memory[_GUARD + _ODD :][:size].tobytes()


def by_reference(coded: Coded, size: int | None = None) -> bytes:
    """Decodes by the decoder that was written from the specification alone."""
    size = len(coded.data) if size is None else size
    return reference_codecs.parse_model(coded.model).decode(coded.payload, size, coded.base)


def refused(codec: Codec, coded: Coded, size: int | None = None) -> None:
    """The package ends in a DensorError, and the reference refuses too."""
    with pytest.raises(densor.DensorError):
        by_package(codec, coded, size)
    if codec.has_reference:
        with pytest.raises(Refused):
            by_reference(coded, size)


def outcome(decode: Callable[[], bytes], refusal: type[Exception]) -> bytes | None:
    """What it decodes to, or None for a refusal."""
    with contextlib.suppress(refusal):
        return decode()
    return None


def small(codec: Codec, content: str = "weights", dtype: str = "BF16") -> Coded:
    """A chunk of few bytes."""
    dtype = dtype if dtype in codec.dtypes else codec.dtypes[0]
    return codec.encode(content, dtype, (5, 12))


every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def with_dtypes(function: Callable[..., None]) -> Callable[..., None]:
    """Every codec with each dtype that it takes."""
    cases = [(codec, dtype) for codec in CODECS for dtype in codec.dtypes]
    ids = [f"{codec.name}-{dtype}" for codec, dtype in cases]
    return pytest.mark.parametrize(("codec", "dtype"), cases, ids=ids)(function)


# Round trips


def comes_back(codec: Codec, content: str, dtype: str, shape: tuple[int, ...]) -> None:
    coded = codec.encode(content, dtype, shape)
    assert coded.model[0] == codec.number
    assert by_package(codec, coded) == coded.data
    slow = codec.has_slow_reference and len(coded.data) > _SLOW_BYTES
    if codec.has_reference and not slow:
        assert by_reference(coded) == coded.data
    assert codec.encode(content, dtype, shape) == coded


@pytest.mark.parametrize("content", CONTENTS)
@with_dtypes
def test_any_content_of_any_shape_comes_back(codec: Codec, dtype: str, content: str) -> None:
    for shape in FEW_SHAPES if codec.number in _SLOW else SHAPES:
        comes_back(codec, content, dtype, shape)


def test_the_table_has_every_codec() -> None:
    numbers = {value for name, value in vars(registry).items() if name.startswith("CODEC_")}
    assert {codec.number for codec in CODECS} == numbers
    assert len({codec.name for codec in CODECS}) == len(CODECS)
    assert len(CODECS) == len(numbers) + 4  # two methods of changes, bitmaps, tokens and sound


@pytest.mark.parametrize("level", [1, 3, 6, 9])
@pytest.mark.parametrize("dtype", sorted(set(CODECS[0].dtypes)))
def test_archives_of_no_and_one_element(dtype: str, level: int) -> None:
    """By whatever a level chooses; tensors of no bytes have no chunk."""
    for shape in ((0,), (3, 0, 2), (1,), (), (2, 3)):
        data = tensor_bytes("random", dtype, shape)
        archive = written({"x": (data.tobytes(), kind_of(dtype, shape))}, level=level)
        assert by_stream(archive) == {"x": data.tobytes()}


# Threads


@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_archives_do_not_depend_on_threads(level: int, tiny_batches: Callable[[int], None]) -> None:
    """Tensors of every dtype and blocks, in many batches of several chunks each."""
    tiny_batches(1 << 11)
    dtypes = sorted({dtype for codec in CODECS for dtype in codec.dtypes} & set(SIZES))
    shapes = {content: (24, 96) if content == "weights" else (7, 66) for content in CONTENTS}
    entries = {
        f"{dtype} {content}": (tensor_bytes(content, dtype, shape).tobytes(), kind_of(dtype, shape))
        for dtype in dtypes
        for content, shape in shapes.items()
    }
    archive = written(entries, level=level)
    assert written(entries, level=level, threads=2) == archive
    wanted = {name: data for name, (data, _) in entries.items()}
    for threads in (1, 2):
        assert by_stream(archive, threads) == wanted


# Damage


@with_dtypes
def test_payloads_that_end_early_or_late_are_refused(codec: Codec, dtype: str) -> None:
    coded = small(codec, dtype=dtype)
    size = len(coded.payload)
    step = max(1, size // (20 if codec.has_slow_reference else 80))
    for length in sorted({*range(min(size, 20)), *range(0, size, step), size - 2, size - 1}):
        refused(codec, coded._replace(payload=coded.payload[:length]))
    refused(codec, coded._replace(payload=coded.payload + b"\0"))


@every_codec
def test_payloads_for_another_size_are_refused(codec: Codec) -> None:
    coded = small(codec)
    for size in {1, len(coded.data) - 1, len(coded.data) + 1, 2 * len(coded.data)}:
        if codec.number not in (registry.CODEC_BYTE_CM, registry.CODEC_TOKENS):
            refused(codec, coded, size)
        else:  # a stream may end with likely bytes that take no whole byte
            found = outcome(lambda n=size: by_package(codec, coded, n), densor.DensorError)
            assert found == outcome(lambda n=size: by_reference(coded, n), Refused)


@every_codec
def test_any_byte_of_a_payload_changed(codec: Codec) -> None:
    """An error, or as many bytes; in an archive, which has a hash, an error or the right bytes."""
    for content in ("weights", "few_values"):
        coded = small(codec, content)
        rng = random_state("damage", codec.name, content)
        step = 11 if codec.number == registry.CODEC_LANGUAGE_MODEL else 1
        for at in range(0, len(coded.payload), step):
            payload = bytearray(coded.payload)
            payload[at] ^= int(rng.integers(1, 256))
            agrees(codec, coded._replace(payload=bytes(payload)))


def agrees(codec: Codec, damaged: Coded) -> None:
    """What the reference makes of a damaged chunk, the package makes of it too.

    In an archive, where a hash stands behind it, nothing but the right bytes may come out.
    """
    found = outcome(lambda: by_package(codec, damaged), densor.DensorError)
    assert found is None or len(found) == len(damaged.data)
    if codec.has_reference and not codec.has_slow_reference:
        wanted = outcome(lambda: by_reference(damaged), Refused)
        assert found == wanted
    if damaged.base is None and codec.has_reference and len(damaged.payload) <= len(damaged.data):
        frames = [Frame(MODEL, damaged.model), Frame(CHUNK, damaged.payload, len(damaged.data), 16)]
        with contextlib.suppress(densor.DensorError):
            assert densor.decompress(bytes_archive(frames, damaged.data)) == damaged.data


@every_codec
def test_parameters_that_end_early_or_late_are_refused(codec: Codec) -> None:
    coded = small(codec)
    for length in range(len(coded.model)):
        refused(codec, coded._replace(model=coded.model[:length]))
    refused(codec, coded._replace(model=coded.model + b"\0"))


@every_codec
def test_any_byte_of_the_parameters_changed(codec: Codec) -> None:
    coded = small(codec)
    numbers = (0, 255) if codec.number == registry.CODEC_LANGUAGE_MODEL else NUMBERS
    for at in range(1, len(coded.model)):
        for value in {*numbers, coded.model[at] ^ 1, coded.model[at] ^ 128} - {coded.model[at]}:
            model = coded.model[:at] + bytes([value]) + coded.model[at + 1 :]
            agrees(codec, coded._replace(model=model))


@every_codec
def test_damage_of_all_sorts(codec: Codec) -> None:
    rounds = 20 if codec.number == registry.CODEC_LANGUAGE_MODEL else 300
    assert damage(codec, rounds) > rounds // 3


def damage(codec: Codec, rounds: int) -> int:
    """Several changes at a time, also of lengths; returns how many were refused."""
    coded = small(codec)
    rng = random_state("mutated", codec.name)
    count = 0
    for _ in range(rounds):
        if rng.random() < 0.3:
            damaged = coded._replace(model=coded.model[:1] + mutated(coded.model[1:], rng))
        else:
            damaged = coded._replace(payload=mutated(coded.payload, rng))
        agrees(codec, damaged)
        count += outcome(lambda d=damaged: by_package(codec, d), densor.DensorError) is None
    return count


# Memory


@every_codec
def test_lies_cost_no_more_memory_than_limits_allow(codec: Codec) -> None:
    """A word of 4 bytes anywhere that claims to be as large as can be."""
    coded = small(codec)
    by_package(codec, coded)  # tables and kernels are made once
    step = 16 if codec.number == registry.CODEC_LANGUAGE_MODEL else 3
    limit = codec.memory + 16 * (len(coded.payload) + len(coded.data))
    tracemalloc.start()
    try:
        for field in ("model", "payload"):
            sound = getattr(coded, field)
            for at in range(1, len(sound), step):
                for word in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1"):
                    lie = sound[:at] + word + sound[at + 4 :]
                    with contextlib.suppress(densor.DensorError):
                        by_package(codec, coded._replace(**{field: lie[: len(sound)]}))
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


# Bounds


def with_bounds_checks(places: Iterable[int]) -> None:
    """A short version of all this for some codecs; `mutations` runs it under NUMBA_BOUNDSCHECK=1.

    `places`: theirs in the table.
    """
    for codec in map(CODECS.__getitem__, places):
        if codec.number == registry.CODEC_LANGUAGE_MODEL:
            continue  # its kernels are those of byte_cm, and take minutes to compile
        for dtype in codec.dtypes:
            for content in ("weights", "random", "sparse"):
                comes_back(codec, content, dtype, (9, 64))
        damage(codec, 100)
