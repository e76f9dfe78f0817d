"""Damaged and hostile archives: always a DensorError or the right data, never anything else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
from helpers import INDEX, put_together, take_apart
from mutations import (
    PARTS,
    agrees_with_the_reference,
    by_decompress,
    by_index,
    by_stream,
    changed,
    resealed,
    survives,
)
from paths import ROOT, SUPPORT, TESTS

import densor
from densor.formats.container import archive as archive_reader
from densor.formats.container import stream_reader

NAMES = tuple(archives.MAKERS)
OBJECTS = (
    *("text", "noise", "bf16", "fp8", "fp32", "scales", "scales fp32"),
    *("sparse", "blocks", "record", "steps"),
)
SPANS = ("noise", "bf16", "fp8", "fp32", "folder")
INDEXED = tuple(name for name in NAMES if name not in OBJECTS)
Reader = Callable[[bytes], dict[str, bytes]]
pytestmark = pytest.mark.filterwarnings("ignore:Data type alias")


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Chunks one by one, as small archives are decoded, or by the span decoder."""
    if request.param == "spans":
        for module in (archive_reader, stream_reader):
            monkeypatch.setattr(module, "MIN_BYTES", 1)
    return str(request.param)


def ways(names: tuple[str, ...]) -> pytest.MarkDecorator:
    """All of these archives chunk by chunk, and those that have such chunks by spans."""
    cases = [(name, "chunks") for name in names]
    cases += [(name, "spans") for name in names if name in SPANS]
    return pytest.mark.parametrize(("name", "way"), cases, indirect=["way"])


def readers_for(name: str) -> list[Reader]:
    return [by_stream, by_decompress if name in OBJECTS else by_index]


def extracts(archive: bytes, folder: Path) -> dict[str, bytes]:
    """densor.extract; no temporary file may be left."""
    try:
        source = folder / "archive"
        source.write_bytes(archive)
        names = densor.extract(source, folder / "out", threads=1, overwrite=True)
        paths = {name: folder / "out" / name for name in names}
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    finally:
        assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@ways(NAMES)
def test_an_archive_that_ends_anywhere_is_truncated(name: str, way: str) -> None:
    archive = archives.sample(name).archive
    for length in range(len(archive)):
        for read in readers_for(name):
            with pytest.raises(densor.TruncatedError):
                read(archive[:length])


@ways(NAMES)
def test_every_flipped_bit_is_noticed(name: str, way: str) -> None:
    """Every bit of a small archive, a thousand of a larger one."""
    sample = archives.sample(name)
    bits = np.arange(8 * len(sample.archive))
    if bits.size > 16_000:
        bits = np.random.default_rng(1).choice(bits, 4000, replace=False)
    for bit in bits.tolist():
        damaged = bytearray(sample.archive)
        damaged[bit // 8] ^= 1 << bit % 8
        # Nothing but the magic lies outside a checksum.
        error = densor.FormatError if bit < 64 else densor.ChecksumError
        with pytest.raises(error):
            by_stream(bytes(damaged))
        if name in INDEXED:
            survives(by_index, bytes(damaged), sample.entries)


@pytest.mark.parametrize("name", NAMES)
def test_stretches_of_zeros_and_noise_are_noticed(name: str) -> None:
    sample = archives.sample(name)
    rng = np.random.default_rng(2)
    for _ in range(150):
        damaged = bytearray(sample.archive)
        begin, length = rng.integers(0, len(damaged)), rng.integers(1, 40)
        piece = len(damaged[begin : begin + length])
        noise = bytes(rng.integers(0, 256, piece, np.uint8)) if rng.random() < 0.5 else bytes(piece)
        damaged[begin : begin + length] = noise
        if damaged == sample.archive:
            continue
        for read in readers_for(name):
            refused = survives(read, bytes(damaged), sample.entries)
            assert refused or read is by_index


@pytest.mark.parametrize("name", ["small file", "folder"])
def test_extraction_of_damaged_archives(name: str, tmp_path: Path) -> None:
    sample = archives.sample(name)
    assert extracts(sample.archive, tmp_path).items() <= sample.entries.items()
    rng = np.random.default_rng(3)
    for number in range(150):
        damaged = bytearray(sample.archive)
        damaged[rng.integers(0, len(damaged))] ^= 1 << rng.integers(0, 8)
        cut = sample.archive[: rng.integers(0, len(sample.archive))]
        hostile = resealed(sample.archive, rng)
        for blob in (bytes(damaged), cut, hostile):
            folder = tmp_path / str(number)
            folder.mkdir(exist_ok=True)
            refused = survives(lambda blob: extracts(blob, folder), blob, sample.entries)  # noqa: B023
            assert refused or blob == hostile


@ways(NAMES)
def test_hostile_frames_with_valid_checks(name: str, way: str) -> None:
    """The decoder itself sees the damage; the hash of the original bytes keeps data right."""
    hostile(name, seed=4, count=250)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", NAMES)
def test_hostile_frames_with_valid_checks_at_length(name: str, seed: int) -> None:
    hostile(name, seed=1000 + seed, count=2000)


def hostile(name: str, seed: int, count: int) -> None:
    sample = archives.sample(name)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        archive = resealed(sample.archive, rng)
        agrees_with_the_reference(archive, sample.entries)
        for read in readers_for(name):
            survives(read, archive, sample.entries)


@ways(INDEXED)
def test_hostile_indexes(name: str, way: str) -> None:
    """Reading by the index never gives wrong bytes of an entry, whatever the index says."""
    sample = archives.sample(name)
    frames = take_apart(sample.archive)
    assert frames[-2].kind == INDEX
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(600):
        index = changed(frames[-2], rng)
        archive = put_together([*frames[:-2], index, frames[-1]], sample.archive[:32])
        refused += survives(by_index, archive, sample.entries)
    assert refused > 100


@pytest.fixture(scope="session")
def checked_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for kernels with bounds checks, one for all processes of this run."""
    own = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return own / "checked"
    return own.parent / "checked"


@pytest.mark.minutes
@pytest.mark.parametrize("part", PARTS)
def test_no_access_outside_of_arrays(part: str, checked_kernels: Path) -> None:
    """The kernels, compiled with bounds checks, see hostile bytes in another process."""
    environment = os.environ | {
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(checked_kernels),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS, SUPPORT))),
    }
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "mutations.py"), part, "60"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sound\n"
