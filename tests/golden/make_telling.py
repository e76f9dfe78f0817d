"""Adds chunks to `codecs.json` that tell mutants of the reference decoders from these.

What `tests/support/reference_mutants.py CODEC --survivors` lists is read from a file; candidates
are made, and those are kept that some mutant which lives so far decodes to something else. Run by
hand, codec by codec:

    python tests/golden/make_telling.py float_cm SURVIVORS
"""

import hashlib
import importlib
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support"), str(HERE)]

import mixed_chunks  # noqa: E402
import numpy as np  # noqa: E402
import reference_mutants as mutants  # noqa: E402
import telling_bounds  # noqa: E402
import telling_chunks  # noqa: E402
import telling_columns  # noqa: E402
import telling_few  # noqa: E402
import telling_files  # noqa: E402
import telling_flac  # noqa: E402
import telling_images  # noqa: E402
import telling_joined  # noqa: E402
import telling_pages  # noqa: E402
import telling_ranks  # noqa: E402
import telling_refusals  # noqa: E402
import telling_refused  # noqa: E402
import telling_sound  # noqa: E402
import telling_tokens  # noqa: E402
from codec_cases import CodecCase, read_cases, write_cases  # noqa: E402
from make_codecs import agrees, with_outcome  # noqa: E402
from reference import byte_cm, float_cm  # noqa: E402
from reference.reading import Refused  # noqa: E402

from densor.codec.byte_cm.encoder import ByteCmEncoder  # noqa: E402

Made = Iterator[CodecCase]
BATCH = 4000  # bytes of candidates that a mutant is tried on at once
MOST_CASES = 100
SECONDS = 30  # of one mutant on these
MOST = 1 << 30  # bytes of memory


def streams(rng: Random) -> Iterator[tuple[str, bytes]]:
    """Codes that no encoder would make: what they decode to goes to the bounds of the models."""
    yield "ones", b"\xff" * 4000
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
    """All formats with groups of all kinds, edges of heads, shapes at the bounds between ways."""
    number = 100
    shapes = [
        ((1, 60),),
        ((15, 3), (16, 3), (17, 2)),
        ((31, 16),),
        ((32, 15),),
        ((32, 16),),
        ((2, 513),),
        ((32, 33),),
        ((48, 16), (33, 16)),
    ]
    for shape in shapes:
        for name, code in streams(rng):
            number += 1
            kind = rng.choice((1, 1, 2, 3, 4, 5))
            top = min(rng.choice((0, 1, 2, 4)), float_cm.FORMATS[kind][2])
            case = float_case(
                f"{name}-{number}", kind, top, rng.choice((0, 1, 2)), shape, code, rng
            )
            if case is not None:
                yield case
    number = 0
    for kind, top in ((1, 0), (1, 4), (2, 2), (3, 0), (3, 4), (4, 3), (5, 2), (5, 0), (2, 1)):
        for way in (0, 1, 2):
            number += 1
            code = rng.choice(list(streams(rng)))[1]
            case = float_case(f"head-{number}", kind, top, way, ((9, 12), (1, 2)), code, rng)
            if case is not None:
                yield case
                if number in (3, 12):
                    yield from edges_of(case, 20)


def float_case(
    name: str,
    kind: int,
    top: int,
    way: int,
    shape: tuple[tuple[int, int], ...],
    code: bytes,
    rng: Random,
) -> CodecCase | None:
    """A chunk of matrices of such a format; `way` of the groups of low bits."""
    size, _, mantissa = float_cm.FORMATS[kind]
    groups = []
    for i in range(-(-(mantissa - top) // 8)):
        bits = 8 if i else (mantissa - top - 1) % 8 + 1
        value = rng.choice(((1 << bits) - 1, rng.randrange(1 << bits)))
        groups.append(bytes([way, value if way == 2 else 0]))
    head = struct.pack("<H", len(shape)) + b"".join(struct.pack("<II", *s) for s in shape)
    head += bytes([rng.randrange(2)]) + b"".join(groups)
    length = size * sum(r * c for r, c in shape)
    model = bytes([4, kind, top, 0])
    payload = float_chunk(model, head, code, rng.randbytes(length), length)
    if payload is None or len(payload) > length:
        return None
    return CodecCase(f"telling-float_cm-{name}", model, payload, length)


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
    every = (1 << 18) - 1
    for size in (24, 60, 250):
        for bits, sets, contexts in (
            (12, 6, every),
            (13, 1, 5),
            (14, 3, 1 << 17),
            (25, 4, 0x15A5A),
        ):
            for name, code in streams(rng):
                number += 1
                model = struct.pack("<BBBBI", 9, bits, sets, 0, contexts)
                payload = text_chunk(model, code, size)
                if payload is not None and len(payload) <= size:
                    case = CodecCase(f"telling-byte_cm-{number}-{name}", model, payload, size)
                    if number == 1:
                        yield from edges_of(case, 0)
                    yield case
        if size == 24:
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


GROUPS: dict[str, Callable[[Random], Made]] = {
    "float_cm": lambda rng: chain(mixed_chunks.mixed_floats(rng), floats(rng)),
    "byte_cm": lambda rng: chain(mixed_chunks.mixed_texts(rng), texts(rng)),
    "image": telling_chunks.images,
    "image-small": telling_chunks.small_images,
    "image-given": telling_images.given_images,
    "image-bounds": telling_images.bounds,
    "audio": telling_chunks.sounds,
    "audio-bounds": telling_sound.sound_bounds,
    "audio-fields": telling_sound.sound_fields,
    "audio-lanes": telling_sound.lane_bounds,
    "audio-refusals": telling_sound.sound_refusals,
    "audio_cascade": telling_sound.sounds_by_cascade,
    "audio_cascade-led": telling_sound.led_cascades,
    "circuit": telling_chunks.circuits,
    "circuit-images": telling_chunks.circuit_images,
    "circuit-edges": telling_chunks.circuit_edges,
    "token_ranks": telling_ranks.ranks,
    "tokens": telling_tokens.one_sequence,
    "tokens_mixed": telling_tokens.mixed_streams,
    "tokens_mixed-bounds": telling_tokens.mixed_bounds,
    "tokens_mixed-turns": telling_tokens.mixed_turns,
    "columns": telling_columns.columns,
    "columns-bounds": telling_bounds.table_bounds,
    "columns-refusals": telling_refusals.tables,
    "refusals": telling_refused.refusals,
    "few": telling_few.changes,
    "flac": telling_files.flac_chunks,
    "flac-fields": lambda rng: chain(
        telling_flac.fields(rng), telling_flac.headers(rng), telling_flac.bounds(rng)
    ),
    "deflate": telling_files.deflate_chunks,
    "joined": telling_joined.joined_fields,
    "pages": telling_pages.columns_of_pages,
}

USERS = {  # modules that import from another one
    "audio_cascade": ("audio",),
    "flac": ("audio",),
    "image": ("image_residual",),
    "tokens_mixed": ("tokens",),
}


# Which are kept


def alive(path: str, module: str) -> list[mutants.Mutant]:
    """The mutants of a module that a list of survivors names."""
    listed = {line.strip() for line in Path(path).read_text().splitlines()}
    every = [mutants.mutant(*place) for place in mutants.places(module)]
    return [one for one in every if f"{module}.py:{one.line}: {one.change}" in listed]


def told_by(mutant: mutants.Mutant, cases: list[CodecCase]) -> int | None:
    """The number of the first case by which a mutant is known; None if there is none."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (mutants.MEMORY, mutants.MEMORY))
        signal.signal(signal.SIGALRM, lambda *_: os._exit(250))
        signal.alarm(SECONDS)
        os._exit(_first_that_tells(mutant, cases) + 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code - 1 if 0 < code < 250 else None


def _first_that_tells(mutant: mutants.Mutant, cases: list[CodecCase]) -> int:
    """Likewise, in this process, whose decoder is the mutant from now on; -1 if there is none."""
    name = f"reference.{mutant.module}"
    module = importlib.import_module(name)
    try:
        exec(mutant.code(), module.__dict__)
        for user in USERS.get(mutant.module, ()):
            importlib.reload(importlib.import_module(f"reference.{user}"))
        importlib.reload(importlib.import_module("reference.codecs"))
    except Exception:
        return 0
    for number, case in enumerate(cases):
        try:
            data = case.by_reference()
        except Refused as refused:
            if case.error != f"{refused.reason.title()}Error":
                return number
        except Exception:
            return number
        else:
            if hashlib.sha256(data).hexdigest() != case.sha256:
                return number
    return -1


def main() -> None:
    group, path, *modules = sys.argv[1:]
    left = [one for module in modules or [group] for one in alive(path, module)]
    print(f"{len(left)} mutants live")
    known = {case.name: case for case in read_cases()}
    before = [case for name, case in known.items() if name.startswith(f"telling-{group}-")]
    left = [one for one in left if told_by(one, before) is None]
    print(f"{len(left)} of them under the chunks that were chosen before")
    seen: set[str] = set()
    batch: list[CodecCase] = []

    def sift() -> None:
        nonlocal left
        found = [told_by(one, batch) for one in left]
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
        if len(batch) == MOST_CASES or sum(one.size for one in batch) > BATCH:
            sift()
    sift()
    for one in left:
        print(f"{one.module}.py:{one.line}: {one.change}")


if __name__ == "__main__":
    main()
