"""JSON lines and cells of fixed width: which texts are taken for such, and that they come back."""

import json
from pathlib import Path

import numpy as np
import pytest
from reference import codecs as reference_codecs
from tables import fixed_width, json_lines, table

import densor
from densor.cli.dispatch import dispatch
from densor.codec.levels import level_settings
from densor.codec.table import decoder
from densor.codec.table.cells import rows_of
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import Layout
from densor.formats.parsers.tabular import layout_in

ODD = {
    "JSON": json_lines(250),
    "JSON, arrays": json_lines(90, deep=False),
    "JSON, CRLF": json_lines(60).replace(b"\n", b"\r\n"),
    "JSON, compact": json_lines(60).replace(b'": ', b'":').replace(b', "', b',"'),
    "JSON, broken": json_lines(200).replace(b'"id": 9', b'"id":  9').replace(b"50}}}", b'"'),
    "JSON, no line end": json_lines(40).rstrip(b"\n"),
    "fixed": fixed_width(400),
    "fixed, CRLF": fixed_width(60, "\r\n"),
    "fixed, broken": fixed_width(80).replace(b"salt", b"sal", 3).replace(b"  70", b"\0\xff70", 1),
}


def coded(text: bytes, level: int) -> tuple[Layout, bytes, bytes]:
    layout = layout_in(text.replace(b"\0", b" "), True)
    assert layout is not None
    coder = TableCoder(layout, level_settings(level))
    return layout, coder.model(), bytes(coder.encode(np.frombuffer(text, np.uint8), 0))


@pytest.mark.parametrize("level", [3, 5])
@pytest.mark.parametrize("name", ODD)
def test_rows_come_back(name: str, level: int) -> None:
    text = ODD[name]
    layout, model, payload = coded(text, level)
    assert bool(layout.literals) == name.startswith("JSON")
    assert bool(layout.widths) == name.startswith("fixed")
    out = np.empty(len(text), np.uint8)
    decoder.open_decoder(model).decode(np.frombuffer(payload, np.uint8), out)
    assert out.tobytes() == text
    assert len(payload) < 0.55 * len(text)
    assert reference_codecs.parse_model(model).decode(payload, len(text)) == text


def test_most_lines_are_rows() -> None:
    for name, text in ODD.items():
        layout = layout_in(text.replace(b"\0", b" "), True)
        assert layout is not None
        rows = rows_of(np.frombuffer(text, np.uint8), layout)
        assert rows is not None
        lines = text.count(b"\n") + (not text.endswith(b"\n"))
        assert rows.rows >= (0.6 if "broken" in name else 0.97) * lines - 1


def test_objects_within_are_columns(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(300))
    wanted = [json.loads(line) for line in json_lines(300).splitlines()]
    densor.pack([tmp_path / "a.jsonl"], tmp_path / "a", level=5)
    found = densor.read_table(tmp_path / "a")
    assert list(found) == ["id", "kind", "on", "price", "tags", "in.day", "in.at.x"]
    assert found["in.at.x"].tolist() == [one["in"]["at"]["x"] for one in wanted]
    assert found["kind"].tolist() == [one["kind"] for one in wanted]
    prices = [np.nan if one["price"] is None else one["price"] for one in wanted]
    assert np.array_equal(found["price"], prices, equal_nan=True)
    dispatch(["table", "cat", "-f", str(tmp_path / "a"), "--columns", "id,in.day", "--rows", "2:4"])
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": one["id"], "in.day": one["in"]["day"]} for one in wanted[2:4]
    ]


def test_cells_of_fixed_width_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(fixed_width(300))
    densor.pack([tmp_path / "a.txt"], tmp_path / "a")
    found = densor.read_table(tmp_path / "a", where="column1 < 20")
    assert found["column1"].tolist() == list(range(20))
    assert found["column4"].dtype == np.float64 and np.isnan(found["column4"][0])
    assert found["column5"].dtype == "M8[s]"


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1}\n' * 7,
        b"".join(b'{"k%d": 1}\n' % i for i in range(300)),
        b"{" * 3000 + b"\n" + b"{}\n" * 900,
        b'{"a": [1, 2}\n' * 300,
        b'{"a": "\n' * 300,
        b"a line of words\n" * 4,
        b"".join(b"x" * (i % 40) + b"\n" for i in range(200)),
    ],
    ids=["few", "other keys", "brackets", "open array", "open string", "short", "other lengths"],
)
def test_other_texts_are_not(text: bytes) -> None:
    assert layout_in(text, True, ("jsonl", "fixed-width")) is None


def test_tables_with_separators_are_no_fixed_widths() -> None:
    for text in (table(300), b"12,3 4,5\n" * 300, b"a;b c;d\n" * 300):
        found = layout_in(text, True)
        assert found is not None and found.separated


def test_a_broken_line_in_a_thousand_costs_little() -> None:
    for text in (json_lines(12000), fixed_width(12000)):
        lines = text.split(b"\n")
        for i in range(500, len(lines) - 1, 1000):
            lines[i] = lines[i][: i % 37]
        sizes = [len(coded(found, 5)[2]) for found in (text, b"\n".join(lines))]
        assert sizes[1] < 1.03 * sizes[0]
