"""Chunks of ranks of tokens for `make_telling.py`: all columns of masses, and heads at bounds."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
from codec_cases import CodecCase
from reference import token_ranks
from telling_tokens import sequences

from densor.codec.tokens.encoder import TokensEncoder
from densor.codec.tokens.params import Ranked, RankedMore

Made = Iterator[CodecCase]
KINDS = (Ranked, RankedMore)
_HEAD = 36  # bytes of a segment before its words


def ranks(rng: Random) -> Made:
    """Sequences under all settings, digits that are missed often, then what is refused."""
    settings = ((2, 4, 8, 8, 1), (4, 5, 12, 14, 1), (2, 3, 9, 10, 2), (2, 2, 22, 23, 3))
    for kind in KINDS:
        for number, head in enumerate(settings):
            limit = min(16 ** head[1], 256 ** head[0])
            every = () if number == 1 else sequences(rng, limit)
            missed = _missed(rng, limit) if number == 1 else ()
            for name, sequence in (*every, *missed):
                if number < 2 or name in ("few", "broken", "skewed", "ends"):
                    yield _case(f"{kind.__name__}-{number}-{name}", kind(*head), sequence)
        yield from _first(kind)
        yield from _lengths(kind, rng)
        yield from _heads(kind, rng)
        yield from _faults(kind, rng)


def _case(name: str, parameters: Ranked, sequence: list[int]) -> CodecCase:
    """By the encoder."""
    data = np.array(sequence, f"<u{parameters.size}").view(np.uint8)
    coder = TokensEncoder(parameters)
    payload = bytes(coder.encode(data, 0))
    assert payload != data.tobytes(), name
    return CodecCase(f"telling-token_ranks-{name}", coder.model(), payload, data.size)


def _missed(rng: Random, limit: int) -> Iterator[tuple[str, list[int]]]:
    """Tokens that slots have no place for, under few contexts, so that digits are learned."""
    for most, length, step in ((40, 500, 1), (90, 900, 1), (30, 400, 16), (120, 1200, 3)):
        some = [(7 + step * i) % limit for i in range(most)]
        for before in ((), (5,), (5, 6), (5, 6, 4)):
            items = [t for _ in range(length // 2) for t in (*before, rng.choice(some))]
            yield f"missed-{most}-{len(before)}", items[:length]
    some = [rng.randrange(limit) for _ in range(60)]
    yield "rare", [t for _ in range(220) for t in (rng.randrange(4), rng.choice(some))]
    yield "turns of six", [some[(i * i // 5 + rng.randrange(2)) % 6] for i in range(700)]
    phrases = [rng.choices(some, k=rng.randrange(2, 9)) for _ in range(12)]
    yield "phrases", [t for _ in range(110) for t in rng.choice(phrases)]
    yield "matches", [*some, *some[:31], some[3], *some[:9], 2, *some[:4], 1, *some[:26], 0] * 2


def _first(kind: type[Ranked]) -> Made:
    """A token behind which the slot is the one that the first token of all was learned in."""
    for token in range(1 << 16):
        hashed = (token + 1) * token_ranks._ODD % 2**64
        if hashed >> 56 == 0 and hashed >> 20 & 63 == 0:
            yield _case(
                f"{kind.__name__}-first-{token}", kind(2, 4, 8, 8, 1), [77, 5, token, 77] * 5
            )
            return


def _lengths(kind: type[Ranked], rng: Random) -> Made:
    """Whole blocks of all streams, and what is left of them."""
    few = [rng.randrange(4096) for _ in range(6)]
    for streams in (2, 3, 5, 16):
        for count in (*range(streams), 512 * streams - 1, 512 * streams, 512 * streams + 1):
            items = rng.choices(few, (90, 9, 1, 1, 1, 1), k=count)
            if 32 + 4 < 2 * count < 7000:
                name = f"{kind.__name__}-length-{streams}-{count}"
                yield _case(name, kind(2, 4, 8, 8, streams), items)


def _heads(kind: type[Ranked], rng: Random) -> Made:
    """Fields of a head at their bounds."""
    items = rng.choices(range(12), range(12, 0, -1), k=120)
    edges: tuple[tuple[int, tuple[int, ...]], ...] = (
        (1, (0, 1, 2, 3, 4, 5, 8)),
        (2, (0, 1, 2, 3, 4, 5, 6)),
        (3, (7, 8, 9, 15, 16, 17, 21, 22, 23)),
        (4, (7, 8, 9, 21, 22, 23, 24)),
        (5, (0, 1, 2, 15, 16, 17)),
    )
    for head in ((2, 4, 9, 9, 1), (4, 5, 8, 8, 2)):
        good = _case(f"{kind.__name__}-head-{head[0]}", kind(*head), items)
        yield good
        for field, values in edges:
            for value in values:
                model = good.model[:field] + bytes([value]) + good.model[field + 1 :]
                fields = list(model[1:])
                name = f"{kind.__name__}-head-{model.hex()}"
                try:
                    yield _case(name, kind(*fields), items)
                except Exception:  # no encoder takes it
                    yield replace(good, name=f"telling-token_ranks-{name}", model=model)
        for length in (1, 3, 5, 7):
            name = f"telling-token_ranks-{kind.__name__}-model-{length}"
            yield replace(good, name=name, model=(good.model + b"\0")[:length])


def _faults(kind: type[Ranked], rng: Random) -> Made:
    """Chunks that do not end as they should, hold too much, or no whole tokens."""
    label = f"telling-token_ranks-{kind.__name__}"
    items = rng.choices(range(12), range(12, 0, -1), k=180)
    good = _case(f"{kind.__name__}-good", kind(4, 3, 8, 8, 3), items)
    yield good
    payload = good.payload
    for length in (0, 3, 4, 35, 36, len(payload) - 4, len(payload) - 1):
        yield replace(good, name=f"{label}-cut-{length}", payload=payload[:length])
    yield replace(good, name=f"{label}-behind", payload=payload + b"\0")
    (count,) = struct.unpack_from("<I", payload)
    for words, tail in ((count - 1, b""), (count + 1, bytes(4)), (count - 1, None)):
        changed = struct.pack("<I", words) + payload[4:]
        changed = changed[:-4] if tail is None else changed + tail
        yield replace(good, name=f"{label}-words-{words - count}-{tail}", payload=changed)
    for at in (4, 12, 20, 28, _HEAD, len(payload) - 1):
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        yield replace(good, name=f"{label}-flipped-{at}", payload=changed)
    for size in (good.size - 4, good.size - 8, good.size - 1, good.size + 4, good.size + 12):
        yield replace(good, name=f"{label}-size-{size}", size=size)
    for last in (0, 1):  # behind the end of the last stream, where a token other than 0 is a fault
        whole = _case("x", kind(4, 3, 8, 8, 3), [*items[:-1], last])
        yield replace(whole, name=f"{label}-rest-{last}", size=whole.size - 4)
