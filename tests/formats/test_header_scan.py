"""Large safetensors headers: the compiled scan gives what the JSON parser gives, or leaves it."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import densor
from densor.dtypes import SIZES
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.parsers import header_scan
from densor.formats.parsers.base_matching import _Sequential
from densor.formats.parsers.plan import Plan, plan_file
from densor.formats.tensor_table import TensorTable

COUNT = 300
_SHAPES: dict[str, list[list[int]]] = {
    "F32": [[64], [96], [3, 32], []],
    "BF16": [[64, 2], [0, 5], [1000]],
    "I64": [[1]],
}
_FORMS = [(dtype, shape) for dtype, shapes in _SHAPES.items() for shape in shapes]


def header(count: int = COUNT, metadata: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for number in range(count):
        dtype, shape = _FORMS[number * 7 // 5 % len(_FORMS)]
        end = at + int(np.prod(shape)) * SIZES[dtype]
        found[f"layer.{number}.weight"] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [at, end],
        }
        at = end
    return found


def file_of(text: bytes, size: int | None = None) -> bytes:
    """A file with this header; `size`: of its data."""
    if size is None:
        found = {**json.loads(text), "__metadata__": {"data_offsets": [0, 0]}}
        size = max(item["data_offsets"][1] for item in found.values())
    data = np.random.default_rng(1).bytes(size)
    return len(text).to_bytes(8, "little") + text + data


def compact(found: dict[str, Any]) -> bytes:
    text = json.dumps(found, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def reversed_in(found: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(found.items()))


def plan(data: bytes, least: int, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(header_scan, "LEAST", least)
    source = MemoryRandomSource(data)
    return plan_file(_Sequential(source), len(data), level=3, random=source)


def plans(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of a file, which is the same either way."""
    scanned, parsed = (plan(data, least, monkeypatch) for least in (0, 1 << 40))
    assert scanned.format == parsed.format and scanned.segments == parsed.segments
    assert list(scanned.tensors) == list(parsed.tensors)
    assert scanned.others == parsed.others and scanned.lossy == parsed.lossy
    assert not isinstance(parsed.tensors, TensorTable)
    return scanned


@pytest.mark.parametrize(
    "text",
    [
        compact(header()),
        json.dumps(header()).encode() + b"   ",
        compact(header(metadata={"format": 'p"t\\', "lossy": "true"})),
        compact(reversed_in(header(metadata={"a": "}"}))),
        compact(header(1)),
        compact({"x": {"dtype": "F4", "shape": [4, 6], "data_offsets": [0, 12]}}),
    ],
    ids=["compact", "spaces", "metadata", "reversed", "one", "packed"],
)
def test_is_what_the_parser_gives(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plans(file_of(text), monkeypatch)
    assert isinstance(found.tensors, TensorTable)
    assert found.lossy == (b"lossy" in text)


def test_as_safetensors_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    values = np.random.default_rng(2).standard_normal((COUNT, 96), np.float32)
    tensors = {f"t{n}": value[: 64 + n % 3] for n, value in enumerate(values)}
    data = numpy.save(tensors, metadata={"format": "pt"})
    assert isinstance(plans(data, monkeypatch).tensors, TensorTable)


_GOOD = b'{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
_NEXT = b',"y":{"dtype":"U8","shape":[4],"data_offsets":'


@pytest.mark.parametrize(
    "text",
    [
        _GOOD + _NEXT + b"[2,6]}}",  # share bytes
        _GOOD + _NEXT + b"[4,9]}}",  # of another size
        _GOOD + _NEXT + b"[6,2]}}",
        _GOOD + _NEXT + b"[12,16]}}",  # beyond the end
        _GOOD + _NEXT + b"[04,8]}}",  # no JSON
        _GOOD + _NEXT + b"[4,8]},}",
        _GOOD + _NEXT + b"[4,8]}",
        _GOOD + _NEXT + b"[4,8]}}x",
        _GOOD + _NEXT + b"[4,8],}}",
        _GOOD + _NEXT + b'[4,8],"more":1}}',
        _GOOD + _NEXT + b"[4,8000000000000000000000]}}",
        _GOOD + _NEXT.replace(b"y", b"x") + b"[4,8]}}",  # twice
        _GOOD + _NEXT.replace(b"y", rb"\u0079") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"y", "é".encode()) + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"y", b"") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"y", b"y\x01") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"y", b"y" * 5000) + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"U8", b"U9") + b"[4,8]}}",  # a type that is not known
        _GOOD + _NEXT.replace(b"[4]", b"[4.0]") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"[4]", b"[true,4]") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"[4]", b"[-2,-2]") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b"[4]", b"[" + b"1," * 64 + b"4]") + b"[4,8]}}",
        _GOOD + _NEXT.replace(b'"shape":[4],', b"") + b"[4,8]}}",
        _GOOD + b',"__metadata__":{"a":"b"},"__metadata__":{}}',
        _GOOD + b',"__metadata__":{"a":"b}}',
        _GOOD + b',"__metadata__":{a}}',
        _GOOD + b',"__metadata__":[]}',
        b"{}",
        b"{ }",
        b'{"__metadata__":{"lossy":"true"}}',
        b'{"x":null}',
        b'{"x":{}}',
        b'{"x"',
        b'{"x":',
        b'{"',
    ],
)
def test_what_is_odd_is_for_the_parser(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    plans(file_of(text, 12), monkeypatch)
    plans(file_of(text[:-1], 12), monkeypatch)


def _cut(text: bytes, at: int) -> bytes:
    return text[:at]


def _changed(text: bytes, at: int) -> bytes:
    return text[:at] + b'"{}[],:0\\ '[at % 10 : at % 10 + 1] + text[at + 1 :]


def _left_out(text: bytes, at: int) -> bytes:
    return text[:at] + text[at + 1 :]


@pytest.mark.parametrize("damage", [_cut, _changed, _left_out])
def test_damaged(damage: Callable[[bytes, int], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    text = compact(header(8, {"format": "pt", "a": "b"}))
    for at in range(len(text)):
        plans(file_of(damage(text, at), 4000), monkeypatch)


def test_many_forms_are_for_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    found, at = {}, 0
    for size in range(300):
        found[f"t{size}"] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    assert not isinstance(plans(file_of(compact(found)), monkeypatch).tensors, TensorTable)


@pytest.mark.parametrize("level", [1, 3, 6])
def test_same_archive(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(3).standard_normal((200, 2000), np.float32)
    numbers[100:110] = numbers[:10]  # equal tensors are found among many
    tensors = {f"t{n}": row[: 64 if n % 3 else 2000] for n, row in enumerate(numbers)}
    plain = io.BytesIO()
    densor.decompress_file(io.BytesIO(densor.save(tensors)), plain)
    packed = []
    for least in (0, 1 << 40):
        monkeypatch.setattr(header_scan, "LEAST", least)
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(plain.getvalue()), out, level, 1, name="x")
        packed.append(out.getvalue())
    assert packed[0] == packed[1]
    assert densor.load(packed[0]).keys() == tensors.keys()
