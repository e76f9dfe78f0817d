"""Images under a circuit: round trips, single images, wrong and hostile circuits, learning."""

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from circuits import any_circuit
from helpers import CHUNK, MODEL, random_state, take_apart
from paths import GOLDEN
from reference import circuit as reference
from reference.reading import Refused
from reference.short_form import in_ordinary_form

import densor
from densor.codec.batch import Batch
from densor.codec.circuit.coding import decode_images, encode_images
from densor.codec.circuit.decoder import CircuitDecoder
from densor.codec.circuit.encoder import CircuitCoder, propose
from densor.codec.circuit.model import LEAF, Circuit, Size, pack, parse, tables_of
from densor.codec.circuit.params import Parameters
from densor.codec.circuit.training.learn import Settings, learn
from densor.codec.image.layout import Layout
from densor.codec.kind import kind_of_array, kind_of_image
from densor.codec.language_model.session import Session
from densor.codec.levels import level_settings
from densor.errors import ArgumentError, DensorError, FormatError, LimitError, UnsupportedError
from densor.files import image_models
from densor.runtime.workers import Workers

Bytes = npt.NDArray[np.uint8]
SIZES = (Size(1, 1, 1), Size(1, 9, 1), Size(7, 1, 2), Size(6, 5, 1), Size(4, 5, 3), Size(3, 4, 4))


def blobs(count: int, height: int = 12, width: int = 12, channels: int = 1) -> Bytes:
    """Images of one bright blob each, [count, samples]."""
    rng = random_state("blobs", count, height, width, channels)
    y, x = np.mgrid[:height, :width]
    middle = rng.uniform(3, 8, (count, 2, 1, 1))
    far = (y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2
    bright = np.clip(300 - far * rng.uniform(15, 40, (count, 1, 1)), 0, 255)
    tint = bright[..., None] * np.linspace(1, 0.6, channels)
    return tint.astype(np.uint8).reshape(count, -1)


def noise(count: int, size: Size) -> Bytes:
    return random_state("noise", count, size).integers(0, 256, (count, size.samples), np.uint8)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_any_images_come_back_and_the_reference_agrees(size: Size, residual: bool) -> None:
    for states, leaves, bins in ((1, 1, 1), (2, 5, 256), (5, 9, 7)):
        circuit = any_circuit(size, states, leaves, bins, residual=residual)
        tables = tables_of(parse(pack(circuit)))
        images = np.concatenate([noise(4, size), np.zeros((2, size.samples), np.uint8)]).ravel()
        streams, sizes = encode_images(tables, images)
        out = np.full_like(images, 0xA5)
        decode_images(tables, streams, sizes, out)
        assert np.array_equal(out, images)
        slow, at = reference.Circuit(pack(circuit)), 0
        for number, count in enumerate(sizes.tolist()):
            found = reference.decode_image(slow, streams[at : at + count].tobytes())
            assert found == images.reshape(-1, size.samples)[number].tolist()
            at += count


def test_one_image_is_decoded_alone() -> None:
    circuit = any_circuit(Size(6, 5, 1))
    images = noise(9, circuit.size)
    coder = CircuitCoder(tables_of(circuit))
    payload = np.array(coder.encode(images.ravel(), 0))
    session = Session(image_model=circuit)
    decoder = CircuitDecoder(Parameters(circuit.size, tables_of(circuit).digest), session)
    for begin, end in ((0, 1), (4, 5), (8, 9), (2, 7), (3, 3)):
        out = np.zeros((end - begin) * circuit.size.samples, np.uint8)
        decoder.decode_some(payload, images.size, begin, end, out)
        assert np.array_equal(out, images[begin:end].ravel())
    with pytest.raises(ArgumentError):
        decoder.decode_some(payload, images.size, 5, 10, np.zeros(150, np.uint8))


# Faces


def test_arrays_and_files_under_a_model(tmp_path: Path) -> None:
    images = blobs(40).reshape(40, 12, 12)
    circuit = learn(images.reshape(40, -1), Size(12, 12, 1), Settings(2, 8, 3))
    for level in (1, 9):
        packed = densor.compress(images, level=level, image_model=circuit)
        assert np.array_equal(densor.decompress(packed, image_model=circuit), images)
        with pytest.raises(UnsupportedError, match="--image-model"):
            densor.decompress(packed)
    other = any_circuit(circuit.size)
    with pytest.raises(ArgumentError, match="is another"):
        densor.decompress(packed, image_model=other)
    image_models.save(circuit, tmp_path / "model")
    (tmp_path / "set").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 40, 12, 12) + images.tobytes())
    (tmp_path / "set.gz").write_bytes(gzip.compress((tmp_path / "set").read_bytes()))
    model = str(tmp_path / "model")
    densor.compress_file(tmp_path / "set", tmp_path / "out", image_model=model, threads=2)
    densor.decompress_file(tmp_path / "out", tmp_path / "back", image_model=model)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "set").read_bytes()
    for name in ("set", "set.gz"):
        size, samples = image_models.read_images(tmp_path / name)
        assert size == circuit.size and np.array_equal(samples, images.reshape(40, -1))


def test_what_is_no_image_is_said_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no image" * 100)
    with pytest.raises(DensorError, match=r"bad: no image that (is known|Pillow reads)") as raised:
        image_models.read_images(tmp_path / "bad")
    assert "object at" not in str(raised.value)


def test_what_is_no_image_of_the_size_is_coded_otherwise() -> None:
    circuit = any_circuit(Size(12, 12, 1))
    for array in (
        blobs(5, 12, 13).reshape(5, 12, 13),
        blobs(5).reshape(5, 12, 12).astype(np.uint16),
        np.zeros((0, 12, 12), np.uint8),
        blobs(5, 12, 12, 3).reshape(5, 12, 12, 3),
    ):
        packed = densor.compress(array, image_model=circuit)
        assert np.array_equal(densor.decompress(packed), array)


def test_batches_are_whole_images(tiny_batches: object) -> None:
    assert callable(tiny_batches)
    tiny_batches(5000)
    images = blobs(300).reshape(300, 12, 12)
    circuit = learn(images[:20].reshape(20, -1), Size(12, 12, 1), Settings(1, 4, 2))
    packed = densor.compress(images, image_model=circuit)
    assert np.array_equal(densor.decompress(packed, image_model=circuit), images)
    assert len(packed) < images.size / 3


def test_an_encoder_is_proposed_for_whole_images_alone() -> None:
    tables = tables_of(any_circuit(Size(12, 12, 1)))
    data = blobs(12).ravel()
    level = level_settings(3)
    good = Batch(data, kind_of_array("U8", (12, 12, 12)), Workers(1), circuit=tables)
    assert propose(good, level) is not None
    assert propose(replace(good, circuit=None), level) is None
    assert propose(replace(good, data=data[:-12]), level) is None
    for layout in (Layout(12, 1, height=6), Layout(6, 2), Layout(12, padding=2)):
        assert propose(replace(good, kind=kind_of_image(layout, data.size)), level) is None


# Learning


def test_what_is_learned_is_smaller_than_without_hidden_states() -> None:
    images = blobs(400)
    held = blobs(100, 12, 12)
    sizes = []
    for states in (1, 4):
        circuit = learn(images, Size(12, 12, 1), Settings(states, 16, 8))
        sizes.append(encode_images(tables_of(circuit), held.ravel())[0].size)
    assert sizes[1] < sizes[0] < held.size / 3


@pytest.mark.parametrize("channels", [1, 3])
def test_smooth_images_are_coded_by_differences(channels: int) -> None:
    y, x = np.mgrid[:10, :10]
    rng = random_state("smooth", channels)
    slopes = rng.uniform(-8, 8, (300, 2, 1, 1, channels))
    images = 128 + slopes[:, 0] * (y - 5)[..., None] + slopes[:, 1] * (x - 5)[..., None]
    samples = np.clip(images + rng.normal(size=images.shape), 0, 255).astype(np.uint8)
    samples = samples.reshape(300, -1)
    circuit = learn(samples, Size(10, 10, channels), Settings(2, 16, 4))
    assert circuit.residual
    streams, sizes = encode_images(tables_of(circuit), samples.ravel())
    assert streams.size < samples.size / 2
    out = np.zeros(samples.size, np.uint8)
    decode_images(tables_of(parse(pack(circuit))), streams, sizes, out)
    assert np.array_equal(out, samples.ravel())


@pytest.mark.parametrize("size", [Size(1, 1, 1), Size(1, 3, 1), Size(2, 1, 4)])
def test_tiny_images_and_one_image_can_be_learned(size: Size) -> None:
    for images in (noise(1, size), noise(30, size), np.full((3, size.samples), 7, np.uint8)):
        circuit = learn(images, size, Settings(2, 4, 2))
        streams, sizes = encode_images(tables_of(parse(pack(circuit))), images.ravel())
        out = np.zeros(images.size, np.uint8)
        decode_images(tables_of(circuit), streams, sizes, out)
        assert np.array_equal(out, images.ravel())


def test_the_same_is_learned_again() -> None:
    images = blobs(50)
    first, second = (learn(images, Size(12, 12, 1), Settings(3, 8, 3)) for _ in range(2))
    assert pack(first) == pack(second)


def test_impossible_settings_are_refused() -> None:
    for settings in (
        Settings(states=0),
        Settings(states=33),
        Settings(leaves=0),
        Settings(rounds=0),
    ):
        with pytest.raises(ArgumentError):
            learn(blobs(3), Size(12, 12, 1), settings)
    with pytest.raises(ArgumentError):
        learn(blobs(3)[:0], Size(12, 12, 1))
    with pytest.raises(LimitError):
        learn(np.zeros((1, 1 << 15), np.uint8), Size(1, 1 << 15, 1))


def test_sets_that_have_no_model_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "deep.npy", np.zeros((4, 20, 20), np.uint16))
    (tmp_path / "text").write_bytes(b"no image at all")
    for name in ("deep.npy", "text", "missing"):
        with pytest.raises(DensorError):
            image_models.read_images(tmp_path / name)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, width in (("a.pgm", 16), ("b.pgm", 16), ("c.pgm", 17)):
        (folder / name).write_bytes(b"P5 %d 8 255\n" % width + bytes(8 * width))
    with pytest.raises(ArgumentError, match="another size"):
        image_models.read_images(folder)
    (folder / "c.pgm").unlink()
    assert image_models.read_images(folder).samples.shape == (2, 128)


# Hostile circuits


def broken(circuit: Circuit, **changes: object) -> bytes:
    return pack(replace(circuit, **changes))  # type: ignore[arg-type]


def test_circuits_that_make_no_sense_are_refused() -> None:
    good = any_circuit(Size(4, 5, 1))
    circle = good.parents.copy()
    root = int(np.flatnonzero(circle == np.arange(20))[0])
    others = [v for v in range(20) if v != root]
    circle[others[0]], circle[others[1]] = others[1], others[0]
    two_roots = good.parents.copy()
    two_roots[others[0]] = others[0]
    outside = good.parents.copy()
    outside[others[0]] = 20
    no_leaf = np.where(good.features == LEAF, 0, good.features).astype(np.uint8)
    all_leaves = np.full_like(good.features, LEAF)
    too_high = np.full_like(good.emissions, 96)
    for data in (
        *(broken(good, parents=parents) for parents in (circle, two_roots, outside)),
        *(broken(good, features=features) for features in (no_leaf, all_leaves)),
        broken(good, features=np.where(good.features == LEAF, 19, good.features).astype(np.uint8)),
        broken(good, emissions=too_high),
        broken(good, prior=np.full(3, 255, np.uint8)),
        broken(good, ends=good.ends[::-1].copy()),
        broken(good, ends=np.full_like(good.ends, 255)),
        broken(good, size=Size(4, 5, 5)),
        broken(good, size=Size(0, 5, 1)),
        broken(good, size=Size(1 << 15, 5, 1)),
        pack(good)[:-1],
        pack(good) + b"\0",
        b"DCIR",
        b"XCIR" + pack(good)[4:],
        b"DCIR\2" + pack(good)[5:],
    ):
        with pytest.raises(DensorError):
            tables_of(parse(data))
        with pytest.raises(Refused):
            reference.Circuit(data)


def test_circuits_with_any_byte_changed() -> None:
    """An error, or a circuit that decodes as the reference does."""
    good = pack(any_circuit(Size(3, 4, 1), 2, 3, 4))
    rng = random_state("changed circuits")
    stream = rng.integers(1, 256, 12, np.uint8)
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= int(rng.integers(1, 256))
        try:
            tables = tables_of(parse(bytes(data)))
        except DensorError:
            with pytest.raises(Refused):
                reference.Circuit(bytes(data))
            continue
        slow = reference.Circuit(bytes(data))
        out = np.zeros(tables.size.samples, np.uint8)
        try:
            decode_images(tables, stream, np.array([stream.size]), out)
        except FormatError:
            with pytest.raises(Refused):
                reference.decode_image(slow, stream.tobytes())
        else:
            assert reference.decode_image(slow, stream.tobytes()) == out.tolist()


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"nothing of the kind")
    densor.compress_file(tmp_path / "noise", tmp_path / "archive")
    images = blobs(3).reshape(3, 12, 12)
    for name in ("noise", "archive", "missing"):
        with pytest.raises(DensorError):
            densor.compress(images, image_model=str(tmp_path / name))


# Golden files


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("grey", "9d67e5a5acf8ebbbdbd9289757a1849e2c2524ed3835519c624a155d06d27f3f"),
        ("colour", "5212a882a5c58ddc469318dffda39effaf8aefa5ad45307df9c1b96d6f806975"),
    ],
)
def test_golden_archives_are_read(name: str, digest: str) -> None:
    folder = GOLDEN / "circuit"
    model = str(folder / f"{name}-model.densor")
    packed = (folder / f"{name}.densor").read_bytes()
    images = densor.decompress(packed, image_model=model)
    assert hashlib.sha256(images.tobytes()).hexdigest() == digest
    reference.know(pack(image_models.load(model)))
    frames = take_apart(in_ordinary_form(packed))
    parameters = reference.parse_model(next(f.payload for f in frames if f.kind == MODEL))
    (chunk,) = (f for f in frames if f.kind == CHUNK)
    assert parameters.decode(chunk.payload, images.size) == images.tobytes()
