"""The dumps and checksums of docs/format/example.md are those of golden archives and of tables."""

import re
import struct
from collections.abc import Sequence

import pytest
import xxhash
from helpers import take_apart
from paths import DOCS, GOLDEN
from reference import arithmetic, byte_cm, image
from test_format_docs import table

from densor.formats.container import wire

PAGE = "docs/format/example.md"
TEXT = (DOCS / "format" / "example.md").read_text()
DUMPS = re.findall(r"^```(\S+\.densor)(?: (\w+))?\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
LINE = re.compile(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} {1,2})*[0-9a-f]{2})(?:   .*)?")


def bytes_of(dump: str) -> bytes:
    """What a dump shows; offsets must be right."""
    found = b""
    for line in dump.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        assert int(match[1], 16) == len(found), line
        found += bytes.fromhex(match[2])
    return found


@pytest.mark.parametrize(("name", "frame", "dump"), DUMPS)
def test_dumps(name: str, frame: str, dump: str) -> None:
    archive = (GOLDEN / name).read_bytes()
    if not frame:
        assert bytes_of(dump) == archive
        return
    kind = getattr(wire, frame)
    payload = next(f.payload for f in take_apart(archive) if f.kind == kind)
    assert payload.startswith(bytes_of(dump))
    assert len(bytes_of(dump)) in (len(payload), 60)


def test_there_are_dumps() -> None:
    assert len(DUMPS) >= 3 and any(not frame for _, frame, _ in DUMPS)


def checksum(entries: Sequence[int]) -> str:
    packed = struct.pack(f"<{len(entries)}i", *entries)
    return f"`{xxhash.xxh3_64_intdigest(packed):016x}`"


def test_checksums_of_tables() -> None:
    states = range(len(byte_cm.PAIRS))
    tables = {
        "squash": arithmetic.SQUASH,
        "stretch": arithmetic.STRETCH,
        "rate": arithmetic.RATE,
        "inverse float_cm": arithmetic.INVERSE,
        "log2": arithmetic.LOG2,
        "normal": arithmetic.NORMAL,
        "states": [byte_cm.state_after(s, bit) for s in states for bit in (0, 1)],
        "first": [byte_cm.first_meaning(s) for s in states],
        "narrow": image.NARROW,
        "wide": image.WIDE,
        "inverse image": image.INVERSE,
        "trust": image.TRUST,
    }
    rows = table(PAGE, "XXH3-64", "narrow")
    said = {}
    for name, page, count, digest in rows:
        word = re.findall(r"\w+", name)[0]
        said[f"{word} {page}" if word == "inverse" else word] = int(count), digest
    assert said == {name: (len(values), checksum(values)) for name, values in tables.items()}


def test_no_long_lines() -> None:
    for page in [DOCS / "format.md", *(DOCS / "format").glob("*.md")]:
        for line in page.read_text().splitlines():
            assert len(line) <= 120 or line.startswith("|"), f"{page.name}: {line}"


def test_every_page_says_whether_it_is_normative() -> None:
    listed = (DOCS / "format.md").read_text()
    for page in (DOCS / "format").glob("*.md"):
        text = page.read_text().split("\n", 2)[2]
        assert re.match(r"\s*(Normative|Annex|Not normative)\b", text), page.name
        assert f"(format/{page.name})" in listed, page.name
