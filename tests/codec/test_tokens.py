"""Tokens: which batches are taken for them, in several codebooks too, and parameters that lie."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state

import densor
from densor.codec.batch import Batch
from densor.codec.codecs import decoder_for
from densor.codec.kind import as_tokens, kind_of_array
from densor.codec.levels import level_settings
from densor.codec.tokens import encoder
from densor.codec.tokens.encoder import propose, suits
from densor.codec.tokens.params import HEAD, MIXED_HEAD, Mixed, Parameters, Ranked, pack, parse
from densor.codec.tokens.payload import coded, decoded
from densor.errors import DensorError, FormatError
from densor.runtime.workers import Workers


def words(count: int, vocabulary: int = 3000, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Tokens in which a word mostly has few successors, as in a text."""
    rng = random_state("tokens", count, vocabulary, seed)
    after = rng.zipf(1.3, (vocabulary, 6)) % vocabulary
    tokens = np.empty(count, np.uint16)
    token = 1
    for i, (which, jump) in enumerate(
        zip(rng.integers(0, 6, count).tolist(), (rng.random(count) < 0.1).tolist(), strict=True)
    ):
        token = (token * 7 + i) % vocabulary if jump else int(after[token, which])
        tokens[i] = token
    return tokens


def batch_of(array: npt.NDArray[np.generic], told: bool = False) -> Batch:
    kind = kind_of_array(
        f"{'U' if array.dtype.kind == 'u' else 'I'}{8 * array.itemsize}", array.shape
    )
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Batch(data, as_tokens(kind) if told else kind, Workers(1))


def test_texts_are_found_at_level_5() -> None:
    tokens = words(20_000)
    plain, found = densor.compress(tokens, 3), densor.compress(tokens, 5)
    assert len(found) < 0.9 * len(plain)
    assert (densor.decompress(found) == tokens).all()
    assert suits(batch_of(tokens), level_settings(5))
    assert not suits(batch_of(tokens), level_settings(3))
    assert suits(batch_of(tokens, told=True), level_settings(3))


@pytest.mark.parametrize("dtype", ["<u2", "<i4", ">u2"])
def test_asked_for_at_level_1(dtype: str) -> None:
    tokens = words(20_000).astype(dtype).reshape(40, 500)
    packed = densor.compress(tokens, 1, tokens=True)
    assert len(packed) < len(densor.compress(tokens, 1))
    restored = densor.decompress(packed)
    assert restored.dtype == tokens.dtype
    assert restored.tobytes() == tokens.tobytes()


def test_plain_bytes_are_tokens_of_16_bits_where_asked_for(tmp_path: Path) -> None:
    data = words(20_000).tobytes()
    for content in (data, data + b"x"):
        packed = densor.compress(content, tokens=True)
        assert bytes(densor.decompress(packed)) == content
    assert len(densor.compress(data, tokens=True)) < 0.9 * len(densor.compress(data))
    wide = words(20_000).astype("<u4").tobytes()
    assert len(densor.compress(wide, dtype="u32", tokens=True)) < 0.9 * len(densor.compress(data))
    (tmp_path / "corpus.bin").write_bytes(data)
    np.save(tmp_path / "corpus.npy", words(20_000))
    for name in ("corpus.bin", "corpus.npy"):
        sizes = densor.pack([tmp_path / name], tmp_path / f"{name}.densor", tokens=True)
        assert sizes.stored < 0.9 * len(densor.compress(data))


def test_noise_and_large_numbers_are_no_tokens() -> None:
    rng = random_state("no tokens")
    noise = rng.integers(0, 1 << 16, 20_000).astype("<u2")
    large = rng.integers(0, 1 << 31, 20_000).astype("<u4")
    steps = np.arange(0, 60_000, 3, dtype="<u2")
    for array in (noise, large, steps):
        assert not suits(batch_of(array), level_settings(6))
        for level in (1, 6):
            asked = densor.compress(array, level, tokens=True)
            assert len(asked) <= len(densor.compress(array, level))
            assert (densor.decompress(asked) == array).all()
    assert propose(batch_of(large, told=True), level_settings(6)) is None


def test_codebooks_in_their_own_order_are_smaller() -> None:
    first = words(6000, 500)
    books = np.stack([first, first * 3 % 1024, first * 5 % 1000, first + 7]).astype("<u2")
    several = np.stack([books, books[:, ::-1]])
    encoder = propose(batch_of(several, told=True), level_settings(6))
    assert encoder is not None
    assert encoder.coder.model()[4:] == struct.pack("<II", 4, 6000)
    found = densor.compress(several, 6)
    assert len(found) < 0.8 * len(densor.compress(several.reshape(-1), 6))
    assert (densor.decompress(found) == several).all()


def restores(parameters: Parameters | Mixed, tokens: npt.NDArray[np.uint32]) -> bool:
    stream = coded(parameters, tokens, 400 + 8 * tokens.size)
    assert stream is not None
    restored = np.full(tokens.size, 7, np.uint32)
    decoded(parameters, stream, restored)
    return bool((restored == tokens).all())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 300])
@pytest.mark.parametrize("rows", [1, 3])
def test_few_tokens(count: int, rows: int) -> None:
    parameters = Parameters(2, 4, 8, rows, count if rows > 1 else 0)
    for tokens in (np.zeros(rows * count, np.uint32), np.full(rows * count, 65535, np.uint32)):
        assert restores(parameters, tokens)
    for streams in (1, 2, 16):
        mixed = Mixed(4, 5, 8, 8, streams)
        for token in (0, 65535, 0xFFFFF):
            assert restores(mixed, np.full(count, token, np.uint32))
        assert restores(mixed, np.arange(count, dtype=np.uint32) * 3000)


def test_streams_share_what_they_learn() -> None:
    """Four parts that are the same: one stream after the other, or at once, they are found."""
    part = words(3000).astype(np.uint32)
    alone = coded(Mixed(2, 4, 12, 13, 1), part, 6000)
    together = coded(Mixed(2, 4, 12, 13, 4), np.tile(part, 4), 24_000)
    in_turn = coded(Mixed(2, 4, 12, 13, 1), np.tile(part, 4), 24_000)
    assert alone is not None and together is not None and in_turn is not None
    assert in_turn.size < 1.3 * alone.size
    assert together.size < 3 * alone.size


def test_the_smallest_method_is_taken() -> None:
    """Of few tokens, of which the sample is all."""
    rng = random_state("tokens phrases")
    phrases = [rng.integers(0, 3000, length) for length in rng.integers(2, 9, 900)]
    chosen = (rng.zipf(1.2, 6000) % 900).tolist()
    phrased = np.concatenate([phrases[i] for i in chosen]).astype("<u2")
    taken = set()
    for tokens in (words(30_000), words(9000, 200), phrased, np.tile(phrased, 2)):
        proposed = propose(batch_of(tokens, told=True), level_settings(6))
        assert proposed is not None
        best = parse(proposed.coder.model())
        bits, digits = best.bits, best.digits
        ways = Mixed(2, digits, bits, bits + 1, 1), Parameters(2, digits, bits)
        for way in (*ways, Ranked(*ways[0])):
            own, other = (coded(p, tokens.astype(np.uint32), 1 << 20) for p in (best, way))
            assert own is not None and other is not None
            assert own.size <= other.size
        taken.add(type(best))
    assert len(taken) > 1


def test_carries_reach_back() -> None:
    """Many streams of noise, in which all patterns of carries occur."""
    rng = random_state("tokens carry")
    for parameters in (Parameters(2, 4, 8), Mixed(2, 4, 8, 8, 1)):
        for _ in range(60):
            assert restores(parameters, rng.integers(0, 1 << 16, 500).astype(np.uint32))


def test_what_does_not_get_smaller_is_left() -> None:
    noise = random_state("tokens noise").integers(0, 1 << 16, 3000).astype(np.uint32)
    for parameters in (Parameters(2, 4, 8), Mixed(2, 4, 8, 8, 3)):
        assert coded(parameters, noise, 2 * noise.size) is None


GOOD = Parameters(2, 4, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1}, {"size": 8}, {"digits": 0}, {"digits": 5}, {"size": 4, "digits": 6},
        {"bits": 7}, {"bits": 21}, {"bits": 255}, {"rows": 0}, {"rows": 129, "columns": 4},
        {"rows": 2}, {"rows": 1, "columns": 9}, {"rows": 2, "columns": 1 << 31},
    ],
)  # fmt: skip
def test_parameters_that_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(FormatError):
        decoder_for(pack(GOOD._replace(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1}, {"digits": 0}, {"digits": 5}, {"bits": 7}, {"bits": 22}, {"node_bits": 7},
        {"node_bits": 23}, {"streams": 0}, {"streams": 17},
    ],
)  # fmt: skip
def test_parameters_of_streams_that_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(FormatError):
        decoder_for(pack(Mixed(2, 4, 10, 10, 2)._replace(**changes)))


def test_streams_that_cannot_be() -> None:
    parameters = Mixed(2, 4, 10, 10, 3)
    model = pack(parameters)
    assert len(model) == MIXED_HEAD.size
    stream = coded(parameters, words(500).astype(np.uint32), 2000)
    assert stream is not None
    first, second = struct.unpack("<II", stream[:8].tobytes())
    rest = stream[8:].tobytes()
    decoder = decoder_for(model)
    damaged = [
        (b"", 1000), (stream[:7].tobytes(), 1000), (stream[:-1].tobytes(), 1000),
        (stream.tobytes() + b"\0", 1000), (stream.tobytes(), 999), (stream.tobytes(), 1002),
        (struct.pack("<II", first - 1, second + 1) + rest, 1000),
        (struct.pack("<II", first + 2, second) + rest, 1000),
        (struct.pack("<II", 0xFFFFFFFF, second) + rest, 1000),
        (struct.pack("<II", first, len(rest) - first + 1) + rest, 1000),
        (stream.tobytes(), 2),
    ]  # fmt: skip
    for payload, size in damaged:
        chunk = np.frombuffer(payload, np.uint8)
        with pytest.raises(FormatError):
            decoder.decode(chunk, np.empty(size, np.uint8))  # type: ignore[union-attr]
    restored = np.empty(1000, np.uint8)
    decoder.decode(stream, restored)  # type: ignore[union-attr]
    assert (restored.view("<u2") == words(500)).all()


def test_chunks_that_cannot_be() -> None:
    model = pack(GOOD)
    for payload in (model[:-1], model + b"\0"):
        with pytest.raises(FormatError):
            decoder_for(payload)
    tokens = words(500).astype(np.uint32)
    stream = coded(GOOD, tokens, 2000)
    assert stream is not None
    decoder = decoder_for(model)
    for payload, size in ((stream, 999), (stream[:-1], 1000), (stream[:3], 1000), (stream, 2000)):
        with pytest.raises(DensorError):
            decoder.decode(payload, np.empty(size, np.uint8))  # type: ignore[union-attr]
    books = decoder_for(pack(Parameters(2, 4, 10, 2, 300)))
    with pytest.raises(FormatError, match="length"):
        books.decode(stream, np.empty(1000, np.uint8))  # type: ignore[union-attr]
    assert len(model) == HEAD.size


@pytest.mark.parametrize(("share", "count", "ranked"), [(2, 4, True), (2, 3, False), (4, 4, False)])
def test_of_many_tokens_ranks_may_take_a_little_more_of_a_sample(
    share: int, count: int, ranked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They learn longer."""
    sizes = {Mixed: 150, Ranked: 100 + share, Parameters: 100}
    monkeypatch.setattr(encoder, "_MATURE", 4096)
    monkeypatch.setattr(encoder, "_coded_size", lambda p, *_: sizes[type(p)])
    tokens = np.arange(1024 * count, dtype=np.uint16)
    proposed = propose(batch_of(tokens, told=True), level_settings(3))
    assert proposed is not None
    assert (type(parse(proposed.coder.model())) is Ranked) == ranked
