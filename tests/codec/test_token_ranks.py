"""Ranks of tokens: every length and number of streams comes back, and what cannot be is refused."""

import struct

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state
from reference import token_ranks
from reference.reading import Refused

import densor
from densor.codec import registry
from densor.codec.batch import Batch
from densor.codec.codecs import decoder_for
from densor.codec.kind import as_tokens, kind_of_array
from densor.codec.levels import level_settings
from densor.codec.tokens import encoder, ranking
from densor.codec.tokens.encoder import propose
from densor.codec.tokens.params import (
    MAX_RANKED_BITS,
    MAX_RANKED_NODE_BITS,
    AnyParameters,
    Mixed,
    Parameters,
    Ranked,
    RankedMore,
    pack,
    parse,
)
from densor.codec.tokens.payload import coded, decoded
from densor.errors import FormatError
from densor.runtime.workers import Workers

Tokens = npt.NDArray[np.uint32]
_HEAD = 36  # bytes of a segment before its words


def text(count: int, vocabulary: int = 3000, seed: object = 0) -> Tokens:
    """Phrases that come again, and noise between them."""
    rng = random_state("token ranks", count, vocabulary, seed)
    phrases = [rng.integers(0, vocabulary, length) for length in rng.integers(1, 9, 200)]
    chosen = (rng.zipf(1.3, count + 1) % 200).tolist()
    found = np.concatenate([phrases[i] for i in chosen])[:count]
    return found.astype(np.uint32)


def payload_of(parameters: AnyParameters, tokens: Tokens) -> bytes:
    stream = coded(parameters, tokens, 2000 + 8 * tokens.size)
    assert stream is not None
    restored = np.full(tokens.size, 7, np.uint32)
    decoded(parameters, stream, restored)
    assert (restored == tokens).all()
    return stream.tobytes()


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 300, 511, 512, 513, 8191, 8192, 8200])
def test_lengths(count: int) -> None:
    for streams in (1, 2, 3, 16):
        parameters = Ranked(4, 5, 8, 8, streams)
        payload_of(parameters, np.full(count, 0xFFFFF, np.uint32))
        payload_of(parameters, np.zeros(count, np.uint32))
        payload_of(parameters, np.arange(count, dtype=np.uint32) * 113 % (1 << 20))
        payload_of(Ranked(2, 4, 9, 9, streams), text(count))
        payload_of(RankedMore(2, 4, 9, 9, streams), text(count))


METHODS = pytest.mark.parametrize("method", [Ranked, RankedMore])


@METHODS
@pytest.mark.parametrize("digits", [1, 2, 3, 4, 5])
def test_as_the_reference_has_it(
    digits: int, method: type[Ranked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks, segments and tables so small that all of these end, and contexts meet."""
    for module in (ranking, token_ranks):
        monkeypatch.setattr(module, "BLOCK" if module is ranking else "_BLOCK", 16)
        monkeypatch.setattr(module, "SEGMENT" if module is ranking else "_SEGMENT", 256)
    tokens = text(700, min(16**digits, 900), digits)
    for streams in (1, 3, 16):
        parameters = method(4, digits, 8, 8, streams)
        payload = payload_of(parameters, tokens)
        model = token_ranks.parse_model(pack(parameters))
        assert model.decode(payload, 4 * tokens.size) == tokens.astype("<u4").tobytes()


@pytest.mark.parametrize(
    "parameters",
    [
        Ranked(2, 4, MAX_RANKED_BITS, MAX_RANKED_NODE_BITS, 3),
        RankedMore(2, 4, MAX_RANKED_BITS, MAX_RANKED_NODE_BITS, 1),
    ],
)
def test_the_largest_tables_as_the_reference_has_them(parameters: Ranked) -> None:
    tokens = text(400)
    payload = payload_of(parameters, tokens)
    model = token_ranks.parse_model(pack(parameters))
    assert model.decode(payload, 2 * tokens.size) == tokens.astype("<u2").tobytes()


def test_more_contexts_are_taken_where_they_make_a_sample_smaller() -> None:
    tokens = text(30_000)
    proposed = propose(batch_of(tokens.astype(np.uint16)), level_settings(9))
    assert proposed is not None
    found = parse(proposed.coder.model())
    assert isinstance(found, RankedMore)
    assert len(payload_of(found, tokens)) < len(payload_of(Ranked(*found), tokens))


def test_repetitions_take_next_to_nothing() -> None:
    part = text(3000)
    alone = len(payload_of(Ranked(2, 4, 12, 13, 1), part))
    twice = len(payload_of(Ranked(2, 4, 12, 13, 1), np.tile(part, 2)))
    assert twice < 1.1 * alone
    assert len(payload_of(Ranked(2, 4, 12, 13, 4), np.zeros(100_000, np.uint32))) < 200


def test_noise_is_left() -> None:
    noise = random_state("rank noise").integers(0, 1 << 16, 20_000).astype(np.uint32)
    assert len(payload_of(Ranked(2, 4, 10, 11, 4), noise)) < 2.4 * noise.size
    assert coded(Ranked(2, 4, 10, 11, 4), noise, 2 * noise.size) is None


def test_the_payload_does_not_depend_on_the_kernel_being_called_again() -> None:
    tokens = text(5000)
    parameters = Ranked(2, 3, 10, 11, 4)
    assert payload_of(parameters, tokens) == payload_of(parameters, tokens)


def batch_of(tokens: npt.NDArray[np.uint16]) -> Batch:
    kind = as_tokens(kind_of_array("U16", tokens.shape))
    return Batch(tokens.view(np.uint8), kind, Workers(1))


@pytest.mark.parametrize(("level", "streams"), [(1, 16), (4, 16), (5, 4), (8, 4), (9, 1)])
def test_levels(level: int, streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest levels take more streams, the highest a single one."""
    monkeypatch.setattr(encoder, "_MATURE", 8192)
    monkeypatch.setattr(encoder, "_MANY", 4096)
    monkeypatch.setattr(encoder, "_coded_size", lambda p, *_: 2 - isinstance(p, Ranked))
    tokens = text(8192).astype(np.uint16)
    proposed = propose(batch_of(tokens), level_settings(level))
    assert proposed is not None
    found = parse(proposed.coder.model())
    assert isinstance(found, Ranked) and found.streams == streams
    few = propose(batch_of(tokens[:5000]), level_settings(level))
    assert few is not None
    assert parse(few.coder.model())[-1] == (1 if level == 9 else 4)


@pytest.mark.parametrize(("level", "bits"), [(1, 20), (4, 20), (5, 21), (8, 21), (9, 22)])
def test_tables_grow_with_the_level(level: int, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are tokens enough: of `text`, which are repeated, as many as a chunk has."""
    monkeypatch.setattr(encoder, "_coded_size", lambda p, *_: 2 - isinstance(p, Ranked))
    tokens = np.tile(text(1 << 12).astype(np.uint16), 1 << 11)
    proposed = propose(batch_of(tokens), level_settings(level))
    assert proposed is not None
    found = parse(proposed.coder.model())
    assert isinstance(found, Ranked) and (found.bits, found.node_bits) == (bits, bits + 1)


def test_no_level_is_larger_than_a_lower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_MATURE", 32_768)
    monkeypatch.setattr(encoder, "_MANY", 16_384)
    tokens = text(40_000).astype(np.uint16)
    sizes = [len(densor.compress(tokens, level, tokens=True)) for level in (4, 5, 9)]
    assert sizes == sorted(sizes, reverse=True)
    packed = densor.compress(tokens, 3, tokens=True)
    assert (densor.decompress(packed) == tokens).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1}, {"digits": 0}, {"digits": 5}, {"bits": 7}, {"bits": 23}, {"node_bits": 7},
        {"node_bits": 24}, {"streams": 0}, {"streams": 17},
    ],
)  # fmt: skip
def test_parameters_that_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(FormatError):
        decoder_for(pack(Ranked(2, 4, 10, 10, 2)._replace(**changes)))


@METHODS
def test_models_of_another_length(method: type[Ranked]) -> None:
    model = pack(method(2, 4, 10, 10, 2))
    number = registry.CODEC_TOKEN_RANKS if method is Ranked else registry.CODEC_TOKEN_RANKS_MORE
    assert model[0] == number
    for payload in (model[:1], model[:-1], model + b"\0"):
        with pytest.raises(FormatError):
            decoder_for(payload)


GOOD = Ranked(2, 4, 10, 10, 3)


def refused(payload: bytes, size: int, parameters: AnyParameters = GOOD) -> None:
    decoder = decoder_for(pack(parameters))
    with pytest.raises(FormatError):
        decoder.decode(np.frombuffer(payload, np.uint8), np.empty(size, np.uint8))  # type: ignore[union-attr]


def test_chunks_that_cannot_be() -> None:
    tokens = text(500)
    payload = payload_of(GOOD, tokens)
    (count,) = struct.unpack_from("<I", payload)
    for length in (0, 1, _HEAD - 1, _HEAD, len(payload) - 4, len(payload) - 1):
        refused(payload[:length], 1000)
    refused(payload + bytes(4), 1000)
    for size in (0, 2, 998, 999, 1006, 2000):
        refused(payload, size)
    for words in (0, count - 1, count + 1, 0xFFFFFFFF):
        refused(struct.pack("<I", words) + payload[4:], 1000)
    refused(struct.pack("<I", count + 1) + payload[4:] + bytes(4), 1000)
    for at in range(4, _HEAD, 8):  # states
        refused(payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :], 1000)
        refused(payload[:at] + b"\xff" * 8 + payload[at + 8 :], 1000)


def test_tokens_beyond_the_end_are_none() -> None:
    """500 tokens in three streams are followed by one that must be 0."""
    tokens = np.append(text(500), np.uint32(1))
    refused(payload_of(GOOD, tokens), 1000)
    tokens[-1] = 0
    found = np.empty(1000, np.uint8)
    payload = np.frombuffer(payload_of(GOOD, tokens), np.uint8)
    decoder_for(pack(GOOD)).decode(payload, found)  # type: ignore[union-attr]
    assert (found.view("<u2") == tokens[:500]).all()


def test_a_rank_of_no_candidate_is_refused() -> None:
    """The first rank, where nothing is known yet: a state whose low bits are of the last symbol."""
    rest = [1 << 31] * 3
    for low, error in ((32767, "end"), (0, "end")):
        payload = struct.pack("<I4Q", 0, (1 << 31) | low, *rest)
        with pytest.raises(FormatError, match=error):
            decoded(Ranked(2, 1, 8, 8, 1), np.frombuffer(payload, np.uint8), np.zeros(1, np.uint32))
    words = np.zeros(1, np.uint32)
    for low, result in ((32767, -1), (0, 0)):
        model = ranking._Model.of(Ranked(2, 1, 8, 8, 1))
        coder = np.array([(1 << 50) | low, *[1 << 50] * 3], np.uint64)
        assert model.run(False, np.zeros(1, np.uint32), range(1), coder, words) == result


@METHODS
def test_any_payload_ends_in_an_error_or_tokens(method: type[Ranked]) -> None:
    """Noise and damage, as the reference has it."""
    rng = random_state("rank damage")
    tokens = text(400, 300)
    parameters = method(2, 3, 8, 8, 2)
    payload = payload_of(parameters, tokens)
    model = token_ranks.parse_model(pack(parameters))
    for _ in range(40):
        damaged = bytearray(payload)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        found = np.zeros(tokens.size, np.uint32)
        try:
            decoded(parameters, np.frombuffer(bytes(damaged), np.uint8), found)
        except FormatError:
            with pytest.raises(Refused):
                model.decode(bytes(damaged), 2 * tokens.size)
        else:
            restored = model.decode(bytes(damaged), 2 * tokens.size)
            assert restored == found.astype("<u2").tobytes()


@METHODS
def test_distributions_stay_in_order(method: type[Ranked]) -> None:
    """Each of 16 symbols keeps a share, whatever nodes learn and however they are mixed."""
    for period in (1, 2, 16):
        tokens = np.arange(40_000, dtype=np.uint32) // 300 % period
        tokens[::777] = np.arange(tokens[::777].size) % 16
        payload_of(method(2, 1, 8, 8, 1), tokens)


@pytest.mark.parametrize("kind", [Mixed, Parameters])
def test_the_smallest_method_is_taken(kind: type) -> None:
    tokens = text(6000).astype(np.uint16)
    proposed = propose(batch_of(tokens), level_settings(3))
    assert proposed is not None
    chosen = coded(parse(proposed.coder.model()), tokens.astype(np.uint32), 1 << 20)
    fields = parse(proposed.coder.model())[:4]
    other = coded(
        kind(*fields[:3], *([fields[3], 1] if kind is Mixed else [])),
        tokens.astype(np.uint32),
        1 << 20,
    )
    assert chosen is not None and other is not None
    assert chosen.size <= other.size
