"""Ends of lines beside a text: which spaces they are, and that the text comes back."""

import hashlib
import re
import struct
import textwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import GOLDEN
from reference import language_model as reference
from reference.network import Reference

import densor
from densor.codec.language_model import choices, lines
from densor.codec.language_model import params as wire
from densor.codec.language_model.decoder import LanguageModelDecoder
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.meter import Meter
from densor.codec.language_model.session import Session
from densor.errors import ChecksumError, DensorError, FormatError
from densor.files.language_models import load
from densor.runtime.types import Bytes
from densor.runtime.workers import Workers

WORDS = densor.errors.__doc__.split() + densor.compress.__doc__.split()


def prose(count: int, width: int = 60, seed: int = 1) -> bytes:
    """Paragraphs of words, wrapped."""
    random = np.random.default_rng(seed)
    chosen = [WORDS[i] for i in random.integers(0, len(WORDS), count)]
    parts = [" ".join(chosen[at : at + 90]) for at in range(0, count, 90)]
    return "\n\n".join(textwrap.fill(part, width) for part in parts).encode() + b"\n"


PROSE = prose(900)
LOG = b"".join(b"10:%02d worker %d took %d ms\n" % (i % 60, i % 7, i * i % 997) for i in range(300))


def as_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).copy()


def back(prepared: lines.Prepared, size: int) -> bytes:
    payload = as_array(prepared.header + b"rest")
    form = lines.parse(payload, size)
    assert form.end == len(prepared.header)
    if not form.form:
        return prepared.text.tobytes()
    return form.restored(prepared.text, size).tobytes()


def prepared_of(data: bytes) -> lines.Prepared:
    """As a text is coded under the sample model."""
    (prepared,) = LanguageModelEncoder(as_array(data), Session("sample"), Workers(1))._prepared
    return prepared


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (PROSE, lines.JOINED),
        (PROSE.replace(b"\n", b"\r\n"), lines.JOINED | lines.RETURNS),
        (LOG, 0),
        (LOG.replace(b"\n", b"\r\n"), lines.RETURNS),
        (PROSE.replace(b"\n", b"\r\n") + b"\n", 0),
        (b"a b\n" * 10, 0),
        (b"\n" * 500, 0),
        (b"\r\n" * 500, lines.RETURNS),
    ],
)
def test_form(data: bytes, form: int) -> None:
    prepared = prepared_of(data)
    assert prepared.header[0] == form
    assert back(prepared, len(data)) == data
    if form == lines.JOINED and data == PROSE:
        joined = np.count_nonzero(prepared.marks)
        assert joined > 80
        assert 4 * (len(prepared.header) - lines.HEADER.size) < joined
        assert b"\n" not in prepared.text.tobytes().replace(b"\n\n", b"")[:-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bc", b" ", b"\n", b"\r\n", b"\r", b"\t", b"\xff"])))
def test_any_blanks_come_back(parts: list[bytes]) -> None:
    data = as_array(b"".join(parts))
    for form in range(4):
        if form & lines.RETURNS and not lines._has_returns(data):
            continue
        text, marks = lines.joined(data, form)
        assert lines.separated(text, marks, form).tobytes() == data.tobytes()
        stream = as_array(lines._coded(text, marks))
        found = np.zeros(text.size, np.uint8)
        assert lines._code(False, stream, text, found) == stream.size
        assert np.array_equal(found, marks)
        again = reference.with_ends_of_lines(text.tobytes(), form, stream.tobytes())
        assert again == data.tobytes()


def coded(data: bytes) -> tuple[bytes, bytes]:
    """MODEL and CHUNK of one segment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "_SLOTS", ((0, 1),))
        patch.setattr(choices, "_POSITIONS", 64)
        found = LanguageModelEncoder(as_array(data), Session("sample"), Workers(1))
        ((_, payload, size),) = found.encode().result().chunks
    assert size == len(data)
    return found.model(), bytes(payload)


def decoded(model: bytes, payload: bytes, size: int, expected: bytes | None = None) -> bytes:
    out = np.zeros(size, np.uint8)
    decoder = LanguageModelDecoder(wire.parse(model), Session())
    if expected is not None:
        decoder.expect(as_array(expected))
    decoder.decode(as_array(payload), out)
    return out.tobytes()


def always(patch: pytest.MonkeyPatch) -> None:
    """Lines are joined however few there are."""
    patch.setattr(lines, "_FEWEST", 4)
    patch.setattr(lines, "_pays", lambda *_: True)


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, bytes]:
    """A short wrapped text, its MODEL and its CHUNK."""
    data = prose(40, 30).replace(b"\n", b"\r\n")
    with pytest.MonkeyPatch.context() as patch:
        always(patch)
        return data, *coded(data)


def test_wrapped_text_comes_back(wrapped: tuple[bytes, bytes, bytes]) -> None:
    data, model, payload = wrapped
    assert model[1] == 3 and payload[0] == lines.JOINED | lines.RETURNS
    assert wire.pack(wire.parse(model)) == model
    for guess in (None, data, data[::-1]):
        assert decoded(model, payload, len(data), guess) == data


def test_a_slow_decoder_after_the_specification_agrees(wrapped: tuple[bytes, bytes, bytes]) -> None:
    data, model, payload = wrapped
    assert reference.decode(model, payload, len(data), Reference(load("sample"))) == data


def test_what_is_not_wrapped_keeps_the_version_before() -> None:
    model, payload = coded(LOG[:300])
    assert model[1] == 2 and decoded(model, payload, 300) == LOG[:300]


def test_the_meter_shows_the_text_as_it_was(wrapped: tuple[bytes, bytes, bytes]) -> None:
    data, _, payload = wrapped
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "_SLOTS", ((0, 1),))
        patch.setattr(choices, "_POSITIONS", 64)
        always(patch)
        meter = Meter(as_array(data), Session("sample"))
    assert b"".join(cost.text for cost in meter.costs) == data
    segments = len(payload) - lines.HEADER.size - wire.SEGMENT.size
    assert abs(sum(cost.bits for cost in meter.costs) - 8 * segments) < 40


def test_cost_decides() -> None:
    """By what the model takes for pieces, and the marks; which lines are, is not asked."""
    for better, form in ((1, lines.JOINED), (0, 0)):
        asked: list[bytes] = []

        def bits(text: Bytes, better: int = better, asked: Any = asked) -> float:
            asked.append(text.tobytes())
            return 1000.0 * (len(asked) % 2 == better)

        assert lines.prepare(as_array(PROSE), bits).header[0] == form
        plain, joined = asked[0], asked[1]
        assert joined == re.sub(rb"(?<=\S)\n(?=\S)", b" ", plain) != plain
        assert len(asked) == 2


def test_what_is_tried_is_not_counted() -> None:
    """Neither as progress nor in the costs of tokens."""
    moved: list[int] = []
    meter = Meter(as_array(PROSE), Session("sample", moved.append))
    assert meter.model()[1] == 3 and sum(moved) == len(PROSE)
    assert b"".join(cost.text for cost in meter.costs) == PROSE


def test_lines_make_text_smaller() -> None:
    data = prose(600, 45)
    model, payload = coded(data)
    assert model[1] == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_FEWEST", 1 << 30)
        before, whole = coded(data)
    assert before[1] == 2
    assert len(payload) < len(whole)


HOSTILE = {
    "form": (0, "B", 4, FormatError),
    "form without marks": (0, "B", 2, FormatError),
    "marks of no form": (0, "B", 0, DensorError),
    "length": (1, "I", 1, FormatError),
    "long": (1, "I", 1 << 31, FormatError),
    "marks": (5, "I", 0, FormatError),
    "many marks": (5, "I", 1 << 31, FormatError),
    "digest": (9, "Q", 1, ChecksumError),
}


@pytest.mark.parametrize(("at", "kind", "value", "error"), HOSTILE.values(), ids=HOSTILE)
def test_impossible_forms(
    wrapped: tuple[bytes, bytes, bytes], at: int, kind: str, value: int, error: type[DensorError]
) -> None:
    data, model, payload = wrapped
    changed = bytearray(payload)
    struct.pack_into(f"<{kind}", changed, at, value)
    with pytest.raises(error):
        decoded(model, bytes(changed), len(data))


def test_damaged_marks_and_cut_headers(wrapped: tuple[bytes, bytes, bytes]) -> None:
    data, _, payload = wrapped
    form = lines.parse(as_array(payload), len(data))
    text, _ = lines.joined(as_array(data), form.form)
    for at in range(form.marks.size):
        stream = form.marks.copy()
        stream[at] ^= 0x55
        try:  # the last bits of a stream may mean nothing
            found = form._replace(marks=stream).restored(text, len(data)).tobytes()
        except DensorError:
            continue
        assert found == data
    for size in range(form.end):
        with pytest.raises(FormatError):
            lines.parse(as_array(payload[:size]), len(data))


def test_golden_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    forms: list[int] = []
    parse = lines.parse

    def noted(payload: Bytes, size: int) -> lines.Form:
        forms.append(int(payload[0]))
        return parse(payload, size)

    monkeypatch.setattr(lines, "parse", noted)
    archive = (GOLDEN / "llm" / "sample-3.densor").read_bytes()
    digest = hashlib.sha256(densor.decompress(archive)).hexdigest()
    assert digest == "56a890262ab7fcb7f67dfb8de489fe3d04865875c0851f4786a53c81de4d2198"
    assert forms == [lines.JOINED | lines.RETURNS]
