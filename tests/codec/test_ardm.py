"""Images under a network: round trips, the reference, single images, hostile networks, learning."""

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from circuits import any_circuit, any_network, likely_images
from helpers import CHUNK, MODEL, random_state, take_apart
from paths import GOLDEN
from reference import ardm as reference
from reference import circuit as reference_models
from reference.reading import Refused
from reference.short_form import in_ordinary_form

import densor
from densor.cli.main import main
from densor.codec.ardm.geometry import geometry_of
from densor.codec.ardm.model import Network, Shape, pack, parse, tables_of
from densor.codec.circuit.coding import decode_images, encode_images
from densor.codec.circuit.decoder import CircuitDecoder
from densor.codec.circuit.encoder import CircuitCoder
from densor.codec.circuit.model import Size
from densor.codec.circuit.params import Parameters
from densor.codec.language_model.session import Session
from densor.errors import ArgumentError, DensorError, FormatError, UnsupportedError
from densor.files import image_models

Bytes = npt.NDArray[np.uint8]
SIZES = (Size(1, 1, 1), Size(1, 9, 1), Size(7, 1, 2), Size(6, 5, 1), Size(4, 5, 3), Size(3, 4, 4))


def noise(count: int, size: Size) -> Bytes:
    return random_state("noise", count, size).integers(0, 256, (count, size.samples), np.uint8)


def blobs(count: int) -> Bytes:
    """Images of 12 by 12 of one bright blob each."""
    rng = random_state("blobs of networks", count)
    y, x = np.mgrid[:12, :12]
    middle = rng.uniform(3, 8, (count, 2, 1, 1))
    far = (y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2
    return np.clip(300 - 25 * far, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_any_images_come_back_and_the_reference_agrees(size: Size) -> None:
    for calls, radius in {(1, 0), (min(3, size.samples), 2), (size.samples, 3)}:
        network = any_network(size, calls, radius)
        tables = tables_of(parse(pack(network)))
        images = np.concatenate([noise(2, size), np.zeros((1, size.samples), np.uint8)])
        streams, sizes = encode_images(tables, images.ravel())
        out = np.full(images.size, 0xA5, np.uint8)
        decode_images(tables, streams, sizes, out)
        assert np.array_equal(out, images.ravel())
        slow, at = reference.Network(pack(network)), 0
        for image, count in zip(images, sizes.tolist(), strict=True):
            assert slow.decode(streams[at : at + count].tobytes()) == image.tolist()
            at += count


def test_every_sample_is_coded_once_from_earlier_calls() -> None:
    for size, calls in ((Size(28, 28, 1), 50), (Size(9, 30, 2), 7), (Size(70, 90, 1), 16)):
        at = geometry_of(size, 4, calls)
        assert sorted(at.order.tolist()) == list(range(size.samples))
        assert at.calls[0] == 0 and at.calls[-1] == size.samples and at.calls.size <= calls + 1
        call = np.empty(size.samples, np.int64)
        call[at.order] = np.searchsorted(at.calls, np.arange(size.samples), "right")
        seen = np.where(at.seen < 0, at.order[0], at.seen)
        assert ((call[seen] < call[:, None]) | (at.seen < 0)).all()


def test_files_and_single_images(tmp_path: Path) -> None:
    network = any_network(Size(12, 9, 1), 7)
    images = likely_images(network, 40)
    payload = np.array(CircuitCoder(tables_of(network)).encode(images.ravel(), 0))
    parameters = Parameters(network.size, tables_of(network).digest)
    decoder = CircuitDecoder(parameters, Session(image_model=network))
    for begin, end in ((0, 1), (4, 6), (3, 3)):
        out = np.zeros((end - begin) * 108, np.uint8)
        decoder.decode_some(payload, images.size, begin, end, out)
        assert np.array_equal(out, images[begin:end].ravel())
    image_models.save(network, tmp_path / "model")
    model = str(tmp_path / "model")
    assert (tmp_path / "model").stat().st_size == image_models.file_bytes(network)
    set_file = tmp_path / "set"
    set_file.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 40, 12, 9) + images.tobytes())
    densor.compress_file(set_file, tmp_path / "out", image_model=model)
    densor.decompress_file(tmp_path / "out", tmp_path / "back", image_model=model)
    assert (tmp_path / "back").read_bytes() == set_file.read_bytes()
    with pytest.raises(UnsupportedError, match="--image-model"):
        densor.decompress_file(tmp_path / "out", tmp_path / "none")
    for other in (any_network(network.size, 6), any_circuit(network.size)):
        with pytest.raises(ArgumentError, match="is another"):
            densor.decompress_file(tmp_path / "out", tmp_path / "none", image_model=other)


# Hostile networks


def test_networks_that_make_no_sense_are_refused() -> None:
    good = any_network(Size(4, 5, 1), 6)
    shape = good.shape

    def broken(**changes: object) -> bytes:
        changed = replace(shape, **changes)  # type: ignore[arg-type]
        return pack(replace(good, shape=changed))

    for data in (
        *(broken(calls=calls) for calls in (0, 21)),
        *(broken(radius=radius) for radius in (1, 9, 255)),
        *(broken(first=first) for first in (0, 64, 288)),
        *(broken(second=second) for second in (0, 64, 288)),
        *(broken(size=size) for size in (Size(0, 5, 1), Size(4, 5, 5), Size(1 << 15, 5, 1))),
        broken(size=Size(128, 128, 1), radius=8),
        *(pack(replace(good, places=places)) for places in ((1, 6, 6), (6, 13, 6), (6, 6, 255))),
        pack(good)[:-1],
        pack(good) + b"\0",
        pack(good)[:12],
        b"XARD" + pack(good)[4:],
        b"DARD\2" + pack(good)[5:],
    ):
        with pytest.raises(DensorError):
            parse(data)
        with pytest.raises(Refused):
            reference.Network(data)


def test_networks_with_changed_bytes() -> None:
    """An error, or a network that decodes as the reference does."""
    good = pack(any_network(Size(3, 4, 1), 4))
    rng = random_state("changed networks")
    stream = rng.integers(1, 256, 12, np.uint8)
    for at in [*range(17), *rng.integers(17, len(good), 40).tolist()]:
        data = bytearray(good)
        data[at] ^= int(rng.integers(1, 256))
        try:
            tables = tables_of(parse(bytes(data)))
        except DensorError:
            with pytest.raises(Refused):
                reference.Network(bytes(data))
            continue
        slow = reference.Network(bytes(data))
        out = np.zeros(tables.size.samples, np.uint8)
        try:
            decode_images(tables, stream, np.array([stream.size]), out)
        except FormatError:
            with pytest.raises(Refused):
                slow.decode(stream.tobytes())
        else:
            assert slow.decode(stream.tobytes()) == out.tolist()


def test_extreme_weights_come_back() -> None:
    """Sums at the ends of their range."""
    good = any_network(Size(6, 6, 1), 9)
    images = np.concatenate([noise(2, good.size), np.full((1, 36), 255, np.uint8)]).ravel()
    for weight in (-128, 127):
        whole = {
            name: np.full_like(getattr(good, name), weight)
            for name in ("seen", "rows", "columns", "channels", "levels", "middle", "last")
        }
        network = replace(good, places=(2, 2, 2), **whole)  # type: ignore[arg-type]
        tables = tables_of(network)
        streams, sizes = encode_images(tables, images)
        out = np.zeros_like(images)
        decode_images(tables, streams, sizes, out)
        assert np.array_equal(out, images)


# Learning


def learned(images: Bytes, calls: int) -> Network:
    pytest.importorskip("torch")
    from densor.torch.image_networks import Settings, learn

    return learn(images.reshape(len(images), -1), Size(12, 12, 1), Settings(calls, 3, 2, 32, 32))


def test_what_is_learned_is_small_and_comes_back() -> None:
    network = learned(blobs(600), 20)
    held = blobs(40).ravel()
    tables = tables_of(parse(pack(network)))
    streams, sizes = encode_images(tables, held)
    assert streams.size < held.size / 2
    out = np.zeros_like(held)
    decode_images(tables, streams, sizes, out)
    assert np.array_equal(out, held)


def test_impossible_settings_are_refused() -> None:
    pytest.importorskip("torch")
    from densor.torch.image_networks import Settings, learn

    images = blobs(3).reshape(3, -1)
    for settings in (Settings(calls=0), Settings(rounds=0), Settings(radius=9), Settings(first=7)):
        with pytest.raises(DensorError):
            learn(images, Size(12, 12, 1), settings)
    with pytest.raises(ArgumentError):
        learn(images[:0], Size(12, 12, 1))


def test_the_command_keeps_what_is_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 20 images no network pays for its own bytes."""
    pytest.importorskip("torch")
    np.save(tmp_path / "set.npy", blobs(20))
    model = str(tmp_path / "model")
    options = ["--kind", "ardm", "--calls", "9", "--rounds", "1", "--leaves", "4"]
    assert main(["train", "images", str(tmp_path / "set.npy"), "-o", model, *options]) == 0
    said = capsys.readouterr()
    assert "the circuit is kept" in said.out + said.err
    assert not isinstance(image_models.load(model), Network)


def test_shapes_of_a_network() -> None:
    shape = Shape(Size(28, 28, 1), 50, 4, 64, 32)
    assert shape.seen == (68, 49) and shape.inputs == 185 and shape.places == (28, 28, 1, 5)


# Golden files


def test_golden_archives_are_read() -> None:
    folder = GOLDEN / "ardm"
    model = str(folder / "grey-model.densor")
    packed = (folder / "grey.densor").read_bytes()
    images = densor.decompress(packed, image_model=model)
    digest = "0877276dbf4293ed3f94f4ed272422d997fe07c2717eecceb9a0041464f89851"
    assert hashlib.sha256(images.tobytes()).hexdigest() == digest
    network = image_models.load(model)
    assert isinstance(network, Network)
    reference_models.know(pack(network))
    frames = take_apart(in_ordinary_form(packed))
    parameters = reference_models.parse_model(next(f.payload for f in frames if f.kind == MODEL))
    (chunk,) = (f for f in frames if f.kind == CHUNK)
    assert parameters.decode(chunk.payload, images.size) == images.tobytes()
