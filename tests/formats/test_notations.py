"""Numbers in files that are written in another form than their bytes, as a parser finds them."""

import base64
import io
import json
import pickle
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state
from notations import VARINTS, field, onnx_model, onnx_tensor, written

import densor
from densor.codec.notation.layout import LATIN, OTHER, PLAIN, Notation
from densor.formats.io.sources import Bytes, MemoryRandomSource, MemorySource
from densor.formats.parsers import base64_text, numpy_pickle
from densor.formats.parsers.contents import Head
from densor.formats.parsers.plan import Plan, plan_file

WEIGHTS = (random_state("notations in files").standard_normal((60, 100)) * 0.02).astype(np.float32)
HALF = WEIGHTS.astype(np.float16)


def plan(data: bytes) -> Plan:
    return plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))


def notations(data: bytes) -> list[Notation]:
    found = plan(data).segments
    assert sum(segment.size or 0 for segment in found[:-1]) <= len(data)
    return [one.kind.notation for one in found if one.kind.notation is not None]


def sizes(tmp_path: Path, data: bytes, level: int = 3) -> int:
    """Bytes that a file takes, which comes back."""
    (tmp_path / "a").write_bytes(data)
    densor.compress_file(tmp_path / "a", tmp_path / "b", level=level, overwrite=True)
    densor.decompress_file(tmp_path / "b", tmp_path / "c", overwrite=True)
    assert (tmp_path / "c").read_bytes() == data
    return (tmp_path / "b").stat().st_size


@pytest.mark.parametrize(
    ("number", "kind", "array", "dtype"),
    [
        (5, 10, HALF, "F16"),
        (5, 16, (WEIGHTS.view("u4") >> 16).astype("u2"), "BF16"),
        (5, 3, (WEIGHTS * 1000).astype("i1"), "I8"),
        (5, 9, (WEIGHTS > 0).astype("u1"), "BOOL"),
        (5, 17, (WEIGHTS * 1000).astype("u1"), "U8"),
        (5, 22, (WEIGHTS * 1000).astype("u1")[:, :50].copy(), "U8"),
        (5, 6, (WEIGHTS * 1e6).astype("i4"), "I32"),
        (7, 7, (WEIGHTS * 1e6).astype("i8"), "I64"),
        (11, 12, (WEIGHTS.view("u4") >> 3), "U32"),
        (11, 13, (WEIGHTS.view("u4") >> 3).astype("u8"), "U64"),
    ],
)
def test_onnx(tmp_path: Path, number: int, kind: int, array: np.ndarray, dtype: str) -> None:
    tensor = onnx_tensor("a", kind, WEIGHTS.shape, number, written(array, VARINTS))
    data = onnx_model(tensor)
    option = OTHER if dtype[0] == "I" else PLAIN
    assert notations(data) == [Notation(VARINTS, option, dtype, WEIGHTS.shape)]
    assert len(plan(data).others) == 1  # as before, it cannot be read as it lies
    told = {"BF16": array.view("u2")}.get(dtype, array)
    known = densor.compress(told, 3, dtype="bf16" if dtype == "BF16" else None)
    assert sizes(tmp_path, data) < len(known) + 500


def test_onnx_that_lies(tmp_path: Path) -> None:
    """Types, shapes and contents that do not belong together."""
    noise = random_state("noise").bytes(4000)
    for number in (5, 7, 11):
        for kind in (0, 1, 7, 10, 22, 99):
            data = onnx_model(
                onnx_tensor("a", kind, (3, 1 << 40), number, noise),
                onnx_tensor("b", kind, (), number, written(HALF, VARINTS)[:-1] + b"\xff"),
                onnx_tensor("c", kind, (2,), number, b"\x80" * 3000),
            )
            assert sizes(tmp_path, data) <= len(data) + 300


def test_words_in_texts_that_are_bf16() -> None:
    words = (np.tile(WEIGHTS, (3, 1)).view("u4") >> 16).astype("u2")
    (found,) = notations(pickle.dumps(words, 2))
    assert found == Notation(LATIN, PLAIN, "BF16", words.shape)
    (found,) = notations(pickle.dumps(np.arange(9000, dtype="u2"), 2))
    assert found.dtype == "U16"


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2", "<c8"])
def test_texts_in_pickles(tmp_path: Path, protocol: int, dtype: str) -> None:
    array = (WEIGHTS * 1000).astype(dtype)
    old = pickle.dumps({"a": array, "b": HALF.T}, protocol)
    found = [notation.form for notation in notations(old)]
    assert found == [LATIN, LATIN]
    assert sizes(tmp_path, old) < sizes(tmp_path, pickle.dumps({"a": array, "b": HALF.T}, 4)) + 500


def test_bytes_of_python_2(tmp_path: Path) -> None:
    """Strings there are bytes as they are: `cPickle.dumps(numpy array, 2)`."""
    data = HALF.tobytes()
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = (
        b"cnumpy\ndtype\nU\x02f2K\x00K\x01\x87R(K\x03U\x01<NNN"
        + 2 * b"J\xff\xff\xff\xff"
        + b"K\x00tb"
    )
    text = b"T" + len(data).to_bytes(4, "little") + data
    pickled = head + b"(K\x01K\x3cK\x64\x86" + kind + b"\x89" + text + b"tb."
    assert np.array_equal(pickle.loads(pickled, encoding="latin1"), HALF)
    typed = [one for one in plan(pickled).segments if one.kind.dtype == "F16"]
    assert [one.size for one in typed] == [len(data)]
    assert sizes(tmp_path, pickled) < len(densor.compress(HALF)) + 500


def test_long_texts_are_cut_at_elements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numpy_pickle, "MAX_PLAIN", 5001)
    data = pickle.dumps(WEIGHTS, 2)
    segments = [one for one in plan(data).segments if one.kind.notation is not None]
    assert len(segments) > 5
    at = data.index(WEIGHTS.tobytes().decode("latin-1").encode())
    for one in segments:
        text = data[at : at + (one.size or 0)].decode()
        assert len(text) % 4 == 0 and len(text.encode()) == one.size
        at += one.size or 0
    # What is no UTF-8 at all is cut too, and comes back.
    wrong = data.replace(b"\xc2", b"\x80").replace(b"\xc3", b"\x81")
    sizes(tmp_path, wrong)


def test_no_level_takes_more_than_a_lower_one(tmp_path: Path) -> None:
    values = np.tile(WEIGHTS, (4, 1)) * np.arange(1, 241, dtype="f4")[:, None]
    half = onnx_tensor("a", 10, values.shape, 5, written(values.astype("f2"), VARINTS))
    for data in (pickle.dumps([values, HALF], 2), onnx_model(half), gltf(values.tobytes())):
        found = [sizes(tmp_path, data, level) for level in (1, 3, 5, 6, 9)]
        assert all(b <= 1.001 * a + 28 for a, b in pairwise(found)), found


@pytest.mark.parametrize("level", [5, 6])
def test_integers_that_are_a_text(tmp_path: Path, level: int) -> None:
    """No more than as plain bytes, which context mixing takes further than their values."""
    text = np.frombuffer(Path(np.__file__).read_bytes()[:20_000], np.uint8).astype("i8")
    data = onnx_model(onnx_tensor("a", 7, text.shape, 7, written(text, VARINTS)))
    assert sizes(tmp_path, data, level) < len(densor.compress(data, level)) + 500


def objects() -> np.ndarray:
    array = np.empty(3, object)
    array[:] = [WEIGHTS, HALF, "a text"]
    return array


def test_arrays_within_others(tmp_path: Path) -> None:
    """Of Python objects in `.npy` and `.npz`, of pickles in files of torch."""
    whole = len(densor.compress(WEIGHTS)) + len(densor.compress(HALF))
    out = io.BytesIO()
    np.save(out, objects(), allow_pickle=True)
    assert sizes(tmp_path, out.getvalue()) < whole + 1000
    out = io.BytesIO()
    np.savez(out, a=objects(), b=HALF)
    assert sizes(tmp_path, out.getvalue()) < whole + 1500


@pytest.mark.parametrize("settings", [{}, {"pickle_protocol": 4}])
@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_in_files_of_torch(tmp_path: Path, settings: dict[str, Any], zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    out = io.BytesIO()
    tensor = torch.from_numpy(WEIGHTS[::-1].copy())
    saved = {"a": tensor, "b": {"c": WEIGHTS, "d": HALF}}
    torch.save(saved, out, _use_new_zipfile_serialization=zipped, **settings)
    found = plan(out.getvalue())
    named = {one.name for one in (*found.tensors, *found.others)}
    assert named == {"a", "b.c", "b.d"}
    if settings:
        assert {one.name for one in found.tensors} == named
    whole = 2 * len(densor.compress(WEIGHTS)) + len(densor.compress(HALF))
    assert sizes(tmp_path, out.getvalue()) < whole + 2000


def gltf(*buffers: bytes) -> bytes:
    uris = [f"data:application/octet-stream;base64,{base64.b64encode(b).decode()}" for b in buffers]
    return json.dumps({"asset": {}, "buffers": [{"uri": uri} for uri in uris]}).encode()


def test_base64_in_texts(tmp_path: Path) -> None:
    values = np.tile(WEIGHTS, (4, 1)) * np.arange(1, 241, dtype="f4")[:, None]
    data = gltf(values.tobytes(), HALF.tobytes(), b"too short for this")
    assert len(notations(data)) == 2
    whole = len(densor.compress(values.tobytes())) + len(densor.compress(HALF.tobytes()))
    assert sizes(tmp_path, data) < whole + 800
    assert sizes(tmp_path, data) < 0.93 * len(densor.compress(data))


def test_base64_across_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for block in (5000, 9000, 16001, 40000):
        monkeypatch.setattr(base64_text, "_BLOCK", block)
        monkeypatch.setattr(base64_text, "MAX_PLAIN", 12000)
        data = gltf(WEIGHTS.tobytes(), WEIGHTS[:20].tobytes(), HALF.tobytes())
        found = [one for one in plan(data).segments if one.kind.notation is not None]
        ends = [one.size or 0 for one in found]
        parts = (base64.b64encode(one) for one in (WEIGHTS, WEIGHTS[:20], HALF))
        assert sum(ends) == sum(len(part.rstrip(b"=")) for part in parts)
        sizes(tmp_path, data)
    plain = b'{"a;base64,": "' + b"A" * 4095 + b'"}'
    assert notations(plain) == [] and len(notations(plain.replace(b"AAA", b"AAAA"))) == 1


class Counted(MemoryRandomSource):
    """Bytes, and how many of them were read."""

    read = 0

    def read_at(self, offset: int, count: int) -> Bytes:
        self.read += count
        return super().read_at(offset, count)


def test_texts_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever words and stretches they have."""
    monkeypatch.setattr(base64_text, "_BLOCK", 1 << 19)
    for size in (4095, 4096):
        data = b'{"a;base64,": "' + (b"A" * size + b" ") * 256 + b'"}'
        source = Counted(data)
        begun = time.process_time()
        found = base64_text.find(Head(MemorySource(data), len(data), source, ""))
        assert time.process_time() - begun < 1
        assert source.read < 1.1 * len(data)
        assert len(found.stretches if found else ()) == 256 * (size - 4095)


def test_arrays_that_share_a_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = pickle.dumps(HALF, 2)
    monkeypatch.setattr(numpy_pickle, "MAX_PLAIN", 6000)
    whole = HALF.tobytes().decode("latin-1").encode()
    again = b"h" + text[text.index(whole) + len(whole) + 1 :][:1]
    one = text[2:-1]
    at = one.index(b"X" + len(whole).to_bytes(4, "little") + whole)
    stored = one[at : at + 5 + len(whole) + 2]
    assert stored[-2:-1] == b"q" and again == b"h" + stored[-1:]
    data = text[:2] + b"]" + one + b"a" + (one.replace(stored, again) + b"a") * 30 + b"."
    assert all(np.array_equal(array, HALF) for array in pickle.loads(data))
    source = Counted(data)
    found = numpy_pickle.find(Head(MemorySource(data), len(data), source, ""))
    assert found is not None and source.read < 4 * len(data)
    assert sum(one.size for one in found.stretches) == len(whole)
    sizes(tmp_path, data)


def test_short_texts_and_other_calls_are_no_arrays() -> None:
    for thing in ({"a": "x" * 5000}, ["é" * 900], {"k" * 600: HALF}):
        assert len(notations(pickle.dumps(thing, 2))) == ("k" * 600 in thing)


def test_several_parts_of_one_tensor(tmp_path: Path) -> None:
    """A field that is repeated goes on, which protobuf allows."""
    parts = [written(part, VARINTS) for part in (HALF[:30], HALF[30:])]
    tensor = b"\x08\x3c\x08\x64\x10\x0a" + field(5, parts[0]) + field(5, parts[1])
    assert len(notations(onnx_model(tensor))) == 2
    sizes(tmp_path, onnx_model(tensor))
