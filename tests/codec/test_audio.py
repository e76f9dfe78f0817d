"""The audio codec: round trips, size, hostile input, and the slow decoder written from its text."""

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers import MODEL, random_state, take_apart
from reference import audio as reference_audio
from reference.reading import Refused

import densor
from densor.codec.audio import cascade, decoder, distributions, lanes, samples
from densor.codec.audio.encoder import LaneCoder, cascade_model
from densor.codec.audio.fitting import Fitter, Shape
from densor.codec.audio.kernels import ROW
from densor.codec.audio.layout import Layout
from densor.codec.audio.params import FULL, LIGHT, pack_model
from densor.codec.registry import CODEC_AUDIO
from densor.errors import DensorError, FormatError, LimitError

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


def tune(count: int, channels: int, bits: int = 16) -> Numbers:
    """Tones that fade, and noise; channels are alike. int64[count, channels]."""
    rng = random_state("tune", count, channels, bits)
    t = np.arange(count)[:, None]
    shared = np.sin(t / 9.1) * 0.4 + np.sin(t / 41 + 1) * 0.3 * np.exp(-t / 4000)
    each = rng.standard_normal((count, channels)) * 0.01
    top = (1 << (bits - 1)) - 1
    return np.clip((shared + each) * top * 0.8, -top - 1, top).astype(np.int64)


def bytes_of(layout: Layout, numbers: Numbers) -> Bytes:
    """Samples as they lie in a file."""
    if layout.floats:
        return np.frombuffer((numbers / 2.0**15).astype("<f4").tobytes(), np.uint8)
    if layout.unsigned:
        numbers = numbers + (1 << (8 * layout.size - 1))
    wide = numbers.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : layout.size]
    return np.ascontiguousarray(wide[:, ::-1] if layout.big else wide).reshape(-1)


def coded(layout: Layout, data: Bytes, setting: int | None = None) -> tuple[bytes, bytes]:
    """MODEL payload and payload of one chunk, by lanes or a setting of the cascade."""
    model = samples.model_of(layout, data)
    assert model is not None
    if setting is not None:
        adaptive = cascade_model(model, setting)
        assert adaptive is not None
        return pack_model(adaptive), bytes(
            cascade.encode(adaptive, data, int(layout.channels == 2))
        )
    coder = LaneCoder(model)
    coder.decide([coder.count(data)])
    return coder.model(), bytes(coder.encode(data, 0))


def decoded(model: bytes, payload: bytes, size: int) -> bytes:
    out = np.full(size, 0xA5, np.uint8)
    decoder.open_decoder(model).decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


CLIPPED = np.clip(tune(900, 2) * 3, -32768, 32767)
SQUARE = np.where(np.arange(900)[:, None] // 50 % 2, 1 << 31, 0) - (1 << 31) + (1 << 30)
CASES = {
    "mono": (Layout(1, 2), tune(1700, 1)),
    "stereo": (Layout(2, 2), tune(1500, 2)),
    "right first": (Layout(2, 2), tune(1500, 2) * np.array([[1, 0]]) + tune(1500, 1) // 3),
    "six": (Layout(6, 2, True), tune(400, 6)),
    "8 bits": (Layout(2, 1, unsigned=True), tune(700, 2, 8)),
    "24 bits": (Layout(2, 3), tune(700, 2, 24)),
    "24 in 32, big": (Layout(1, 4, True), tune(700, 1, 24) << 8),
    "32 bits": (Layout(1, 4), tune(500, 1, 32)),
    "32 bits, extremes": (Layout(1, 4), SQUARE),
    "12 in 16": (Layout(2, 2), tune(900, 2, 12) << 4),
    "floats": (Layout(2, 4, floats=True), tune(900, 2)),
    "few values": (Layout(1, 2), tune(3000, 1, 8) * 237 + 5),
    "clipped": (Layout(2, 2), CLIPPED),
    "silence": (Layout(2, 2), np.zeros((800, 2), np.int64)),
    "constant": (Layout(2, 2), np.full((800, 2), -1234)),
    "burst": (Layout(1, 2), tune(1600, 1) * (np.arange(1600)[:, None] > 1300)),
    "noise": (Layout(2, 2), random_state("n").integers(-32768, 32768, (400, 2))),
    "one": (Layout(2, 2), tune(1, 2)),
    "seventeen": (Layout(1, 2), tune(17, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_round_trips_and_the_slow_decoder(name: str) -> None:
    layout, numbers = CASES[name]
    data = bytes_of(layout, numbers)
    model, payload = coded(layout, data)
    assert decoded(model, payload, data.size) == data.tobytes()
    assert reference_audio.parse_model(model).decode(payload, data.size) == data.tobytes()


ADAPTIVE = [name for name in CASES if name != "32 bits"]


@pytest.mark.parametrize("setting", [LIGHT, FULL])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_cascade_round_trips(name: str, setting: int) -> None:
    layout, numbers = CASES[name]
    data = bytes_of(layout, numbers)
    model, payload = coded(layout, data, setting)
    assert decoded(model, payload, data.size) == data.tobytes()


@pytest.mark.parametrize("setting", [LIGHT, FULL])
@pytest.mark.parametrize(
    "name",
    ["mono", "stereo", "six", "8 bits", "24 bits", "few values", "clipped", "burst", "noise"],
)
def test_the_cascade_and_the_slow_decoder(name: str, setting: int) -> None:
    layout, numbers = CASES[name]
    data = bytes_of(layout, numbers[-(400 if setting == LIGHT else 120) :])
    model, payload = coded(layout, data, setting)
    assert reference_audio.parse_model(model).decode(payload, data.size) == data.tobytes()


def test_the_cascade_over_many_instants() -> None:
    """Histories wrap around, and the kernel is called in pieces."""
    layout = Layout(2, 2)
    loud = tune(20000, 2)
    loud[9000:9100] = 0
    loud[15000:] >>= 9
    data = bytes_of(layout, loud)
    sizes = []
    for setting in (LIGHT, FULL):
        model, payload = coded(layout, data, setting)
        assert decoded(model, payload, data.size) == data.tobytes()
        sizes.append(len(payload))
    assert max(sizes) < len(coded(layout, data)[1])


def test_samples_of_many_bits_are_left_to_lanes() -> None:
    layout, numbers = CASES["32 bits"]
    model = samples.model_of(layout, bytes_of(layout, numbers))
    assert model is not None and cascade_model(model, LIGHT) is None


def test_sizes() -> None:
    """Each is far smaller than the same as plain elements."""
    for name, share in (
        ("stereo", 0.75),
        ("24 bits", 0.85),
        ("12 in 16", 0.55),
        ("floats", 0.4),
        ("few values", 0.5),
        ("silence", 0.1),
        ("constant", 0.1),
    ):
        layout, numbers = CASES[name]
        data = bytes_of(layout, numbers)
        _, payload = coded(layout, data)
        assert len(payload) < share * data.size, name


def test_floats_that_are_no_integers_are_left() -> None:
    layout = Layout(1, 4, floats=True)
    for number in (np.pi, np.nan, np.inf, -0.0, 1e-40, 1e30):
        floats = (np.arange(300) / 256).astype("<f4")
        floats[77] = number
        assert samples.model_of(layout, np.frombuffer(floats.tobytes(), np.uint8)) is None
    back = io.BytesIO()
    packed = io.BytesIO()
    floats = np.linspace(-1, 1, 3000).astype("<f4")
    floats[5:8] = np.nan, -0.0, np.inf
    data = wav(floats.tobytes(), 1, 32, kind=3)
    densor.compress_file(io.BytesIO(data), packed)
    densor.decompress_file(io.BytesIO(packed.getvalue()), back)
    assert back.getvalue() == data


@pytest.mark.parametrize("setting", [None, LIGHT])
@pytest.mark.parametrize("name", ["stereo", "24 bits", "few values", "floats", "six"])
def test_damage_is_noticed_as_the_slow_decoder_does(name: str, setting: int | None) -> None:
    layout, numbers = CASES[name]
    data = bytes_of(layout, numbers[: 300 if setting is None else 70])
    model, payload = coded(layout, data, setting)
    rng = random_state("damage", name)
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
        try:
            parsed = reference_audio.parse_model(bytes(parts[0]))
            outcomes.append(parsed.decode(bytes(parts[1]), data.size))
        except Refused:
            outcomes.append(None)
        assert outcomes[0] == outcomes[1]


HEAD = struct.Struct("<8BI")


@pytest.mark.parametrize(
    "fields",
    [
        (12, 9, 1, 2, 0, 16, 0, 0, 0),  # no such method
        (12, 0, 0, 2, 0, 16, 0, 0, 0),  # no channels
        (12, 0, 33, 2, 0, 16, 0, 0, 0),
        (12, 0, 1, 0, 0, 1, 0, 0, 0),
        (12, 0, 1, 5, 0, 16, 0, 0, 0),
        (12, 0, 1, 2, 16, 16, 0, 0, 0),
        (12, 0, 1, 1, 1, 8, 0, 0, 0),  # the highest byte of one
        (12, 0, 1, 2, 4, 16, 0, 0, 0),  # floats of two bytes
        (12, 0, 1, 4, 6, 16, 0, 0, 0),
        (12, 0, 1, 4, 4, 16, 64, 0, 0),
        (12, 0, 1, 2, 0, 17, 0, 0, 0),
        (12, 0, 1, 2, 0, 16, 1, 0, 0),
        (12, 0, 1, 2, 0, 0, 0, 0, 0),
        (12, 0, 1, 2, 0, 16, 0, 1, 0),  # a setting of lanes
        (12, 0, 1, 3, 8, 16, 0, 0, 0),  # values of three bytes
        (12, 1, 1, 4, 0, 25, 0, 0, 0),  # too many bits for a cascade
        (12, 1, 1, 2, 0, 16, 0, 2, 0),  # no such setting
        (12, 1, 1, 2, 0, 16, 0, 0, 0),  # a cascade with what lanes have
    ],
)
def test_impossible_models(fields: tuple[int, ...]) -> None:
    whole = fields[:2] == (12, 1) and fields[5] <= 24 and fields[7] < 2
    for rest in (b"\1\0", bytes(40)) if whole else (b"", b"\1\0", bytes(40)):
        with pytest.raises((FormatError, LimitError)):
            decoder.open_decoder(HEAD.pack(*fields) + rest)
        with pytest.raises(Refused):
            reference_audio.parse_model(HEAD.pack(*fields) + rest)


def test_the_distributions_are_those_of_the_text() -> None:
    found = distributions.frequencies()
    for d in range(0, len(found), 5):
        assert found[d].tolist() == reference_audio.frequencies(d)


# Files


def wav(data: bytes, channels: int, bits: int, kind: int = 1, size: int | None = None) -> bytes:
    """A WAV file with a chunk before its samples and one behind them."""
    stride = channels * ((bits + 7) // 8)
    head = struct.pack("<HHIIHH", kind, channels, 8000, 8000 * stride, stride, bits)
    size = len(data) if size is None else size
    chunks = b"JUNK\3\0\0\0abc\0fmt \x10\0\0\0" + head + b"data" + struct.pack("<I", size)
    body = b"WAVE" + chunks + data + b"LIST\4\0\0\0INFO"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def codecs_of(packed: bytes) -> set[int]:
    return {frame.payload[0] for frame in take_apart(packed) if frame.kind == MODEL}


@pytest.mark.parametrize("level", range(1, 10))
def test_files_come_back_smaller(level: int) -> None:
    data = wav(bytes_of(Layout(2, 2), tune(5000, 2)).tobytes(), 2, 16)
    packed, back = io.BytesIO(), io.BytesIO()
    densor.compress_file(io.BytesIO(data), packed, level)
    assert CODEC_AUDIO in codecs_of(packed.getvalue())
    assert len(packed.getvalue()) < 0.75 * len(data)
    densor.decompress_file(io.BytesIO(packed.getvalue()), back)
    assert back.getvalue() == data


@pytest.mark.parametrize("size", [0, 1, 7, 100, 0x7FFFFFFF, 0xFFFFFFFF])
def test_sizes_that_lie(size: int, tmp_path: Path) -> None:
    data = wav(bytes_of(Layout(2, 2), tune(3000, 2)).tobytes(), 2, 16, size=size)
    for text in (data, data[:-7], data + b"odd"):
        (tmp_path / "in").write_bytes(text)
        packed, back = io.BytesIO(), io.BytesIO()
        densor.compress_file(tmp_path / "in", packed, 3)
        densor.decompress_file(io.BytesIO(packed.getvalue()), back)
        assert back.getvalue() == text
        if size in (0, 0x7FFFFFFF, 0xFFFFFFFF):
            assert CODEC_AUDIO in codecs_of(packed.getvalue())


def test_never_much_larger_than_plain_bytes() -> None:
    rng = random_state("plain")
    contents = {
        "noise": rng.integers(0, 256, 30000).astype(np.uint8),
        "silence": np.zeros(30000, np.uint8),
        "text": np.frombuffer(b"a text that repeats itself, " * 1000, np.uint8),
        "steps": np.repeat(rng.integers(0, 256, 300), 100).astype(np.uint8),
    }
    for name, content in contents.items():
        data = wav(content.tobytes(), 2, 16)
        for level in (1, 3, 6, 9):
            sizes = []
            for text in (data, b"x" + data[1:]):
                packed = io.BytesIO()
                densor.compress_file(io.BytesIO(text), packed, level)
                sizes.append(len(packed.getvalue()))
            assert sizes[0] < sizes[1] + 160, (name, level)


def test_archives_with_damage_are_refused() -> None:
    packed = io.BytesIO()
    data = wav(bytes_of(Layout(2, 2), tune(3000, 2)).tobytes(), 2, 16)
    densor.compress_file(io.BytesIO(data), packed, 3)
    sound = packed.getvalue()
    for at in range(0, len(sound), 97):
        damaged = sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :]
        with pytest.raises(DensorError):
            densor.decompress_file(io.BytesIO(damaged), io.BytesIO())


@pytest.mark.parametrize("depth", [16, 29, 30, 32])
def test_first_context_by_narrow_numbers(depth: int) -> None:
    most = (1 << (depth - 1)) - 1
    planes = np.tile(np.array([most, ~most], np.int32), (2, 50))
    steps = np.abs(np.diff(planes.astype(np.int64), 2)) >> max(0, depth - 24)
    means = np.clip(steps.sum(1) * 32 // steps.shape[1], 1, 1 << 28)
    levels = lanes._levels(planes, depth)
    assert ((levels >> 3).astype(int) == [int(mean).bit_length() - 1 for mean in means]).all()


def test_samples_at_hand_are_coded_as_bytes_are() -> None:
    layout = Layout(2, 2)
    data = bytes_of(layout, np.cumsum(np.arange(4000) % 37 - 18).reshape(-1, 2))
    model = samples.model_of(layout, data)
    assert model is not None
    planes = samples.coded(model, data)
    coders = LaneCoder(model), LaneCoder(model, planes)
    for coder in coders:
        coder.decide([coder.count(data)])
    assert coders[0].model() == coders[1].model()
    assert coders[0].encode(data, 0).tobytes() == coders[1].encode(data, 0).tobytes()


@pytest.mark.parametrize("weight", [32767, 32768, -32769, 65535])
def test_weights_beyond_words(weight: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the format has, although no encoder here chooses them."""
    layout = Layout(2, 2)
    data = bytes_of(layout, tune(1500, 2))

    def weights(fitter: Fitter, planes: samples.Planes, shape: Shape) -> npt.NDArray[np.int32]:
        rows = np.zeros((1, 2, ROW), np.int32)
        rows[:, :, 0], rows[:, :, 2] = 15, weight
        return rows

    monkeypatch.setattr(Fitter, "weights", weights)
    model, payload = coded(layout, data)
    assert decoded(model, payload, data.size) == data.tobytes()
    assert reference_audio.parse_model(model).decode(payload, data.size) == data.tobytes()


def test_more_weights_are_taken_where_they_pay() -> None:
    rng = random_state("weights")
    noise = rng.standard_normal(40000)
    t = np.arange(40000)
    tones = sum(np.sin(t * (0.2 + 0.23 * k)) * 2000 for k in range(12)) + 20 * noise
    found = []
    for sound in (np.cumsum(300 * noise), tones):
        planes = np.ascontiguousarray(np.clip(sound, -32768, 32767).astype(np.int32)[None])
        found.append(lanes.modelled(samples.Model(Layout(1, 2), 16), planes).frame.own)
    assert found[0] <= 12 and found[1] > 24
