"""Chunks of tokens for `make_telling.py`: runs, long matches, slots that are full, heads at bounds.

Some are made by the encoder from sequences that take its model to its bounds, others are streams
by chance, cut behind what was taken.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random

import numpy as np
from codec_cases import CodecCase
from reference import tokens, tokens_mixed
from reference.reading import Refused
from telling_chunks import cut, made, streams

from densor.codec.tokens.encoder import TokensEncoder
from densor.codec.tokens.params import Mixed, Parameters

Made = Iterator[CodecCase]
MOST_TOKENS = 1 << 24


def sequences(rng: Random, limit: int) -> Iterator[tuple[str, list[int]]]:
    """Sequences of numbers below a limit."""

    def any_one() -> int:
        return rng.randrange(limit)

    few = [any_one() for _ in range(5)]
    yield "one", [few[0]] * 140
    yield "two", few[:2] * 40
    yield "cycle", [any_one() for _ in range(9)] * 12
    long = [any_one() for _ in range(30)]
    yield "broken", [*long, *long[:20], few[0], *long, *long, few[1], *long[5:]]
    yield "few", rng.choices(few[:3], k=160)
    yield "skewed", rng.choices(few, (60, 9, 5, 2, 1), k=300)
    yield "runs", [one for one in rng.choices(few, k=24) for _ in range(rng.randrange(1, 18))]
    yield "beside", [one for _ in range(150) for one in (few[0], any_one())]
    yield "two beside", [one for _ in range(60) for one in (few[0], rng.choice(few), any_one())]
    yield "small steps", [(i * i // 7 + rng.randrange(3)) % min(limit, 60) for i in range(120)]
    yield "learned", [one for _ in range(300) for one in (few[0], rng.randrange(min(limit, 40)))]
    turns = [one for k in (3, 4, 5, 8, 9, 17, 30, 70) for one in [few[0]] * k + [few[1]]]
    yield "counts", turns
    yield "counts of others", [one for _ in range(30) for one in (*few[:4], few[1], few[1])]
    yield "distinct", [t for one in rng.sample(range(limit), min(limit, 500)) for t in (3, one)]
    yield "many", rng.choices([any_one() for _ in range(9)], range(9, 0, -1), k=500)
    yield "long one", [few[0]] * 1600
    every = range(min(limit, 200))
    yield "never", [t for _ in range(4) for one in rng.sample(every, len(every)) for t in (9, one)]
    bursts = [rng.choice(few) for _ in range(30)]
    bursts = [one for one in bursts for _ in range(rng.choice((1, 2, 9, 40)))]
    yield "bursts", [token for one in bursts for token in (few[0], one)]
    yield "ends", [limit - 1, 0] * 8 + [limit - 1] * 5


def one_sequence(rng: Random) -> Made:
    """By candidates and digits: a sequence, or several codebooks."""
    yield from _heads(rng)
    settings = ((2, 4, 8), (2, 3, 12), (4, 5, 16), (2, 1, 9), (4, 2, 17), (2, 2, 20), (4, 3, 19))
    for number, (size, digits, bits) in enumerate(settings):
        for name, sequence in sequences(rng, min(16**digits, 256**size)):
            yield from _encoded(f"tokens-{number}-{name}", Parameters(size, digits, bits), sequence)
    shapes = ((2, 30), (3, 24), (4, 9), (33, 4), (40, 3), (2, 1), (5, 2), (128, 1))
    for number, (rows, columns) in enumerate(shapes):
        for digits in (2, 3, 4):
            parameters = Parameters(4 if digits < 4 else 2, digits, 10, rows, columns)
            for name, sequence in sequences(rng, 16**digits):
                count = rows * columns * rng.choice((1, 2))
                items = (sequence * count)[:count]
                if rng.random() < 0.3:
                    yield from _encoded(f"tokens-books-{number}-{digits}-{name}", parameters, items)
    for number in range(24):
        size, digits, bits = rng.choice(settings)
        rows, columns = rng.choice(((1, 0), (1, 0), (2, 8), (36, 2)))
        model = struct.pack("<4BII", 14, size, digits, bits, rows, columns)
        count = rng.choice((24, 64, 150)) // max(rows * columns, 1) * max(rows * columns, 1)
        for kind, code in enumerate(streams(rng, 900)):
            name = f"telling-tokens-any-{number}-{kind}"
            found = cut(CodecCase(name, model, code, (count or 72) * size), 0, tokens._Coder)
            if found is not None:
                yield found


def _cut_as(model: tokens.Model, case: CodecCase) -> CodecCase:
    """A case whose stream is as long as what it takes, though its model may be refused."""
    with made(tokens._Coder) as coders, suppress(Refused, ZeroDivisionError, ValueError):
        model.decode(case.payload, case.size)
    return replace(case, payload=case.payload[: coders[-1].at]) if coders else case


def _encoded(
    name: str, parameters: Parameters | Mixed, sequence: list[int], wrong: bool = True
) -> Made:
    """By the encoder, and with a byte more and less."""
    data = np.array(sequence, f"<u{parameters.size}").view(np.uint8)
    coder = TokensEncoder(parameters)
    payload = bytes(coder.encode(data, 0))
    if payload != data.tobytes():
        case = CodecCase(f"telling-{name}", coder.model(), payload, data.size)
        yield case
        if wrong and ("ends" in name or "few" in name):
            yield replace(case, name=f"telling-{name}-cut", payload=payload[:-1])
            yield replace(case, name=f"telling-{name}-behind", payload=payload + b"\0")


def _heads(rng: Random) -> Made:
    """Fields of a head at their bounds, few tokens each."""
    plain = (2, 2, 9, 1, 0)
    edges: tuple[tuple[int, tuple[int, ...]], ...] = (
        (0, (0, 1, 2, 3, 4, 5, 8)),
        (1, (0, 1, 2, 3, 4, 5, 6, 9)),
        (2, (0, 7, 8, 9, 20, 21, 22)),
        (3, (0, 1, 2, 127, 128, 129)),
        (4, (0, 1, 2, MOST_TOKENS - 1, MOST_TOKENS, MOST_TOKENS + 1)),
    )
    for base in (plain, (4, 5, 8, 2, 3), (4, 4, 20, 128, 1)):
        for field, values in edges:
            for value in values:
                head = list(base)
                head[field] = value
                model = struct.pack("<4BII", 14, *head)
                for count in (256, 258, 260):
                    name = f"telling-tokens-head-{model.hex()}-{count}"
                    case = CodecCase(name, model, bytes(40) + rng.randbytes(40), count)
                    yield _cut_as(tokens.Model(*head), case)
    model = struct.pack("<4BII", 14, *plain)
    for length in (1, 2, 5, 11, 13):
        name = f"telling-tokens-length-{length}"
        yield CodecCase(name, (model + b"\0")[:length], bytes(9), 20)
    for count in (MOST_TOKENS + 1,):
        yield CodecCase("telling-tokens-most", model, bytes(9), 2 * count)
    for size in (21, 22, 23):
        head = struct.pack("<4BII", 14, 4, 2, 9, 1, 0)
        yield CodecCase(f"telling-tokens-rest-{size}", head, bytes(9), size)


# Mixed streams


def mixed_streams(rng: Random) -> Made:
    """Tokens of one or several streams under weights that learn."""
    yield from _mixed_heads(rng)
    settings = (
        *((2, 4, 8, 9, 1), (2, 2, 9, 8, 3), (4, 5, 16, 16, 1), (2, 1, 21, 22, 2)),
        *((4, 3, 12, 10, 16), (2, 3, 10, 12, 5)),
    )
    for number, head in enumerate(settings):
        for name, sequence in sequences(rng, min(16 ** head[1], 256 ** head[0])):
            yield from _encoded(f"tokens_mixed-{number}-{name}", Mixed(*head), sequence)
            if number in (1, 3, 5):
                short = sequence[: rng.choice((3, 17, 40))]
                yield from _encoded(f"tokens_mixed-short-{number}-{name}", Mixed(*head), short * 3)
    for number in range(24):
        size, digits, bits, nodes, _ = rng.choice(settings)
        model = bytes([14, size, digits, bits, nodes, 1])
        count = rng.choice((24, 64, 150))
        for kind, code in enumerate(streams(rng, 900)):
            name = f"telling-tokens_mixed-any-{number}-{kind}"
            found = cut(CodecCase(name, model, code, count * size), 0, tokens_mixed._Coder)
            if found is not None:
                yield found


def _mixed_heads(rng: Random) -> Made:
    plain = (2, 2, 9, 9, 1)
    edges = (
        (0, (0, 1, 2, 3, 4, 5, 8)),
        (1, (0, 1, 2, 3, 4, 5, 6, 9)),
        (2, (0, 7, 8, 9, 21, 22, 23)),
        (3, (0, 7, 8, 9, 22, 23, 24)),
        (4, (0, 1, 2, 15, 16, 17)),
    )
    for base in (plain, (4, 5, 8, 8, 2), (4, 4, 21, 22, 16)):
        for field, values in edges:
            for value in values:
                head = list(base)
                head[field] = value
                model = bytes([14, *head])
                for count in (64, 4, 130):
                    name = f"telling-tokens_mixed-head-{model.hex()}-{count}"
                    yield _whole(CodecCase(name, model, rng.randbytes(400), count))
    for streams_ in (2, 3):
        model = bytes([14, 2, 2, 9, 9, streams_])
        good = _whole(CodecCase("telling-tokens_mixed-lengths", model, rng.randbytes(400), 64))
        for length in (0, 3, 4, 5, 7, 8, 9, len(good.payload) - 1):
            name = f"telling-tokens_mixed-lengths-{streams_}-{length}"
            yield replace(good, name=name, payload=good.payload[:length])
        for value in (0, 1, 5, 6, 7, 8, 255):
            payload = bytes([value]) + good.payload[1:]
            yield replace(
                good, name=f"telling-tokens_mixed-say-{streams_}-{value}", payload=payload
            )
        more = good.payload + b"\0"
        yield replace(good, name=f"telling-tokens_mixed-behind-{streams_}", payload=more)
    for size in (21, 22, 23):
        model = bytes([14, 4, 2, 9, 9, 1])
        yield CodecCase(f"telling-tokens_mixed-rest-{size}", model, bytes(9), size)
    model = bytes([14, 2, 2, 9, 9, 1])
    yield CodecCase("telling-tokens_mixed-most", model, bytes(9), 2 * (MOST_TOKENS + 1))


def mixed_bounds(rng: Random) -> Made:
    """Heads that would decode but for one field; flags that tokens share; first tokens."""
    for head in (
        *((2, 0, 9, 9, 1), (2, 5, 9, 9, 1), (4, 6, 9, 9, 1), (2, 2, 7, 9, 1), (2, 2, 22, 9, 1)),
        *((2, 2, 9, 7, 1), (2, 2, 9, 23, 1), (3, 2, 9, 9, 1), (2, 4, 8, 8, 16), (4, 5, 21, 22, 16)),
        *((2, 2, 9, 9, 17),),
    ):
        for code in (bytes(900), rng.randbytes(900)):
            name = f"telling-tokens_mixed-bound-{bytes(head).hex()}-{code[0]}"
            yield _whole(CodecCase(name, bytes([14, *head]), code, 96 * head[0]))
    places: dict[int, list[int]] = {}
    for token in range(1 << 20):
        place = (256 * token + 18) * tokens_mixed._MIX * tokens_mixed._ODD % 2**64 >> 48
        if place < 8:
            places.setdefault(place, []).append(token)
    for first in (0, 2, 4, 6):  # in one place, or in neighbouring ones
        for step in (0, 1):
            some = [*places[first][:7], *places[first + step][7:12]]
            lines = [one for _ in range(4) for one in rng.sample(some, len(some))]
            name = f"tokens_mixed-places-{first}-{step}"
            yield from _encoded(name, Mixed(4, 5, 12, 12, 1), some * 3 + lines)
    for count in (2, 3, 5):
        for length in (7, 9, 12):
            phrase = [rng.randrange(1 << 16) for _ in range(length)]
            each = [phrase[0], *phrase[1:] * 3, *rng.sample(phrase, 4), *phrase]
            yield from _encoded(
                f"tokens_mixed-first-{count}-{length}", Mixed(2, 4, 9, 9, count), each * count
            )
    for often in (29, 30, 31, 40):  # counts up to their limit, and how others overtake
        for rival in (1, 6, 9, 10, 11, 12, 20):
            a, b, c = rng.sample(range(256), 3)
            turns = [a] * often, [b] * rival, [a] * 2, [c] * 3, [b] * 3
            items = [x for one in turns for each in one for x in (9, 8, 7, each)]
            name = f"tokens_mixed-limit-{often}-{rival}"
            yield from _encoded(name, Mixed(2, 2, 10, 10, 1), items)


def mixed_turns(rng: Random) -> Made:
    """Nine candidates, counts at their limit that are overtaken, a match that ends with a part."""
    wide = [t for i in range(90) for t in (1 + i % 2, 6, 4, 300 * (i % 2) + rng.randrange(300))]
    yield from _encoded("tokens_mixed-turns-many", Mixed(2, 4, 12, 12, 1), wide)
    for turns in ("b" * 35 + "ccbcc" + "a" * 8, "a" * 35 + "bbbbbabbbbb"):
        items = [t for one in turns + "cab" for t in (rng.randrange(1 << 16), 8, 7, ord(one))]
        name = f"tokens_mixed-turns-limit-{turns[0]}"
        yield from _encoded(name, Mixed(2, 4, 18, 10, 1), items)
    for ahead in (90, 91):
        line = [(i * i + 3 * i) % 11 for i in range(22)]
        fast = [*line * 8, *(500 + i for i in range(12))]
        slow = [rng.randrange(4000) for _ in range(ahead)]
        after = [*slow[:3], 9, *slow[:5]]
        slow += [*fast[-30:], *after, *(3 for _ in range(len(fast) - len(slow) - 30 - len(after)))]
        name = f"tokens_mixed-turns-part-{ahead}"
        yield from _encoded(name, Mixed(2, 4, 10, 10, 2), [*fast, *slow[: len(fast)]])


def _whole(case: CodecCase) -> CodecCase:
    """A case whose streams, of the bytes of its payload, are as long as what they take."""
    count = case.model[5]
    lengths = [len(case.payload) // max(count, 1)] * count
    head = b"".join(struct.pack("<I", length) for length in lengths[:-1])
    with made(tokens_mixed._Coder) as coders, suppress(Refused, ArithmeticError, ValueError):
        tokens_mixed.Model(*case.model[1:]).decode(head + case.payload, case.size)
    if not coders:
        return replace(case, payload=case.payload[: case.size])
    pieces = [coder.data[: coder.at] for coder in coders]
    pieces += [b""] * (count - len(pieces))
    part = max(-(-(case.size // max(case.model[1], 1)) // count), 1)
    tokens_in_all = case.size // max(case.model[1], 1)
    pieces = [b"" if i * part >= tokens_in_all else piece for i, piece in enumerate(pieces)]
    head = b"".join(struct.pack("<I", len(piece)) for piece in pieces[:-1])
    payload = head + b"".join(pieces)
    if len(payload) > case.size:
        return replace(case, payload=payload[: case.size])
    return replace(case, payload=payload)
