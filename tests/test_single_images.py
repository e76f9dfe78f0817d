"""Images in archives: single ones, regions, the codec for numcodecs."""

import doctest
import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from circuits import any_circuit
from helpers import random_state

import densor
from densor import image
from densor.codec.circuit.model import Size
from densor.errors import ArgumentError, FileError, UnsupportedError

Array = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
SHAPES = ((30, 40), (5, 20, 16), (6, 12, 14, 3), (200, 300, 3))


def packed(arrays: dict[str, Array], image_model: object = None) -> bytes:
    """An archive with an index."""
    file = io.BytesIO()
    with densor.Writer(file, image_model=image_model) as writer:
        for name, array in arrays.items():
            writer.add_tensor(name, array)
    return file.getvalue()


def smooth(shape: tuple[int, ...], dtype: type) -> Array:
    """Images that are taken for such."""
    steps = random_state("smooth", shape).integers(0, 3, shape)
    return np.cumsum(steps, axis=-2 if shape[-1] == 3 else -1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_part_is_read(shape: tuple[int, ...], dtype: type) -> None:
    array = smooth(shape, dtype)
    single = len(shape) == 2 or (len(shape) == 3 and shape[-1] == 3)
    whole = array[None] if single else array
    with image.open(packed({"a": array})) as images:
        assert images.shape == whole.shape and images.dtype == dtype and len(images) == len(whole)
        for key in (
            *(0, -1, len(whole) - 1, slice(None), slice(1, 4), slice(3, 1), (0, slice(3, 9))),
            *((slice(None), slice(2, 5)), (0, slice(3, 9), slice(2, 7)), (0, 4), (0, 4, -1)),
            *((-1, slice(None, None, 2)), (0, slice(None, None, -1)), (slice(0, 2), 3, 4)),
        ):
            assert np.array_equal(images[key], whole[key])
        for outside in (len(whole), -len(whole) - 1):
            with pytest.raises(IndexError):
                images[outside]
        for wrong in ("a", (0, 0, 0, 0, 0), slice(None, None, 2), None):
            with pytest.raises(ArgumentError):
                images[wrong]
    with pytest.raises(FileError):
        images[0]


def test_images_of_files_and_tensors(tmp_path: Path) -> None:
    array = smooth((7, 24, 20), np.uint8)
    path = tmp_path / "set"
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *array.shape) + array.tobytes())
    densor.compress_file(path, tmp_path / "set.densor")
    with image.open(tmp_path / "set.densor") as images:
        assert np.array_equal(images[:], array)
    deep = smooth((9, 11), np.uint16)
    path.write_bytes(b"P5 11 9 65535\n" + deep.astype(">u2").tobytes())
    densor.compress_file(path, tmp_path / "deep.densor")
    with image.open(tmp_path / "deep.densor") as images:
        assert np.array_equal(images[0, 2:5], deep[2:5])
    two = packed({"no": np.zeros(5, np.uint8), "first": array, "second": array[:3] + 1})
    with image.open(two, "second") as images:
        assert np.array_equal(images[2], array[2] + 1)
    with image.open(two) as images:
        assert np.array_equal(images[6], array[6])
    for archive in (packed({"no": np.zeros(5, np.uint8)}), two):
        with pytest.raises(UnsupportedError):
            image.open(archive, "no")


def test_single_images_under_a_model_are_decoded_alone() -> None:
    circuit = any_circuit(Size(8, 9, 1))
    rng = random_state("single images")
    images = np.zeros((300, 8, 9), np.uint8)
    images[:] = rng.integers(0, 256, (300, 1, 1))
    from densor.codec.circuit.coding import decode_images
    from densor.codec.circuit.model import tables_of

    streams = rng.integers(1, 256, (300, 30), np.uint8).ravel()
    decode_images(tables_of(circuit), streams, np.full(300, 30), images.reshape(-1))
    archive = packed({"a": images}, circuit)
    assert len(archive) < images.size
    with image.open(archive, image_model=circuit) as opened:
        for number in (0, 150, 299):
            assert np.array_equal(opened[number], images[number])
        assert np.array_equal(opened[10, 3:5, 2], images[10, 3:5, 2])
        assert np.array_equal(opened[100:120], images[100:120])
    with image.open(archive) as opened, pytest.raises(UnsupportedError):
        opened[0]


def test_the_codec_for_numcodecs() -> None:
    numcodecs = pytest.importorskip("numcodecs")
    from densor.integrations.numcodecs import DensorImage

    planar = np.ascontiguousarray(np.moveaxis(smooth((64, 80, 3), np.uint16), -1, 0))
    apart, together = DensorImage(level=6), DensorImage(level=6, channels=0)
    for codec in (apart, together, numcodecs.get_codec(together.get_config())):
        coded = codec.encode(planar)
        assert np.array_equal(codec.decode(coded), planar)
        out = np.empty_like(planar)
        codec.decode(coded, out)
        assert np.array_equal(out, planar)
    assert numcodecs.get_codec({"id": "densor_image"}) == DensorImage()
    floats = np.linspace(0, 1, 60).astype(np.float32).reshape(3, 20)
    assert np.array_equal(DensorImage().decode(DensorImage().encode(floats)), floats)


def test_examples() -> None:
    result = doctest.testmod(image)
    assert result.attempted and not result.failed
