"""Adds chunks to `codecs.json` that tell mutants of the reference decoders from these.

What `tests/support/reference_mutants.py CODEC --survivors` lists is read from a file; candidates
are made, and those are kept that some mutant which lives so far decodes to something else. Run by
hand, codec by codec:

    python tests/golden/make_telling.py float_cm SURVIVORS
"""

import hashlib
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support"), str(HERE)]

import numpy as np  # noqa: E402
import reference_mutants as mutants  # noqa: E402
from codec_cases import CodecCase, read_cases, write_cases  # noqa: E402
from make_codecs import agrees, with_outcome  # noqa: E402
from reference import byte_cm, float_cm  # noqa: E402
from reference.reading import Refused  # noqa: E402

from densor.codec.byte_cm.encoder import ByteCmEncoder  # noqa: E402

Made = Iterator[CodecCase]
BATCH = 12  # candidates that a mutant is tried on at once
SECONDS = 60  # of one mutant on these
MOST = 1 << 30  # bytes of memory


def streams(rng: Random) -> Iterator[tuple[str, bytes]]:
    """Codes that no encoder would make: what they decode to goes to the bounds of the models."""
    yield "ones", b"\xff" * 9000
    yield "zeros", bytes(9000)
    yield "noise", rng.randbytes(9000)
    yield "low", bytes(rng.choices((0, 0, 0, 1, 3, 255), k=9000))
    yield "high", bytes(rng.choices((255, 255, 254, 252, 0), k=9000))
    yield "turns", b"".join(rng.choice((b"\0", b"\xff")) * rng.randrange(1, 40) for _ in range(400))
    yield "noise again", rng.randbytes(9000)


# Floats by context mixing


def float_chunk(model: bytes, head: bytes, code: bytes, raw: bytes, size: int) -> bytes | None:
    """A payload whose streams are as long as what they are decoded to takes; None if none is."""
    whole = head + struct.pack("<I", len(code)) + code + raw
    try:
        decoder = float_cm.Decoder(model, whole, size)
        for rows, columns in decoder.matrices:
            decoder.matrix(rows, columns)
    except Refused:
        return None
    length, bits = decoder.arithmetic.at, decoder.raw_at
    if length > len(code) or bits > 8 * len(raw):
        return None
    left = int.from_bytes(raw, "little") & (1 << bits) - 1
    return head + struct.pack("<I", length) + code[:length] + left.to_bytes(-(-bits // 8), "little")


def floats(rng: Random) -> Made:
    """All formats, shapes at the bounds between ways, groups of all kinds, and edges of heads."""
    shapes = [
        ((40, 20), (40, 20)),
        ((31, 16), (32, 16), (33, 15), (32, 33)),
        ((15, 5), (16, 5), (17, 5)),
        ((2, 513), (1, 512), (3, 700)),
        ((33, 34), (40, 33), (48, 33), (32, 17)),
        ((96, 16), (96, 16)),
        ((1, 300),),
        ((7, 9), (1, 1), (40, 1)),
        ((16, 60), (64, 32)),
    ]
    number = 0
    for shape in shapes:
        for name, code in streams(rng):
            kind = rng.choice((1, 2, 3, 4, 5))
            size, _, mantissa = float_cm.FORMATS[kind]
            top = rng.choice((0, 1, 2, min(4, mantissa), min(4, mantissa)))
            top = min(top, mantissa)
            model = bytes([4, kind, top, 0])
            groups = []
            for i in range(-(-(mantissa - top) // 8)):
                bits = 8 if i else (mantissa - top - 1) % 8 + 1
                way = rng.choice((0, 1, 2, 2))
                groups.append(
                    bytes(
                        [
                            way,
                            rng.choice(((1 << bits) - 1, rng.randrange(1 << bits), 0))
                            if way == 2
                            else 0,
                        ]
                    )
                )
            head = struct.pack("<H", len(shape)) + b"".join(struct.pack("<II", *s) for s in shape)
            head += bytes([rng.randrange(2)]) + b"".join(groups)
            length = size * sum(r * c for r, c in shape)
            raw = rng.randbytes(length)
            payload = float_chunk(model, head, code, raw, length)
            number += 1
            if payload is not None:
                case = CodecCase(f"telling-float_cm-{number}-{name}", model, payload, length)
                yield case
                if number % 9 == 1:
                    yield from edges_of(case, len(head))


def edges_of(case: CodecCase, head: int) -> Made:
    """A chunk with a field of its heads changed, or cut."""
    for i in range(len(case.model)):
        for value in (0, 1, 2, 3, 4, 5, 6, case.model[i] + 1 & 255, case.model[i] - 1 & 255):
            model = case.model[:i] + bytes([value]) + case.model[i + 1 :]
            yield replace(case, name=f"{case.name}-model-{i}-{value}", model=model)
    for length in range(len(case.model) + 1):
        yield replace(case, name=f"{case.name}-short-{length}", model=case.model[:length])
    yield replace(case, name=f"{case.name}-long", model=case.model + b"\0")
    payload = case.payload
    for i in range(min(head + 5, len(payload))):
        for value in (0, 1, 2, 3, 7, 8, 255, payload[i] + 1 & 255, payload[i] - 1 & 255):
            changed = payload[:i] + bytes([value]) + payload[i + 1 :]
            yield replace(case, name=f"{case.name}-head-{i}-{value}", payload=changed)
    for length in (0, 1, 2, 3, *range(max(head - 3, 0), head + 9)):
        yield replace(case, name=f"{case.name}-cut-{length}", payload=payload[:length])
    yield replace(case, name=f"{case.name}-behind", payload=payload + b"\0")


# Bytes by context mixing


def texts(rng: Random) -> Made:
    """Streams that no encoder makes, long matches, characters at the bounds of classes."""
    number = 0
    for bits, sets in ((12, 1), (12, 6), (13, 2), (14, 3), (16, 4), (16, 6), (22, 5), (25, 6)):
        for name, code in streams(rng):
            contexts = rng.choice(((1 << 18) - 1, 1, 2, 1 << 17, rng.randrange(1, 1 << 18)))
            model = struct.pack("<BBBBI", 9, bits, sets, 0, contexts)
            for size in (rng.choice((17, 40)), rng.choice((120, 260, 300))):
                number += 1
                payload = text_chunk(model, code, size)
                if payload is not None and len(payload) <= size:
                    case = CodecCase(f"telling-byte_cm-{number}-{name}", model, payload, size)
                    yield case
                    if number < 3 and size < 100:
                        yield from edges_of(case, 0)
    for name, data in some_texts(rng):
        array = np.frombuffer(data, np.uint8)
        coder = ByteCmEncoder(array)
        payload = bytes(coder.encode(array, 0))
        yield CodecCase(f"telling-byte_cm-{name}", coder.model(), payload, len(data))


def text_chunk(model: bytes, code: bytes, size: int) -> bytes | None:
    """The part of a code that so many bytes are decoded from."""
    decoder = byte_cm.Decoder(model, code, size)
    for _ in range(size):
        decoder.byte()
    return code[: decoder.coder.at] if decoder.coder.at <= len(code) else None


def some_texts(rng: Random) -> Iterator[tuple[str, bytes]]:
    phrase = bytes(rng.choices(b"etaoin shrdlu,.\n", k=61))
    yield "long-match", phrase * 14 + b"!" + phrase[:40]
    yield "runs", b"a" * 700 + b"b" + b"a" * 450 + b"c" + b"ab" * 60
    yield "classes", bytes(rng.choices(b"yz{09:/ \x1f!\x7f\x80\x81~aZ[@A", k=420))
    yield (
        "long-words",
        b"".join(bytes(rng.choices(b"abcz", k=n)) + b" " for n in (30, 31, 32, 33, 60, 5) * 2),
    )
    yield (
        "long-lines",
        b"".join(bytes(rng.choices(b"xy ", k=n)) + b"\n" for n in (254, 255, 256, 300, 12)),
    )
    yield "columns", b"\n".join(bytes(rng.choices(b"01", k=30)) for _ in range(16))
    yield "zeros-and-noise", (bytes(90) + rng.randbytes(30)) * 4
    yield "bits", bytes(rng.choices((0, 255), k=300)) + bytes(300)
    for length in (2300,):
        words = [bytes(rng.choices(b"etaoinshr", k=rng.randrange(2, 9))) for _ in range(60)]
        yield f"prose-{length}", b" ".join(rng.choices(words, k=length // 6))


GROUPS: dict[str, Callable[[Random], Made]] = {"float_cm": floats, "byte_cm": texts}


# Which are kept


def alive(path: str, module: str) -> list[mutants.Mutant]:
    """The mutants of a module that a list of survivors names."""
    listed = {line.strip() for line in Path(path).read_text().splitlines()}
    every = [mutants.mutant(*place) for place in mutants.places(module)]
    return [one for one in every if f"{module}.py:{one.line}: {one.change}" in listed]


def told_by(mutant: mutants.Mutant, cases: list[mutants.Case]) -> int | None:
    """The number of the first case by which a mutant is known; None if there is none."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (mutants.MEMORY, mutants.MEMORY))
        signal.signal(signal.SIGALRM, lambda *_: os._exit(250))
        signal.alarm(SECONDS)
        name = mutants.killed_by(mutant, cases)
        names = [case.name for case in cases]
        os._exit(0 if name is None else names.index(name) + 1 if name in names else 251)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code - 1 if 0 < code < 250 else None


def as_mutants_case(case: CodecCase) -> mutants.Case:
    good = None if case.sha256 is None else [case.sha256]
    return mutants.Case(case.name, case.archive(), good, case.error, case.base)


def main() -> None:
    group, path, *modules = sys.argv[1:]
    left = [one for module in modules or [group] for one in alive(path, module)]
    print(f"{len(left)} mutants live")
    known = {case.name: case for case in read_cases()}
    seen: set[str] = set()
    batch: list[CodecCase] = []

    def sift() -> None:
        nonlocal left
        cases = [as_mutants_case(case) for case in batch]
        found = [told_by(one, cases) for one in left]
        left = [one for one, number in zip(left, found, strict=True) if number is None]
        for number in {n for n in found if n is not None}:
            known[batch[number].name] = batch[number]
            print(f"{batch[number].name}: {found.count(number)}, {len(left)} live", flush=True)
        if any(number is not None for number in found):
            write_cases(list(known.values()))
        batch.clear()

    for case in GROUPS[group](Random(f"telling {group}")):
        try:
            case = with_outcome(case)[0]
        except Exception as error:
            print(f"{case.name}: {type(error).__name__} of the reference: {error}")
            continue
        digest = hashlib.sha256(case.model + b"|" + case.payload + b"|%d" % case.size).hexdigest()
        small = case.size <= MOST and len(case.payload) <= case.size
        if digest in seen or case.name in known or not small or not case.model:
            continue
        seen.add(digest)
        if not agrees(case):
            print(f"{case.name}: the package disagrees")
            continue
        batch.append(case)
        if len(batch) == BATCH:
            sift()
    sift()
    for one in left:
        print(f"{one.module}.py:{one.line}: {one.change}")


if __name__ == "__main__":
    main()
