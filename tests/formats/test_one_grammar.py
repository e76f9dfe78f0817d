"""The grammar of the container is read in one place: payloads in `wire`, frames in `frames`."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

import densor
from densor.errors import ChecksumError, FormatError, TruncatedError
from densor.formats.container import wire
from densor.formats.container.frames import FrameReader, frame_at
from densor.formats.container.index import find_index, read_index
from densor.formats.io.sources import FileSource, MemoryRandomSource, MemorySource

PACKAGE = Path(densor.__file__).parent


def modules_with(pattern: str) -> set[str]:
    """Modules of the package in whose text the pattern is found."""
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(pattern, path.read_text())
    }


@pytest.mark.parametrize("payload", ["END", "REF", "ENTRY_END", "PLACE"])
def test_a_payload_is_taken_apart_in_one_module(payload: str) -> None:
    """Others ask `wire`; writers may pack."""
    layout = rf"\b{payload}_PAYLOAD"
    assert modules_with(layout) <= {
        "formats/container/wire.py",
        "formats/container/writer.py",
        "formats/container/short_form.py",
        "formats/container/small_entries.py",
    }
    assert not modules_with(rf"{layout}\.(unpack|iter_unpack)")
    assert modules_with(rf"_fields\({payload}_PAYLOAD") == {"formats/container/wire.py"}


def test_frames_are_read_in_one_module() -> None:
    found = {"formats/container/frames.py"}
    assert modules_with(r"wire\.parse_frame|\bimport parse_frame") == found | {
        "formats/damage/scan.py"  # looks for headers at every byte
    }
    assert modules_with(r"wire\.check_payload|\bimport check_payload") == found


def test_indexes_are_unpacked_in_one_module() -> None:
    assert modules_with(r"zstd_decompress\(frame\.payload") == {"formats/container/index.py"}
    assert modules_with(r"def _?parse_entries|def _?parse_frames") == {"formats/container/index.py"}


def test_sizes_stand_in_one_place() -> None:
    assert wire._FRAME.size + wire._CHECK32.size == wire.FRAME_SIZE
    assert modules_with(r"FRAME_SIZE\s*=") == {"codec/registry.py", "formats/container/wire.py"}
    assert not modules_with(r"// 41\b|<< 21\b.*chunk frame")
    assert modules_with(r"cannot hold \{") == {"formats/container/wire.py"}


def archive() -> bytes:
    out = io.BytesIO()
    with densor.Writer(out) as writer:
        writer.add_tensor("a", np.arange(5000, dtype=np.float32))
        writer.add_tensor("b", np.arange(5000, dtype=np.float32))  # a repetition
    return out.getvalue()


def test_in_sequence_and_at_random_the_same_frames_are_read() -> None:
    data = archive()
    random = MemoryRandomSource(data)
    for source in MemorySource(data), FileSource(io.BytesIO(data)):
        reader, header = FrameReader.of_archive(source)
        kinds = []
        while reader.at < len(data):
            frame = reader.next()
            kinds.append(frame.header.kind)
            other = frame_at(random, frame.offset, header.limit)
            assert other.header == frame.header and other.end == frame.end == reader.at
            assert bytes(other.payload) == bytes(frame.payload)
        assert reader.at_end() and reader.frames == len(kinds)
        assert kinds[-2:] == [wire.INDEX, wire.END] and wire.REF in kinds
    frames, entries = read_index(find_index(random, header.limit))
    assert frames.kinds.tolist() == kinds[:-2]
    assert [entry.meta.name for entry in entries] == ["a", "b"]


def test_what_is_damaged_or_cut_is_no_frame() -> None:
    data = archive()
    end = len(data) - wire.END_SIZE
    for at in range(end, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(ChecksumError):
            frame_at(MemoryRandomSource(bytes(damaged)), end, wire.CHUNK_LIMIT)
        with pytest.raises(TruncatedError):
            frame_at(MemoryRandomSource(data[:at]), end, wire.CHUNK_LIMIT)
        with pytest.raises(TruncatedError):
            FrameReader(MemorySource(data[end:at])).next()


@pytest.mark.parametrize("parse", [wire.parse_end, wire.parse_ref, wire.parse_place])
def test_payloads_of_another_size_are_refused(parse: object) -> None:
    sizes = {wire.parse_end: 16, wire.parse_ref: 12, wire.parse_place: 16}
    for size in range(20):
        if size == sizes[parse]:
            parse(bytes(size))
            continue
        with pytest.raises(FormatError, match="malformed"):
            parse(bytes(size))


def test_the_end_of_an_entry_needs_its_fixed_part() -> None:
    assert wire.parse_entry_end(bytes(9) + b"digest") == (0, 0, b"digest")
    with pytest.raises(FormatError, match="malformed"):
        wire.parse_entry_end(bytes(8))


def test_no_archive_is_taken_for_one_that_cannot_be() -> None:
    wire.check_possible(wire.CHUNK_LIMIT, 0)
    wire.check_possible(wire.CHUNK_LIMIT * 11, wire.MIN_FRAME * 10)
    with pytest.raises(densor.LimitError, match="290 bytes cannot hold"):
        wire.check_possible(wire.CHUNK_LIMIT * 11 + 1, wire.MIN_FRAME * 10)
