"""Archives of earlier versions are read as they were meant. See golden/make.py."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import CHUNK, MODEL, take_apart
from paths import GOLDEN
from reference import codecs, container
from reference import planes as reference_planes
from reference import recovery as reference_recovery
from reference.reading import Refused

import densor
from densor.formats.container import wire

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
REASONS = {
    "truncated": "TruncatedError",
    "checksum": "ChecksumError",
    "unsupported": "UnsupportedError",
    "limit": "LimitError",
    "format": "FormatError",
}


def test_every_archive_is_listed_and_small() -> None:
    found = {path.stem: path.stat().st_size for path in GOLDEN.glob("*.densor")}
    assert set(found) == {*EXPECTED["good"], *EXPECTED["bad"]}
    assert sum(found.values()) < 460_000  # 200 kB up to densor 0.2, and some for each version


@pytest.mark.parametrize("name", EXPECTED["good"])
def test_good_archives(name: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{name}.densor"
    archive = path.read_bytes()
    wanted = EXPECTED["good"][name]
    entries = container.decode(archive)
    assert {e.name: hashlib.sha256(e.data).hexdigest() for e in entries} == wanted
    source = path if name.startswith("derived") else io.BytesIO(archive)  # which needs the index
    assert [e.meta.name for e in densor.verify_file(source, threads=1)] == list(wanted)
    if len(entries) == 1:
        restored = densor.decompress(archive)
        if isinstance(restored, np.ndarray):
            restored = np.asarray(restored, restored.dtype.newbyteorder("<")).T.tobytes(order="A")
        assert len(restored) == len(entries[0].data)
    if container.read_index(archive):
        with densor.open(archive, threads=1) as file:
            for entry in entries:
                if entry.kind == "file":
                    assert file.read_file(entry.name) == entry.data
            for tensor in file:
                assert file.get_tensor(tensor).nbytes == file.info(tensor).size
    _extract(archive, entries, tmp_path / "out")


def _extract(archive: bytes, entries: list[container.Entry], out: Path) -> None:
    """As files there are the bytes that the reference has."""
    if len(entries) == 1:
        densor.decompress_file(io.BytesIO(archive), out)
        assert out.read_bytes() == entries[0].data
    elif all(entry.kind in ("file", "dir") for entry in entries):
        densor.extract(io.BytesIO(archive), out)
        for entry in entries:
            if entry.kind == "file":
                assert (out / entry.name).read_bytes() == entry.data


@pytest.mark.parametrize("name", EXPECTED["bad"])
def test_bad_archives(name: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{name}.densor"
    archive = path.read_bytes()
    for action in (
        lambda: densor.verify_file(path, threads=1),
        lambda: densor.decompress(archive),
        lambda: densor.decompress_file(path, tmp_path / "out"),
    ):
        with pytest.raises(densor.DensorError) as error:
            action()
        assert type(error.value).__name__ == EXPECTED["bad"][name]
    with pytest.raises(Refused) as refused:
        container.decode(archive)
    assert REASONS[refused.value.reason] == EXPECTED["bad"][name]
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_repaired_as_ever(tmp_path: Path) -> None:
    """The recovery data of earlier versions is what the code of this one makes and understands."""
    whole = (GOLDEN / "recovery.densor").read_bytes()
    path = tmp_path / "x"
    path.write_bytes((GOLDEN / "bad-recovery-damaged.densor").read_bytes())
    densor.archives.repair(path)
    assert path.read_bytes() == whole
    assert reference_recovery.check(whole) == 3


def test_what_is_newer_is_refused_with_advice() -> None:
    newer = [name for name, error in EXPECTED["bad"].items() if error == "UnsupportedError"]
    assert len(newer) >= 7
    for name in newer:
        with pytest.raises(densor.UnsupportedError, match=r"upgrade|newer densor may"):
            densor.verify_file(GOLDEN / f"{name}.densor", threads=1)


def test_the_golden_archives_cover_the_format() -> None:
    """Every frame, layout, class kind, plane mode and fixed model occurs in some archive."""
    kinds, layouts, deltas, classes, counts = set(), set(), set(), set(), set()
    modes: set[int] = set()
    numbers: set[int] = set()
    images: set[int] = set()
    fixed: set[int] = set()
    for name in EXPECTED["good"]:
        archive = (GOLDEN / f"{name}.densor").read_bytes()
        if archive[12] & wire.SHORT:
            continue  # which has no frames of its own
        frames = take_apart(archive)
        kinds |= {frame.kind for frame in frames}
        every = [f.payload for f in frames if f.kind == MODEL]
        numbers |= {payload[0] for payload in every}
        images |= {payload[1] for payload in every if payload[0] == 11}
        models = [codecs.parse_model(payload) for payload in every]
        if any(payload[0] != reference_planes.CODEC_HUFFMAN for payload in every):
            continue  # those of other codecs have no planes like these
        layouts |= {model.layout for model in models}
        deltas |= {model.delta for model in models}
        counts |= {len(plane) for model in models for plane in model.planes}
        classes |= {one.kind for model in models for plane in model.planes for one in plane}
        for frame in frames:
            if frame.kind == CHUNK and frame.model < 16:
                fixed.add(frame.model)
            elif frame.kind == CHUNK:
                planes = len(models[frame.model - 16].planes)
                modes |= set(frame.payload[: 5 * planes : 5])
    assert kinds >= {1, 2, 3, 4, 5, 6, 7, 128, 129, 130, 200, 255}
    assert layouts == set(reference_planes.LAYOUT_SIZE)
    assert deltas == {False, True}
    assert classes == {0, 1, 2}
    assert counts >= {0, 1, 2, 3, 5, 16}
    assert modes == {0, 1, 2, 3}
    assert fixed == {0, 1}
    assert images == {0, 1, 2}
    assert numbers == {2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 18, 20}
