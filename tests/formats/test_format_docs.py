"""The tables of docs/format say what the code does, in the codecs' pages and the container's.

They are parsed and held against the constants of the code: fields, numbers, limits. The first
sections of docs/format/container.md are seen to by `test_format`.
"""

import dataclasses
import re
import struct
from pathlib import Path

import pytest
from helpers import take_apart

import densor
from densor.codec import parts, registry
from densor.codec.blocks import block
from densor.codec.blocks import payload as fields_wire
from densor.codec.byte_cm import params as text_model
from densor.codec.codecs import CODECS, decoder_for
from densor.codec.delta import decoder as change_decode
from densor.codec.delta import params as change_model
from densor.codec.delta import payload as change_wire
from densor.codec.delta import tokens
from densor.codec.float_cm import params as mixing_model
from densor.codec.planes import params as planar_model
from densor.codec.scale_context import params as scales_model
from densor.codec.scale_context import payload as scales_payload
from densor.codec.scale_context import split_format
from densor.codec.sparse import payload as sparse_wire
from densor.codec.zstd import zstd_decompress
from densor.formats import tensors
from densor.formats.container import entry, wire
from densor.formats.container.strictjson import loads
from densor.formats.damage import recovery

ROOT = Path(densor.__file__).parent.parent
FORMAT = "docs/format/container.md"
LETTERS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "u64": "Q", "8 bytes": "8s"}

Rows = list[list[str]]


def tables_of(page: str) -> list[Rows]:
    """The tables of a page: rows of cells, the header first."""
    found: list[Rows] = []
    within = False
    for line in (ROOT / page).read_text().splitlines():
        if not line.startswith("|"):
            within = False
            continue
        cells = [
            cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])
        ]
        if not within:
            found.append([])
            within = True
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
    return found


def table(page: str, *words: str) -> Rows:
    """The rows of the table that has all these words, without its header."""
    (found,) = (t for t in tables_of(page) if all(word in str(t) for word in words))
    return found[1:]


def struct_of(rows: Rows, column: int) -> str:
    """The struct format of fields up to the first of no fixed size; `u32, bytes` ends likewise."""
    letters = ""
    for row in rows:
        first = row[column].split(",")[0]
        if first not in LETTERS:
            break
        letters += LETTERS[first]
        if "," in row[column] and "bytes" in row[column]:
            break
    return "<" + letters.replace("8s8s", "16s")


def offsets_fit(rows: Rows) -> bool:
    """Whether the first column counts the bytes of the second."""
    at = 0
    for row in rows:
        if row[1] not in LETTERS:
            break
        if int(row[0]) != at:
            return False
        at += struct.calcsize("<" + LETTERS[row[1]])
    return True


# docs/format/container.md


@pytest.mark.parametrize(
    ("kind", "most"),
    [(wire.ENTRY, 1 << 20), (wire.MODEL, 1 << 16), (wire.REF, 12), (wire.ENTRY_END, 73)],
)
def test_limits_are_enforced_as_written(kind: int, most: int) -> None:
    original = 1 if kind == wire.REF else 0
    for stored in (most, most + 1):
        frame = wire.pack_frame(kind, bytes(stored), original)
        if stored > most:
            with pytest.raises(densor.LimitError):
                wire.parse_frame(frame)
        else:
            assert wire.parse_frame(frame).stored == stored


def test_keys_of_entries() -> None:
    rows = table(FORMAT, "`mtime_ns`", "original bytes; null")
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row[0])}
    fields = {field.name for field in dataclasses.fields(entry.EntryMeta)}
    assert keys == fields - {"tensors"}
    said = next(row[2] for row in rows if row[0] == "`kind`")
    assert re.findall(r"`(\w+)`", said) == list(entry.KINDS)
    text = (ROOT / FORMAT).read_text()
    assert f"at most {tensors.MAX_NAME} UTF-8 bytes" in text
    assert f"are at most {wire.MAX_CHAIN}" in text


def test_codecs() -> None:
    rows = {int(row[0]): row[2] for row in table(FORMAT, "byte planes, Huffman")}
    known = {v for name, v in vars(registry).items() if name.startswith("CODEC_")}
    assert set(rows) == known == set(CODECS)
    for number, row in rows.items():
        codec = CODECS[number]
        assert codec.number == number
        assert tuple(re.findall(r"`([\w/.]+)`", row)) in (codec.specification, ())
        assert all((ROOT / path).is_file() for path in codec.specification)
        with pytest.raises(densor.FormatError):  # known, but nothing follows the number
            decoder_for(bytes([number]))
    for number in {*range(256)} - known:
        with pytest.raises(densor.UnsupportedError):
            decoder_for(bytes([number]) + bytes(20))


def test_head_of_the_planar_model() -> None:
    head = table(FORMAT, "codec: 2", "run length")
    assert struct_of(head, 0) == planar_model._HEAD.format
    assert head[0][1] == f"codec: {registry.CODEC_PLANES_HUFFMAN}"


def modes(rows: Rows) -> dict[str, int]:
    """Names and numbers of the first column."""
    return {name: int(n) for n, name in (row[0].split() for row in rows)}


def test_modes_of_planes() -> None:
    for name, number in modes(table(spec("planes_rans"), "0 raw", "1 byte, the value")).items():
        assert number == getattr(registry, f"PLANE_{name.upper()}")


def test_keys_of_the_index() -> None:
    rows = table(FORMAT, "numbers of the frames of the entry")
    keys = {row[0].strip("`") for row in rows}
    archive = (ROOT / "tests/golden/files-tensors.densor").read_bytes()
    frame = next(f for f in take_apart(archive) if f.kind == wire.INDEX)
    assert set(loads(zstd_decompress(frame.payload, frame.original), "index")) == keys


def test_errors_and_versions() -> None:
    said = {row[0] for row in table(FORMAT, "the input ends before END")}
    names = {n.removesuffix("Error").lower() for n in densor.__all__ if n.endswith("Error")}
    assert said == names - {"densor", "argument", "file"}
    versions = [int(row[0]) for row in table(FORMAT, "first written by")]
    assert max(versions) == wire.VERSION


def test_frames_for_damaged_archives() -> None:
    rows = table(FORMAT, "MODEL frames before this one")
    assert offsets_fit(rows) and struct_of(rows, 1) == wire.PLACE_PAYLOAD.format
    rows = table(FORMAT, "share", "parity block")
    assert offsets_fit(rows)
    assert struct_of(rows, 1) == recovery._FIELDS.format
    assert bytes.fromhex(rows[0][3].strip("`")) == recovery.MAGIC
    named = {row[2]: row for row in rows}
    smallest, largest = recovery._MIN_BLOCK, recovery._MAX_BLOCK
    assert named["B"][3] == f"a power of two, {smallest} to {largest}"
    assert int(named["hashes"][0]) == recovery._FIELDS.size
    text = (ROOT / FORMAT).read_text()
    assert f"K + R ≤ {recovery._MAX_BLOCKS}" in text
    assert f"{wire.FRAME_SIZE} + {recovery._FIELDS.size} + 8·K + B" in text


# Codecs


def codec_of(page: str, rows: Rows) -> int:
    return int(next(row[1] for row in rows if row[1].startswith("codec: ")).split()[1])


def spec(name: str) -> str:
    return f"docs/format/{name}.md"


HEADS: list[tuple[str, int, str, str]] = [
    ("delta", registry.CODEC_DELTA, "context shift", change_model._HEAD.format),
    ("blocks", registry.CODEC_BLOCKS, "number of fields", fields_wire.HEAD.format),
    ("float_cm", registry.CODEC_FLOAT_CM, "top bits of the mantissa", mixing_model._MODEL.format),
    ("planes_rans", registry.CODEC_PLANES_RANS, "number of planes", planar_model._HEAD.format),
    ("scale_context", registry.CODEC_SCALE_CONTEXT, "first exponent", scales_model._HEAD.format),
    ("byte_cm", registry.CODEC_BYTE_CM, "number of sets of weights", text_model._MODEL.format),
]


@pytest.mark.parametrize(("name", "codec", "word", "head"), HEADS)
def test_heads_of_models(name: str, codec: int, word: str, head: str) -> None:
    rows = table(spec(name), "codec: ", word)
    assert codec_of(name, rows) == codec
    assert struct_of(rows, 0) == head


def test_change() -> None:
    rows = table(spec("delta"), "offset in the base")
    assert struct_of(rows, 0) == change_wire.HEAD.format + change_wire.LENGTH.format[1:]
    methods = [row[0].split() for row in table(spec("delta"), "D and M")]
    assert {int(n): " ".join(name) for n, *name in methods} == {
        tokens.DIFFERENCE: "difference",
        tokens.XOR: "exclusive or",
        tokens.OWN: "own",
    }
    text = (ROOT / spec("delta")).read_text()
    assert f"at most {change_decode.MAX_CHUNK} bytes" in text
    assert f"contexts C, at most {change_model.MAX_CONTEXTS}" in text
    assert f"context bits B, at most {change_model.MAX_CONTEXT_BITS}" in text


def test_fields() -> None:
    rows = table(spec("blocks"), "bytes per block s")
    assert struct_of(rows, 0) == fields_wire.FIELD.format + parts.MODEL_LENGTH.format[1:]
    orders = {row[1]: int(row[0]) for row in table(spec("blocks"), "column by column")}
    assert orders == {
        name.removeprefix("ORDER_").lower(): number
        for name, number in vars(registry).items()
        if name.startswith("ORDER_")
    }
    assert f"fields F, 1 to {block.MAX_FIELDS}" in (ROOT / spec("blocks")).read_text()


@pytest.mark.parametrize("name", ["blocks", "sparse"])
def test_modes_of_parts(name: str) -> None:
    found = modes(table(spec(name), "0 raw", "2 model"))
    for mode, number in found.items():
        assert number == getattr(registry, f"PART_{mode.upper()}")
    assert parts.PART.format == "<BI"


def test_sparse() -> None:
    rows = table(spec("sparse"), "codec: 6")
    assert codec_of("sparse", rows) == registry.CODEC_SPARSE
    assert struct_of(rows[:2], 0) == sparse_wire.HEAD.format
    sizes = ", ".join(map(str, sparse_wire.SIZES[:-1]))
    assert rows[1][1].startswith(f"bytes per element S: {sizes} or {sparse_wire.SIZES[-1]}; ")


def test_formats_of_mixing() -> None:
    rows = table(spec("float_cm"), "fp8 e4m3")
    said = [(int(row[0]), *(int(cell) for cell in row[2:])) for row in rows]
    formats = mixing_model._BY_NUMBER
    code = [(n, f.size, f.exponent, f.mantissa) for n, f in sorted(formats.items())]
    assert said == code
    assert (
        f"at most {mixing_model.MAX_CHUNK} original bytes" in (ROOT / spec("float_cm")).read_text()
    )


def test_forms_of_scales() -> None:
    rows = table(spec("scale_context"), "fp8_e4m3")
    assert [int(row[0]) for row in rows] == sorted(split_format._NUMBERED)
    for row in rows:
        form = split_format._NUMBERED[int(row[0])]
        assert row[1] == form.name
        code = (form.exponent, form.top, form.rest, form.signs)
        assert code == tuple(int(cell) for cell in row[3:])
    rows = table(spec("scale_context"), "base exponent B")
    assert struct_of(rows, 0) == scales_payload.HEAD.format
    assert (
        f"phase P, at most {scales_model.MAX_PHASE}" in (ROOT / spec("scale_context")).read_text()
    )
