"""FLAC files: taken apart, made again byte for byte, and refused where they are damaged."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from flac_files import flac_file, flac_frames

import densor
from densor.codec.audio import flac
from densor.codec.audio.decoder import open_decoder
from densor.codec.audio.flac_encoder import FlacCoder
from densor.codec.audio.layout import Layout
from densor.codec.levels import level_settings
from densor.errors import FormatError

# 3,000 instants of two channels by libFLAC 1.4.2 at level 8, in blocks of 1152
BY_LIBFLAC = Path(__file__).parents[1] / "support" / "libflac-8.flac"


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("depth", [8, 12, 16, 20, 24])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_all_sorts_of_frames_come_back(channels: int, depth: int) -> None:
    for seed in range(6):
        data = flac_frames(Random(f"{seed} {channels} {depth}"), channels, depth)
        frames = flac.taken_apart(_bytes(data), channels, depth)
        assert frames is not None
        payload = _bytes(flac.pack_frames(frames, 3) + b"rest")
        said, at = flac.take_frames(payload, channels, depth, len(data))
        assert at == payload.size - 4
        out = np.empty(len(data), np.uint8)
        flac.put_together(said._replace(planes=frames.planes), out)
        assert out.tobytes() == data


@pytest.mark.parametrize("level", [3, 5, 9])
def test_a_file_by_libflac(tmp_path: Path, level: int) -> None:
    _packed_and_restored(tmp_path, BY_LIBFLAC.read_bytes(), level)


def test_frames_take_less_as_samples() -> None:
    frames = _bytes(BY_LIBFLAC.read_bytes()[86:])
    coder = FlacCoder(Layout(2, 2), 16, level_settings(5))
    coder.decide([coder.count(frames)])
    payload = np.require(coder.encode(frames, 0), np.uint8)
    assert payload.size + len(coder.model()) < 0.97 * frames.size
    out = np.empty(frames.size, np.uint8)
    open_decoder(coder.model()).decode(payload, out)
    assert np.array_equal(out, frames)


@pytest.mark.parametrize("level", [3, 5, 9])
def test_files_come_back(tmp_path: Path, level: int) -> None:
    frames = flac_frames(Random(7), 2, 16, 12)
    _packed_and_restored(tmp_path, flac_file(frames, 2, 16), level)


def _packed_and_restored(tmp_path: Path, data: bytes, level: int) -> bytes:
    path, packed, again = (tmp_path / name for name in ("a.flac", "a.densor", "b.flac"))
    path.write_bytes(data)
    densor.compress_file(path, packed, level, overwrite=True)
    densor.decompress_file(packed, again, overwrite=True)
    assert again.read_bytes() == data
    return packed.read_bytes()


def test_damaged_files_come_back(tmp_path: Path) -> None:
    frames = bytearray(flac_frames(Random(3), 1, 16, 6))
    for at in range(0, len(frames), 41):
        wrong = bytes(frames[:at]) + bytes([frames[at] ^ 16]) + bytes(frames[at + 1 :])
        taken = flac.taken_apart(_bytes(wrong), 1, 16)
        if taken is not None:
            out = np.empty(len(wrong), np.uint8)
            flac.put_together(taken, out)
            assert out.tobytes() == wrong
    for cut in range(1, len(frames), 97):
        assert flac.taken_apart(_bytes(bytes(frames[:cut])), 2, 16) is None
    _packed_and_restored(tmp_path, flac_file(bytes(frames[:-3]), 1, 16), 5)


def test_sizes_that_lie_are_refused() -> None:
    data = flac_frames(Random(5), 1, 16)
    frames = flac.taken_apart(_bytes(data), 1, 16)
    assert frames is not None
    payload = flac.pack_frames(frames, 3)
    for at in range(24):
        for value in (0, 1, 255):
            wrong = payload[:at] + bytes([value]) + payload[at + 1 :]
            if wrong == payload:
                continue
            with pytest.raises(densor.DensorError):
                found, _ = flac.take_frames(_bytes(wrong), 1, 16, len(data))
                planes = np.zeros(found.planes.shape, np.int32)
                shared = min(planes.shape[1], frames.planes.shape[1])
                planes[:, :shared] = frames.planes[:, :shared]
                out = np.empty(len(data), np.uint8)
                flac.put_together(found._replace(planes=planes), out)


def test_all_prefixes_of_what_frames_say_are_refused() -> None:
    data = flac_frames(Random(6), 2, 16)
    frames = flac.taken_apart(_bytes(data), 2, 16)
    assert frames is not None
    out = np.empty(len(data), np.uint8)
    for cut in range(frames.heads.size):
        with pytest.raises(densor.FormatError):
            flac.put_together(frames._replace(heads=frames.heads[:cut]), out)
    for cut in range(frames.params.size):
        with pytest.raises(densor.FormatError):
            flac.put_together(frames._replace(params=frames.params[:cut]), out)


def test_frames_that_say_too_much_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = flac_frames(Random(7), 2, 16, 12)
    assert flac.taken_apart(_bytes(frames), 2, 16) is not None
    monkeypatch.setattr(flac, "_MOST_ROOM", 100)
    assert flac.taken_apart(_bytes(frames), 2, 16) is None
    _packed_and_restored(tmp_path, flac_file(frames, 2, 16), 5)


def test_no_more_samples_than_frames_can_have() -> None:
    frames = flac.taken_apart(_bytes(flac_frames(Random(7), 2, 16, 2)), 2, 16)
    assert frames is not None
    payload = bytearray(flac.pack_frames(frames, 3))
    payload[:4] = (frames.heads.size * flac.MOST_BLOCK + 1).to_bytes(4, "little")
    with pytest.raises(FormatError, match="more samples"):
        flac.take_frames(_bytes(payload), 2, 16, 1 << 20)
