"""The image codec: round trips, size, hostile input, and the slow decoder written from its text."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import MODEL, random_state, take_apart
from reference import image as reference_image
from reference.reading import Refused

import densor
from densor.codec.batch import Batch
from densor.codec.image import decoder, mixing_state, params, residual_state
from densor.codec.image.encoder import GradientCoder, MixingCoder, propose
from densor.codec.image.layout import Layout, layout_of
from densor.codec.image.mixing_state import planes_for
from densor.codec.image.zoom import Zoom, find_zoom
from densor.codec.kind import kind_of_array
from densor.codec.levels import level_settings
from densor.codec.registry import CODEC_IMAGE
from densor.errors import DensorError, FormatError, LimitError
from densor.runtime.workers import Workers

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
METHODS = ("gradient", "residual", "light", "values", "full")
# Contexts and steps
SETTINGS = {
    "full": (16, 8),
    "values": (12, 8),
    "light": (3, 3),
    "residual": (0, 2),
}


def picture(height: int, width: int, channels: int, depth: int = 8) -> Array:
    """A smooth picture with edges, texture and noise; its channels are alike."""
    rng = random_state("picture", height, width, channels, depth)
    y, x = np.mgrid[:height, :width]
    base = 0.5 + 0.25 * np.sin(x / 9) + 0.2 * np.cos(y / 7) + 0.2 * ((x // 13 + y // 11) % 2)
    noise = rng.standard_normal((height, width, channels)) * 0.01
    tint = base[..., None] * np.linspace(1, 0.7, channels) + noise
    top = (1 << depth) - 1
    kind = np.uint8 if depth <= 8 else np.uint16
    return np.clip(tint * top * 0.7, 0, top).astype(kind)


def layout_for(array: Array, big: bool = False) -> Layout:
    return Layout(array.shape[1], array.shape[2], array.itemsize, big)


def rows_of(array: Array, big: bool = False) -> Bytes:
    swapped = array.astype(array.dtype.newbyteorder(">")) if big else array
    return np.frombuffer(swapped.tobytes(), np.uint8)


def coded(layout: Layout, data: Bytes, method: str) -> tuple[bytes, bytes]:
    """MODEL payload and payload of one chunk."""
    if method == "gradient":
        counting = GradientCoder(layout, data)
        counting.decide([counting.count(data)])
        return counting.model(), bytes(counting.encode(data, 0))
    mixing = MixingCoder(layout, data, *SETTINGS[method])
    return mixing.model(), bytes(mixing.encode(data, 0))


def decoded(model: bytes, payload: bytes, size: int) -> bytes:
    out = np.full(size, 0xA5, np.uint8)
    decoder.open_decoder(model).decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


CASES = {
    "grey": (picture(23, 31, 1), False),
    "two": (picture(9, 20, 2), False),
    "rgb": (picture(21, 26, 3), False),
    "rgba": (picture(12, 17, 4), False),
    "five": (picture(8, 12, 5), False),
    "column": (picture(40, 1, 1), False),
    "row": (picture(1, 40, 3), False),
    "narrow": (picture(30, 2, 3), False),
    "deep": (picture(20, 24, 1, 16), False),
    "deep big": (picture(11, 14, 3, 16), True),
    "twelve bits": (picture(17, 19, 1, 12), True),
    "shifted": (picture(16, 18, 3, 10) << np.uint16(6), False),
    "shifted big": (picture(16, 18, 3, 10) << np.uint16(6), True),
    "shifted by eight": (picture(13, 18, 1).astype(np.uint16) << np.uint16(8), True),
    "few values": ((picture(24, 24, 1) // 16 * 16 + 3).astype(np.uint8), False),
    "bits": ((picture(24, 24, 1) > 90).astype(np.uint8), False),
    "constant": (np.full((20, 20, 3), 77, np.uint8), False),
    "zeros": (np.zeros((20, 20, 1), np.uint16), False),
    "extremes": (
        random_state("x").choice(np.array([0, 255], np.uint8), (20, 21, 3)).astype(np.uint8),
        False,
    ),
    "noise": (random_state("n").integers(0, 65536, (18, 15, 3)).astype(np.uint16), True),
    "repeats": (np.tile(random_state("r").integers(0, 256, (8, 9, 1)), (3, 3, 1)).astype("u1"), 0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_round_trips_and_the_slow_decoder(name: str, method: str) -> None:
    array, big = CASES[name]
    layout, data = layout_for(array, bool(big)), rows_of(array, bool(big))
    model, payload = coded(layout, data, method)
    if len(payload) == data.size and payload == data.tobytes():
        return  # was not made smaller, and would be stored as it is
    assert decoded(model, payload, data.size) == data.tobytes()
    slow = reference_image.parse_model(model).decode(payload, data.size)
    assert slow == data.tobytes()


@pytest.mark.parametrize("wavefront", [1, 2, 3, 8, 16])
@pytest.mark.parametrize(
    "name", ["grey", "rgb", "rgba", "deep big", "column", "narrow", "extremes"]
)
def test_rows_of_a_wavefront(name: str, wavefront: int) -> None:
    """Small images have few; each number of rows gives what the slow decoder says."""
    array, big = CASES[name]
    layout, data = layout_for(array, bool(big)), rows_of(array, bool(big))
    coder = GradientCoder(layout, data)
    coder._model = replace(coder._model, wavefront=wavefront)
    coder.decide([coder.count(data)])
    model, payload = coder.model(), bytes(coder.encode(data, 0))
    assert decoded(model, payload, data.size) == data.tobytes()
    assert reference_image.parse_model(model).decode(payload, data.size) == data.tobytes()


def test_large_images_have_wavefronts() -> None:
    """A state of rANS for every 4 KB that are coded, up to sixteen rows."""
    noise = random_state("wavefront").integers(0, 256, (512, 400, 1)).astype(np.uint8)
    for rows, wavefront in ((512, 16), (64, 6), (8, 1)):
        some = noise[:rows]
        model = GradientCoder(layout_for(some), rows_of(some)).model()
        assert params.parse(model).wavefront == wavefront


def test_all_but_noise_is_coded() -> None:
    """The test above compares something."""
    for name, (array, big) in CASES.items():
        data = rows_of(array, bool(big))
        smaller = len(coded(layout_for(array, bool(big)), data, "full")[1]) < data.size
        assert smaller or name in ("noise", "extremes"), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("zoom", [Zoom(16, 1), Zoom(5, 7)])
@pytest.mark.parametrize("name", ["rgba", "few values"])
def test_enlarged_images(name: str, zoom: Zoom, method: str) -> None:
    array, big = CASES[name]
    array = np.repeat(np.repeat(array, zoom.rows, 0), zoom.columns, 1)
    layout, data = layout_for(array, big), rows_of(array, big)
    found = find_zoom(layout, data)
    assert found.rows % zoom.rows == 0 and found.columns % zoom.columns == 0
    if method == "gradient":
        counting = GradientCoder(layout, data, found)
        counting.decide([counting.count(data)])
        model, payload = counting.model(), bytes(counting.encode(data, 0))
    else:
        mixing = MixingCoder(layout, data, *SETTINGS[method], found)
        model, payload = mixing.model(), bytes(mixing.encode(data, 0))
    assert decoded(model, payload, data.size) == data.tobytes()
    assert reference_image.parse_model(model).decode(payload, data.size) == data.tobytes()
    plain = coded(layout, data, method)
    assert len(model) + len(payload) < sum(map(len, plain)) + 4
    for size in (data.size - 1, data.size + layout.stride, 0):
        with pytest.raises(DensorError):
            decoded(model, payload, size)
        with pytest.raises(Refused):
            reference_image.parse_model(model).decode(payload, size)


def test_what_is_enlarged() -> None:
    array = np.repeat(np.repeat(picture(20, 30, 3), 4, 0), 6, 1)
    layout, data = layout_for(array), rows_of(array)
    assert find_zoom(layout, data) == Zoom(4, 6)
    assert find_zoom(layout, data, 8 * layout.stride) == Zoom(4, 6)
    assert find_zoom(layout, data, 6 * layout.stride) == Zoom(2, 6)
    assert find_zoom(layout, data, 5 * layout.stride) == Zoom(1, 6)
    assert find_zoom(layout, np.zeros_like(data)) == Zoom(16, 15)
    for at in (0, 1, layout.stride + 5, data.size - 1):
        changed = data.copy()
        changed[at] ^= 1
        assert find_zoom(layout, changed) == Zoom(1, 1)
    padded = replace(layout, padding=0, width=layout.width - 1)
    assert find_zoom(replace(padded, padding=3), data) == Zoom(1, 1)
    for level in (1, 5, 9):
        assert np.array_equal(densor.decompress(densor.compress(array, level)), array)


@pytest.mark.parametrize("zoom", [(0, 2), (2, 0), (1, 1), (17, 1), (1, 255)])
def test_impossible_zooms_are_refused(zoom: tuple[int, int]) -> None:
    array = np.repeat(picture(8, 9, 1), 2, 0)
    layout, data = layout_for(array), rows_of(array)
    model = MixingCoder(layout, data, 3, 3, Zoom(2, 1)).model()
    assert model[-2:] == bytes((2, 1))
    for bad in (model[:-2] + bytes(zoom), model[:-1], model[:-2], model + b"\0"):
        with pytest.raises(FormatError):
            decoder.open_decoder(bad)
        with pytest.raises(Refused):
            reference_image.parse_model(bad)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", [1, 3, 255])
def test_padding_of_rows(method: str, padding: int) -> None:
    array = picture(20, 21, 3)
    rows = np.zeros((20, 63 + padding), np.uint8)
    rows[:, :63] = array.reshape(20, 63)
    layout, data = Layout(21, 3, padding=padding), rows.ravel()
    model, payload = coded(layout, data, method)
    assert decoded(model, payload, data.size) == data.tobytes()
    assert reference_image.parse_model(model).decode(payload, data.size) == data.tobytes()


def test_padding_that_is_not_zero_comes_back() -> None:
    head = struct.pack("<2sIIIIiiHHI", b"BM", 0, 0, 54, 40, 21, 40, 1, 24, 0).ljust(54, b"\0")
    rows = np.full((40, 64), 1, np.uint8)
    rows[:, :63] = picture(40, 21, 3).reshape(40, 63)
    data = head + rows.tobytes()
    for level in (1, 9):
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, level)
        back = io.BytesIO()
        densor.decompress_file(io.BytesIO(out.getvalue()), back)
        assert back.getvalue() == data


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["rgb", "deep big", "few values"])
def test_damage_is_noticed_as_the_slow_decoder_does(name: str, method: str) -> None:
    array, big = CASES[name]
    data = rows_of(array, bool(big))
    model, payload = coded(layout_for(array, bool(big)), data, method)
    rng = random_state("damage", name, method)
    for k in range(60):
        parts = [bytearray(model), bytearray(payload)]
        part = parts[k % 2]
        place = int(rng.integers(len(part)))
        if k % 3 == 2:
            del part[place:]
        else:
            part[place] ^= 1 << int(rng.integers(8))
        outcomes: list[bytes | None] = []
        try:
            outcomes.append(decoded(bytes(parts[0]), bytes(parts[1]), data.size))
        except (FormatError, LimitError):
            outcomes.append(None)
        if k % 10 < 2 or method == "gradient":
            try:
                parsed = reference_image.parse_model(bytes(parts[0]))
                outcomes.append(parsed.decode(bytes(parts[1]), data.size))
            except Refused:
                outcomes.append(None)
            assert outcomes[0] == outcomes[1]


HEAD = struct.Struct("<10BI")


@pytest.mark.parametrize(
    "fields",
    [
        (11, 0, 1, 0, 8, 0, 4, 0, 0, 0, 0),  # no width
        (11, 0, 0, 0, 8, 0, 4, 0, 0, 0, 9),  # no channels
        (11, 0, 65, 0, 8, 0, 4, 0, 0, 0, 9),
        (11, 4, 1, 0, 8, 0, 4, 0, 0, 0, 9),  # no such method
        (11, 3, 1, 0, 8, 0, 0, 8, 0, 0, 9),  # no contexts
        (11, 3, 1, 0, 8, 0, 17, 8, 0, 0, 9),
        (11, 3, 1, 0, 8, 0, 16, 8, 0, 0, (1 << 15) + 1),  # too many sections
        (11, 3, 3, 0, 8, 4, 16, 8, 0, 0, 10921),
        (11, 2, 1, 0, 8, 0, 3, 3, 0, 0, 9),  # residuals have no contexts
        (11, 2, 1, 0, 8, 0, 0, 33, 0, 0, 9),
        (11, 2, 3, 0, 8, 1, 0, 2, 0, 0, 9),
        (11, 2, 1, 0, 8, 0, 0, 2, 0, 0, 1 << 31),
        (11, 0, 1, 0, 9, 0, 4, 0, 0, 0, 9),  # 9 bits in a byte
        (11, 0, 1, 1, 17, 0, 4, 0, 0, 0, 9),  # 17 bits
        (11, 0, 1, 1, 16, 0, 4, 0, 0, 1, 9),  # 17 with the shift
        (11, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9),
        (11, 0, 1, 2, 8, 0, 4, 0, 0, 0, 9),  # high byte of one
        (11, 0, 1, 8, 8, 0, 4, 0, 0, 0, 9),
        (11, 0, 2, 0, 8, 1, 4, 0, 0, 0, 9),  # colours of two channels
        (11, 0, 3, 0, 8, 5, 4, 0, 0, 0, 9),
        (11, 0, 1, 0, 8, 0, 0, 0, 0, 0, 9),  # no wavefront
        (11, 0, 1, 0, 8, 0, 17, 0, 0, 0, 9),
        (11, 0, 1, 0, 8, 0, 4, 9, 0, 0, 9),
        (11, 1, 1, 0, 8, 0, 0, 3, 0, 0, 9),  # no contexts
        (11, 1, 1, 0, 8, 0, 17, 3, 0, 0, 9),
        (11, 1, 1, 0, 8, 0, 3, 33, 0, 0, 9),
        (11, 1, 3, 0, 8, 1, 3, 3, 0, 0, 9),  # a transform
        (11, 1, 1, 0, 8, 0, 3, 3, 0, 0, 1 << 31),  # a row of 2^31
        (11, 1, 1, 4, 8, 0, 3, 3, 0, 0, 9),  # values, but none
    ],
)
def test_impossible_models(fields: tuple[int, ...]) -> None:
    model = HEAD.pack(*fields)
    for text in (model, model + bytes(5), model + bytes(32), model + bytes(37), model[:7]):
        with pytest.raises((FormatError, LimitError)):
            decoder.open_decoder(text)
        with pytest.raises(Refused):
            reference_image.parse_model(text)


def test_rows_that_are_too_wide_do_without_windows() -> None:
    """Windows take memory for each column."""
    for width, method in ((1 << 15, params.LOCAL), ((1 << 15) + 1, params.MIXING)):
        rows = np.arange(2 * width, dtype=np.uint32).astype(np.uint8)
        coder = MixingCoder(Layout(width), rows, 16, 8)
        assert params.parse(coder.model()).method == method


def test_a_wide_image_of_no_whole_row_is_refused_before_memory_is_asked_for() -> None:
    model = HEAD.pack(11, 0, 1, 0, 8, 0, 4, 0, 0, 0, (1 << 32) - 1) + bytes(5)
    for size in (1, 1 << 16):
        with pytest.raises(FormatError):
            decoded(model, bytes(100), size)
    mixing = HEAD.pack(11, 1, 1, 0, 8, 0, 3, 3, 0, 0, 1 << 19)
    with pytest.raises(FormatError):
        decoded(mixing, bytes(100), 1 << 16)


@pytest.mark.parametrize("level", range(1, 10))
def test_arrays_come_back(level: int) -> None:
    for array in (picture(64, 70, 3), picture(64, 70, 1)[..., 0], picture(40, 33, 3, 16)):
        for order in (array, array.astype(array.dtype.newbyteorder(">")), np.asfortranarray(array)):
            packed = densor.compress(order, level)
            back = densor.decompress(packed)
            assert back.dtype == order.dtype and np.array_equal(back, order)


def codecs_of(packed: bytes) -> set[int]:
    return {frame.payload[0] for frame in take_apart(packed) if frame.kind == MODEL}


def test_pictures_are_taken_for_images_and_other_arrays_are_not() -> None:
    array = picture(100, 120, 3)
    for level, share in ((1, 0.8), (6, 0.75), (9, 0.75)):
        packed = densor.compress(array, level)
        assert codecs_of(packed) == {CODEC_IMAGE}
        plain = densor.compress(array.ravel(), level)
        assert len(packed) < share * len(plain)
    rng = random_state("weights")
    quantised = np.clip(rng.standard_normal((200, 256)) * 20 + 128, 0, 255).astype(np.uint8)
    assert CODEC_IMAGE not in codecs_of(densor.compress(quantised, 9))


def test_layouts_that_arrays_may_have() -> None:
    assert layout_of("U8", (40, 50)) == Layout(50)
    assert layout_of("U16", (40, 50, 3)) == Layout(50, 3, 2)
    assert layout_of("U8", (100, 28, 28)) == Layout(28)
    assert layout_of("U8", (5, 40, 50, 4)) == Layout(50, 4)
    for dtype, shape in (
        ("F32", (40, 50)),
        ("U8", (2000,)),
        ("U8", (0, 50)),
        ("U8", (3, 3)),
        ("U8", (1, 1 << 31)),
        ("U8", (1 << 31, 2)),
    ):
        assert layout_of(dtype, shape) is None


def test_several_threads_share_a_decoder() -> None:
    array = picture(40, 50, 3)
    data = rows_of(array)
    for method in METHODS:
        model, payload = coded(layout_for(array), data, method)
        shared = decoder.open_decoder(model)

        def decode(_: int, shared: object = shared, payload: bytes = payload) -> bytes:
            out = np.empty(data.size, np.uint8)
            shared.decode(np.frombuffer(payload, np.uint8), out)  # type: ignore[attr-defined]
            return out.tobytes()

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(decode, range(8))) == {data.tobytes()}


def test_reduced_samples_are_restored() -> None:
    for name in ("few values", "shifted"):
        array, big = CASES[name]
        data = rows_of(array, bool(big))
        model = params.parse(coded(layout_for(array, bool(big)), data, "full")[0])
        assert model.shift or model.values is not None
        lower = np.array(params.reduced(model, data))
        assert int(model.layout.samples(lower).max()) < 1 << model.depth
        params.restore(model, lower)
        assert lower.tobytes() == data.tobytes()


def test_a_file_that_only_looks_like_an_image_comes_back() -> None:
    noise = random_state("looks").integers(0, 256, 5000).astype(np.uint8).tobytes()
    for head in (
        b"P5\n70 70\n255\n",
        b"P6 1 2147483648 255\n",
        b"P6 40 41 65536\n",
        b"P5 0 10 255\n",
        b"P5 70 0 255\n",
        b"P6 2000000000 3000000000 65535\n",
        b"P7\nWIDTH 40\nHEIGHT 40\nDEPTH 99\nMAXVAL 255\nENDHDR\n",
        b"\0\0\x08\x03" + struct.pack(">III", 1 << 31, 28, 28),
        b"\0\0\x08\x02" + struct.pack(">II", 50, 100),
        b"P5\n100 200\n255\n",  # cut short
    ):
        data = head + noise
        for level in (1, 9):
            out, plain, back = io.BytesIO(), io.BytesIO(), io.BytesIO()
            densor.compress_file(io.BytesIO(data), out, level)
            densor.compress_file(io.BytesIO(b"x" + data[1:]), plain, level)
            assert len(out.getvalue()) < len(plain.getvalue()) + 120
            densor.decompress_file(io.BytesIO(out.getvalue()), back)
            assert back.getvalue() == data


def test_archives_with_damage_are_refused() -> None:
    packed = densor.compress(picture(60, 64, 3), 9)
    for at in range(0, len(packed), 23):
        damaged = packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :]
        with pytest.raises(DensorError):
            densor.decompress(damaged)


def test_arrays_that_gradients_do_not_suit_are_tried_by_mixing() -> None:
    """Strokes on black, as digits are: what is near says little by its slope."""
    rng = random_state("strokes")
    array = np.zeros((120, 24, 24), np.uint8)
    for image in array:
        for _ in range(3):
            y, x = rng.integers(2, 20, 2)
            image[y : y + int(rng.integers(1, 3)), x : x + 4] = 255 - rng.integers(0, 3)
    level = level_settings(6)
    batch = Batch(array.ravel(), kind_of_array("U8", array.shape), Workers(1))
    assert batch.kind.guessed
    proposed = propose(batch, level)
    assert proposed is not None
    noise = random_state("no image").integers(0, 256, array.shape, np.uint8)
    assert propose(replace(batch, data=noise.ravel()), level) is None
    packed = densor.compress(array, 6)
    assert np.array_equal(densor.decompress(packed), array)


@pytest.mark.parametrize("method", ["full", "light", "residual"])
def test_tables_begin_with_cache_lines(method: str) -> None:
    """A row of 64 bytes is one line then, and is asked for as one."""
    array = picture(20, 30, 3)
    layout, data = layout_for(array), rows_of(array)
    model = params.parse(coded(layout, data, method)[0])
    if method == "residual":
        by_residuals = residual_state.sizes_of(model, data.size)
        residuals = residual_state.new_state(by_residuals, planes_for(True, model, data))
        tables: tuple[npt.NDArray[Any], ...] = residuals.counters, residuals.direct, residuals.apm
    else:
        mixed = mixing_state.image_of(model, data.size)
        state = mixing_state.new_state(mixed, planes_for(True, model, data))
        tables = state.counters, state.mixers, state.apm0, state.apm1
    assert [table.ctypes.data % 64 for table in tables] == [0] * len(tables)
