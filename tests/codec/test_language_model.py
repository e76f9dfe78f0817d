"""The language-model codec: right bytes or a DensorError, whatever the text, machine and model."""

import hashlib
import io
import shutil
import struct
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CHUNK, MODEL, take_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_models import SPECIAL, weights, write_folder
from paths import GOLDEN
from reference import language_model as reference
from reference.network import Reference

import densor
from densor.codec.language_model import choices, step
from densor.codec.language_model import encoder as coding
from densor.codec.language_model import params as wire
from densor.codec.language_model.decoder import LanguageModelDecoder
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.session import Session
from densor.codec.registry import CODEC_LANGUAGE_MODEL
from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FormatError,
    LimitError,
    UnsupportedError,
)
from densor.files.language_models import load
from densor.llm.network import Logits, Network, Rows
from densor.runtime.workers import Workers

SOURCE = Path(densor.errors.__file__).read_bytes()[:900]
TEXT = b"A codec codes a text of the language, and decodes it. The text is what it was. " * 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("llm") / "tiny")


def coded(data: bytes, model: Any, slots: int = 3) -> tuple[bytes, list[Any]]:
    """MODEL payload and chunk payloads, with so many segments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModelEncoder, "_plain", lambda self, part: (wire.RAW, part))
        patch.setattr(choices, "_SLOTS", ((0, slots),))
        patch.setattr(choices, "_SEGMENT", 1 << 20)
        found = LanguageModelEncoder(
            np.frombuffer(data, np.uint8).copy(), Session(model), Workers(1)
        )
        return found.model(), [chunk.payload for chunk in found.encode().result().chunks]


def decoded(model: bytes, payload: Any, size: int, given: Any = None) -> bytes:
    out = np.zeros(size, np.uint8)
    LanguageModelDecoder(wire.parse(model), Session(given)).decode(np.array(payload), out)
    return out.tobytes()


def modes(model: bytes, payload: Any, size: int) -> list[int]:
    parts = wire.segments(wire.parse(model), size)
    return [wire.SEGMENT.unpack_from(payload, i * wire.SEGMENT.size)[0] for i in range(len(parts))]


TEXTS = {
    "text": TEXT,
    "one byte": b"x",
    "longer than the window": TEXT * 2,
    "not UTF-8": TEXT[:300] + bytes(range(256)) + TEXT[:300],
    "NUL": b"text\0with\0NUL " * 40,
    "special": f"the {SPECIAL} the <bos> <eos> ".encode() * 20,
    "other scripts": "Καλημέρα κόσμε, コンニチハ, שלום. ".encode() * 8,
    "cut characters": "☃☃☃☃☃".encode()[1:] * 30,
    "newlines": b"\r\n\n\t" * 90,
    "same": b"a" * 700,
}


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS)
def test_segments_come_back(data: bytes, slots: int, folder: Path) -> None:
    for name in ("sample", folder):
        model, payloads = coded(data, name, slots)
        parts = [decoded(model, payloads[0], len(data), name)]
        assert b"".join(parts) == data
        assert len(payloads) == 1


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=400) | st.text(min_size=1, max_size=200).map(str.encode))
def test_any_bytes_come_back(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "_TEXT_SHARE", -1.0)  # whatever it is
        model, payloads = coded(data, "sample", 2)
    assert decoded(model, payloads[0], len(data)) == data


def test_bytes_without_a_token_are_coded(folder: Path) -> None:
    data = b"the XYZ the \xff\xfe the " * 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "_TEXT_SHARE", -1.0)
        model, payloads = coded(data, folder, 2)
    assert modes(model, payloads[0], len(data)) == [wire.TOKENS] * 2
    assert decoded(model, payloads[0], len(data), folder) == data


@pytest.mark.parametrize("ahead", [1, 3, 1000])
def test_how_much_is_predicted_at_once_changes_nothing(ahead: int, folder: Path) -> None:
    """Before and behind the edges of the window."""
    data = b"the the bath hat " * 9 + TEXT
    for name in ("sample", folder):
        model, payloads = coded(data, name, 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "_AHEAD", ahead)
            again, others = coded(data, name, 3)
        assert again == model
        assert np.array_equal(payloads[0], others[0])


@pytest.mark.parametrize("expected", ["right", "wrong", "half", "none"])
def test_what_is_guessed_changes_nothing(expected: str, folder: Path) -> None:
    """Guesses that are right, wrong, right and then wrong, and looked up."""
    data = b"the the bath hat " * 9 + TEXT + b"the bath hat " * 40
    guesses = {"right": data, "wrong": data[::-1], "half": data[:300] + data[300:][::-1]}
    guess = guesses.get(expected)
    for name in ("sample", folder):
        model, payloads = coded(data, name, 3)
        out = np.zeros(len(data), np.uint8)
        decoder = LanguageModelDecoder(wire.parse(model), Session(name))
        if guess is not None:
            decoder.expect(np.frombuffer(guess, np.uint8))
        decoder.decode(np.frombuffer(payloads[0], np.uint8), out)
        assert out.tobytes() == data


def test_repetitive_text_takes_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (b"worker 12 took a request from 10.0.0.7 and was done\n" * 30)[:1500]
    model, payloads = coded(data, "sample", 1)
    passes = 0
    read = Network.read

    def counted(self: Network, *arguments: Any) -> Rows:
        nonlocal passes
        passes += 1
        return read(self, *arguments)

    monkeypatch.setattr(Network, "read", counted)
    assert decoded(model, payloads[0], len(data)) == data
    assert passes < len(Session("sample").weights().vocabulary.tokens(data)) / 3


@pytest.mark.parametrize("slots", [1, 8, 32])
def test_each_row_of_a_step_can_be_computed_alone(slots: int, folder: Path) -> None:
    data = TEXT * 2
    model, payloads = coded(data, "sample", slots)
    read, counts = Network.read, Logits.counts

    def read_one_by_one(self: Network, tokens: Any, slots: Any, places: Any, wanted: int) -> Rows:
        parts = [slice(i, i + 1) for i in range(tokens.size)]
        rows = [read(self, tokens[p], slots[p], places[p], 1) for p in parts]
        return Rows(
            *(np.concatenate(part)[tokens.size - wanted :] for part in zip(*rows, strict=True))
        )

    def count_one_by_one(self: Logits, rows: Rows, offsets: Any) -> Any:
        parts = [slice(i, i + 1) for i in range(rows.shifts.size)]
        return np.concatenate(
            [counts(self, Rows(rows.values[p], rows.shifts[p]), offsets) for p in parts]
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "read", read_one_by_one)
        patch.setattr(Logits, "counts", count_one_by_one)
        assert decoded(model, payloads[0], len(data)) == data


def test_text_is_smaller_than_without_the_model() -> None:
    without, under = densor.compress(SOURCE, 9), densor.compress(SOURCE, llm="sample")
    assert densor.decompress(under) == SOURCE
    assert len(under) < len(without)
    model = next(f.payload for f in take_apart(under) if f.kind == MODEL)
    assert model[0] == CODEC_LANGUAGE_MODEL


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\0" * 3_000_000, np.random.default_rng(1).bytes(50_000), TEXT * 100],
    ids=["empty", "byte", "zeros", "noise", "repeated"],
)
def test_what_needs_no_model_is_coded_without(data: bytes) -> None:
    archive = densor.compress(data, llm="sample")
    assert densor.decompress(archive) == data
    assert len(archive) <= len(densor.compress(data, 9)) + 200


def test_a_long_text_that_leaves_little_is_not_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = b"".join(
        b"%05d: the codec is at work, nothing to be seen\n" % (i // 9) for i in range(700)
    )
    asked: list[int] = []
    propose = coding.propose
    monkeypatch.setattr(
        coding, "propose", lambda *a: (asked.append(a[0].data.size), propose(*a))[1]
    )
    moved: list[int] = []
    archive = densor.compress(lines, llm="sample", progress=moved.append)
    assert not asked and sum(moved) == len(lines)
    assert densor.decompress(archive) == lines and 8 * len(archive) < 0.2 * len(lines)
    densor.compress(lines[:2000], llm="sample")
    assert asked == [2000]


def test_only_plain_bytes_are_asked_about() -> None:
    array = np.arange(3000, dtype=np.float32)
    assert densor.compress(array, llm="sample") == densor.compress(array)


def test_a_slow_decoder_after_the_specification_agrees() -> None:
    for data in (SOURCE[:180], b"to \xff\xfe" * 9 + b"\0" * 9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coding, "_TEXT_SHARE", -1.0)
            patch.setattr(choices, "_POSITIONS", 64)
            model, payloads = coded(data, "sample", 1)
        network = Reference(load("sample"))
        assert reference.decode(model, payloads[0].tobytes(), len(data), network) == data


@pytest.mark.parametrize("length", [180, 420], ids=["one window", "a window that slides"])
def test_a_slow_decoder_agrees_in_windows_of_the_usual_size(length: int) -> None:
    """Rotary angles up to those of the last place, where a power series needs care."""
    data = SOURCE[:length]
    model, payloads = coded(data, "sample", 1)
    assert modes(model, payloads[0], length) == [wire.TOKENS]
    positions = wire.parse(model).positions
    sample = load("sample")
    tokens = len(sample.vocabulary.tokens(data))
    assert positions == 256 and tokens > 132 and (tokens > positions) == (length > 180)
    assert decoded(model, payloads[0], length) == data
    assert reference.decode(model, payloads[0].tobytes(), length, Reference(sample)) == data


@pytest.mark.parametrize("name", ["sample", "sample-2"])  # with either version of numerics
def test_golden_archive(name: str) -> None:
    archive = (GOLDEN / "llm" / f"{name}.densor").read_bytes()
    frames = take_apart(archive)
    model = next(f.payload for f in frames if f.kind == MODEL)
    assert model[0] == CODEC_LANGUAGE_MODEL
    content = densor.decompress(archive)
    digest = hashlib.sha256(content).hexdigest()
    assert digest == "3e5430accaef3c4ceddc5e2654df72d32698725b1de8c72ff5af2c1c7569cf5b"
    payload = next(f.payload for f in frames if f.kind == CHUNK)
    network = Reference(load("sample"), model[1])
    assert reference.decode(model, payload, len(content), network) == content


# Files


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample model, where no name leads."""
    sample = Path(densor.__file__).parent / "data" / "sample"
    return Path(shutil.copytree(sample, tmp_path_factory.mktemp("llm") / "trained"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    path = tmp_path_factory.mktemp("files") / "book.txt"
    path.write_bytes(SOURCE)
    densor.compress_file(path, f"{path}.densor", llm=trained)
    return Path(f"{path}.densor")


def test_files(archive: Path, trained: Path, tmp_path: Path) -> None:
    moved: list[int] = []
    densor.decompress_file(archive, tmp_path / "out", llm=trained, progress=moved.append)
    assert (tmp_path / "out").read_bytes() == SOURCE
    assert sum(moved) == len(SOURCE)
    densor.verify_file(archive, llm=str(trained))
    with densor.open(archive, llm=trained) as file:
        assert file.read_file("book.txt") == SOURCE
    assert str(trained).encode() not in archive.read_bytes()


@pytest.mark.parametrize("verify", [None, False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_progress_adds_up(verify: bool | None, threads: int) -> None:
    moved: list[int] = []
    out = io.BytesIO()
    densor.compress_file(
        io.BytesIO(TEXT), out, threads=threads, llm="sample", verify=verify, progress=moved.append
    )
    assert sum(moved) == len(TEXT)
    assert len(moved) > 5
    out.seek(0)
    back = io.BytesIO()
    densor.decompress_file(out, back)
    assert back.getvalue() == TEXT


def test_a_model_that_is_missing_is_named(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="--llm"):
        densor.decompress_file(archive, tmp_path / "out")
    with pytest.raises(UnsupportedError, match="--llm"):
        densor.decompress(archive.read_bytes())
    assert not (tmp_path / "out").exists()


def test_another_model_is_refused(archive: Path, folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", tensors=weights(seed=2))
    for model in (other, folder):
        with pytest.raises(ArgumentError, match="another"):
            densor.decompress_file(archive, tmp_path / "out", llm=model)
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    words = write_folder(tmp_path / "words")
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(text.replace('"b": 1', '"c": 1'))
    model, payloads = coded(b"the eth e " * 10, folder, 1)
    assert modes(model, payloads[0], 100) == [wire.TOKENS]
    with pytest.raises(ArgumentError, match="tokens were others"):
        decoded(model, payloads[0], 100, words)


def test_a_model_that_does_not_load_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(TEXT)
    with pytest.raises(ArgumentError, match="no model"):
        densor.compress_file(tmp_path / "text", tmp_path / "out", llm=str(tmp_path / "no"))
    assert not (tmp_path / "out").exists()


# What the coder does when a machine errs


def test_what_does_not_decode_is_coded_without_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = LanguageModelDecoder.decode

    def wrong(self: LanguageModelDecoder, payload: Any, out: Any) -> None:
        decode(self, payload, out)
        out[out.size // 2] ^= 1

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelDecoder, "decode", wrong)
        session = Session("sample", check=True)
        found = LanguageModelEncoder(
            np.frombuffer(SOURCE[:600], np.uint8).copy(), session, Workers(1)
        )
        ((_, payload, size),) = found.encode().result().chunks
    assert wire.TOKENS not in modes(found.model(), payload, size)
    assert decoded(found.model(), payload, size) == SOURCE[:600]


def test_work_in_other_threads_ends_with_the_call() -> None:
    session = Session("sample")
    session.stop()
    with pytest.raises(CancelledError):
        session.moved(1)


# Damage


@pytest.fixture(scope="module")
def small() -> tuple[bytes, bytes, int]:
    data = TEXT[:240]
    model, payloads = coded(data, "sample", 2)
    return model, payloads[0].tobytes(), len(data)


def test_every_flipped_byte_is_noticed(small: tuple[bytes, bytes, int]) -> None:
    model, payload, size = small
    random = np.random.default_rng(1)
    for at in range(0, len(payload), 3):
        damaged = bytearray(payload)
        damaged[at] ^= int(random.integers(1, 256))
        try:  # the last bits of a stream may mean nothing
            found = decoded(model, np.frombuffer(bytes(damaged), np.uint8), size)
        except DensorError:
            continue
        assert found == TEXT[:size] and at > len(payload) // 4


def test_a_chunk_beyond_the_limit(small: tuple[bytes, bytes, int]) -> None:
    model, payload, _ = small
    with pytest.raises(LimitError):
        decoded(model, np.frombuffer(payload, np.uint8), wire.MAX_CHUNK + 1)


def test_a_wrong_hash_is_said_so(small: tuple[bytes, bytes, int]) -> None:
    model, payload, size = small
    damaged = bytearray(payload)
    damaged[5] ^= 1  # of the first segment's hash
    with pytest.raises(ChecksumError):
        decoded(model, np.frombuffer(bytes(damaged), np.uint8), size)


HOSTILE = {
    "version": (1, "B", 5, UnsupportedError),
    "version 0": (1, "B", 0, UnsupportedError),
    "no slots": (2, "H", 0, LimitError),
    "many slots": (2, "H", 65, LimitError),
    "no positions": (4, "I", 0, FormatError),
    "odd positions": (4, "I", 100, FormatError),
    "many positions": (4, "I", 1 << 20, LimitError),
    "no stride": (8, "I", 0, FormatError),
    "wide stride": (8, "I", 256, FormatError),
    "wild rate": (12, "I", (1 << 26) + 1, FormatError),
    "long name": (49, "B", 200, FormatError),
}


@pytest.mark.parametrize(("at", "kind", "value", "error"), HOSTILE.values(), ids=HOSTILE)
def test_impossible_parameters(
    small: tuple[bytes, bytes, int], at: int, kind: str, value: int, error: type[DensorError]
) -> None:
    model = bytearray(small[0])
    struct.pack_into(f"<{kind}", model, at, value)
    with pytest.raises(error):
        wire.parse(bytes(model))


def test_parameters_are_checked_as_a_whole(small: tuple[bytes, bytes, int]) -> None:
    model, payload, size = small
    assert wire.pack(wire.parse(model)) == model
    for at in range(len(model)):
        for bit in (0, 3, 6):
            changed = bytearray(model)
            changed[at] ^= 1 << bit
            with pytest.raises(DensorError):
                decoded(bytes(changed), np.frombuffer(payload, np.uint8), size)
                raise FormatError  # where only the number of segments or the name differs


def test_more_positions_than_the_model_has(small: tuple[bytes, bytes, int]) -> None:
    model = bytearray(small[0])
    struct.pack_into("<I", model, 4, 512)
    with pytest.raises(LimitError, match="positions"):
        decoded(bytes(model), np.frombuffer(small[1], np.uint8), small[2])


def test_damaged_archives(archive: Path, trained: Path) -> None:
    data = archive.read_bytes()
    random = np.random.default_rng(2)
    for _ in range(25):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << int(random.integers(8))
        with pytest.raises(DensorError):
            densor.verify_file(io.BytesIO(bytes(damaged)), llm=trained)
    for end in random.integers(0, len(data), 8):
        with pytest.raises(DensorError):
            densor.verify_file(io.BytesIO(data[:end]), llm=trained)
