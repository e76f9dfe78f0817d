"""Tokens under the language model whose they are: right ones or a DensorError."""

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llm_models import WORDS, write_folder
from paths import GOLDEN
from reference import language_model as reference
from reference.network import Reference

import densor
from densor.codec.batch import Batch
from densor.codec.kind import as_tokens as told_tokens
from densor.codec.kind import kind_of
from densor.codec.language_model import choices, params, token_chunks
from densor.codec.language_model.decoder import open_decoder
from densor.codec.language_model.session import Session
from densor.codec.language_model.token_encoder import TokensByModelEncoder
from densor.errors import DensorError, FormatError, LimitError, UnsupportedError
from densor.files.language_models import load
from densor.runtime.workers import Workers

RNG = np.random.default_rng(14)
TEXT = b"A codec codes a text of the language, and decodes it. "
PROSE = b"""The tokens of a text are numbers, and who trains a model keeps them as such: two bytes
each, one after the other, without the words that they stand for. A general compressor sees pairs of
bytes, of which one looks like noise. A model that knows what the numbers mean reads them as
what they were before, and expects of each how likely it is to come next; so they take what the text
itself would take, and come back as they were, even where another tokeniser would have cut them."""
Numbers = npt.NDArray[Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("llm") / "tiny")


def sample_tokens(text: bytes, dtype: str = "<u2") -> Numbers:
    words = load("sample").vocabulary
    return words.numbers[np.array(words.tokens(text))].astype(dtype)


def coded(tokens: Numbers, model: Any, slots: int = 1) -> tuple[bytes, Any]:
    """MODEL payload and the payload of one chunk, in windows of 64 tokens."""
    kind = told_tokens(kind_of(f"U{8 * tokens.itemsize}", tokens.shape))
    batch = Batch(tokens.view(np.uint8), kind, Workers(1), session=Session(model))
    assert batch.session is not None
    ranks = token_chunks.ranks_of(batch.session.weights().vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "_SLOTS", ((0, slots),))
        patch.setattr(choices, "_POSITIONS", 64)
        encoder = TokensByModelEncoder(batch, ranks)
        encoder.settle(4.0, TEXT)
        (chunk,) = encoder.encode().result().chunks
    return encoder.model(), np.array(chunk.payload)


def decoded(model: bytes, payload: Any, size: int, given: Any = None) -> bytes:
    out = np.zeros(size, np.uint8)
    open_decoder(model, Session(given)).decode(np.array(payload), out)
    return out.tobytes()


CASES = {
    "any": RNG.integers(0, len(WORDS), 150),
    "one": np.array([8]),
    "longer than the window": np.tile([0, 9, 8, 2], 40),
    "with others": np.where(np.arange(150) % 9, RNG.integers(0, len(WORDS), 150), 65535),
    "others at both ends": np.array([13, 60000, 0, 1, 2, 200, 13]),
    "a segment of others": np.array([0, 1, 2, 999, 999, 999, 3, 4, 5]),
}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize("case", CASES)
def test_come_back(case: str, dtype: str, slots: int, folder: Path) -> None:
    """Whatever the model's own tokeniser would make of the same text."""
    tokens = CASES[case].astype(dtype)
    if dtype == "<u4" and case == "with others":
        tokens[tokens == 65535] = 2**32 - 1
    model, payload = coded(tokens, folder, slots)
    if payload.size == tokens.nbytes:  # which was not smaller
        return
    assert decoded(model, payload, tokens.nbytes, folder) == tokens.tobytes()


def test_is_smaller_and_as_the_reference_has_it() -> None:
    tokens = sample_tokens(TEXT * 2)
    tokens[50] = 40000
    model, payload = coded(tokens, "sample")
    assert payload.size < 0.3 * tokens.nbytes
    assert decoded(model, payload, tokens.nbytes) == tokens.tobytes()
    network = Reference(load("sample"))
    found = reference.decode(model, payload.tobytes(), tokens.nbytes, network)
    assert found == tokens.tobytes()


def test_damaged_payloads_are_refused(folder: Path) -> None:
    tokens = CASES["longer than the window"].astype("<u2")
    tokens[5] = 500
    model, payload = coded(tokens, folder, 2)
    assert payload.size < tokens.nbytes
    for size in (0, 5, 11, 15, 19, 20, 22, payload.size - 1):
        with pytest.raises(DensorError):
            decoded(model, payload[:size], tokens.nbytes, folder)
    for at in range(payload.size):
        worse = payload.copy()
        worse[at] ^= 1 << int(RNG.integers(8))
        with contextlib.suppress(DensorError):  # the end of a stream may be another one
            assert decoded(model, worse, tokens.nbytes, folder) == tokens.tobytes()
    with pytest.raises(DensorError):
        decoded(model, np.append(payload, np.uint8(0)), tokens.nbytes, folder)
    for size in (0, tokens.nbytes - 1, tokens.nbytes - 2, tokens.nbytes + 2):
        with pytest.raises(DensorError):
            decoded(model, payload, size, folder)


def test_headers_that_cannot_be(folder: Path) -> None:
    tokens = CASES["longer than the window"].astype("<u2")
    model, payload = coded(tokens, folder)
    parsed = params.parse(model)
    assert parsed.token_bytes == 2
    chunk = token_chunks.parse(parsed, payload, tokens.size)

    def refused(error: type, **changes: Any) -> None:
        new = chunk._replace(**changes)
        packed = token_chunks.pack(new.digest, new.others, new.texts, new.stream)
        with pytest.raises(error):
            decoded(model, packed, tokens.nbytes, folder)

    def others(*pairs: int) -> token_chunks.Others:
        return token_chunks.Others(np.array(pairs[::2]), np.array(pairs[1::2], np.uint32))

    refused(LimitError, texts=[params.MAX_CHUNK + 1])
    refused(FormatError, texts=[tokens.size - 1])
    refused(FormatError, texts=[256 * tokens.size])
    refused(FormatError, others=others(tokens.size, 500))
    refused(FormatError, others=others(3, 65536))
    refused(FormatError, others=others(3, 500))  # one token too many
    for version, size in ((4, 0), (4, 3), (4, 8)):
        with pytest.raises(FormatError):
            params.parse(bytes([model[0], version]) + model[2:-1] + bytes([size]))
    with pytest.raises(FormatError):
        params.parse(model[:-1])
    with pytest.raises(UnsupportedError):
        params.parse(bytes([model[0], 5]) + model[2:])
    again = replace(parsed, token_bytes=4)
    assert params.parse(params.pack(again)) == again


@pytest.mark.parametrize("packed", [b"\x80", b"\x01", b"\xff\xff\xff\xff\xff\x01\x01", b"\x01\x80"])
def test_numbers_that_cannot_be(packed: bytes) -> None:
    with pytest.raises(FormatError):
        token_chunks._parse_others(packed, 100, 2)


def test_packed_and_unpacked_under_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = sample_tokens(PROSE)
    for options in ({"tokens": True}, {}):
        done: list[int] = []
        packed = densor.compress(tokens, llm="sample", progress=done.append, **options)
        assert sum(done) == tokens.nbytes
        back = densor.decompress(packed)
        assert back.dtype == tokens.dtype
        assert np.array_equal(back, tokens)
        assert len(packed) < len(densor.compress(tokens, tokens=True)) - 30
    plain = densor.compress(tokens.tobytes(), llm="sample", tokens=True)
    assert densor.decompress(plain) == tokens.tobytes()
    assert len(plain) < len(densor.compress(tokens.tobytes(), tokens=True)) - 30


def test_takes_about_what_the_text_does() -> None:
    as_text = len(densor.compress(PROSE, llm="sample"))
    assert (
        len(densor.compress(sample_tokens(PROSE), llm="sample")) < as_text + 80
    )  # shape, lines that are not joined


def test_of_another_vocabulary_are_left_to_others() -> None:
    """As small as without a model."""
    for tokens in (RNG.integers(0, 60000, 900), RNG.integers(32, 127, 900)):
        tokens = tokens.astype(np.uint16)
        with_model = densor.compress(tokens, llm="sample", tokens=True)
        assert len(with_model) <= len(densor.compress(tokens, tokens=True))
        assert np.array_equal(densor.decompress(with_model), tokens)


def test_golden_archive() -> None:
    archive = (GOLDEN / "llm" / "sample-4.densor").read_bytes()
    tokens = densor.decompress(archive)
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()
    assert digest == "96ecb20edf93e4270bbc708fe9b08c51b5c6e59da86d5127310090a91d3b6f6c"
